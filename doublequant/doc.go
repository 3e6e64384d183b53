// Package doublequant quantizes the absmax constants of 4-bit blocks to 8 bits: the double quantization of QLoRA (arXiv
// 2305.14314, section 3), in the form that bitsandbytes stores (functional.py, quantize_4bit with compress_statistics).
//
// # The common use
//
// The scales of a tensor, as package nf4 gives them, are quantized with their mean as the offset, and decoded with it:
//
//	offset := doublequant.Offset(absmax)
//	codes, nested, err := doublequant.AppendQuantize(nil, nil, absmax, offset)
//	scales, err := doublequant.AppendDequantize(nil, codes, nested, offset)
//
// The offset is that of the whole tensor. [Mean] takes scales that come in parts, and then the scales can be quantized
// in parts too, all but the last multiples of [BlockSize].
//
// # The format
//
// A tensor with one float32 scale for every block of 64 weights spends half a bit a weight on scales. Double
// quantization brings that down to an eighth:
//
//   - offset, one float32 a tensor, is the mean of the scales. They are all positive, so taking it away makes them
//     symmetric around zero.
//   - The scales less offset are cut into blocks of 256. nested, one float32 for each, is the largest magnitude in it.
//   - codes, one byte a scale, names the entry of a fixed map of 256 values that is nearest to
//     (scale - offset) / nested.
//
// Decoding is Map[code] * nested + offset, rounded to float32 after the product and after the sum.
//
// The map is the signed dynamic map of bitsandbytes (create_dynamic_map; arXiv 1511.04561): seven decades, of which the
// largest has 64 steps and each smaller one half as many, on both sides of zero. Its lowest value is -0.993, its
// highest 1.
//
// A scale takes the entry that is truly nearest; halfway takes the lower. bitsandbytes does so on CUDA, while its CPU
// code looks up a coarse table first and misses the nearest entry about once in 600.
//
// Where all scales of a block equal the offset, nested is 0, the codes are 0 and the scales decode exactly.
//
// A block of zero weights has scale 0 and may decode to a small scale of either sign. That is harmless, since its codes
// stand for zero, and the same in bitsandbytes.
package doublequant
