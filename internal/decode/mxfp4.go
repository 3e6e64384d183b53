package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/panel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// panelBytes is room for an expert of gpt-oss, the largest published use: 8.8 MB.
const panelBytes = 10 << 20

// panelKey names a rectangle of a tensor's stored bytes that is held while the logical rows that cross it are read.
type panelKey struct {
	tensor       *mxfp4Reader
	expert       int64
	rowTile, col int64
}

// An MXFP4 group (OCP Microscaling Formats, version 1.0) is 32 elements under one scale, 16 bytes.
const (
	groupElems = 32
	groupBytes = 16
)

// mxfp4 finds pairs P_blocks U8 [experts, out, groups, 16] and P_scales U8 [experts, out, groups]. They stand for a
// parameter P of shape [experts, in, out], in = 32*groups: transposed (transformers integrations/mxfp4.py, last line of
// _convert_moe_packed_tensors).
func (d *detector) mxfp4(tensors []Tensor) error {
	cache := panel.NewCache(panelBytes)
	for i := range tensors {
		t := &tensors[i]
		name, blocks := strings.CutSuffix(t.Name, "_blocks")
		if !blocks {
			var scales bool
			if name, scales = strings.CutSuffix(t.Name, "_scales"); !scales || t.DType != safetensors.U8 {
				continue
			}
		} else if t.DType != safetensors.U8 {
			continue
		}
		b, s := d.byName[name+"_blocks"], d.byName[name+"_scales"]
		for _, part := range []struct {
			t    *Tensor
			name string
		}{{b, name + "_blocks"}, {s, name + "_scales"}} {
			if part.t == nil {
				return &TensorError{File: t.File, Tensor: t.Name, Expected: "a tensor " + part.name + " beside it", Found: "none"}
			}
			if part.t.DType != safetensors.U8 {
				return &TensorError{File: part.t.File, Tensor: part.name, Expected: "U8", Found: part.t.DType.String()}
			}
		}
		if !blocks {
			continue
		}
		if err := d.mxfp4Weight(name, b, s, cache); err != nil {
			return err
		}
	}
	return nil
}

func (d *detector) mxfp4Weight(name string, b, s *Tensor, cache *panel.Cache) error {
	if len(b.Shape) != 4 || b.Shape[3] != groupBytes {
		return &TensorError{File: b.File, Tensor: b.Name, Expected: "a shape [experts, out, groups, 16]", Found: fmt.Sprint(b.Shape)}
	}
	if !slices.Equal(s.Shape, b.Shape[:3]) {
		return &TensorError{File: s.File, Tensor: s.Name, Expected: fmt.Sprintf("shape %v, one scale for each group of %s", b.Shape[:3], b.Name),
			Found: fmt.Sprint(s.Shape)}
	}
	shape := []int64{b.Shape[0], b.Shape[2] * groupElems, b.Shape[1]}
	if elems(shape) < 0 || b.Shape[2] > maxElems/groupElems {
		return &TensorError{File: b.File, Tensor: b.Name, Expected: "a shape of fewer than 2^56 elements", Found: fmt.Sprint(b.Shape)}
	}
	r := &mxfp4Reader{name: name, blocks: b, scales: s, cols: b.Shape[1], groups: b.Shape[2], cache: cache}
	r.tileRows = min(max(r.cols, 1), panelBytes/(4*(groupBytes+1)))
	r.tileGroups = min(max(r.groups, 1), panelBytes/((groupBytes+1)*r.tileRows))
	return d.add(Logical{Name: name, Shape: shape, DType: safetensors.BF16, reader: newElements(r, 2, elems(shape))},
		"E2M1 in groups of 32", b, s)
}

// mxfp4Reader decodes value * 2^(scale-127), which BF16 holds exactly.
type mxfp4Reader struct {
	name                 string
	blocks, scales       *Tensor
	cols                 int64 // of the logical matrix; stored rows
	groups               int64 // of a stored row
	tileRows, tileGroups int64 // of a panel
	cache                *panel.Cache
}

// mxfp4Table holds the BF16 bits of every code under every scale. As in torch.ldexp, a scale of 255 is 2^128 and of zero
// leaves zero, although the specification has a NaN there.
var mxfp4Table = sync.OnceValue(func() *[256][16]uint16 {
	var table [256][16]uint16
	for s := range table {
		for c, v := range e2m1 {
			var b [2]byte
			kernel.Narrow(b[:], kernel.BF16, []float32{float32(math.Ldexp(float64(v), s-127))})
			table[s][c] = binary.LittleEndian.Uint16(b[:])
		}
	}
	return &table
})

// rect is a rectangle of one expert's logical matrix: rows [r0, r1) and columns [c0, c1).
type rect struct{ r0, r1, c0, c1 int64 }

func (r *mxfp4Reader) decode(dst []byte, first int64, n int) error {
	rows := r.groups * groupElems
	size := rows * r.cols
	for n > 0 {
		expert, at := first/size, first%size
		k := int(min(int64(n), size-at))
		if err := r.expert(dst[:2*k], expert, at, at+int64(k)); err != nil {
			return fmt.Errorf("decode %s: expert %d: %w", r.name, expert, err)
		}
		dst, first, n = dst[2*k:], first+int64(k), n-k
	}
	return nil
}

