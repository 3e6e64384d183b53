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
	blocks  []block
}

// block is the feedback to blockCols columns, fewer in the last.
type block struct {
	tiles  []float32   // from the columns before the block: kernel.TileRows columns at a time, packed for kernel.MulTile
	inside [][]float32 // from the columns before in the block, of each column
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
	f := &Factor{columns: n, order: descending(gram, n)}
	var mean float64
	for i := range n {
		mean += float64(gram[i*n+i]) / float64(n)
	}
	if mean == 0 {
		return nil, &GramError{0, 0, "elements other than 0", 0}
	}
	// Turned around, so that the upper triangular factor is the lower one that Cholesky finds. In units of the mean nothing
	// overflows.
	a := make([]float32, n*n)
	for p := range n {
		row := gram[int(f.order[n-1-p])*n:][:n]
		to := a[p*n:][:n]
		for q := range p + 1 {
			to[q] = float32(float64(row[f.order[n-1-q]]) / mean)
		}
		to[p] += float32(damping)
		if to[p] == 0 {
			to[p] = 1
		}
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
	f.pack(l.Reverse())
	return f, nil
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

// pack divides the columns of the upper triangular factor by the diagonal and lays them out for Quantize.
func (f *Factor) pack(u linalg.Matrix) {
	for j := 0; j < f.columns; j += blockCols {
		w := min(blockCols, f.columns-j)
		tiles := (w + kernel.TileRows - 1) / kernel.TileRows
		b := block{tiles: make([]float32, tiles*kernel.TileRows*j), inside: make([][]float32, w)}
		inside := make([]float32, w*(w-1)/2)
		for k := range w {
			d := u.At(j+k, j+k)
			to := b.tiles[k/kernel.TileRows*kernel.TileRows*j:][:kernel.TileRows*j]
			for i := range j {
				to[i*kernel.TileRows+k%kernel.TileRows] = u.At(i, j+k) / d
			}
			b.inside[k], inside = inside[:k], inside[k:]
			for i := range b.inside[k] {
				b.inside[k][i] = u.At(j+i, j+k) / d
			}
		}
		f.blocks = append(f.blocks, b)
	}
}
