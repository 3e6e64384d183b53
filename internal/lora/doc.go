// Package lora reads low-rank adapters and applies them to the weights of a checkpoint, as PEFT does: an adapter wraps the
// tensors of its base, element by element, and what is wrapped is read, written and quantized like any other source.
//
// # What is an adapter
//
// A directory with adapter_config.json and adapter_model.safetensors, as PEFT and what is built on it (Unsloth, axolotl, TRL)
// write it, or a safetensors file of diffusers' or kohya's making, whose keys say lora.down and lora.up. Pickled adapters are
// not read. A key that belongs to no tensor of the base is an error, where PEFT leaves it out without a word.
//
// # Numerics
//
// They are those of peft 0.21.2 on the CPU (tuners/lora/layer.py, Linear.merge and get_delta_weight), to the bit for ranks
// that linalg multiplies in one run, 256:
//
//	P  = B @ A                  float32, a chain of fused multiply-adds over the rank
//	D  = P * float32(scaling)   scaling is computed in float64: alpha/r, or alpha/sqrt(r) with use_rslora
//	W' = round(W + D)           to the dtype of W; with safe rounding D is rounded first
//
// The delta of an embedding and of a parameter (target_parameters) is always rounded first, as PEFT does. Several adapters
// are added one after the other, with a rounding after each; jointly there is one rounding. DoRA: V = W + D, W' =
// round((m / |V|) * V), the norm of each row of the [out, in] weight; its sum over a row is taken in float64, so that an
// element in some ten thousand may be one unit in the last place off.
package lora
