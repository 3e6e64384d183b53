package linalg

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Run is the length of a chain of fused multiply-adds: how much of the inner dimension is packed at a time.
const Run = 256

// What is packed at a time of the rows of A (for the second-level cache) and of the columns of B.
const (
	blockRows = 16 * kernel.TileRows
	blockCols = 64 * kernel.TileCols
)

// scratch is the packed blocks of one worker.
type scratch struct {
	a [blockRows * Run]float32
	b [blockCols * Run]float32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// MulAdd adds A*B to C. C must have contiguous rows, as a matrix of New and its slices have, and no memory in common with
// A and B.
func MulAdd(c, a, b Matrix, jobs int) { mulAdd(c, a, b, false, jobs) }

// MulSub subtracts A*B from C: it adds the product of -A and B.
func MulSub(c, a, b Matrix, jobs int) { mulAdd(c, a, b, true, jobs) }

func mulAdd(c, a, b Matrix, negate bool, jobs int) {
	if a.Rows != c.Rows || b.Cols != c.Cols || a.Cols != b.Rows || c.colStride != 1 {
		panic(fmt.Sprintf("linalg: %d x %d from %d x %d by %d x %d", c.Rows, c.Cols, a.Rows, a.Cols, b.Rows, b.Cols))
	}
	if c.Rows >= c.Cols {
		share(c.Rows, kernel.TileRows, jobs, func(i, i2 int) {
			mulBlock(c.Slice(i, i2, 0, c.Cols), a.Slice(i, i2, 0, a.Cols), b, negate)
		})
		return
	}
	share(c.Cols, kernel.TileCols, jobs, func(j, j2 int) {
		mulBlock(c.Slice(0, c.Rows, j, j2), a, b.Slice(0, b.Rows, j, j2), negate)
	})
}

// share runs f on jobs parts of 0 to n, each but the last a multiple of step, and waits.
func share(n, step, jobs int, f func(i, i2 int)) {
	stream.Parts((n+step-1)/step, jobs, func(from, to int) { f(min(from*step, n), min(to*step, n)) })
}

// Each runs f for 0 to n-1 on jobs goroutines, and waits.
func Each(n, jobs int, f func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(i)
		}
	}
	var wg sync.WaitGroup
	for range min(jobs, n) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// mulBlock is mulAdd by one worker.
func mulBlock(c, a, b Matrix, negate bool) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	for j := 0; j < c.Cols; j += blockCols {
		j2 := min(j+blockCols, c.Cols)
		for k := 0; k < a.Cols; k += Run {
			k2 := min(k+Run, a.Cols)
			pack(s.b[:], b.Slice(k, k2, j, j2).T(), kernel.TileCols, false)
			for i := 0; i < c.Rows; i += blockRows {
				i2 := min(i+blockRows, c.Rows)
				pack(s.a[:], a.Slice(i, i2, k, k2), kernel.TileRows, negate)
				mulTiles(c.Slice(i, i2, j, j2), s.a[:], s.b[:], k2-k, 0)
			}
		}
	}
}

// mulTiles adds the product of packed blocks of inner dimension k to c. The first skip columns of b's first tile are not c's.
func mulTiles(c Matrix, a, b []float32, k, skip int) {
	var edge [kernel.TileRows * kernel.TileCols]float32
	for at := 0; at < skip+c.Cols; at += kernel.TileCols {
		j, j2 := max(0, at-skip), min(at-skip+kernel.TileCols, c.Cols)
		tileB := b[at*k:][:kernel.TileCols*k]
		for i := 0; i < c.Rows; i += kernel.TileRows {
			tileA := a[i*k:][:kernel.TileRows*k]
			if i+kernel.TileRows <= c.Rows && j2-j == kernel.TileCols {
				kernel.MulTile(c.data[c.at+i*c.rowStride+j:], c.rowStride, tileA, tileB)
				continue
			}
			clear(edge[:])
			kernel.MulTile(edge[:], kernel.TileCols, tileA, tileB)
			for r := i; r < min(i+kernel.TileRows, c.Rows); r++ {
				row, from := c.row(r, j)[:j2-j], edge[(r-i)*kernel.TileCols+j-at+skip:]
				for q := range row {
					row[q] += from[q]
				}
			}
		}
	}
}

// pack lays out m in strips of width rows, each column by column; rows that the last strip lacks are zeros.
func pack(dst []float32, m Matrix, width int, negate bool) {
	for i := 0; i < m.Rows; i += width {
		strip := dst[i*m.Cols:][:width*m.Cols]
		rows := min(width, m.Rows-i)
		if rows < width {
			clear(strip)
		}
		switch {
		case m.rowStride == 1 && rows == kernel.TileCols && width == kernel.TileCols:
			for k := range m.Cols { // a call of copy for so little would take longer
				to, from := strip[k*width:][:kernel.TileCols], m.data[m.at+i+k*m.colStride:][:kernel.TileCols]
				to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = from[0], from[1], from[2], from[3], from[4], from[5], from[6], from[7]
				to[8], to[9], to[10], to[11], to[12], to[13], to[14], to[15] = from[8], from[9], from[10], from[11], from[12], from[13], from[14], from[15]
			}
		case m.rowStride == 1:
			for k := range m.Cols {
				copy(strip[k*width:], m.data[m.at+i+k*m.colStride:][:rows])
			}
		case m.colStride == 1 && rows == kernel.TileRows && width == kernel.TileRows:
			interleave6(strip, width, m, i)
		case m.colStride == 1 && rows == kernel.TileCols && width == kernel.TileCols:
			interleave8(strip, width, m, i)
			interleave8(strip[8:], width, m, i+8)
		default:
			for r := range rows {
				at := m.at + (i+r)*m.rowStride
				for q := r; q < len(strip); q += width {
					strip[q] = m.data[at]
					at += m.colStride
				}
			}
		}
		if negate {
			for q, v := range strip {
				strip[q] = -v
			}
		}
	}
}

// interleave6 puts six contiguous rows of m, from row i on, into the first places of every width of dst: side by side, since what
// is written one row at a time goes through the cache six times.
func interleave6(dst []float32, width int, m Matrix, i int) {
	a := m.row(i, 0)
	n := len(a)
	b, c, d, e, f := m.row(i+1, 0)[:n], m.row(i+2, 0)[:n], m.row(i+3, 0)[:n], m.row(i+4, 0)[:n], m.row(i+5, 0)[:n]
	for k := range n {
		to := dst[k*width:][:6]
		to[0], to[1], to[2], to[3], to[4], to[5] = a[k], b[k], c[k], d[k], e[k], f[k]
	}
}

// interleave8 is interleave6 of eight rows.
func interleave8(dst []float32, width int, m Matrix, i int) {
	a := m.row(i, 0)
	n := len(a)
	b, c, d, e, f, g, h := m.row(i+1, 0)[:n], m.row(i+2, 0)[:n], m.row(i+3, 0)[:n], m.row(i+4, 0)[:n], m.row(i+5, 0)[:n], m.row(i+6, 0)[:n], m.row(i+7, 0)[:n]
	for k := range n {
		to := dst[k*width:][:8]
		to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = a[k], b[k], c[k], d[k], e[k], f[k], g[k], h[k]
	}
}
