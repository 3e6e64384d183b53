package feedback

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/linalg"
)

// strip is how many rows are worked on side by side.
const strip = kernel.TileCols

// RowsMemory is how many bytes Quantize takes for rows of n columns.
func RowsMemory(rows, n int64) int64 {
	rows = (rows + strip - 1) / strip * strip
	return rows*(3*4*n+n) + rows*4*blockCols
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
	p := panels.Get().(*panel)
	defer panels.Put(p)
	p.f, p.t, p.rows, p.scales, p.shift = f, t, rows, scales, bits.TrailingZeros(uint(blockSize))
	p.load(x)
	for b := range f.blocks {
		at, w := b*blockCols, len(f.blocks[b].inside)
		for s, v := range p.value {
			copy(p.work[s], v[at*strip:][:w*strip])
		}
		p.feed(&f.blocks[b], p.diff, 0, at)
		for s := range p.diff {
			p.quantize(b, s)
		}
	}
	if f.back != nil {
		p.sweep()
	}
	p.store(codes)
}

// QuantizeOn is Quantize on jobs goroutines.
func (f *Factor) QuantizeOn(jobs int, t kernel.Type, codes []byte, x, scales []float32, blockSize int) {
	unit := f.columns // elements: whole rows and blocks, in whole bytes
	for unit%blockSize != 0 || unit%2 != 0 {
		unit += f.columns
	}
	jobs = max(jobs, 1)
	step := max(1, ((len(x)+unit-1)/unit+jobs-1)/jobs) * unit
	linalg.Each((len(x)+step-1)/step, jobs, func(i int) {
		lo, hi := i*step, min((i+1)*step, len(x))
		f.Quantize(t, codes[lo/2:(hi+1)/2], x[lo:hi], scales[lo/blockSize:(hi+blockSize-1)/blockSize], blockSize)
	})
}

// panel is the rows that one call works on. What it holds of them is by strip, and in it by column in the order of work.
type panel struct {
	f      *Factor
	t      kernel.Type
	rows   int
	scales []float32
	shift  int // of an element's number to that of its block

	value [][]float32 // the weights; once they are quantized, their decoded values
	code  [][]byte
	diff  [][]float32 // what the weights lost, while there is feedback
	lost  [][]float32 // what rounding took, times the pivots
	work  [][]float32 // of the columns of a block: what is to be rounded

	changes []change
	floats  []float32 // that all of these are in
	bytes   []byte
}

// panels are kept with their memory. Lanes of the last strip that no row has hold anything: they reach no other.
var panels = sync.Pool{New: func() any { return new(panel) }}

// load lays the weights out.
func (p *panel) load(x []float32) {
	n := p.f.columns
	lanes := (p.rows + strip - 1) / strip * strip
	p.floats, p.bytes = slices.Grow(p.floats[:0], lanes*(3*n+blockCols)), slices.Grow(p.bytes[:0], lanes*n)
	flat, codes := p.floats[:cap(p.floats)], p.bytes[:cap(p.bytes)]
	take := func(columns int) []float32 {
		part := flat[:columns*strip]
		flat = flat[columns*strip:]
		return part
	}
	p.value, p.code, p.diff, p.lost, p.work = p.value[:0], p.code[:0], p.diff[:0], p.lost[:0], p.work[:0]
	for lo := 0; lo < p.rows; lo += strip {
		v := take(n)
		for r := range min(strip, p.rows-lo) {
			row := x[(lo+r)*n:][:n]
			for k, c := range p.f.order {
				v[k*strip+r] = row[c]
			}
		}
		p.value, p.diff, p.lost, p.work = append(p.value, v), append(p.diff, take(n)), append(p.lost, take(n)), append(p.work, take(blockCols))
		p.code, codes = append(p.code, codes[:n*strip]), codes[n*strip:]
	}
}

// store packs the codes into bytes.
func (p *panel) store(codes []byte) {
	n := p.f.columns
	clear(codes)
	if p.rows*n%2 != 0 {
		codes[len(codes)-1] = kernel.ZeroCode(p.t)
	}
	for r := range p.rows {
		from := p.code[r/strip][r%strip:]
		for k, c := range p.f.order {
			e := r*n + int(c)
			codes[e/2] |= from[k*strip] << (4 * (^e & 1))
		}
	}
}