// expert decodes elements [lo, hi) of one expert's matrix, panel by panel.
func (r *mxfp4Reader) expert(dst []byte, expert, lo, hi int64) error {
	firstRow, lastRow := lo/r.cols, (hi-1)/r.cols
	// At most a part of a row, whole rows, and a part of a row.
	parts := make([]rect, 0, 3)
	if firstRow == lastRow {
		parts = append(parts, rect{firstRow, firstRow + 1, lo % r.cols, (hi-1)%r.cols + 1})
	} else {
		parts = append(parts, rect{firstRow, firstRow + 1, lo % r.cols, r.cols},
			rect{firstRow + 1, lastRow, 0, r.cols}, rect{lastRow, lastRow + 1, 0, (hi-1)%r.cols + 1})
	}
	span := r.tileGroups * groupElems
	for g := firstRow / span; g <= lastRow/span; g++ {
		for c := int64(0); c*r.tileRows < r.cols; c++ {
			area := rect{g * span, (g + 1) * span, c * r.tileRows, min((c+1)*r.tileRows, r.cols)}
			if firstRow == lastRow && !parts[0].overlaps(area) {
				continue
			}
			size := (area.c1 - area.c0) * r.width(area) * (groupBytes + 1)
			p, err := r.cache.Acquire(panelKey{r, expert, c, g}, size, func(data []byte) error { return r.fill(data, expert, area) })
			if err != nil {
				return err
			}
			for _, part := range parts {
				if in := part.and(area); in.r0 < in.r1 && in.c0 < in.c1 {
					r.transpose(dst, in, area, lo, p.Data)
				}
			}
			r.cache.Release(p)
		}
	}
	return nil
}

func (a rect) and(b rect) rect {
	return rect{max(a.r0, b.r0), min(a.r1, b.r1), max(a.c0, b.c0), min(a.c1, b.c1)}
}

func (a rect) overlaps(b rect) bool {
	in := a.and(b)
	return in.r0 < in.r1 && in.c0 < in.c1
}

// width is the number of groups in a panel.
func (r *mxfp4Reader) width(area rect) int64 {
	return min(area.r1/groupElems, r.groups) - area.r0/groupElems
}

// fill reads the stored rows area.c0 to area.c1, of the groups of the rows area.r0 to area.r1: blocks, then their scales.
func (r *mxfp4Reader) fill(data []byte, expert int64, area rect) error {
	rows, width := area.c1-area.c0, r.width(area)
	blocks := rows * width * groupBytes
	if err := r.fetch(data[:blocks], r.blocks, expert, area, rows, width, groupBytes); err != nil {
		return err
	}
	return r.fetch(data[blocks:], r.scales, expert, area, rows, width, 1)
}

// fetch reads a rectangle of t, whose groups take size bytes: at once if it covers whole rows, row by row otherwise.
func (r *mxfp4Reader) fetch(buf []byte, t *Tensor, expert int64, area rect, rows, width, size int64) error {
	step := width
	if width == r.groups {
		step, rows = rows*width, 1
	}
	for i := range rows {
		off := ((expert*r.cols+area.c0+i)*r.groups + area.r0/groupElems) * size
		if err := stream.ReadFull(t.Data, buf[i*step*size:][:step*size], off); err != nil {
			return fmt.Errorf("read %s: %w", t.Name, err)
		}
	}
	return nil
}

// strip is how many columns are turned at a time: 64 bytes of a logical row, one line of the cache.
const strip = 32

// transpose decodes a rectangle out of a panel into the place that it has in dst, whose first element is lo.
func (r *mxfp4Reader) transpose(dst []byte, in, area rect, lo int64, data []byte) {
	table, width := mxfp4Table(), r.width(area)
	blocks := (area.c1 - area.c0) * width * groupBytes
	scales := data[blocks:]
	var turned [strip][groupElems]uint16
	for row := in.r0; row < in.r1; {
		g := row/groupElems - area.r0/groupElems
		from := row % groupElems
		to := min(groupElems, from+in.r1-row)
		for c := in.c0; c < in.c1; c += strip {
			n := min(strip, in.c1-c)
			for i := range n {
				at := (c+i-area.c0)*width + g
				values, column := &table[scales[at]], &turned[i]
				block := (*[groupBytes]byte)(data[at*groupBytes:])
				if from > 0 || to < groupElems {
					for j := from / 2; j < (to+1)/2; j++ {
						column[2*j], column[2*j+1] = values[block[j]&15], values[block[j]>>4]
					}
					continue
				}
				for j, b := range block {
					column[2*j], column[2*j+1] = values[b&15], values[b>>4]
				}
			}
			for k := from; k < to; k++ {
				put(dst[2*((row+k-from)*r.cols+c-lo):][:2*n], &turned, k)
			}
		}
		row += to - from
	}
}

// put writes element k of every column.
func put(dst []byte, turned *[strip][groupElems]uint16, k int64) {
	if len(dst) < 2*strip {
		for i := range len(dst) / 2 {
			binary.LittleEndian.PutUint16(dst[2*i:], turned[i][k])
		}
		return
	}
	dst = dst[:2*strip]
	for i := 0; i < strip; i += 4 {
		binary.LittleEndian.PutUint64(dst[2*i:], uint64(turned[i][k])|uint64(turned[i+1][k])<<16|
			uint64(turned[i+2][k])<<32|uint64(turned[i+3][k])<<48)
	}
}
