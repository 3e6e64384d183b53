package measure

import "math"

// piece is how many elements are encoded at a time: every block size divides it, and what belongs to it stays in the
// second-level cache.
const piece = 4096

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

// addPacked takes n codes of 4 bits, two a byte.
func (c *counts) addPacked(codes []byte, n int) {
	var bytes counts
	bytes.add(codes)
	for b := range 256 {
		k := uint32(bytes.total(b))
		c[0][b>>4] += k
		c[1][b&15] += k
	}
	if n%2 != 0 {
		c[1][codes[len(codes)-1]&15]-- // the padding
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
