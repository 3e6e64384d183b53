package feedback

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// Dampings are those that Choose tries.
var Dampings = []float64{.01, .03, .1, .3}

// OutputError is the mean square of the output's error, summed over rows: x are weights and v what they decode to, as many
// for each row as the Gram matrix has columns.
func OutputError(gram []float32, n int, x, v []float32, jobs int) float64 {
	rows := len(x) / n
	e := make([]float32, rows*n)
	for i := range e {
		e[i] = x[i] - v[i]
	}
	g := make([]float32, rows*n)
	linalg.MulAdd(linalg.New(g, rows, n), linalg.New(e, rows, n), linalg.New(gram, n, n), jobs)
	var sum float64
	for i := range e {
		sum += float64(float64(e[i]) * float64(g[i]))
	}
	return sum
}

// Choose returns the factor with that of Dampings which leaves the least output error on rows of weights x, by the Gram
// matrix heldout, of other text than gram; the first of equals. A damping with which gram is not positive definite is passed
// over; the error is that of the last if all are.
func Choose(gram, heldout []float32, n int, t kernel.Type, x, scales []float32, blockSize, jobs int) (best *Factor, damping float64, err error) {
	codes, v := make([]byte, (len(x)+1)/2), make([]float32, len(x))
	var least float64
	for _, d := range Dampings {
		f, ferr := NewFactor(gram, n, d, jobs)
		if ferr != nil {
			err = ferr
			continue
		}
		f.Quantize(t, codes, x, scales, blockSize)
		kernel.DequantizeF32(t, v, codes, scales, blockSize)
		if e := OutputError(heldout, n, x, v, jobs); best == nil || e < least {
			best, damping, least = f, d, e
		}
	}
	if best != nil {
		err = nil
	}
	return best, damping, err
}
