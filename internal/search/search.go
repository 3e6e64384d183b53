package search

import (
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Method is what is searched for.
type Method struct {
	Type      kernel.Type
	BlockSize int
	Signed    bool // negative scales too
}

// The grid of reciprocals of scales, in units of that of the block's absmax: from a scale of which the block takes up a third,
// as when one weight counts so much that it is to lie near a value, to one that clips all beyond a third of the absmax.
// 1, absmax, is one of them. Against 1,157 steps of each sign (TestScalesAgainstExhaustive) what is lost is below 1 % of the
// error, and none of it to absmax.
var grid = [...]float32{
	1, 0.3, 0.33, 0.363, 0.4, 0.44, 0.485, 0.533, 0.587, 0.646, 0.711, 0.783, 0.862, 0.949, 1.044, 1.149, 1.265,
	1.392, 1.533, 1.687, 1.857, 2.044, 2.25, 2.476, 2.726, 3,
}

// fine are the factors tried on the reciprocal of the best scale of the grid.
var fine = [...]float32{0.96, 0.98, 1, 1.02, 1.04}

// smallest is the least absmax that is searched below: a reciprocal that no factor takes to infinity.
const smallest = 0x1p-100

// Search finds the scales of blocks. It holds the memory that takes; one goroutine at a time may use it.
type Search struct {
	m              Method
	grid           []float32
	x, h, hx, ones []float32
	wq, qq         []float32
}

// New returns a Search for a method.
func New(m Method) *Search {
	s := &Search{m: m}
	for _, g := range grid {
		s.grid = append(s.grid, g)
		if m.Signed {
			s.grid = append(s.grid, -g)
		}
	}
	row := func(n int) []float32 { return make([]float32, n) }
	s.x, s.h, s.hx, s.ones = row(m.BlockSize), row(m.BlockSize), row(m.BlockSize), row(m.BlockSize)
	for i := range s.ones {
		s.ones[i] = 1
	}
	n := max(len(s.grid), len(fine))
	s.wq, s.qq = row(n), row(n)
	return s
}

// Weights say how much the error of each column of a tensor counts. The zero value counts all the same.
type Weights struct{ column []float32 }

// NewWeights returns weights in proportion to the second moments of a tensor's input columns. A moment that is negative, a
// NaN or an infinity is an error. Moments that are all 0 say nothing: the weights are then equal.
func NewWeights(moments []float32) (Weights, error) {
	var sum float64
	for i, m := range moments {
		if !(m >= 0) || math.IsInf(float64(m), 0) {
			return Weights{}, fmt.Errorf("second moment of column %d: expected a number of 0 or more, found %v", i, m)
		}
		sum += float64(m)
	}
	if sum == 0 {
		return Weights{}, nil
	}
	// With a mean of 1 no sum overflows, of whatever unit the moments are.
	mean := sum / float64(len(moments))
	w := Weights{column: make([]float32, len(moments))}
	for i, m := range moments {
		w.column[i] = float32(float64(m) / mean)
	}
	return w, nil
}

// Scales finds the scales of the blocks of x, whose first element is element at of its tensor and the first of a block.
// Element i of a tensor is in column i%columns, of as many as there are weights.
//
// The scale of a block whose weights are all 0 is found as without weights, that of a block of zeros is 0, and where the
// largest magnitude is below 2^-100 it is that magnitude. That of a block with a NaN or an infinity is one.
func (s *Search) Scales(scales, x []float32, at int64, w Weights) {
	for b := range scales {
		lo := b * s.m.BlockSize
		hi := min(lo+s.m.BlockSize, len(x))
		w.row(s.h[:hi-lo], at+int64(lo))
		scales[b] = s.block(x[lo:hi])
	}
}

// row fills h with the weights of the elements from at on.
func (w Weights) row(h []float32, at int64) {
	if len(w.column) == 0 {
		for i := range h {
			h[i] = 1
		}
		return
	}
	for k := int(at % int64(len(w.column))); len(h) > 0; k = 0 {
		h = h[copy(h, w.column[k:]):]
	}
}

// block finds the scale of a block, whose weights are in s.h.
func (s *Search) block(x []float32) float32 {
	var a float32
	for _, v := range x {
		a = max(a, max(v, -v))
	}
	if a < smallest || !(a <= math.MaxFloat32) {
		return a
	}
	// In units of the absmax nothing overflows, and the grid is the same for all blocks.
	inv := 1 / a
	y, h, hx := s.x[:len(x)], s.h[:len(x)], s.hx[:len(x)]
	for i, v := range x {
		y[i] = v * inv
		hx[i] = h[i] * y[i]
	}
	scale, ok := s.best(y, hx, h)
	if !ok {
		scale, ok = s.best(y, y, s.ones[:len(x)])
	}
	if scale *= a; !ok || math.IsInf(float64(scale), 0) {
		return a
	}
	return scale
}

// best searches the grid and around what it found. It reports false where no scale is better than 0.
func (s *Search) best(y, hx, h []float32) (float32, bool) {
	scale, gain := s.try(y, hx, h, s.grid)
	if gain == 0 {
		return 0, false
	}
	var around [len(fine)]float32
	for i, f := range fine {
		around[i] = f / scale
	}
	if refined, more := s.try(y, hx, h, around[:]); more > gain {
		return refined, true
	}
	return scale, true
}

// try returns the scale that fits the codes of one of the candidates best, and how much less the error is than with the
// scale 0: the error is sum(h*y*y) - wq*wq/qq at the scale wq/qq.
func (s *Search) try(y, hx, h, inv []float32) (scale, gain float32) {
	kernel.GridFit(s.m.Type, s.wq[:len(inv)], s.qq[:len(inv)], y, hx, h, inv)
	for k, q := range s.qq[:len(inv)] {
		w := s.wq[k]
		if q <= 0 {
			continue
		}
		if g := w / q * w; g > gain && !math.IsInf(float64(g), 0) {
			scale, gain = w/q, g
		}
	}
	return scale, gain
}
