package decode

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// code is an encoding of weights.
type code uint8

const (
	codeE4M3 code = iota
	codeE5M2
	codeI8
	codeE2M1 // two in a byte, the first in the low nibble
	codeE2M3 // of 6 bits, one in a byte
)

func (c code) String() string { return [...]string{"E4M3", "E5M2", "I8", "E2M1", "E2M3"}[c] }

// scaleKind is an encoding of scales.
type scaleKind uint8

const (
	scaleF32 scaleKind = iota
	scaleBF16
	scaleF16
	scaleE8M0     // 2^(byte-127), and 255 is NaN
	scaleExponent // the same as plain bytes, where 255 is 2^128, thus infinity
	scaleE4M3
)

func (k scaleKind) size() int { return [...]int{4, 2, 2, 1, 1, 1}[k] }

// grid says which scale an element has: element (r, c) of a matrix of rows x cols has scale
// (r/blockRows, c/blockCols) of scaleRows x scaleCols. Matrices follow each other, as do their scales.
type grid struct {
	rows, cols           int64
	blockRows, blockCols int64
	scaleRows, scaleCols int64
}

// scaleRow is the index of the first scale of a row, counted over all matrices.
func (g *grid) scaleRow(row int64) int64 {
	return (row/g.rows*g.scaleRows + row%g.rows/g.blockRows) * g.scaleCols
}

// scaledReader decodes (code - zero) * scale. It keeps no state between calls.
type scaledReader struct {
	name, scaleName string
	codes, scales   io.ReaderAt
	code            code
	kind            scaleKind
	grid            grid
	over127         bool // LLM.int8: the product is divided by 127
	out             kernel.Elem
	zeros           *zeroPoints  // nil: none
	level2          *level2      // nil: scales are multiplied as they are stored
	order           *columnOrder // nil: columns have the scales of their place
	check           func() error // nil if there is nothing to check
}

const (
	tile       = 1024    // elements in float32 at a time
	windowSize = 1 << 14 // scales held at a time: a row of per-channel scales of most models
)

// inv127 is bitsandbytes' 7.874015718698502e-3, which torch rounds to float32.
const inv127 = float32(7.874015718698502e-3)

// workspace is what one call needs beyond its dst.
type workspace struct {
	values [4 * tile]byte // in float32
	codes  [tile]byte     // one in a byte
	raw    [4 * windowSize]byte
	scales [windowSize]float32
	lo, hi int64 // the range of scales that lies in scales
	zeros  []float32
	packed []byte
	groups []int32
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

func (r *scaledReader) decode(dst []byte, first int64, n int) error {
	if r.check != nil {
		if err := r.check(); err != nil {
			return fmt.Errorf("decode %s: %w", r.name, err)
		}
	}
	// The codes are read into the end of dst and decoded from its beginning on. Each takes fewer bytes than its value,
	// so the values never reach codes that are still to be read.
	from, phase, size := first, 0, n
	if r.code == codeE2M1 {
		from, phase = first/2, int(first%2)
		size = (phase + n + 1) / 2
	}
	codes := dst[len(dst)-size:]
	if err := stream.ReadFull(r.codes, codes, from); err != nil {
		return fmt.Errorf("decode %s: read elements %d to %d: %w", r.name, first, first+int64(n), err)
	}
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	w.lo, w.hi = 0, 0
	need := r.lastScale(first+int64(n)-1, first) + 1
	if r.order != nil && !r.order.plain {
		need = r.grid.scaleRow((first+int64(n)-1)/r.grid.cols) + r.grid.scaleCols
		var err error
		if w.groups, err = r.order.read(w.groups); err != nil {
			return fmt.Errorf("decode %s: %w", r.name, err)
		}
	}
	es := r.out.Size()
	for done := 0; done < n; {
		k := min(tile, n-done)
		out := dst[done*es:][:k*es]
		values, c := out, w.codes[:k]
		if r.out != kernel.F32 {
			values = w.values[:4*k]
		}
		if r.code == codeE2M1 {
			unpack(c, codes, phase+done)
		} else {
			c = codes[done:][:k]
		}
		if err := r.multiply(values, c, first+int64(done), w, need); err != nil {
			return fmt.Errorf("decode %s: read %s: %w", r.name, r.scaleName, err)
		}
		if r.out != kernel.F32 {
			kernel.Convert(out, r.out, values, kernel.F32, k)
		}
		done += k
	}
	return nil
}

// lastScale is the highest index of a scale that the elements from first to last have.
func (r *scaledReader) lastScale(last, first int64) int64 {
	g := &r.grid
	row, col := last/g.cols, last%g.cols
	if row != first/g.cols {
		col = g.cols - 1
	}
	return g.scaleRow(row) + col/g.blockCols
}

// e2m1 are the values of FP4 (OCP Microscaling Formats, version 1.0, section 5.3.3).
var e2m1 = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, float32(math.Copysign(0, -1)), -0.5, -1, -1.5, -2, -3, -4, -6}

