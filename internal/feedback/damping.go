package feedback

import (
	"math"

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

// Factors are those of one Gram matrix with Dampings, which every weight of the inputs can choose from; each is made when it is
// asked for.
type Factors struct {
	n    int
	list []*Factor // nil: not made, or not positive definite
	errs []error
}

// FactorsMemory is how many bytes Factors of n columns hold once they are all made.
func FactorsMemory(n int64) int64 { return int64(len(Dampings)) * (2*n*n + 32*n*kernel.TileRows) }

// NewFactors are those of a Gram matrix of n columns, of which none is made yet.
func NewFactors(n int) *Factors {
	return &Factors{n: n, list: make([]*Factor, len(Dampings)), errs: make([]error, len(Dampings))}
}

// of is the factor with damping number i of gram, nil where the matrix is not positive definite with it.
func (fs *Factors) of(gram []float32, i, jobs int) *Factor {
	if fs.list[i] == nil && fs.errs[i] == nil {
		fs.list[i], fs.errs[i] = NewFactor(gram, fs.n, Dampings[i], jobs)
	}
	return fs.list[i]
}

// A Trial is what dampings are compared on: rows of weights X, with the decoded scales of their blocks, and the Gram matrix of inputs
// that are not in that which is factored.
type Trial struct {
	Type      kernel.Type
	BlockSize int
	X, Scales []float32
	Heldout   []float32
}

// Choose returns the factor of gram, the same in every call, that leaves the least output error in a trial. It goes from the middle of
// Dampings on to the side where the error falls, as long as it does: of four, three are made. A damping with which the matrix is not
// positive definite is as bad as can be; the error is that of the largest if all are. The factor is the caller's own: it may be refined.
func (fs *Factors) Choose(gram []float32, t *Trial, jobs int) (best *Factor, damping float64, err error) {
	codes, v := make([]byte, (len(t.X)+1)/2), make([]float32, len(t.X))
	left := func(i int) float64 {
		f := fs.of(gram, i, jobs)
		if f == nil {
			return math.Inf(1)
		}
		f.Quantize(t.Type, codes, t.X, t.Scales, t.BlockSize)
		kernel.DequantizeF32(t.Type, v, codes, t.Scales, t.BlockSize)
		return OutputError(t.Heldout, fs.n, t.X, v, jobs)
	}
	at := (len(Dampings) - 1) / 2
	least, step := left(at), -1
	if e := left(at + 1); e < least || fs.list[at] == nil {
		at, least, step = at+1, e, 1
	}
	for next := at + step; next >= 0 && next < len(Dampings); next += step {
		e := left(next)
		if !(e < least) && fs.list[at] != nil {
			break
		}
		at, least = next, e
	}
	if fs.list[at] == nil {
		return nil, 0, fs.errs[at]
	}
	own := *fs.list[at]
	return &own, Dampings[at], nil
}
