package feedback

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// Dampings are those that Factors are made with.
var Dampings = []float64{.01, .03, .1, .3}

// OutputErrors are the mean squares of the output's error, each summed over rows: x are weights and each of vs what they decode to, as
// many for each row as the Gram matrix has columns.
func OutputErrors(gram []float32, n int, x []float32, jobs int, vs ...[]float32) []float64 {
	rows := len(vs) * len(x) / n
	data := make([]float32, 0, rows*n)
	for _, v := range vs {
		for i, w := range x {
			data = append(data, w-v[i])
		}
	}
	e, h, sums := linalg.New(data, rows, n), linalg.New(gram, n, n), make([]float64, len(vs))
	const width = 512 // columns at a time: below the diagonal the matrix is the same as above
	out := make([]float32, rows*width)
	for j := 0; j < n; j += width {
		j2 := min(j+width, n)
		part := e.Slice(0, rows, j, j2)
		product := linalg.New(out[:rows*(j2-j)], rows, j2-j)
		add := func(i, i2 int, times float64) {
			clear(out)
			linalg.MulAdd(product, e.Slice(0, rows, i, i2), h.Slice(i, i2, j, j2), jobs)
			for r := range rows {
				a, b, sum := part.Row(r), product.Row(r), &sums[r*len(vs)/rows]
				for c := range a {
					*sum += times * float64(float64(a[c])*float64(b[c]))
				}
			}
		}
		add(j, j2, 1)
		add(j2, n, 2)
	}
	return sums
}

// Factors are those of one Gram matrix with Dampings, which every weight of the inputs can choose from; each is made when it is
// asked for. A damping is chosen on one of step columns, as if there were no others, so that of the whole matrix only the one that
// was chosen is factored.
type Factors struct {
	n, step int
	trial   []*Factor // nil: not made, or not positive definite
	errs    []error
	whole   *Factor // the last that was chosen
}

// stepOf is how many columns there are for one that a damping is chosen on: two, if these are many and pairs do not lie across rows. Of
// SmolLM2's weights the choice is as good on half of the columns as on all, and worse on a quarter (.3, .3 and .6 % over the best).
func stepOf(n int64) int64 {
	if n >= 512 && n%2 == 0 {
		return 2
	}
	return 1
}

// FactorsMemory is how many bytes Factors of n columns hold once they are all made.
func FactorsMemory(n int64) int64 {
	packed := func(n int64) int64 { return 2*n*n + 32*n*kernel.TileRows }
	return int64(len(Dampings))*packed(n/stepOf(n)) + packed(n)
}

// TrialMemory is how many bytes Choose takes for what it tries dampings on.
func TrialMemory(n int64) int64 {
	if step := stepOf(n); step > 1 {
		return 2 * 4 * (n / step) * (n / step)
	}
	return 0
}

// NewFactors are those of a Gram matrix of n columns, of which none is made yet.
func NewFactors(n int) *Factors {
	return &Factors{n: n, step: int(stepOf(int64(n))), trial: make([]*Factor, len(Dampings)), errs: make([]error, len(Dampings))}
}

// of is the factor with damping number i of a Gram matrix.
func (fs *Factors) of(gram []float32, i, jobs int) (*Factor, error) {
	if fs.step == 1 {
		return fs.trial[i], fs.errs[i]
	}
	if fs.whole != nil && fs.whole.damping == Dampings[i] {
		return fs.whole, nil
	}
	f, err := NewFactor(gram, fs.n, Dampings[i], jobs)
	if err == nil {
		fs.whole = f
	}
	return f, err
}

// A Trial is what dampings are compared on: rows of weights X, with the decoded scales of their blocks, and the Gram matrix of inputs
// that are not in that which is factored.
type Trial struct {
	Type      kernel.Type
	BlockSize int
	X, Scales []float32
	Heldout   []float32
}

// thin is the trial with the chosen of n columns, one of step neighbours: what was a block of theirs still is one, smaller.
func (t *Trial) thin(n, step int, columns []int) *Trial {
	x := make([]float32, 0, len(t.X)/step)
	for at := 0; at < len(t.X); at += n {
		row := t.X[at:][:n]
		for _, c := range columns {
			x = append(x, row[c])
		}
	}
	return &Trial{t.Type, t.BlockSize / step, x, t.Scales, square(t.Heldout, n, columns)}
}

// square is the chosen rows and columns of a matrix of n.
func square(m []float32, n int, columns []int) []float32 {
	out := make([]float32, 0, len(columns)*len(columns))
	for _, i := range columns {
		row := m[i*n:][:n]
		for _, j := range columns {
			out = append(out, row[j])
		}
	}
	return out
}

// largest chooses of each step neighbours the column with the largest second moment: a few that outweigh all others, as some
// layers have, are not to be left out. factor is what a damping of all columns is in parts of the mean of the chosen.
func largest(gram []float32, n, step int) (columns []int, factor float64) {
	var all, chosen float64
	for i := 0; i < n; i += step {
		best := i
		for c := i; c < i+step; c++ {
			all += float64(gram[c*n+c]) / float64(n)
			if gram[c*n+c] > gram[best*n+best] {
				best = c
			}
		}
		columns = append(columns, best)
		chosen += float64(gram[best*n+best]) / float64(n/step)
	}
	if chosen == 0 {
		return columns, 1
	}
	return columns, all / chosen
}

// Choose returns the factor of gram, the same in every call, that leaves the least output error in a trial. It goes from the middle of
// Dampings on to the side where the error falls, as long as it does: of four, three are tried. A damping with which the matrix is not
// positive definite is as bad as can be; the error is that of the largest if all are. The factor is the caller's own: it may be refined.
func (fs *Factors) Choose(gram []float32, t *Trial, jobs int) (best *Factor, damping float64, err error) {
	m, g, factor := fs.n/fs.step, gram, 1.
	if fs.step > 1 {
		var columns []int
		columns, factor = largest(gram, fs.n, fs.step)
		g, t = square(gram, fs.n, columns), t.thin(fs.n, fs.step, columns)
	}
	codes, v := make([]byte, (len(t.X)+1)/2), make([]float32, len(t.X))
	left := func(i int) float64 {
		if fs.trial[i] == nil && fs.errs[i] == nil {
			fs.trial[i], fs.errs[i] = NewFactor(g, m, factor*Dampings[i], jobs)
		}
		f := fs.trial[i]
		if f == nil {
			return math.Inf(1)
		}
		f.QuantizeOn(jobs, t.Type, codes, t.X, t.Scales, t.BlockSize)
		kernel.DequantizeF32(t.Type, v, codes, t.Scales, t.BlockSize)
		return OutputErrors(t.Heldout, m, t.X, jobs, v)[0]
	}
	at := (len(Dampings) - 1) / 2
	least, step := left(at), -1
	if e := left(at + 1); e < least || fs.trial[at] == nil {
		at, least, step = at+1, e, 1
	}
	for next := at + step; next >= 0 && next < len(Dampings); next += step {
		e := left(next)
		if !(e < least) && fs.trial[at] != nil {
			break
		}
		at, least = next, e
	}
	for ; at < len(Dampings); at++ {
		var f *Factor
		if f, err = fs.of(gram, at, jobs); err == nil {
			own := *f
			return &own, Dampings[at], nil
		}
	}
	return nil, 0, err
}
