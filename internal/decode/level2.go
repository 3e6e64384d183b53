package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// level2 is NVFP4's scale of the scales: one for the tensor, or one for each expert of a stack.
type level2 struct {
	t      *Tensor
	per    int64 // scales under one of them; 0: all
	divide bool  // as compressed-tensors has it; else the scales are multiplied
	bf16   bool  // the quotients are rounded to BF16
}

// newLevel2 takes one scale for the tensor, or one for each matrix of a stack of them, which has per scales.
func newLevel2(t *Tensor, lead []int64, per int64) (*level2, error) {
	one := elems(t.Shape) == 1
	each := slices.Equal(t.Shape, lead) || slices.Equal(t.Shape, append(slices.Clone(lead), 1))
	if t.DType != safetensors.F32 || !one && !each {
		return nil, &TensorError{File: t.File, Tensor: t.Name, Expected: "F32 [1], the scale of the scales", Found: fmt.Sprintf("%v %v", t.DType, t.Shape)}
	}
	if one {
		per = 0
	}
	return &level2{t: t, per: per}, nil
}

// apply turns the scales from index at on into those that elements are multiplied with.
func (l *level2) apply(scales []float32, at int64) error {
	for len(scales) > 0 {
		matrix, n := int64(0), int64(len(scales))
		if l.per > 0 {
			matrix = at / l.per
			n = min(n, l.per-at%l.per)
		}
		var b [4]byte
		if err := stream.ReadFull(l.t.Data, b[:], 4*matrix); err != nil {
			return err
		}
		g := math.Float32frombits(binary.LittleEndian.Uint32(b[:]))
		for i := range scales[:n] {
			if !l.divide {
				scales[i] *= g
				continue
			}
			if scales[i] /= g; l.bf16 {
				kernel.Narrow(b[:2], kernel.BF16, scales[i:i+1])
				kernel.Widen(scales[i:i+1], b[:2], kernel.BF16)
			}
		}
		scales, at = scales[n:], at+n
	}
	return nil
}

// zeroPoints are integers as many as scales, subtracted from codes.
type zeroPoints struct {
	t *Tensor // I8 as the scales lie, or words of I32 that pack them along out, if bits > 0
	// Of packed ones: their width, the rows of a matrix, and the rows of words that hold them.
	bits        int
	rows, words int64
}

// load fills dst with the zero points of the scales from index at on, which lie cols in a row.
func (z *zeroPoints) load(dst []float32, at, cols int64, w *workspace) error {
	if z.bits == 0 {
		b := room(&w.packed, len(dst))
		if err := stream.ReadFull(z.t.Data, b, at); err != nil {
			return err
		}
		for i, c := range b {
			dst[i] = float32(int8(c))
		}
		return nil
	}
	for len(dst) > 0 {
		matrix, row, col := at/cols/z.rows, at/cols%z.rows, at%cols
		// Whole rows where a row begins, else what is left of this one.
		rows, n := int64(1), min(int64(len(dst)), cols-col)
		if col == 0 && int64(len(dst)) >= cols {
			rows, n = min(int64(len(dst))/cols, z.rows-row), cols
		}
		if err := z.rectangle(dst, matrix, row, rows, col, n, cols, w); err != nil {
			return err
		}
		dst, at = dst[rows*n:], at+rows*n
	}
	return nil
}

// rectangle unpacks n columns from col on of some rows of a matrix. More than one row are whole rows.
func (z *zeroPoints) rectangle(dst []float32, matrix, row, rows, col, n, cols int64, w *workspace) error {
	first, last := row*int64(z.bits)/32, ((row+rows)*int64(z.bits)-1)/32
	b := room(&w.packed, int(4*(last-first+1)*n))
	if n == cols { // rows of words follow each other
		if err := stream.ReadFull(z.t.Data, b, 4*(matrix*z.words+first)*cols); err != nil {
			return err
		}
	} else {
		for i := first; i <= last; i++ {
			if err := stream.ReadFull(z.t.Data, b[4*(i-first)*n:][:4*n], 4*((matrix*z.words+i)*cols+col)); err != nil {
				return err
			}
		}
	}
	half := 1 << (z.bits - 1)
	for r := range rows {
		bit := (row + r) * int64(z.bits)
		at, shift := bit/32-first, uint(bit%32)
		for c := range n {
			v := uint64(binary.LittleEndian.Uint32(b[4*(at*n+c):])) >> shift
			if shift+uint(z.bits) > 32 {
				v |= uint64(binary.LittleEndian.Uint32(b[4*((at+1)*n+c):])) << (32 - shift)
			}
			dst[r*n+c] = float32(int(v&(1<<z.bits-1)) - half)
		}
	}
	return nil
}

// columnOrder says which group a column belongs to where columns were quantized in the order of their activations.
type columnOrder struct {
	t            *Tensor
	cols, groups int
	plain        bool // set by check: a -1 stands for columns in their own order
}

// check reads the groups of the columns. compressed-tensors sorts the columns by them, so that each must have as many.
func (o *columnOrder) check() error {
	idx, err := o.read(nil)
	if err != nil || slices.Contains(idx, -1) {
		o.plain = true
		return err
	}
	count := make([]int, o.groups)
	for i, g := range idx {
		if g < 0 || int(g) >= o.groups {
			return &TensorError{File: o.t.File, Tensor: o.t.Name, Expected: fmt.Sprintf("groups of 0 to %d", o.groups-1),
				Found: fmt.Sprintf("%d for column %d", g, i)}
		}
		count[g]++
	}
	for g, n := range count {
		if n != o.cols/o.groups {
			return &TensorError{File: o.t.File, Tensor: o.t.Name, Expected: fmt.Sprintf("%d columns in each group", o.cols/o.groups),
				Found: fmt.Sprintf("%d in group %d", n, g)}
		}
	}
	return nil
}

func (o *columnOrder) read(dst []int32) ([]int32, error) {
	dst = slices.Grow(dst[:0], o.cols)[:o.cols]
	b := make([]byte, 4*min(o.cols, tile))
	for i := 0; i < o.cols; i += tile {
		k := min(tile, o.cols-i)
		if err := stream.ReadFull(o.t.Data, b[:4*k], 4*int64(i)); err != nil {
			return dst, fmt.Errorf("read %s: %w", o.t.Name, err)
		}
		for j := range k {
			dst[i+j] = int32(binary.LittleEndian.Uint32(b[4*j:]))
		}
	}
	return dst, nil
}
