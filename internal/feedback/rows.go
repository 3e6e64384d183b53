package feedback

import (
	"fmt"
	"math/bits"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// strip is how many rows are worked on side by side.
const strip = kernel.TileCols

// RowsMemory is how many bytes Quantize takes for rows of n columns.
func RowsMemory(rows, n int64) int64 {
	rows = (rows + strip - 1) / strip * strip
	return 4 * rows * (n + blockCols)
}

// Quantize chooses the codes of whole rows: x are the weights, as many as the layer has columns for each row, and scales the
// decoded scales of their blocks, of any sign. x begins with a block. Two codes share a byte, the first in the high nibble;
// the missing one of an odd count is the code of 0.
func (f *Factor) Quantize(t kernel.Type, codes []byte, x, scales []float32, blockSize int) {
	n := f.columns
	rows := len(x) / n
	if len(x) != rows*n || len(codes) != (len(x)+1)/2 || len(scales) != (len(x)+blockSize-1)/blockSize {
		panic(fmt.Sprintf("feedback: %d elements in rows of %d with %d bytes of codes and %d scales of blocks of %d", len(x), n, len(codes), len(scales), blockSize))
	}
	clear(codes)
	if len(x)%2 != 0 {
		codes[len(codes)-1] = kernel.ZeroCode(t)
	}
	p := panel{f: f, t: t, codes: codes, rows: rows, scales: scales, shift: bits.TrailingZeros(uint(blockSize))}
	p.load(x)
	for b := range f.blocks {
		p.fromBefore(b)
		for s := range p.diff {
			p.quantize(b, s)
		}
	}
}

// panel is the rows that one call works on.
type panel struct {
	f      *Factor
	t      kernel.Type
	codes  []byte
	rows   int
	scales []float32
	shift  int // of an element's number to that of its block

	diff [][]float32 // by strip and column in the order of work: the weights, and once quantized what they lost
	work [][]float32 // by strip and column of the block: what is to be rounded
}

// load lays the weights out column by column in the order of work.
func (p *panel) load(x []float32) {
	n := p.f.columns
	for lo := 0; lo < p.rows; lo += strip {
		d := make([]float32, n*strip)
		for r := range min(strip, p.rows-lo) {
			row := x[(lo+r)*n:][:n]
			for k, c := range p.f.order {
				d[k*strip+r] = row[c]
			}
		}
		p.diff = append(p.diff, d)
		p.work = append(p.work, make([]float32, blockCols*strip))
	}
}

// fromBefore puts the weights of a block of columns, with the feedback of all columns before it, in work.
func (p *panel) fromBefore(b int) {
	at, blk := b*blockCols, &p.f.blocks[b]
	w := len(blk.inside)
	for s, d := range p.diff {
		clear(p.work[s])
		copy(p.work[s], d[at*strip:][:w*strip])
	}
	for k := 0; k < at; k += linalg.Run {
		run := min(linalg.Run, at-k)
		for s, d := range p.diff {
			for i := 0; i < w; i += kernel.TileRows {
				tile := blk.tiles[i*at+k*kernel.TileRows:][:run*kernel.TileRows]
				kernel.MulTile(p.work[s][i*strip:], strip, tile, d[k*strip:][:run*strip])
			}
		}
	}
}

// quantize chooses the codes of the columns of a block, in a strip.
func (p *panel) quantize(b, s int) {
	at, n := b*blockCols, p.f.columns
	diff := p.diff[s][at*strip:]
	rows := min(strip, p.rows-s*strip)
	var scale, value [strip]float32
	var code [strip]byte
	for k, u := range p.f.blocks[b].inside {
		v := p.work[s][k*strip:][:strip]
		if k > 0 {
			kernel.MulRow(v, u, diff[:k*strip])
		}
		first := s*strip*n + int(p.f.order[at+k])
		for r := range rows {
			scale[r] = p.scales[(first+r*n)>>p.shift]
		}
		kernel.Nearest(p.t, code[:rows], value[:rows], v[:rows], scale[:rows])
		for r := range rows {
			diff[k*strip+r] -= value[r]
			e := first + r*n
			p.codes[e/2] |= code[r] << (4 * (^e & 1))
		}
	}
}
