package quality

import (
	"math"
	"sort"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Figures are the error of some weights in one format.
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

// Of computes the figures from sums.
func Of(s kernel.Sums) Figures {
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

// A Tensor is what was measured of one tensor.
type Tensor struct {
	Name      string
	Kind      string // the module's own name: q_proj, down_proj, ...
	Format    string // as written, e.g. "nf4,block=64,dq"
	Versus    string // what it is compared with, e.g. "fp4,block=64,dq"
	ReadTwice bool   // larger than the memory budget: read a second time for the figures
	Written   kernel.Sums
	Other     kernel.Sums
}

// A Row is one line of a report: a tensor, a kind or the total.
type Row struct {
	Name    string
	Tensors int
	Written Figures
	Other   Figures
}

// A Summary is the table that a conversion ends with.
type Summary struct {
	Format, Versus string // empty when tensors differ in it
	Kinds          []Row  // by number of weights, then name
	Total          Row
}

// Summarize folds tensors, in their order, by kind and in total.
func Summarize(tensors []Tensor) Summary {
	type sums struct {
		n              int
		written, other kernel.Sums
	}
	kinds := map[string]*sums{}
	var total sums
	var out Summary
	for i := range tensors {
		t := &tensors[i]
		k := kinds[t.Kind]
		if k == nil {
			k = new(sums)
			kinds[t.Kind] = k
		}
		for _, s := range []*sums{k, &total} {
			s.n++
			s.written.Add(&t.Written)
			s.other.Add(&t.Other)
		}
		if i == 0 {
			out.Format, out.Versus = t.Format, t.Versus
		}
		if t.Format != out.Format {
			out.Format, out.Versus = "", ""
		}
	}
	for name, s := range kinds {
		out.Kinds = append(out.Kinds, Row{name, s.n, Of(s.written), Of(s.other)})
	}
	sort.Slice(out.Kinds, func(i, j int) bool {
		a, b := &out.Kinds[i], &out.Kinds[j]
		if a.Written.Elements != b.Written.Elements {
			return a.Written.Elements > b.Written.Elements
		}
		return a.Name < b.Name
	})
	out.Total = Row{"total", total.n, Of(total.written), Of(total.other)}
	return out
}
