package lora

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// dense64 is a matrix of m by n with singular values that fall as given.
func dense64(r *rand.Rand, m, n int, s func(k int) float64) *mat.Dense {
	k := min(m, n)
	a, b := mat.NewDense(m, k, nil), mat.NewDense(n, k, nil)
	for _, x := range []*mat.Dense{a, b} {
		rows, cols := x.Dims()
		for i := range rows {
			for j := range cols {
				x.Set(i, j, r.NormFloat64())
			}
		}
	}
	qa, _ := orthogonal(a)
	qb, _ := orthogonal(b)
	for j := range k {
		for i := range m {
			qa.Set(i, j, qa.At(i, j)*s(j))
		}
	}
	var out mat.Dense
	out.Mul(qa, qb.T())
	return &out
}

func rowsOf(d *mat.Dense) rows {
	m, n := d.Dims()
	return rows{m: m, n: n, fill: func(dst []float32, row int) error {
		for i := range dst {
			dst[i] = float32(d.At(row+i/n, i%n))
		}
		return nil
	}}
}

// The approximation is within 1 % of the best of its rank, whatever the spectrum, and its factors are what it says they are.
func TestSVD(t *testing.T) {
	for _, c := range []struct {
		name string
		m, n int
		k    int
		s    func(k int) float64
	}{
		{"flat", 120, 90, 8, func(k int) float64 { return 1 }},
		{"slow", 90, 150, 16, func(k int) float64 { return 1 / (1 + float64(k)/40) }},
		{"steep", 100, 100, 4, func(k int) float64 { return math.Pow(0.5, float64(k)) }},
		{"of low rank", 80, 60, 16, func(k int) float64 { return math.Max(0, float64(5-k)) }},
		{"zero", 40, 30, 3, func(k int) float64 { return 0 }},
		{"a row", 1, 30, 1, func(k int) float64 { return 2 }},
		{"all of it", 12, 9, 9, func(k int) float64 { return float64(9 - k) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := dense64(rand.New(rand.NewPCG(5, 6)), c.m, c.n, c.s)
			got, err := svd(t.Context(), rowsOf(d), c.k, 6, 2, 1)
			if err != nil {
				t.Fatal(err)
			}
			var rest, best, total float64
			for k := range min(c.m, c.n) {
				total += c.s(k) * c.s(k)
				if k >= c.k {
					best += c.s(k) * c.s(k)
				}
			}
			for i := range c.m {
				for j := range c.n {
					x := d.At(i, j)
					for k, s := range got.s {
						x -= float64(got.u.At(i, k)) * s * float64(got.v.At(j, k))
					}
					rest += x * x
				}
			}
			if limit := 1.01*math.Sqrt(best) + 1e-5*math.Sqrt(total); math.Sqrt(rest) > limit {
				t.Errorf("error %v, the best is %v", math.Sqrt(rest), math.Sqrt(best))
			}
			if said := math.Sqrt(max(0, got.total*(1-got.energy(c.k)))); math.Abs(said-math.Sqrt(rest)) > 1e-3*math.Sqrt(total) {
				t.Errorf("error %v, it says %v", math.Sqrt(rest), said)
			}
			again, err := svd(t.Context(), rowsOf(d), c.k, 6, 1, 1)
			if err != nil {
				t.Fatal(err)
			}
			for k := range got.s {
				if got.s[k] != again.s[k] || got.u.At(0, k) != again.u.At(0, k) {
					t.Errorf("another number of workers gives another result")
				}
			}
		})
	}
}
