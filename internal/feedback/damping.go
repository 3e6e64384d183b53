package feedback

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// Dampings are those that Factors are made with.
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

// Factors are those of one Gram matrix with each of Dampings, which every weight of the inputs can choose from.
type Factors struct {
	list []*Factor // nil where the matrix is not positive definite
	err  error     // of the last damping, if it is so with all
}

// FactorsMemory is how many bytes Factors of n columns hold once they are made.
func FactorsMemory(n int64) int64 { return int64(len(Dampings)) * (2*n*n + 32*n*kernel.TileRows) }

// NewFactors factors a Gram matrix of n columns. An error is one that no damping mends.
func NewFactors(gram []float32, n, jobs int) *Factors {
	fs := new(Factors)
	for _, d := range Dampings {
		f, err := NewFactor(gram, n, d, jobs)
		if err != nil {
			fs.err = err
		}
		fs.list = append(fs.list, f)
	}
	return fs
}

// Choose returns the factor that leaves the least output error on rows of weights x, by the Gram matrix heldout, of other text than
// that which was factored; the first of equals. A damping with which the matrix is not positive definite is passed over; the error is
// that of the last if all are. The factor is the caller's own: it may be refined.
func (fs *Factors) Choose(heldout []float32, n int, t kernel.Type, x, scales []float32, blockSize, jobs int) (best *Factor, damping float64, err error) {
	codes, v := make([]byte, (len(x)+1)/2), make([]float32, len(x))
	var least float64
	for i, f := range fs.list {
		if f == nil {
			continue
		}
		f.Quantize(t, codes, x, scales, blockSize)
		kernel.DequantizeF32(t, v, codes, scales, blockSize)
		if e := OutputError(heldout, n, x, v, jobs); best == nil || e < least {
			best, damping, least = f, Dampings[i], e
		}
	}
	if best == nil {
		return nil, 0, fs.err
	}
	own := *best
	return &own, damping, nil
}
