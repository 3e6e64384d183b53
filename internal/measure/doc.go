// Package measure says what quantizing a checkpoint costs, before anything is written and for formats that this project
// does not write: it quantizes and decodes every weight in each of a list of formats and sums the error.
//
// # Formats
//
// A tensor is a flat row-major run of n elements, rounded to the run dtype first; e = x - v with x as the source stores it
// and v the decoded value in float32. B is the block size, a = max |x| of a block.
//
//	nf4, fp4     bitsandbytes' codes and scales to the bit; with double quantization, its second level
//	af4          the table of arXiv 2306.06965 for B = 64, as bitsandbytes has it, at every B; nearest entry of x/a
//	int4         15 levels k/7, k = -7..7, nearest to x/a
//	int4-asym    16 levels of (hi-lo)/15 with lo = min(0, min x), hi = max(0, max x) and a zero point, as GPTQ and AWQ
//	             store them; the scale in float32, the zero point in 4 bits
//	mxfp4        E2M1 in blocks of 32 with an E8M0 scale 2^(floor(log2 a) - 2), nearest even, saturated at 6
//	             (OCP Microscaling Formats MX v1.0, section 6.3)
//	nvfp4        E2M1 in blocks of 16, scale a/6 as E4M3 in units of g = max|X|/(6*448), one float32 g for the tensor
//	             (NVIDIA, "Introducing NVFP4", 2025)
//	int8         one scale a row, code round(x*(1/a*127)), as bitsandbytes' LLM.int8 (arXiv 2208.07339)
//	fp8          E4M3FN, one scale max|X|/448 for the tensor (arXiv 2209.05433)
//	dynamic8     bitsandbytes' signed dynamic map in blocks of 256, nearest entry of x/a (arXiv 2110.02861)
//
// af4 and int4 round-trip their scales through double quantization as nf4 does.
//
// # Figures
//
// Error sums are those of package kernel: float64, over chunks of 65,536 elements, chunks added in order, so that no
// figure depends on the number of workers. Code counts are exact. Error quantiles come from a histogram with 16 bins an
// octave, over all chunks of a tensor of fewer than 16, 8 to 15 of one of fewer than 128, and every 16th of a larger one.
//
// A sample ([Options.Sample]) is a set of whole chunks of each tensor, drawn without replacement by a generator seeded
// with the tensor's name. Its figures are ratio estimates; the confidence interval is that of a ratio of means over
// clusters, stratified by tensor (Cochran, Sampling Techniques, 3rd ed., sections 6.11 and 9.7).
package measure
