package quantize

import (
	"math"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
)

// Searched is the methods mse and mse-signed: a block's scale is the one that leaves the least squared error, weighted by
// the second moments of the inputs where these are known, and codes are nearest in units of the scale that will be decoded.
type Searched struct {
	Signed bool // negative scales too
}

// Needs is two passes over anything.
func (Searched) Needs(*Weight) Needs { return Needs{Passes: 2, FitMap: true} }

// searchStep is how many elements are widened at a time: a multiple of every block size.
const searchStep = 1 << 13

// searcher is the memory of a search.
type searcher struct {
	*search.Search
	values [searchStep]float32
}

var searchers sync.Map // of *sync.Pool by search.Method

// Scales searches.
func (m Searched) Scales(p *Panel, scale []float32, _ []byte) {
	method := search.Method{Type: p.Type, BlockSize: p.BlockSize, Signed: m.Signed}
	pool, _ := searchers.LoadOrStore(method, &sync.Pool{New: func() any { return &searcher{Search: search.New(method)} }})
	s := pool.(*sync.Pool).Get().(*searcher)
	defer pool.(*sync.Pool).Put(s)
	for at := 0; at < p.N; at += searchStep {
		x := s.values[:min(searchStep, p.N-at)]
		kernel.Widen(x, p.Values[at*p.Elem.Size():], p.Elem)
		lo := at / p.BlockSize
		hi := (at + len(x) + p.BlockSize - 1) / p.BlockSize
		s.Search.Scales(scale[lo:hi], x, p.First+int64(at), p.Inputs.weights)
	}
}

// Codes takes the nearest.
func (Searched) Codes(p *Panel, scale []float32, codes []byte) {
	kernel.Codes(p.Type, p.Elem, codes, usable(scale), p.Values, p.BlockSize)
}

// usable is scale with 0 for what kernel.Codes does not take, a negative scale that has no reciprocal, -0 included.
func usable(scale []float32) []float32 {
	var out []float32
	for i, s := range scale {
		if math.Signbit(float64(s)) && s > -1e-37 {
			if out == nil {
				out = append(out, scale...)
			}
			out[i] = 0
		}
	}
	if out != nil {
		return out
	}
	return scale
}
