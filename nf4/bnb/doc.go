// Package bnb is how bitsandbytes stores 4-bit weights in a safetensors file: what transformers, PEFT and vLLM load.
//
// # Writing a weight
//
// [Format.Pack] quantizes one matrix and gives its tensors; write them with package safetensors under the names they
// have, beside a config.json whose quantization_config is [QuantizationConfig.Encode]'s. [Unpack] reads one back. For
// weights too large for memory, [Format.Entries] says from the shape alone which tensors there will be, and packages
// nf4 and doublequant compute them part by part.
//
// # The convention
//
// A weight W of logical shape [out, in] with n = out*in elements, block size B and nb = ceil(n/B) blocks is stored as
//
//	W                                      U8   [(n+1)/2, 1]     two codes a byte, first element in the high nibble
//	W.absmax                               U8   [nb]             double quantization; F32 [nb] without
//	W.quant_map                            F32  [16]             the code table
//	W.nested_absmax                        F32  [ceil(nb/256)]   double quantization only
//	W.nested_quant_map                     F32  [256]            double quantization only
//	W.quant_state.bitsandbytes__nf4|fp4    U8   [256]            JSON padded with spaces
//
// Source: bitsandbytes/functional.py (QuantState.as_dict, from_dict) and bitsandbytes/utils.py
// (pack_dict_to_tensor), version 0.50.2. bitsandbytes itself does not pad the record; a reader must take any length.
//
// The package reads and writes no directory: which modules of a model are to be quantized, and what else a loader wants
// beside the weights, is the business of the nf4kit command.
package bnb
