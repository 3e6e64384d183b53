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

// shrink is what is added to each element of the diagonal in parts of itself, beside the damping: all correlations count as if they
// were smaller by as much. Damping does not reach the columns with the largest inputs, and what a text says of their correlations
// holds less for another text. docs/scales.md has the figures of 0 to .3.
const shrink = 0.03

// Factor is the feedback between the columns of a layer.
type Factor struct {
	columns int
	order   []int32 // the column that is quantized k-th
	unit    float64 // reciprocal of the mean of the diagonal of the Gram matrix
	damping float64
	blocks  []block
	pivots  []float32 // D
	back    []block   // for the sweep that refines, see Refine; nil: there is none
	after   [][]float32
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
func RefineMemory(n int64) int64 { return 4*n*n + 64*n*kernel.TileRows + 32*n }

// Check reports what makes a matrix of n columns no Gram matrix, as far as single elements show it: a NaN or an infinity, a
// negative diagonal, an element beyond the root of the product of its diagonal elements, or a lack of symmetry.
func Check(gram []float32, n int) error {
	if len(gram) != n*n {
		return fmt.Errorf("a Gram matrix: expected %d x %d elements, found %d", n, n, len(gram))
	}
	root := make([]float64, n)
	for i := range root {
		d := gram[i*n+i]
		if !(d >= 0) || math.IsInf(float64(d), 0) {
			return &GramError{i, i, "a number of 0 or more", d}
		}
		root[i] = math.Sqrt(float64(d))
	}
	const square = 64 // rows and columns at a time, since one of the two triangles is read across
	for i := 0; i < n; i += square {
		for j := 0; j <= i; j += square {
			for r := i; r < min(i+square, n); r++ {
				for c := j; c < min(j+square, r); c++ {
					v, u, bound := gram[r*n+c], gram[c*n+r], root[r]*root[c]
					// A hundredth is what bfloat16 and sums in float32 may take away.
					if !(math.Abs(float64(v)-float64(u)) <= 0.01*bound) {
						return &GramError{r, c, fmt.Sprintf("%v, as in row %d, column %d", u, c, r), v}
					}
					if !(math.Abs(float64(v)) <= 1.01*bound) {
						return &GramError{r, c, fmt.Sprintf("a magnitude of %.6g or less", bound), v}
					}
				}
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
	f.unit = 1 / mean
	// Turned around, so that the upper triangular factor is the lower one that Cholesky finds. In units of the mean nothing
	// overflows.
	a := make([]float32, n*n)
	linalg.Each(n, jobs, func(p int) {
		row := gram[int(f.order[n-1-p])*n:][:n]
		to := a[p*n:][:n]
		for q := range p + 1 {
			to[q] = f.scaled(row[f.order[n-1-q]])
		}
		to[p] = f.damped(to[p])
	})
	l := linalg.New(a, n, n)
	if err := linalg.Cholesky(l, jobs); err != nil {
		var e *linalg.NotPositiveError
		if errors.As(err, &e) {
			c := int(f.order[n-1-e.Column])
			return nil, &GramError{c, c, fmt.Sprintf("a positive definite matrix with damping %g", damping), float32(e.Pivot)}
		}
		return nil, err
	}
	f.pack(l, jobs)
	return f, nil
}

// scaled is an element of the Gram matrix in units of the mean of its diagonal.
func (f *Factor) scaled(v float32) float32 { return float32(float64(v) * f.unit) }

// damped is one of its diagonal, scaled.
func (f *Factor) damped(v float32) float32 {
	if v += float32(f.damping) + float32(shrink*v); v != 0 {
		return v
	}
	return 1
}

// Refine prepares a sweep of coordinate descent after the feedback, by the matrix that f was made of: each code in turn is given
// the value that is best for it, all others being what they are. gram is not kept.
//
// With errors e = w-v of a row and H = U D U', the value that is best for column k is v[k] + (e H)[k] / H[k,k]. The feedback has
// rounded column k by r[k] = (e U)[k], so that e H is r D U', of which half the products are left; and since few codes change, what
// changes is added to that one by one, from rows of H.
func (f *Factor) Refine(gram []float32, jobs int) {
	n := f.columns
	own := make([]float64, n) // the reciprocal of the diagonal, in the units of gram
	for k, c := range f.order {
		own[k] = f.unit / float64(f.damped(f.scaled(gram[int(c)*n+int(c)])))
	}
	flat := make([]float32, n*(n-1)/2)
	f.after = make([][]float32, n)
	for k := range f.after {
		f.after[k], flat = flat[:n-1-k], flat[n-1-k:]
	}
	f.back = make([]block, len(f.blocks))
	linalg.Each(len(f.back), jobs, func(i int) { f.refineBlock(i, gram, own) })
}

// refineBlock prepares the columns of a block: own is the reciprocal of the diagonal.
func (f *Factor) refineBlock(number int, gram []float32, own []float64) {
	n, at := f.columns, number*blockCols
	w := min(blockCols, n-at)
	b := newBlock(w, n-at)
	for k := range w {
		row := gram[int(f.order[at+k])*n:][:n]
		after, order := f.after[at+k], f.order[at+k+1:]
		for i, own := range own[at+k+1:] {
			after[i] = float32(float64(row[order[i]]) * own)
		}
		unit := float32(own[at+k] / f.unit)
		b.set(k, k, n-at, unit)
		for j := k + 1; j < w; j++ {
			b.set(j, k, n-at, f.blocks[number].inside[j][k]*unit)
		}
		for j := at + w; j < n; j += blockCols {
			from := f.blocks[j/blockCols].tiles[(at+k)*kernel.TileRows:]
			for q := 0; q < min(blockCols, n-j); q += kernel.TileRows {
				for c, u := range from[q*j:][:min(kernel.TileRows, n-j-q)] {
					b.set(j+q+c-at, k, n-at, u*unit)
				}
			}
		}
	}
	f.back[number] = b
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

// pack lays out the columns of U, which is the lower triangle l turned around with its columns divided by the diagonal.
func (f *Factor) pack(l linalg.Matrix, jobs int) {
	n := f.columns
	f.pivots = make([]float32, n)
	per := make([]float32, n) // by column of l
	for i := range n {
		d := l.At(i, i)
		f.pivots[n-1-i], per[i] = d*d, 1/d
	}
	f.blocks = make([]block, (n+blockCols-1)/blockCols)
	linalg.Each(len(f.blocks), jobs, func(i int) { f.blocks[i] = packBlock(l, per, i*blockCols) })
}

// packBlock is pack for the block from column at on.
func packBlock(l linalg.Matrix, per []float32, at int) block {
	n := l.Rows
	w := min(blockCols, n-at)
	b := newBlock(w, at)
	lo, hi := n-at-w, n-at // the columns in l, the first of the block last
	for i := range at {
		row, d := l.Row(n - 1 - i)[lo:hi], per[lo:hi]
		for k := 0; k < w; k += kernel.TileRows {
			to := b.tiles[k*at+i*kernel.TileRows:][:kernel.TileRows]
			for q := range min(kernel.TileRows, w-k) {
				to[q] = row[w-1-k-q] * d[w-1-k-q]
			}
		}
	}
	inside := make([]float32, w*(w-1)/2)
	for k := range w {
		b.inside[k], inside = inside[:k], inside[k:]
		for i := range b.inside[k] {
			b.inside[k][i] = l.At(hi-1-i, hi-1-k) * per[hi-1-k]
		}
	}
	return b
}
