// Package nf4 quantizes blocks of weights to the 4-bit types of bitsandbytes, NF4 and FP4, and decodes them. Codes and
// absmax constants are byte for byte those that bitsandbytes computes on the CPU.
//
// # The common use
//
// The zero [Config] is what nearly everyone wants, NF4 in blocks of 64. One call gives the codes and the constants of a
// tensor, and another decodes them:
//
//	codes, absmax, err := nf4.Config{}.AppendQuantize(nil, nil, weights)
//	weights, err = nf4.Config{}.AppendDequantize(nil, codes, absmax, len(weights))
//
// A model's weights are 16-bit numbers as a rule. [Config.AppendQuantizeBytes] takes their bytes as they lie in a
// safetensors file, and [AppendBytes] makes such bytes of float32 values.
//
// To make a checkpoint of the result, or to read one, use package nf4/bnb. To encode against scales that are given, such
// as constants that went through double quantization (package doublequant), use [Config.Encode].
//
// # The format
//
// A tensor is taken as a flat row of n values in row-major order and cut into blocks, of 64 values by default. For
// every block one float32 is stored, its absmax: the largest magnitude in it. Each value, divided by the absmax and so
// within [-1, 1], is replaced by the nearest of 16 fixed values, and the number of that value, its code, takes 4 bits:
//
//	n values -> (n+1)/2 bytes of codes, and one float32 for every block
//
// Two codes share a byte, the first in the high nibble. Decoding is Codebook[code] * absmax.
//
// The 16 values of NF4 (4-bit NormalFloat; QLoRA, arXiv 2305.14314, section 3) are quantiles of the normal
// distribution, so that the normally distributed weights of a block use every code about equally often; zero is one of
// them. FP4 is a 4-bit floating point number with two exponent bits and one mantissa bit, kept for comparison: it is
// bitsandbytes' other type.
//
// # The edges
//
//   - A scaled value exactly halfway between two of the 16 takes the lower one.
//   - A full block is scaled by the float32 reciprocal of its absmax, which is clamped to at least 1e-38 for that
//     purpose only. A short last block is divided by its absmax, and its absmax is stored clamped. This is what
//     bitsandbytes does (backends/default/ops.py, quantize_4bit); the two rules differ in the last bit now and then.
//   - A block of zeros has absmax 0 and the code of zero, 7 in NF4 and 0 in FP4, throughout.
//   - With an odd count the low nibble of the last byte is the code of zero.
//   - A NaN or an infinity cannot be quantized and is a *NonFiniteError.
//
// # Large tensors
//
// A tensor can be quantized and decoded in parts, by several goroutines. Every part but the last must be a multiple of
// the block size: the functions see nothing but the values they are given, and a part that ends within a block would get
// the rule of a short last block, and its rest a block of its own.
//
// The functions that append allocate what they need; all others work on buffers of the caller's and allocate nothing.
package nf4
