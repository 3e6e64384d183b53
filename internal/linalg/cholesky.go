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

// chains is how many sums are worked on side by side: each is one chain of dependent operations.
const chains = 4

// factor is the Cholesky factor of a small block, in float64 in l and rounded in a. It returns the first column whose
// pivot is not positive, or -1.
func factor(l []float64, a Matrix) (int, float64) {
	n := a.Rows
	for j := range n {
		lj := l[j*n:][:j+1]
		pivot := float64(a.At(j, j))
		for _, v := range lj[:j] {
			pivot -= float64(v * v)
		}
		if !(pivot > 0) || math.IsInf(pivot, 0) {
			return j, pivot
		}
		lj[j] = math.Sqrt(pivot)
		i := j + 1
		for ; i+chains <= n; i += chains {
			r0, r1, r2, r3 := l[i*n:][:j+1], l[(i+1)*n:][:j+1], l[(i+2)*n:][:j+1], l[(i+3)*n:][:j+1]
			s0, s1, s2, s3 := float64(a.At(i, j)), float64(a.At(i+1, j)), float64(a.At(i+2, j)), float64(a.At(i+3, j))
			for k, v := range lj[:j] {
				s0 -= float64(r0[k] * v)
				s1 -= float64(r1[k] * v)
				s2 -= float64(r2[k] * v)
				s3 -= float64(r3[k] * v)
			}
			r0[j], r1[j], r2[j], r3[j] = s0/lj[j], s1/lj[j], s2/lj[j], s3/lj[j]
		}
		for ; i < n; i++ {
			row, sum := l[i*n:][:j+1], float64(a.At(i, j))
			for k, v := range lj[:j] {
				sum -= float64(row[k] * v)
			}
			row[j] = sum / lj[j]
		}
		for i := j; i < n; i++ {
			a.Set(i, j, float32(l[i*n+j]))
		}
	}
	return -1, 0
}

// invert writes the inverse of the lower triangle l to inv, rounded, with zeros above.
func invert(inv []float32, l []float64, n int) {
	x := make([]float64, chains*n) // of as many columns at a time, row by row
	for j := 0; j < n; j += chains {
		clear(x[:chains*j])
		for i := j; i < n; i++ {
			var sum [chains]float64
			for k, v := range l[i*n+j:][:i-j] {
				at := x[chains*(j+k):][:chains]
				sum[0] -= float64(v * at[0])
				sum[1] -= float64(v * at[1])
				sum[2] -= float64(v * at[2])
				sum[3] -= float64(v * at[3])
			}
			if i-j < chains {
				sum[i-j] = 1
			}
			for c := range sum {
				x[chains*i+c] = sum[c] / l[i*n+i]
			}
		}
		for i := range n {
			for c := range min(chains, n-j) {
				inv[i*n+j+c] = float32(x[chains*i+c])
			}
		}
	}
}
