package linalg

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

func random(r *rand.Rand, rows, cols int) Matrix {
	data := make([]float32, rows*cols)
	for i := range data {
		data[i] = float32(r.NormFloat64())
	}
	return New(data, rows, cols)
}

// sizes lie around the tiles, the runs and the blocks.
var sizes = [][3]int{{1, 1, 1}, {6, 16, 256}, {5, 15, 255}, {7, 17, 257}, {97, 33, 513}, {33, 1030, 64}, {200, 100, 0}, {3, 1, 1000}, {64, 64, 300}}

func TestMul(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range sizes {
		m, n, k := s[0], s[1], s[2]
		a, b, c := random(r, m, k), random(r, n, k).T(), random(r, m, n+3).Slice(0, m, 2, n+2)
		before := slices.Clone(c.data)
		MulSub(c, a, b, 1)
		for i := range m {
			for j := range n {
				want, bound := float64(before[c.at+i*c.rowStride+j]), 0.
				for q := range k {
					p := float64(a.At(i, q)) * float64(b.At(q, j))
					want -= p
					bound += math.Abs(p)
				}
				bound = (bound*float64(min(k, Run)+k/Run+2) + math.Abs(want)) * 0x1p-24
				if got := float64(c.At(i, j)); math.Abs(got-want) > bound {
					t.Fatalf("%v: element %d, %d is %v (want %v, within %.2g)", s, i, j, got, want, bound)
				}
			}
		}
		for i, v := range before { // around the slice nothing changed
			if col := i % (n + 3); (col < 2 || col == n+2) && c.data[i] != v {
				t.Fatalf("%v: element %d outside of C changed", s, i)
			}
		}
	}
}

// The same bits for every kernel, number of workers and layout of the operands.
func TestMulSame(t *testing.T) {
	for _, s := range sizes {
		var want []float32
		run := func(name string, jobs int, a, b Matrix) {
			c := New(make([]float32, s[0]*s[1]), s[0], s[1])
			MulAdd(c, a, b, jobs)
			if want == nil {
				want = c.data
			}
			if !slices.Equal(want, c.data) {
				t.Errorf("%v: %s with %d workers is another result", s, name, jobs)
			}
		}
		r := rand.New(rand.NewPCG(1, 2))
		a, b := random(r, s[0], s[2]), random(r, s[2], s[1])
		for _, impl := range kernel.List() {
			restore, err := kernel.Select(impl)
			if err != nil {
				t.Fatal(err)
			}
			for _, jobs := range []int{1, 3} {
				run(impl, jobs, a, b)
				run(impl+" transposed", jobs, copied(a.T()).T(), copied(b.T()).T())
				run(impl+" reversed", jobs, copied(a.Reverse()).Reverse(), copied(b.Reverse()).Reverse())
			}
			restore()
		}
	}
}

func TestEach(t *testing.T) {
	for _, n := range []int{0, 1, 2, 7, 1000} {
		for _, jobs := range []int{0, 1, 3, 8} {
			times := make([]int32, n)
			Each(n, jobs, func(i int) { times[i]++ })
			for i, k := range times {
				if k != 1 {
					t.Fatalf("%d jobs: %d of %d was done %d times", jobs, i, n, k)
				}
			}
		}
	}
}

func copied(m Matrix) Matrix {
	c := New(make([]float32, m.Rows*m.Cols), m.Rows, m.Cols)
	for i := range m.Rows {
		for j := range m.Cols {
			c.Set(i, j, m.At(i, j))
		}
	}
	return c
}

// positive is a Gram matrix of n columns with a condition number of about 10^6.
func positive(r *rand.Rand, n int) Matrix {
	x := random(r, 2*n+3, n)
	for i := range x.Rows {
		for j := range n {
			x.Set(i, j, x.At(i, j)*float32(math.Exp2(-9*float64(j*7%n)/float64(n)))+0.3)
		}
	}
	g := New(make([]float32, n*n), n, n)
	MulAdd(g, x.T(), x, 1)
	return g
}

