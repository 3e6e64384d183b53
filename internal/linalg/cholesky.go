package linalg

import (
	"fmt"
	"math"
)

// cholBlock is how many columns are factored at a time, and cholWide after how many all columns before come in by one product: the
// wider, the less often these are packed.
const (
	cholBlock = 96
	cholWide  = 5 * cholBlock
)

// NotPositiveError says that a matrix has no Cholesky factor.
type NotPositiveError struct {
	Column int     // the first whose pivot is not positive
	Pivot  float64 // what is left of its diagonal element
}

func (e *NotPositiveError) Error() string {
	return fmt.Sprintf("matrix is not positive definite: pivot %d is %.3g", e.Column, e.Pivot)
}

// Cholesky replaces the lower triangle of the symmetric matrix a, its diagonal included, by that of L with L*L' = a. Above
// the diagonal nothing is read and what is left there is of no use. a must have contiguous rows.
//
// Columns are taken in blocks. A block's own triangle is factored and inverted in float64; what was computed before comes
// in by products with the error that the package states. The residual of an element is within a few 2^-24 times the
// geometric mean of its diagonal elements, times the root of the condition number of the block's triangle.
func Cholesky(a Matrix, jobs int) error {
	if a.Rows != a.Cols || a.colStride != 1 {
		panic(fmt.Sprintf("linalg: factor of a matrix of %d x %d", a.Rows, a.Cols))
	}
	n := a.Rows
	panel := make([]float32, n*min(n, cholBlock))
	tri := make([]float64, cholBlock*cholBlock)
	inv := make([]float32, cholBlock*cholBlock)
	for j := 0; j < n; j += cholBlock {
		j2 := min(j+cholBlock, n)
		w, wide := j2-j, j/cholWide*cholWide
		if j == wide {
			subtractLeft(a, j, min(j+cholWide, n), jobs)
		}
		MulSub(a.Slice(j, n, j, j2), a.Slice(j, n, wide, j), a.Slice(j, j2, wide, j).T(), jobs)
		if k, pivot := factor(tri[:w*w], a.Slice(j, j2, j, j2)); k >= 0 {
			return &NotPositiveError{Column: j + k, Pivot: pivot}
		}
		if j2 == n {
			break
		}
		invert(inv[:w*w], tri[:w*w], w)
		below := a.Slice(j2, n, j, j2)
		p := New(panel[:(n-j2)*w], n-j2, w)
		clear(p.data)
		MulAdd(p, below, New(inv[:w*w], w, w).T(), jobs)
		for i := range p.Rows {
			copy(below.row(i, 0), p.row(i, 0))
		}
	}
	return nil
}

// subtractLeft subtracts from the lower triangle of columns j to j2, from row j on, what the columns before j say of it.
func subtractLeft(a Matrix, j, j2, jobs int) {
	for i := j; i < j2; i += cholBlock { // beside the diagonal; above it nothing is wanted
		i2 := min(i+cholBlock, j2)
		MulSub(a.Slice(i, j2, i, i2), a.Slice(i, j2, 0, j), a.Slice(i, i2, 0, j).T(), jobs)
	}
	MulSub(a.Slice(j2, a.Rows, j, j2), a.Slice(j2, a.Rows, 0, j), a.Slice(j, j2, 0, j).T(), jobs)
}

// factor is the Cholesky factor of a small block, in float64 in l and rounded in a. It returns the first column whose
// pivot is not positive, or -1.
func factor(l []float64, a Matrix) (int, float64) {
	n := a.Rows
	for i := range n {
		li := l[i*n:][:n]
		for j := range i + 1 {
			lj := l[j*n:][:n]
			sum := float64(a.At(i, j))
			for k := range j {
				sum -= float64(li[k] * lj[k])
			}
			if i > j {
				li[j] = sum / lj[j]
				continue
			}
			if !(sum > 0) || math.IsInf(sum, 0) {
				return i, sum
			}
			li[i] = math.Sqrt(sum)
		}
		for j := range i + 1 {
			a.Set(i, j, float32(li[j]))
		}
	}
	return -1, 0
}

// invert writes the inverse of the lower triangle l to inv, rounded, with zeros above.
func invert(inv []float32, l []float64, n int) {
	x := make([]float64, n)
	for j := range n {
		for i := range n {
			switch {
			case i < j:
				x[i] = 0
			case i == j:
				x[i] = 1 / l[i*n+i]
			default:
				var sum float64
				for k := j; k < i; k++ {
					sum -= float64(l[i*n+k] * x[k])
				}
				x[i] = sum / l[i*n+i]
			}
			inv[i*n+j] = float32(x[i])
		}
	}
}
