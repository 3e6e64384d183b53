package lora

import (
	"context"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"

	"github.com/nf4kit/nf4kit/internal/linalg"
)

// rows is a matrix that is read by rows: fill puts rows from row on into dst, as many as fit, in float32. Where right is there the
// matrix is the product of those rows and right, [n, n], which is never formed.
type rows struct {
	m, n  int
	fill  func(dst []float32, row int) error
	right *linalg.Matrix
}

const (
	oversample = 16      // directions beyond the rank that are followed
	panelElems = 4 << 20 // elements of a panel of rows, 16 MiB
)

// An approximation is the best of a rank that a matrix has, up to what the subspace iteration leaves: U S V', and what the squares of
// the matrix add up to.
type approximation struct {
	u, v  linalg.Matrix // [m, k] and [n, k]
	s     []float64     // descending
	total float64       // |A|_F²
}

// energy is the share of |A|² that the first r singular values hold.
func (a *approximation) energy(r int) float64 {
	if a.total == 0 {
		return 1
	}
	var sum float64
	for _, s := range a.s[:min(r, len(a.s))] {
		sum += s * s
	}
	return sum / a.total
}

// svd approximates a by its largest k singular values: randomized subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53,
// 2011, algorithm 4.4). The matrix is read 2*iterations+3 times, by panels of rows; products are float32, the bases are made
// orthogonal in float32 with Gram matrices in float64, and the last step is in float64.
func svd(ctx context.Context, a rows, k, iterations, jobs int, seed uint64) (*approximation, error) {
	l := min(k+oversample, a.m, a.n)
	r := rand.New(rand.NewPCG(seed, 0x6c6f7261))
	v := linalg.New(make([]float32, a.n*l), a.n, l)
	for i := range a.n {
		for j := range l {
			v.Set(i, j, float32(r.NormFloat64()))
		}
	}
	u := linalg.New(make([]float32, a.m*l), a.m, l)
	panel := make([]float32, a.panel())
	total, err := a.squares(ctx, panel, jobs)
	if err != nil {
		return nil, err
	}
	for range iterations + 1 {
		if err := a.times(ctx, u, v, panel, jobs); err != nil { // U = A V
			return nil, err
		}
		orthonormal(u, jobs)
		if err := a.transposedTimes(ctx, v, u, panel, jobs); err != nil { // V = A' U
			return nil, err
		}
		if total == 0 {
			break
		}
	}
	// A ~ U (A'U)' = U V': the singular values of V, with U orthonormal, are A's.
	out := &approximation{total: total}
	rotation, s := out.rotate(v)
	keep := 0
	for keep < min(k, len(s)) && s[keep] > 0 {
		keep++
	}
	out.s = s[:keep]
	out.u, out.v = product(u, rotation, keep, nil, jobs), product(v, rotation, keep, s, jobs)
	return out, nil
}

// panel is how many elements a panel of rows has.
func (a *rows) panel() int { return min(a.m, max(1, panelElems/a.n)) * a.n }

// squares is the sum of the squares of a.
func (a *rows) squares(ctx context.Context, panel []float32, jobs int) (total float64, err error) {
	var whole []float32
	if a.right != nil {
		whole = make([]float32, len(panel))
	}
	err = a.panels(ctx, panel, func(_, n int) {
		part := panel[:n*a.n]
		if a.right != nil {
			out := whole[:len(part)]
			clear(out)
			linalg.MulAdd(linalg.New(out, n, a.n), linalg.New(part, n, a.n), *a.right, jobs)
			part = out
		}
		for i := range n {
			var sum float64
			for _, x := range part[i*a.n:][:a.n] {
				sum += float64(x) * float64(x)
			}
			total += sum
		}
	})
	return total, err
}

// times is u = a*v.
func (a *rows) times(ctx context.Context, u, v linalg.Matrix, panel []float32, jobs int) error {
	v = a.turned(v, false, jobs)
	return a.panels(ctx, panel, func(row, n int) {
		part := u.Slice(row, row+n, 0, u.Cols)
		zero(part)
		linalg.MulAdd(part, linalg.New(panel[:n*a.n], n, a.n), v, jobs)
	})
}

