package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Figures are the error of some weights in one format, the ones that people compare. Package report folds them by kind of
// module and in total.
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
type Figures struct {
	Elements int64   // number of weights
	RelRMSE  float64 // ||W-V|| / ||W||; 0 when both are zero
	SQNR     float64 // dB; +Inf without error
	MeanAbs  float64 // mean |w-v|
	MaxAbs   float64 // max |w-v|
	Cosine   float64 // 1 when both W and V are zero
	RMSE     float64 // sqrt(mean (w-v)^2)
	ZeroNorm bool    // all weights are zero: the relative figures mean nothing
}

// FiguresOf computes the figures from sums.
func FiguresOf(s kernel.Sums) Figures {
	f := Figures{Elements: s.N, MaxAbs: s.Max, ZeroNorm: s.X2 == 0, Cosine: 1, SQNR: math.Inf(1)}
	if s.N == 0 {
		return f
	}
	f.MeanAbs = s.AbsE / float64(s.N)
	f.RMSE = math.Sqrt(s.E2 / float64(s.N))
	if s.E2 > 0 {
		f.RelRMSE = math.Sqrt(s.E2 / s.X2)
		f.SQNR = 10 * math.Log10(s.X2/s.E2)
	}
	if s.X2 > 0 && s.W2 > 0 {
		f.Cosine = s.XW / math.Sqrt(s.X2*s.W2)
	} else if s.X2 != s.W2 {
		f.Cosine = 0
	}
	return f
}
