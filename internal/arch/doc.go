// Package arch knows what each model architecture's tensors are: which are
// the weights of an nn.Linear or a Conv1D, which of these bitsandbytes
// quantizes in transformers 5.x and in 4.57, and under which module path each
// version looks for them.
//
// The knowledge is data, generated from transformers itself (see gen) and
// embedded. [Resolve] picks the entry for a checkpoint, [Model.Classify]
// answers for one tensor name, and [SkipList] and [CheckSkip] write and prove
// the llm_int8_skip_modules list of its config.json. For a model type that
// transformers does not have, [Unknown] classifies by name.
//
// The package reads no files and decides no policy.
package arch