// feed adds to work, of the columns of a block, the products of the block's tiles with columns at to at+columns of from.
func (p *panel) feed(blk *block, from [][]float32, at, columns int) {
	for k := 0; k < columns; k += linalg.Run {
		run := min(linalg.Run, columns-k)
		for s, d := range from {
			for i := 0; i < len(blk.inside); i += kernel.TileRows {
				tile := blk.tiles[i*columns+k*kernel.TileRows:][:run*kernel.TileRows]
				kernel.MulTile(p.work[s][i*strip:], strip, tile, d[(at+k)*strip:][:run*strip])
			}
		}
	}
}

// scalesOf are the scales of column k in the order of work, in the rows of strip s.
func (p *panel) scalesOf(k, s int, scale []float32) {
	n := p.f.columns
	e := s*strip*n + int(p.f.order[k])
	for r := range scale {
		scale[r] = p.scales[e>>p.shift]
		e += n
	}
}

// quantize chooses the codes of the columns of block number b, in strip s.
func (p *panel) quantize(b, s int) {
	at := b * blockCols
	diff := p.diff[s][at*strip:]
	rows := min(strip, p.rows-s*strip)
	var scale, value [strip]float32
	for k, u := range p.f.blocks[b].inside {
		i := (at + k) * strip
		work, x, lost := p.work[s][k*strip:][:strip], p.value[s][i:][:strip], p.lost[s][i:][:strip]
		if len(u) > 0 {
			kernel.MulRow(work, u, diff[:len(u)*strip])
		}
		p.scalesOf(at+k, s, scale[:rows])
		kernel.Nearest(p.t, p.code[s][i:][:rows], value[:rows], work[:rows], scale[:rows])
		pivot, d := p.f.pivots[at+k], diff[k*strip:][:strip]
		for r, v := range value[:rows] {
			d[r], lost[r], x[r] = x[r]-v, (work[r]-v)*pivot, v
		}
	}
}

// A change is what a sweep has added to the error of an element.
type change struct {
	column, row int
	by          float32
}

// sweep gives each code in turn the value that is best for it. What is lost is not read any more but for carry: row by row, what
// changes so far do to the columns to come.
func (p *panel) sweep() {
	n := p.f.columns
	carry := p.diff
	for _, c := range carry {
		clear(c)
	}
	for b := range p.f.back {
		at, w := b*blockCols, len(p.f.back[b].inside)
		p.changes = p.changes[:0]
		for s, work := range p.work {
			for r := range min(strip, p.rows-s*strip) {
				for k, v := range carry[s][r*n+at:][:w] {
					work[k*strip+r] = v
				}
			}
		}
		p.feed(&p.f.back[b], p.lost, at, n-at)
		for s := range p.work {
			p.refine(at, w, s)
		}
		// By columns, so that a row of H is read once for all.
		slices.SortStableFunc(p.changes, func(c, d change) int { return c.column - d.column })
		for _, c := range p.changes {
			kernel.AddScaled(carry[c.row/strip][c.row%strip*n+at+w:][:n-at-w], c.by, p.f.after[c.column][at+w-c.column-1:])
		}
	}
}

// refine goes through the w columns from column at on, in strip s.
func (p *panel) refine(at, w, s int) {
	rows := min(strip, p.rows-s*strip)
	var scale, value, want [strip]float32
	var code [strip]byte
	for k := range w {
		i := (at + k) * strip
		work, v, codes := p.work[s][k*strip:][:strip], p.value[s][i:][:strip], p.code[s][i:][:strip]
		for r := range want {
			want[r] = v[r] + work[r]
		}
		p.scalesOf(at+k, s, scale[:rows])
		kernel.Nearest(p.t, code[:rows], value[:rows], want[:rows], scale[:rows])
		for r := range rows {
			if value[r] == v[r] {
				continue
			}
			by := v[r] - value[r]
			for q, h := range p.f.after[at+k][:w-k-1] {
				p.work[s][(k+1+q)*strip+r] += float32(by * h)
			}
			p.changes = append(p.changes, change{at + k, s*strip + r, by})
			v[r], codes[r] = value[r], code[r]
		}
	}
}
