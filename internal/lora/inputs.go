package lora

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/nf4kit/nf4kit/internal/feedback"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// inputs is what the columns of a weight are multiplied with. The error E of a weight makes one of |E L| in its outputs where
// L L' is the Gram matrix G of the inputs, so that the best adapter of a rank is that of the singular values of E L, divided by L
// from the right (QERA, theorem 1, which has the root of G in the place of L: E L and E G^(1/2) differ by a rotation).
type inputs struct {
	scale []float32      // the diagonal of L where only that is known
	lower *linalg.Matrix // L; nil: not known
	jobs  int
}

// inputs reads what is known of the inputs of the weight.
func (x *fitted) inputs() (*inputs, error) {
	in := &inputs{jobs: x.opt.Jobs}
	if x.opt.Gram != nil {
		g, err := x.opt.Gram(x.w.Name, x.w.Shape[1])
		if err != nil {
			return nil, err
		}
		if g != nil {
			in.lower, err = factorOf(g, int(x.w.Shape[1]), x.opt.Jobs)
			if err != nil {
				err = fmt.Errorf("inputs of %s: %w", x.w.Name, err)
			}
			return in, err
		}
	}
	if x.opt.Moments == nil {
		return in, nil
	}
	m, err := x.opt.Moments(x.w.Name, x.w.Shape[1])
	if err != nil || m == nil {
		return in, err
	}
	mean := meanOf(len(m), func(i int) float32 { return m[i] })
	if !(mean > 0) {
		return in, nil
	}
	in.scale = make([]float32, len(m))
	for i, v := range m {
		in.scale[i] = float32(math.Sqrt(max(float64(v), 1e-6*mean))) // an input that is never there, to be divided by
	}
	return in, nil
}

func meanOf(n int, at func(int) float32) (mean float64) {
	for i := range n {
		mean += float64(at(i)) / float64(n)
	}
	return mean
}

// gramDamping is the share of the mean second moment that is added to each of them: directions that no token of the calibration had
// count a little, and the matrix has a factor. Ten and a hundred times as much is tried where it is not enough.
const gramDamping = 1e-3

// factorOf is L with L L' = g, damped; nil where all inputs were 0.
func factorOf(g []float32, n, jobs int) (*linalg.Matrix, error) {
	mean := meanOf(n, func(i int) float32 { return g[i*n+i] })
	if !(mean > 0) {
		return nil, nil
	}
	l := make([]float32, n*n)
	var err error
	for damping := gramDamping; damping <= 100*gramDamping; damping *= 10 {
		for i, v := range g {
			l[i] = float32(float64(v) / mean)
		}
		for i := range n {
			l[i*n+i] += float32(damping)
		}
		m := linalg.New(l, n, n)
		if err = linalg.Cholesky(m, jobs); err == nil {
			for i := range n {
				clear(l[i*n+i+1 : (i+1)*n])
			}
			return &m, nil
		}
	}
	var e *linalg.NotPositiveError
	if errors.As(err, &e) {
		err = &feedback.GramError{Row: e.Column, Col: e.Column, Expected: fmt.Sprintf("a positive definite matrix with damping %g", 100*gramDamping), Found: float32(e.Pivot)}
	}
	return nil, err
}

// rows are those of (w - q) L.
func (in *inputs) rows(w, q *weights.Tensor) rows {
	r := difference(w, q, in.scale)
	r.right = in.lower
	return r
}

// divide hands the first rows of v' L^-1 to f, side by side.
func (in *inputs) divide(v linalg.Matrix, rows int, f func(k int, row []float64)) {
	var wg sync.WaitGroup
	jobs := max(1, in.jobs)
	for job := range min(jobs, rows) {
		wg.Go(func() {
			row := make([]float64, v.Rows)
			for k := job; k < rows; k += jobs {
				for j := range row {
					row[j] = float64(v.At(j, k))
				}
				in.solve(row)
				f(k, row)
			}
		})
	}
	wg.Wait()
}

// solve is row L^-1, from the last column on.
func (in *inputs) solve(row []float64) {
	switch {
	case in.lower != nil:
		for j := len(row) - 1; j >= 0; j-- {
			row[j] /= float64(in.lower.At(j, j))
			x, l := row[j], in.lower.Row(j)[:j]
			for i, v := range l {
				row[i] -= float64(x * float64(v))
			}
		}
	case in.scale != nil:
		for j, v := range in.scale {
			row[j] /= float64(v)
		}
	}
}
