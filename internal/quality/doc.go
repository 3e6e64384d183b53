// Package quality turns the error sums of a conversion into the figures that
// people compare: relative RMSE, SQNR, mean and maximum absolute error and
// cosine. Package report folds them by kind of module and in total.
//
// With w a weight of the source, as the source stores it, and v = table[code]
// * scale its reconstruction in float32, before any rounding to the run
// dtype, where scale is the constant that a loader decodes (after double
// quantization, if there is any), e = w - v and
//
//	relative RMSE  sqrt(sum e^2 / sum w^2)       ||W - V|| / ||W||, Frobenius
//	SQNR           10 log10(sum w^2 / sum e^2)   in dB
//	mean error     sum |e| / n
//	max error      max |e|
//	cosine         sum w v / sqrt(sum w^2 sum v^2)
//
// All sums are in float64, over chunks of 65,536 elements in the order of the
// tensor, so that no figure depends on the number of workers.
package quality
