// Package kernel holds every inner loop of the project: blockwise 4-bit quantization and decoding, the 8-bit dynamic
// codes of the double-quantized constants, conversions between element types, and the error sums.
//
// The functions named xGeneric are the specification. Assembly (the files named after an architecture) gives the same
// bits for every input; tests compare the two, and a build with the purego tag has none.
//
// # Contract of every kernel
//
//   - 16-bit and packed data are little-endian bytes, so no buffer needs an alignment.
//   - Nothing is allocated and nothing is kept after the call. Source and destination do not overlap.
//   - Lengths are the caller's promise: the slices must have the lengths the documentation names. A slice that is too
//     short panics, as any index out of range does; a kernel never reads or writes beyond a slice.
//   - float32 arithmetic is rounded after every operation (nothing is fused) and subnormal numbers count: no kernel may
//     run with flush-to-zero.
//   - A NaN is compared as "some NaN"; its sign and payload are not part of the contract, except in Convert, which says
//     what it keeps.
//
// # Blocks
//
// A tensor is a flat row of n elements, cut into blocks of blockSize (a power of two from 32 to 4096). Only the last
// block may be short, and it follows a different rule than a full one, because bitsandbytes does so
// (bitsandbytes/backends/default/ops.py, quantize_4bit): see Quantize.
package kernel