// tables hold the value of every byte, by code; E2M1 in its low nibble, E2M3 in its low 6 bits.
var tables = sync.OnceValue(func() *[5][256]float32 {
	var t [5][256]float32
	var all [256]byte
	for i := range all {
		all[i] = byte(i)
		t[codeI8][i] = float32(int8(i))
		t[codeE2M1][i] = e2m1[i&15]
		t[codeE2M3][i] = e2m3(byte(i))
	}
	kernel.Widen(t[codeE4M3][:], all[:], kernel.F8E4M3)
	kernel.Widen(t[codeE5M2][:], all[:], kernel.F8E5M2)
	return &t
})

// e2m3 is the value of a code of FP6 (the same, section 5.3.2): a sign, 2 bits of exponent, 3 of mantissa.
func e2m3(c byte) float32 {
	v := float32(c&7) / 8
	if e := c >> 3 & 3; e > 0 {
		v = (1 + v) * float32(int(1)<<(e-1))
	}
	if c&32 != 0 {
		v = -v
	}
	return v
}

// unpack gives each nibble, from the one of index at on, a byte.
func unpack(dst, packed []byte, at int) {
	packed = packed[at/2:]
	if at%2 == 1 && len(dst) > 0 {
		dst[0], dst, packed = packed[0]>>4, dst[1:], packed[1:]
	}
	for len(dst) >= 2 && len(packed) > 0 {
		dst[0], dst[1] = packed[0]&15, packed[0]>>4
		dst, packed = dst[2:], packed[1:]
	}
	if len(dst) > 0 {
		dst[0] = packed[0] & 15
	}
}

// multiply decodes elements, from first on, to float32. need is one more than the highest scale that the call will ask
// for, beyond which nothing is read. codes may lie at the end of dst, see decode.
func (r *scaledReader) multiply(dst, codes []byte, first int64, w *workspace, need int64) error {
	if r.zeros != nil || r.order != nil && !r.order.plain {
		return r.multiplyShifted(dst, codes, first, w, need)
	}
	g, t := &r.grid, &tables()[r.code]
	row, col := first/g.cols, first%g.cols
	for len(codes) > 0 {
		at := g.scaleRow(row) + col/g.blockCols
		if at < w.lo || at >= w.hi {
			if err := r.load(w, at, need); err != nil {
				return err
			}
		}
		n := min(int64(len(codes)), g.cols-col)
		if g.blockCols == 1 {
			n = min(n, w.hi-at)
			for i, c := range codes[:n] {
				binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(t[c]*w.scales[at-w.lo+int64(i)]))
			}
		} else {
			n = min(n, g.blockCols-col%g.blockCols)
			s := w.scales[at-w.lo]
			if r.over127 {
				for i, c := range codes[:n] {
					binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(float32(t[c]*s)*inv127))
				}
			} else {
				times(dst, codes[:n], t, s)
			}
		}
		dst, codes = dst[4*n:], codes[n:]
		if col += n; col == g.cols {
			row, col = row+1, 0
		}
	}
	return nil
}

