// Package nf4 quantizes blocks of weights to the 4-bit types of bitsandbytes, NF4 and FP4, and decodes them. Codes and
// absmax constants are byte for byte those that bitsandbytes computes on the CPU.
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
// The absmax constants can be quantized in turn: see package doublequant. What it takes to make a checkpoint of this,
// names and records included, is not here.
//
// Every function works on buffers of the caller's, allocates nothing and can be used from several goroutines.
package nf4