func TestCholesky(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	for _, n := range []int{1, 2, 5, 95, 191, 192, 193, 450} {
		r := rand.New(rand.NewPCG(uint64(n), 2))
		a := positive(r, n)
		var first Matrix
		for _, jobs := range []int{1, 3} {
			l := copied(a)
			if err := Cholesky(l, jobs); err != nil {
				t.Fatal(err)
			}
			if jobs == 1 {
				first = l
			}
			for i := range n {
				for j := range i + 1 {
					if l.At(i, j) != first.At(i, j) {
						t.Fatalf("n = %d: %d workers have another result", n, jobs)
					}
					var sum float64
					for k := range j + 1 {
						sum += float64(l.At(i, k)) * float64(l.At(j, k))
					}
					bound := 2e-5 * math.Sqrt(float64(a.At(i, i))*float64(a.At(j, j)))
					if d := math.Abs(sum - float64(a.At(i, j))); d > bound {
						t.Fatalf("n = %d: element %d, %d of L*L' is off by %.3g (bound %.3g)", n, i, j, d, bound)
					}
				}
			}
		}
	}
}

func TestCholeskyNotPositive(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	for _, c := range []struct {
		n, at int
		v     float32
	}{{10, 3, -1}, {400, 300, 0}, {400, 0, float32(math.NaN())}, {10, 9, float32(math.Inf(1))}} {
		a := positive(rand.New(rand.NewPCG(1, 1)), c.n)
		a.Set(c.at, c.at, c.v)
		var e *NotPositiveError
		if err := Cholesky(a, 1); !errors.As(err, &e) || e.Column != c.at {
			t.Errorf("%+v: error %v (want column %d)", c, err, c.at)
		}
	}
}

func BenchmarkMul(b *testing.B) {
	for _, n := range []int{128, 512, 1024, 2048} {
		for _, impl := range kernel.List() {
			if impl == "generic" && n > 128 {
				continue
			}
			b.Run(fmt.Sprintf("op=mul/impl=%s/n=%d", impl, n), func(b *testing.B) {
				restore, err := kernel.Select(impl)
				if err != nil {
					b.Fatal(err)
				}
				defer restore()
				r := rand.New(rand.NewPCG(1, 2))
				x, y, c := random(r, n, n), random(r, n, n), random(r, n, n)
				for b.Loop() {
					MulAdd(c, x, y, 1)
				}
				b.ReportMetric(2*float64(n)*float64(n)*float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func BenchmarkCholesky(b *testing.B) {
	for _, n := range []int{512, 2048} {
		b.Run(fmt.Sprintf("op=cholesky/n=%d", n), func(b *testing.B) {
			a := positive(rand.New(rand.NewPCG(1, 2)), n)
			for b.Loop() {
				if err := Cholesky(copied(a), 1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(n)*float64(n)/3*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}

// A product by columns of a packed matrix has the bits of that by the matrix.
func TestMulAddPacked(t *testing.T) {
	for _, s := range sizes {
		m, n, k := s[0], s[1], s[2]
		r := rand.New(rand.NewPCG(1, 2))
		a, b, before := random(r, m, k), random(r, k, n), random(r, m, n+3)
		for _, b := range []Matrix{b, copied(b.T()).T()} {
			p := Pack(b)
			for _, from := range []int{0, 1, 15, 16, 17, n / 2, n - 1} {
				for _, to := range []int{from + 1, from + 5, from + 31, n} {
					if from < 0 || from >= n || to > n {
						continue
					}
					want, got := copied(before), copied(before)
					MulAdd(want.Slice(0, m, 1, 1+to-from), a, b.Slice(0, k, from, to), 1)
					MulAddPacked(got.Slice(0, m, 1, 1+to-from), a, p, from)
					if !slices.Equal(want.data, got.data) {
						t.Fatalf("%v: columns %d to %d differ", s, from, to)
					}
				}
			}
		}
	}
}
