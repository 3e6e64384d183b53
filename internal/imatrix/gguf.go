package imatrix

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

const (
	ggufMagic = "GGUF"
	maxPairs  = 1 << 16
	maxArray  = 1 << 24
)

// readGGUF reads the tensors NAME.in_sum2 [columns, matrices] and NAME.counts [1, matrices].
func (m *Matrix) readGGUF(f *file, r io.ReaderAt, size int64) error {
	d := &decoder{file: f}
	tensors, err := d.header()
	if err != nil {
		return &checkpoint.InputError{File: m.file, Expected: "an importance matrix in GGUF", Found: err.Error(), Hint: "make one with llama-imatrix"}
	}
	for _, t := range tensors {
		base, sums := strings.CutSuffix(t.name, ".in_sum2")
		if !sums {
			var counts bool
			if base, counts = strings.CutSuffix(t.name, ".counts"); !counts {
				continue
			}
		}
		v, err := t.read(r, d.data, size)
		if err != nil {
			return &checkpoint.InputError{File: m.file, Tensor: t.name, Expected: "float32 values within the file", Found: err.Error()}
		}
		e := m.entries[base]
		if e == nil {
			e = new(entry)
			m.entries[base] = e
		}
		if sums {
			e.columns, e.matrices, e.sum2 = t.dims[0], int64(len(v))/max(t.dims[0], 1), v
		} else {
			e.counts = v
		}
	}
	for base, e := range m.entries {
		if e.sum2 == nil || int64(len(e.counts)) != e.matrices || e.matrices == 0 {
			return &checkpoint.InputError{File: m.file, Tensor: base, Expected: "sums of squares and a count for each matrix",
				Found: fmt.Sprintf("%d sums and %d counts", len(e.sum2), len(e.counts))}
		}
	}
	if len(m.entries) == 0 {
		return &checkpoint.InputError{File: m.file, Expected: "an importance matrix", Found: "a GGUF file without .in_sum2 tensors"}
	}
	return nil
}

// decoder reads the header of a GGUF file.
type decoder struct {
	*file
	data int64 // where the tensors' bytes begin
}

type tensor struct {
	name   string
	dims   []int64
	typ    uint32
	offset uint64
}

func (d *decoder) u64(limit uint64) (uint64, error) {
	p, err := d.take(8)
	if err != nil {
		return 0, err
	}
	v := binary.LittleEndian.Uint64(p)
	if v > limit {
		return 0, fmt.Errorf("%d announced at byte %d, at most %d allowed", v, d.at-8, limit)
	}
	return v, nil
}

func (d *decoder) string() (string, error) {
	n, err := d.u64(maxString)
	if err != nil {
		return "", err
	}
	p, err := d.take(int64(n))
	return string(p), err
}

func (d *decoder) header() ([]tensor, error) {
	magic, err := d.take(4)
	if err != nil || string(magic) != ggufMagic {
		return nil, fmt.Errorf("%q at the start", magic)
	}
	version, err := d.u32()
	if err != nil {
		return nil, err
	}
	if version != 2 && version != 3 {
		return nil, fmt.Errorf("GGUF version %d; 2 and 3 are known", version)
	}
	count, err := d.u64(maxTensors)
	if err != nil {
		return nil, err
	}
	pairs, err := d.u64(maxPairs)
	if err != nil {
		return nil, err
	}
	align := uint64(32)
	for range pairs {
		if err := d.pair(&align); err != nil {
			return nil, err
		}
	}
	var out []tensor
	for range count {
		t, err := d.tensor()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	d.data = (d.at + int64(align) - 1) / int64(align) * int64(align)
	return out, nil
}

// The value types of GGUF.
const (
	typeString = 8
	typeArray  = 9
	typeU32    = 4
	typeF32    = 0 // of a tensor
)

var scalarSize = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

func (d *decoder) pair(align *uint64) error {
	key, err := d.string()
	if err != nil {
		return err
	}
	typ, err := d.u32()
	if err != nil {
		return err
	}
	if key == "general.type" && typ == typeString {
		v, err := d.string()
		if err == nil && v != "imatrix" {
			return fmt.Errorf("a GGUF file of type %.40q", v)
		}
		return err
	}
	if key == "general.alignment" && typ == typeU32 {
		v, err := d.u32()
		if err == nil && (v == 0 || v > 1<<20) {
			return fmt.Errorf("alignment %d", v)
		}
		*align = uint64(v)
		return err
	}
	return d.skip(typ)
}

func (d *decoder) skip(typ uint32) error {
	switch size, ok := scalarSize[typ]; {
	case ok:
		_, err := d.take(size)
		return err
	case typ == typeString:
		_, err := d.string()
		return err
	case typ != typeArray:
		return fmt.Errorf("value type %d at byte %d", typ, d.at)
	}
	elem, err := d.u32()
	if err != nil {
		return err
	}
	n, err := d.u64(maxArray)
	if err != nil {
		return err
	}
	if elem == typeArray {
		return fmt.Errorf("an array of arrays at byte %d", d.at)
	}
	for range n {
		if err := d.skip(elem); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) tensor() (tensor, error) {
	var t tensor
	var err error
	if t.name, err = d.string(); err != nil {
		return t, err
	}
	dims, err := d.u32()
	if err != nil {
		return t, err
	}
	if dims == 0 || dims > 4 {
		return t, fmt.Errorf("tensor %.80q with %d dimensions", t.name, dims)
	}
	for range dims {
		n, err := d.u64(maxValues)
		if err != nil {
			return t, err
		}
		t.dims = append(t.dims, int64(n))
	}
	if t.typ, err = d.u32(); err != nil {
		return t, err
	}
	t.offset, err = d.u64(math.MaxInt64)
	return t, err
}

// read reads the values of a float32 tensor of a file of the given size.
func (t *tensor) read(r io.ReaderAt, data, size int64) ([]float32, error) {
	if t.typ != typeF32 {
		return nil, fmt.Errorf("type %d", t.typ)
	}
	n := int64(1)
	for _, d := range t.dims {
		if d > 0 && n > maxValues/d {
			return nil, fmt.Errorf("shape %v", t.dims)
		}
		n *= d
	}
	if data > size || t.offset > uint64(size-data) || 4*n > size-data-int64(t.offset) {
		return nil, fmt.Errorf("%d values at byte %d of %d", n, t.offset, size)
	}
	p := make([]byte, 4*n)
	if _, err := r.ReadAt(p, data+int64(t.offset)); err != nil && err != io.EOF {
		return nil, err
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return v, nil
}
