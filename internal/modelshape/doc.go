// Package modelshape says what tensors a transformer model consists of, from
// its config.json alone, from the tensor list of its checkpoint, or by a name
// it knows ("llama-3.1-8b").
//
// A [Model] is a list of groups: tensors of one name pattern and one shape,
// with how often they occur and what they are. Parameter counts are exact:
// for 134 configs of 80 model types they equal num_parameters() of the class
// that transformers 5.23.0 builds on the meta device, and the parameters of
// [Model.Quantizable] groups equal what its bitsandbytes integration replaces by
// Linear4bit (testdata/params.json, made by internal/interop/py/plan_params.py).
// Names are those of published checkpoints, with "*" for every index.
//
// Beside the groups a Model has the [Stack] that activations are computed
// from: widths, heads, layers of the text decoder (or of the only encoder).
//
// A key that config.json lacks has the default of the transformers class
// (defaults.json, made by internal/interop/py/plan_defaults.py), a key that it
// sets to null has none.
//
// The package reads no files and no weights.
package modelshape
