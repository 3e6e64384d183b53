package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// piece is how many elements are encoded at a time: every block size divides it, and what belongs to it stays in the
// second-level cache.
const piece = 4096

// accumulator sums one chunk: element i of the chunk goes to lane i%4.
type accumulator struct {
	e2, abs, w2, max [4]float64
}

// add takes elements and their decoded values; all calls but the last with a multiple of 4.
func (a *accumulator) add(x, v []float32) {
	v = v[:len(x)]
	e0, e1, e2, e3 := a.e2[0], a.e2[1], a.e2[2], a.e2[3]
	s0, s1, s2, s3 := a.abs[0], a.abs[1], a.abs[2], a.abs[3]
	w0, w1, w2, w3 := a.w2[0], a.w2[1], a.w2[2], a.w2[3]
	m0, m1, m2, m3 := a.max[0], a.max[1], a.max[2], a.max[3]
	i := 0
	for ; i+4 <= len(x); i += 4 {
		x, v := x[i:i+4:i+4], v[i:i+4:i+4]
		f0, f1, f2, f3 := float64(v[0]), float64(v[1]), float64(v[2]), float64(v[3])
		d0, d1, d2, d3 := float64(x[0])-f0, float64(x[1])-f1, float64(x[2])-f2, float64(x[3])-f3
		e0 += float64(d0 * d0)
		e1 += float64(d1 * d1)
		e2 += float64(d2 * d2)
		e3 += float64(d3 * d3)
		w0 += float64(f0 * f0)
		w1 += float64(f1 * f1)
		w2 += float64(f2 * f2)
		w3 += float64(f3 * f3)
		d0, d1, d2, d3 = math.Abs(d0), math.Abs(d1), math.Abs(d2), math.Abs(d3)
		s0 += d0
		s1 += d1
		s2 += d2
		s3 += d3
		if d0 > m0 {
			m0 = d0
		}
		if d1 > m1 {
			m1 = d1
		}
		if d2 > m2 {
			m2 = d2
		}
		if d3 > m3 {
			m3 = d3
		}
	}
	for ; i < len(x); i++ {
		f := float64(v[i])
		d := float64(x[i]) - f
		e0 += float64(d * d)
		w0 += float64(f * f)
		d = math.Abs(d)
		s0 += d
		m0 = max(m0, d)
	}
	a.e2, a.abs, a.w2, a.max = [4]float64{e0, e1, e2, e3}, [4]float64{s0, s1, s2, s3}, [4]float64{w0, w1, w2, w3}, [4]float64{m0, m1, m2, m3}
}

// sums are those of n elements with the sum of squares x2. Of e = x - v follows sum xv = (x2 + v2 - e2)/2, in which
// nothing cancels: e2 is the smallest.
func (a *accumulator) sums(n int, x2 float64) kernel.Sums {
	fold := func(v [4]float64) float64 { return (v[0] + v[2]) + (v[1] + v[3]) }
	s := kernel.Sums{N: int64(n), X2: x2, W2: fold(a.w2), E2: fold(a.e2), AbsE: fold(a.abs), Max: max(a.max[0], a.max[1], a.max[2], a.max[3])}
	s.XW = (s.X2 + s.W2 - s.E2) / 2
	return s
}

// squares is the sum of x squared, in the lanes of an accumulator.
func squares(x []float32) float64 {
	var s [4]float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		x := x[i : i+4 : i+4]
		s[0] += float64(x[0]) * float64(x[0])
		s[1] += float64(x[1]) * float64(x[1])
		s[2] += float64(x[2]) * float64(x[2])
		s[3] += float64(x[3]) * float64(x[3])
	}
	for ; i < len(x); i++ {
		s[0] += float64(x[i]) * float64(x[i])
	}
	return (s[0] + s[2]) + (s[1] + s[3])
}

// weighted is the sum of h e squared, h by column: element 0 is in column col.
func weighted(x, v []float32, h []float32, col int) float64 {
	var s float64
	for i, x := range x {
		e := float64(x)
		if v != nil {
			e -= float64(v[i])
		}
		s += float64(h[col]) * e * e
		if col++; col == len(h) {
			col = 0
		}
	}
	return s
}

// banks of counts, so that runs of one code do not wait for each other.
type counts [4][256]uint32

func (c *counts) add(codes []byte) {
	i := 0
	for ; i+4 <= len(codes); i += 4 {
		p := codes[i : i+4 : i+4]
		c[0][p[0]]++
		c[1][p[1]]++
		c[2][p[2]]++
		c[3][p[3]]++
	}
	for ; i < len(codes); i++ {
		c[0][codes[i]]++
	}
}

func (c *counts) total(i int) int64 {
	return int64(c[0][i]) + int64(c[1][i]) + int64(c[2][i]) + int64(c[3][i])
}

// moments are sums over the chunks of a sample of their sums of squares e (error) and x (weights).
type moments struct {
	m, of      int // chunks in the sample and of the tensor
	e, x       float64
	ee, ex, xx float64
}

func (m *moments) add(e, x float64) {
	m.m++
	m.e += e
	m.x += x
	m.ee += e * e
	m.ex += e * x
	m.xx += x * x
}

// Interval is the half-width of the 95 % confidence interval of the relative RMSE of tensors together in format i; 0
// if nothing was sampled, NaN if a sample is too small to tell.
func Interval(tensors []*Tensor, i int) float64 {
	var e, x, v float64
	for _, t := range tensors {
		e += t.Results[i].Sums.E2
		x += t.Results[i].Sums.X2
	}
	if x == 0 || e == 0 {
		return 0
	}
	r := e / x
	for _, t := range tensors {
		m := &t.Results[i].spread
		if m.m == m.of {
			continue
		}
		if m.m < 2 {
			return math.NaN()
		}
		// The variance of d = e - r x over the chunks, times M^2 (1-f)/m.
		k, all := float64(m.m), float64(m.of)
		mean := (m.e - r*m.x) / k
		s2 := (m.ee - 2*r*m.ex + r*r*m.xx - k*mean*mean) / (k - 1)
		v += all * all * (1 - k/all) * max(s2, 0) / k
	}
	// d sqrt(R) = dR / (2 sqrt R)
	return 1.96 * math.Sqrt(v) / x / (2 * math.Sqrt(r))
}
