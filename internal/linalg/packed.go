package linalg

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Packed is a matrix that is laid out once to be the right side of several products.
type Packed struct {
	rows, cols int
	data       []float32 // Run rows after Run rows, of each TileCols columns after TileCols columns, row by row
}

// wide is the number of columns with those that fill the last tile.
func (p *Packed) wide() int {
	return (p.cols + kernel.TileCols - 1) / kernel.TileCols * kernel.TileCols
}

// Pack lays out b, which is not kept.
func Pack(b Matrix) *Packed {
	p := &Packed{rows: b.Rows, cols: b.Cols}
	p.data = make([]float32, p.rows*p.wide())
	for k := 0; k < b.Rows; k += Run {
		pack(p.data[k*p.wide():], b.Slice(k, min(k+Run, b.Rows), 0, b.Cols).T(), kernel.TileCols, false)
	}
	return p
}

// MulAddPacked adds A*B to C as MulAdd does, B being the columns of b from one on, as many as C has.
func MulAddPacked(c, a Matrix, b *Packed, from int) {
	if a.Rows != c.Rows || a.Cols != b.rows || from < 0 || from+c.Cols > b.cols || c.colStride != 1 {
		panic(fmt.Sprintf("linalg: %d x %d from %d x %d by columns from %d on of %d x %d", c.Rows, c.Cols, a.Rows, a.Cols, from, b.rows, b.cols))
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	skip := from % kernel.TileCols
	for k := 0; k < b.rows; k += Run {
		k2 := min(k+Run, b.rows)
		tiles := b.data[k*b.wide()+(from-skip)*(k2-k):]
		for i := 0; i < c.Rows; i += blockRows {
			i2 := min(i+blockRows, c.Rows)
			pack(s.a[:], a.Slice(i, i2, k, k2), kernel.TileRows, false)
			mulTiles(c.Slice(i, i2, 0, c.Cols), s.a[:], tiles, k2-k, skip)
		}
	}
}
