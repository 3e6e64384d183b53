package feedback

import (
	"fmt"
	"math/bits"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// strip is how many rows are worked on side by side.
const strip = kernel.TileCols

// sweeps is how often the codes are gone through again where Refine was called. Of the output error on held-out text one sweep
// takes some 5 %, on the shipped Llama, and two more 2 %.
const sweeps = 1

// RowsMemory is how many bytes Quantize takes for rows of n columns.
func RowsMemory(rows, n int64) int64 {
	rows = (rows + strip - 1) / strip * strip
	return 4 * rows * (2*n + blockCols)
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
		p.feed(b, &f.blocks[b], b*blockCols)
		for s := range p.diff {
			p.quantize(b, s, &f.blocks[b])
		}
	}
	if f.around == nil {
		return
	}
	for range sweeps {
		for b := range f.around {
			p.feed(b, &f.around[b], n)
			for s := range p.diff {
				p.quantize(b, s, &f.around[b])
			}
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

	x    [][]float32 // by strip and column in the order of work: the weights
	diff [][]float32 // what they lost, once they are quantized
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
		p.x, p.diff = append(p.x, d), append(p.diff, make([]float32, n*strip))
		p.work = append(p.work, make([]float32, blockCols*strip))
	}
}

// feed puts the weights of block number b, with the feedback of the first columns in the order of work, in work.
func (p *panel) feed(b int, blk *block, columns int) {
	at, w := b*blockCols, len(blk.inside)
	for s, x := range p.x {
		clear(p.work[s])
		copy(p.work[s], x[at*strip:][:w*strip])
	}
	for k := 0; k < columns; k += linalg.Run {
		run := min(linalg.Run, columns-k)
		for s, d := range p.diff {
			for i := 0; i < w; i += kernel.TileRows {
				tile := blk.tiles[i*columns+k*kernel.TileRows:][:run*kernel.TileRows]
				kernel.MulTile(p.work[s][i*strip:], strip, tile, d[k*strip:][:run*strip])
			}
		}
	}
}

// quantize chooses the codes of the columns of block number b, in a strip.
func (p *panel) quantize(b, s int, blk *block) {
	at, n := b*blockCols, p.f.columns
	x, diff := p.x[s][at*strip:], p.diff[s][at*strip:]
	rows := min(strip, p.rows-s*strip)
	var scale, value [strip]float32
	var code [strip]byte
	for k, u := range blk.inside {
		v := p.work[s][k*strip:][:strip]
		if len(u) > 0 {
			kernel.MulRow(v, u, diff[:len(u)*strip])
		}
		first := s*strip*n + int(p.f.order[at+k])
		for r := range rows {
			scale[r] = p.scales[(first+r*n)>>p.shift]
		}
		kernel.Nearest(p.t, code[:rows], value[:rows], v[:rows], scale[:rows])
		for r := range rows {
			diff[k*strip+r] = x[k*strip+r] - value[r]
			e := first + r*n
			shift := 4 * (^e & 1)
			p.codes[e/2] = p.codes[e/2]&^(15<<shift) | code[r]<<shift
		}
	}
}