// multiplyShifted is multiply for weights with zero points, or whose columns are in another order than their scales.
func (r *scaledReader) multiplyShifted(dst, codes []byte, first int64, w *workspace, need int64) error {
	g, t := &r.grid, &tables()[r.code]
	row, col := first/g.cols, first%g.cols
	ordered := r.order != nil && !r.order.plain
	for i := 0; len(codes) > 0; {
		at, n := g.scaleRow(row)+col/g.blockCols, min(int64(len(codes)), g.cols-col, g.blockCols-col%g.blockCols)
		last := at
		if ordered { // all scales of a row at once
			at, n = g.scaleRow(row), min(int64(len(codes)), g.cols-col)
			last = at + g.scaleCols - 1
		}
		if at < w.lo || last >= w.hi {
			if err := r.load(w, at, need); err != nil {
				return err
			}
		}
		for k, c := range codes[:n] {
			j := at - w.lo
			if ordered {
				j += int64(w.groups[col+int64(k)])
			}
			v := t[c]
			if r.zeros != nil {
				v -= w.zeros[j]
			}
			binary.LittleEndian.PutUint32(dst[i:], math.Float32bits(v*w.scales[j]))
			i += 4
		}
		codes = codes[n:]
		if col += n; col == g.cols {
			row, col = row+1, 0
		}
	}
	return nil
}

// times writes the values of codes times s, eight at a time: they are read before they can be overwritten.
func times(dst, codes []byte, t *[256]float32, s float32) {
	for len(codes) >= 8 && len(dst) >= 32 {
		c := binary.LittleEndian.Uint64(codes)
		for i := 0; i < 32; i += 8 {
			lo, hi := math.Float32bits(t[byte(c)]*s), math.Float32bits(t[byte(c>>8)]*s)
			binary.LittleEndian.PutUint64(dst[i:i+8], uint64(lo)|uint64(hi)<<32)
			c >>= 16
		}
		dst, codes = dst[32:], codes[8:]
	}
	for i, c := range codes {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(t[c]*s))
	}
}

// load reads a window of scales that begins with the one of index at.
func (r *scaledReader) load(w *workspace, at, need int64) error {
	n := int(min(windowSize, need-at))
	size := r.kind.size()
	raw := w.raw[:n*size]
	if err := stream.ReadFull(r.scales, raw, at*int64(size)); err != nil {
		return err
	}
	switch r.kind {
	case scaleF32:
		kernel.Widen(w.scales[:n], raw, kernel.F32)
	case scaleBF16:
		kernel.Widen(w.scales[:n], raw, kernel.BF16)
	case scaleF16:
		kernel.Widen(w.scales[:n], raw, kernel.F16)
	case scaleE4M3:
		kernel.Widen(w.scales[:n], raw, kernel.F8E4M3)
	case scaleE8M0, scaleExponent:
		for i, b := range raw {
			w.scales[i] = exp2(b)
			if b == 255 && r.kind == scaleE8M0 {
				w.scales[i] = float32(math.NaN())
			}
		}
	}
	if r.level2 != nil {
		if err := r.level2.apply(w.scales[:n], at); err != nil {
			return err
		}
	}
	if r.zeros != nil {
		w.zeros = room(&w.zeros, n)
		if err := r.zeros.load(w.zeros, at, r.grid.scaleCols, w); err != nil {
			return err
		}
	}
	w.lo, w.hi = at, at+int64(n)
	return nil
}

// exp2 is 2^(b-127) as a float32: a subnormal for 0, infinity for 255.
func exp2(b byte) float32 {
	if b == 0 {
		return math.Float32frombits(1 << 22)
	}
	return math.Float32frombits(uint32(b) << 23)
}
