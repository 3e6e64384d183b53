package feedback

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// blockCols is how many columns are quantized between two matrix products.
const blockCols = 8 * kernel.TileRows

// Factor is the feedback between the columns of a layer.
type Factor struct {
	columns int
	order   []int32 // the column that is quantized k-th
	mean    float64 // of the diagonal of the Gram matrix
	damping float64
	blocks  []block
	around  []block // for the sweeps that refine; nil: none
}

// block is the feedback to blockCols columns, fewer in the last.
type block struct {
	tiles  []float32   // from other blocks: kernel.TileRows columns at a time, packed for kernel.MulTile
	inside [][]float32 // from the first columns of the block, to each column
}

// GramError says what is wrong with a Gram matrix.
type GramError struct {
	Row, Col int
	Expected string
	Found    float32
}

func (e *GramError) Error() string {
	return fmt.Sprintf("Gram matrix, row %d, column %d: expected %s, found %v", e.Row, e.Col, e.Expected, e.Found)
}

// RefineMemory is how many bytes Refine takes.
func RefineMemory(n int64) int64 { return 4*n*n + 64*n*kernel.TileRows }

// FactorMemory is how many bytes NewFactor takes for a Gram matrix of n columns, beside the matrix: the copy that it
// factors, and the result, of half the size.
func FactorMemory(n int64) int64 { return 4*n*n + 2*n*n + 64*n*kernel.TileRows }

// Check reports what makes a matrix of n columns no Gram matrix, as far as single elements show it: a NaN or an infinity, a
// negative diagonal, an element beyond the root of the product of its diagonal elements, or a lack of symmetry.
func Check(gram []float32, n int) error {
	if len(gram) != n*n {
		return fmt.Errorf("a Gram matrix: expected %d x %d elements, found %d", n, n, len(gram))
	}
	for i := range n {
		if d := gram[i*n+i]; !(d >= 0) || math.IsInf(float64(d), 0) {
			return &GramError{i, i, "a number of 0 or more", d}
		}
		for j, v := range gram[i*n:][:i] {
			a, b := float64(gram[i*n+i]), float64(gram[j*n+j])
			bound := math.Sqrt(a * b)
			// A hundredth is what bfloat16 and sums in float32 may take away.
			if u := float64(gram[j*n+i]); !(math.Abs(float64(v)-u) <= 0.01*bound) {
				return &GramError{i, j, fmt.Sprintf("%v, as in row %d, column %d", gram[j*n+i], j, i), v}
			}
			if !(math.Abs(float64(v)) <= 1.01*bound) {
				return &GramError{i, j, fmt.Sprintf("a magnitude of %.6g or less", bound), v}
			}
		}
	}
	return nil
}

// NewFactor factors the Gram matrix of n columns plus damping times the mean of its diagonal. A column whose inputs were
// always 0 takes no part in the feedback. A matrix that is not positive definite with this damping is an error, and so is
// one of zeros.
func NewFactor(gram []float32, n int, damping float64, jobs int) (*Factor, error) {
	f := &Factor{columns: n, order: descending(gram, n), damping: damping}
	var mean float64
	for i := range n {
		mean += float64(gram[i*n+i]) / float64(n)
	}
	if mean == 0 {
		return nil, &GramError{0, 0, "elements other than 0", 0}
	}
	f.mean = mean
	// Turned around, so that the upper triangular factor is the lower one that Cholesky finds. In units of the mean nothing
	// overflows.
	a := make([]float32, n*n)
	for p := range n {
		row := gram[int(f.order[n-1-p])*n:][:n]
		to := a[p*n:][:n]
		for q := range p + 1 {
			to[q] = f.scaled(row[f.order[n-1-q]])
		}
		to[p] = f.damped(to[p])
	}
	l := linalg.New(a, n, n)
	if err := linalg.Cholesky(l, jobs); err != nil {
		var e *linalg.NotPositiveError
		if errors.As(err, &e) {
			c := int(f.order[n-1-e.Column])
			return nil, &GramError{c, c, fmt.Sprintf("a positive definite matrix with damping %g", damping), float32(e.Pivot)}
		}
		return nil, err
	}
	f.blocks = pack(l.Reverse())
	return f, nil
}

// scaled is an element of the Gram matrix in units of the mean of its diagonal.
func (f *Factor) scaled(v float32) float32 { return float32(float64(v) / f.mean) }

// damped is one of its diagonal, scaled.
func (f *Factor) damped(v float32) float32 {
	if v += float32(f.damping); v != 0 {
		return v
	}
	return 1
}

// Refine prepares sweeps of coordinate descent after the feedback, by the matrix that f was made of: each code in turn is given
// the value that is best for it, all others being what they are. gram is not kept.
func (f *Factor) Refine(gram []float32) {
	n := f.columns
	row := func(k int) []float32 { return gram[int(f.order[k])*n:][:n] }
	for j := 0; j < n; j += blockCols {
		w := min(blockCols, n-j)
		b := newBlock(w, n)
		for k := range w {
			b.inside[k] = make([]float32, w)
			g := row(j + k)
			d := f.damped(f.scaled(g[f.order[j+k]]))
			for i := range n {
				v := f.scaled(g[f.order[i]]) / d
				switch {
				case i == j+k:
				case i >= j && i < j+w:
					b.inside[k][i-j] = v
				default:
					b.set(i, k, n, v)
				}
			}
		}
		f.around = append(f.around, b)
	}
}

// descending orders the columns by their second moments, those of equal ones as they stand.
func descending(gram []float32, n int) []int32 {
	order := make([]int32, n)
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(i, j int32) int {
		a, b := gram[int(i)*n+int(i)], gram[int(j)*n+int(j)]
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	return order
}

// newBlock is a block of w columns with room for feedback from n others.
func newBlock(w, n int) block {
	tiles := (w + kernel.TileRows - 1) / kernel.TileRows
	return block{tiles: make([]float32, tiles*kernel.TileRows*n), inside: make([][]float32, w)}
}

// set sets the feedback from column i, of n, to column k of the block.
func (b *block) set(i, k, n int, v float32) {
	b.tiles[(k/kernel.TileRows*n+i)*kernel.TileRows+k%kernel.TileRows] = v
}

// pack divides the columns of the upper triangular factor by the diagonal and lays them out for Quantize.
func pack(u linalg.Matrix) []block {
	var blocks []block
	for j := 0; j < u.Cols; j += blockCols {
		w := min(blockCols, u.Cols-j)
		b := newBlock(w, j)
		var d [blockCols]float32
		for k := range w {
			d[k] = u.At(j+k, j+k)
		}
		for i := range j { // along the rows, as they lie
			for k := range w {
				b.set(i, k, j, u.At(i, j+k)/d[k])
			}
		}
		inside := make([]float32, w*(w-1)/2)
		for k := range w {
			b.inside[k], inside = inside[:k], inside[k:]
			for i := range b.inside[k] {
				b.inside[k][i] = u.At(j+i, j+k) / d[k]
			}
		}
		blocks = append(blocks, b)
	}
	return blocks
}