// transposedTimes is v = a'*u.
func (a *rows) transposedTimes(ctx context.Context, v, u linalg.Matrix, panel []float32, jobs int) error {
	zero(v)
	err := a.panels(ctx, panel, func(row, n int) {
		linalg.MulAdd(v, linalg.New(panel[:n*a.n], n, a.n).T(), u.Slice(row, row+n, 0, u.Cols), jobs)
	})
	if a.right != nil && err == nil {
		t := a.turned(v, true, jobs)
		for i := range v.Rows {
			for j := range v.Cols {
				v.Set(i, j, t.At(i, j))
			}
		}
	}
	return err
}

// turned is right*v, or right'*v; v where there is no right.
func (a *rows) turned(v linalg.Matrix, transposed bool, jobs int) linalg.Matrix {
	if a.right == nil {
		return v
	}
	r := *a.right
	if transposed {
		r = r.T()
	}
	out := linalg.New(make([]float32, v.Rows*v.Cols), v.Rows, v.Cols)
	linalg.MulAdd(out, r, v, jobs)
	return out
}

func (a *rows) panels(ctx context.Context, panel []float32, f func(row, n int)) error {
	step := len(panel) / a.n
	for row := 0; row < a.m; row += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(step, a.m-row)
		if err := a.fill(panel[:n*a.n], row); err != nil {
			return err
		}
		f(row, n)
	}
	return nil
}

func zero(m linalg.Matrix) {
	for i := range m.Rows {
		for j := range m.Cols {
			m.Set(i, j, 0)
		}
	}
}

// orthonormal makes the columns of m orthonormal, twice since the Gram matrix loses half of the digits. Columns that depend on the
// others become 0.
func orthonormal(m linalg.Matrix, jobs int) {
	for range 2 {
		values, vectors := eigen(gram64(m))
		n := m.Cols
		most := values[n-1]
		t := linalg.New(make([]float32, n*n), n, n)
		for k := range n {
			if values[k] <= 1e-12*most || values[k] <= 0 {
				continue
			}
			for i := range n {
				t.Set(i, k, float32(vectors.At(i, k)/math.Sqrt(values[k])))
			}
		}
		out := linalg.New(make([]float32, m.Rows*n), m.Rows, n)
		linalg.MulAdd(out, m, t, jobs)
		for i := range m.Rows {
			for k := range n {
				m.Set(i, k, out.At(i, k))
			}
		}
	}
}

// gram64 is m'm, summed in float64.
func gram64(m linalg.Matrix) *mat.SymDense {
	n := m.Cols
	sum := make([]float64, n*n)
	row := make([]float64, n)
	for i := range m.Rows {
		for k := range n {
			row[k] = float64(m.At(i, k))
		}
		for j, x := range row {
			s := sum[j*n:][:n]
			for k := j; k < n; k++ {
				s[k] += x * row[k]
			}
		}
	}
	out := mat.NewSymDense(n, nil)
	for j := range n {
		for k := j; k < n; k++ {
			out.SetSym(j, k, sum[j*n+k])
		}
	}
	return out
}

func eigen(s *mat.SymDense) ([]float64, *mat.Dense) {
	var e mat.EigenSym
	if !e.Factorize(s, true) {
		panic("lora: internal error: no eigenvalues of a finite matrix")
	}
	var vectors mat.Dense
	e.VectorsTo(&vectors)
	return e.Values(nil), &vectors
}

// rotate gives the directions of v's singular values, descending, and those.
func (a *approximation) rotate(v linalg.Matrix) (*mat.Dense, []float64) {
	values, vectors := eigen(gram64(v))
	n := len(values)
	s, turned := make([]float64, n), mat.NewDense(n, n, nil)
	for k := range n {
		s[k] = math.Sqrt(max(values[n-1-k], 0))
		for i := range n {
			turned.Set(i, k, vectors.At(i, n-1-k))
		}
	}
	return turned, s
}

// product is m times the first keep columns of r, each divided by its s.
func product(m linalg.Matrix, r *mat.Dense, keep int, s []float64, jobs int) linalg.Matrix {
	t := linalg.New(make([]float32, m.Cols*keep), m.Cols, keep)
	for i := range m.Cols {
		for k := range keep {
			x := r.At(i, k)
			if s != nil {
				x /= s[k]
			}
			t.Set(i, k, float32(x))
		}
	}
	out := linalg.New(make([]float32, m.Rows*keep), m.Rows, keep)
	linalg.MulAdd(out, m, t, jobs)
	return out
}
