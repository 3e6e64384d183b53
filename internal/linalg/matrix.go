package linalg

import "fmt"

// Matrix is a view of a matrix in memory that it shares with others: element (i, j) is at data[at+i*rowStride+j*colStride].
type Matrix struct {
	Rows, Cols           int
	data                 []float32
	at                   int
	rowStride, colStride int
}

// New returns the matrix of rows by cols elements that data holds, row by row. It panics if data has another length.
func New(data []float32, rows, cols int) Matrix {
	if rows < 0 || cols < 0 || len(data) != rows*cols {
		panic(fmt.Sprintf("linalg: %d elements for a matrix of %d x %d", len(data), rows, cols))
	}
	return Matrix{Rows: rows, Cols: cols, data: data, rowStride: cols, colStride: 1}
}

// T is the transpose.
func (m Matrix) T() Matrix {
	m.Rows, m.Cols, m.rowStride, m.colStride = m.Cols, m.Rows, m.colStride, m.rowStride
	return m
}

// Slice is the part of rows i to i2 and columns j to j2, the upper ends excluded. It panics where that is not within m.
func (m Matrix) Slice(i, i2, j, j2 int) Matrix {
	if i < 0 || i > i2 || i2 > m.Rows || j < 0 || j > j2 || j2 > m.Cols {
		panic(fmt.Sprintf("linalg: rows %d:%d, columns %d:%d of a matrix of %d x %d", i, i2, j, j2, m.Rows, m.Cols))
	}
	m.at += i*m.rowStride + j*m.colStride
	m.Rows, m.Cols = i2-i, j2-j
	return m
}

// Reverse is m with the order of its rows and that of its columns turned around.
func (m Matrix) Reverse() Matrix {
	m.at += max(0, m.Rows-1)*m.rowStride + max(0, m.Cols-1)*m.colStride
	m.rowStride, m.colStride = -m.rowStride, -m.colStride
	return m
}

// At is element (i, j).
func (m Matrix) At(i, j int) float32 { return m.data[m.at+i*m.rowStride+j*m.colStride] }

// Set changes element (i, j).
func (m Matrix) Set(i, j int, v float32) { m.data[m.at+i*m.rowStride+j*m.colStride] = v }

// Row is row i, of a matrix whose rows are contiguous: its memory, not a copy.
func (m Matrix) Row(i int) []float32 {
	if m.colStride != 1 {
		panic("linalg: rows of a transposed matrix are not contiguous")
	}
	return m.row(i, 0)
}

// row is row i from column j on, of a matrix whose rows are contiguous.
func (m Matrix) row(i, j int) []float32 {
	return m.data[m.at+i*m.rowStride+j:][:m.Cols-j]
}
