package bnb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Pack quantizes a matrix of shape [out, in] and returns the tensors that store it, those of [Format.Entries], for
// safetensors.WriteFile. src holds
// its values row by row, as little-endian values of type d, which is also the type that loaders decode it to; see
// nf4.AppendBytes. A value that is not finite is a *nf4.NonFiniteError.
func (f Format) Pack(weight string, shape [2]int64, src []byte, d nf4.DType) ([]safetensors.Filled, error) {
	entries, err := f.Entries(weight, shape)
	if err != nil {
		return nil, err
	}
	size, err := f.Size(shape[:]...)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", weight, err)
	}
	if w := int64(d.Size()); int64(len(src))/w != size.Elems || int64(len(src))%w != 0 {
		return nil, fmt.Errorf("pack %s: bnb: %d bytes, want those of %d values of %v", weight, len(src), size.Elems, d)
	}
	codes, scales, err := f.Config().AppendQuantizeBytes(nil, nil, src, d)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", weight, err)
	}
	state := State{Format: f, DType: d, Shape: shape}
	table := nf4.Codebook(f.Type)
	data := [][]byte{codes, floatBytes(scales), floatBytes(table[:])}
	if !f.NoDoubleQuant {
		state.NestedOffset = doublequant.Offset(scales)
		quantized, nested, err := doublequant.AppendQuantize(nil, nil, scales, state.NestedOffset)
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", weight, err)
		}
		dynamic := doublequant.Map()
		data[1] = quantized
		data = append(data, floatBytes(nested), floatBytes(dynamic[:]))
	}
	record, err := state.Encode()
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", weight, err)
	}
	data = append(data, record)
	parts := make([]safetensors.Filled, len(entries))
	for i, e := range entries {
		parts[i] = safetensors.Filled{Entry: e, Data: data[i]}
	}
	return parts, nil
}

// Unpack reads a weight from a file that bitsandbytes, transformers, this module or another program wrote. The values
// are those that bitsandbytes decodes it to, row by row: rounded to the type that the state names, and here widened to
// float32. It takes the tables of the 4-bit type and of the dynamic map for granted, as bitsandbytes does on a GPU, and a
// second level in blocks of 256.
func Unpack(r *safetensors.Reader, weight string) ([]float32, *State, error) {
	u := unpacker{r: r, weight: weight}
	state, err := u.state()
	if err != nil {
		return nil, nil, fmt.Errorf("unpack %s: %w", weight, err)
	}
	values, err := u.values(state)
	if err != nil {
		return nil, nil, fmt.Errorf("unpack %s: %w", weight, err)
	}
	return values, state, nil
}

type unpacker struct {
	r      *safetensors.Reader
	weight string
}

// state reads the record under one of its two names.
func (u *unpacker) state() (*State, error) {
	for _, typ := range []nf4.Type{nf4.NF4, nf4.FP4} {
		name := Format{Type: typ}.Names(u.weight).QuantState
		t := u.r.Lookup(name)
		if t == nil {
			continue
		}
		if t.DType != safetensors.U8 || t.Size() > MaxStateSize {
			return nil, fmt.Errorf("%s: expected at most %d bytes of U8, found %v %v", name, MaxStateSize, t.DType, t.Shape)
		}
		blob, err := readTensor(t)
		if err != nil {
			return nil, err
		}
		s, err := DecodeState(blob)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if s.Type != typ {
			return nil, fmt.Errorf("%s: expected quant_type %v as in its name, found %v", name, typ, s.Type)
		}
		return s, nil
	}
	return nil, fmt.Errorf("expected its quant_state record, %snf4 or fp4, found no such tensor", u.weight+StateSuffix)
}

func (u *unpacker) values(s *State) ([]float32, error) {
	size, err := s.Size()
	if err != nil {
		return nil, err
	}
	packed := u.r.Lookup(u.weight)
	if packed == nil || packed.Size() != size.Packed {
		return nil, fmt.Errorf("expected %d packed bytes for shape %v, found %s", size.Packed, s.Shape, describe(packed))
	}
	scales, err := u.scales(s, size)
	if err != nil {
		return nil, err
	}
	codes, err := readTensor(packed)
	if err != nil {
		return nil, err
	}
	n := int(size.Elems)
	decoded := make([]byte, n*s.DType.Size())
	if err := s.Config().DequantizeBytes(decoded, s.DType, codes, scales, n); err != nil {
		return nil, err
	}
	values := make([]float32, n)
	kernel.Widen(values, decoded, map[nf4.DType]kernel.Elem{nf4.Float32: kernel.F32, nf4.BFloat16: kernel.BF16, nf4.Float16: kernel.F16}[s.DType])
	return values, nil
}

// scales reads and, with double quantization, decodes the scales.
func (u *unpacker) scales(s *State, size Size) ([]float32, error) {
	names := s.Names(u.weight)
	if s.NoDoubleQuant {
		return u.floats(names.Absmax, size.Blocks)
	}
	if s.nestedBlock() != NestedBlockSize {
		return nil, fmt.Errorf("%s: expected nested_blocksize %d, found %d", names.QuantState, NestedBlockSize, s.NestedBlockSize)
	}
	codes, err := u.read(names.Absmax, safetensors.U8, size.Blocks)
	if err != nil {
		return nil, err
	}
	nested, err := u.floats(names.NestedAbsmax, size.Nested)
	if err != nil {
		return nil, err
	}
	return doublequant.AppendDequantize(nil, codes, nested, s.NestedOffset)
}

// read reads a tensor that must have this type and number of elements.
func (u *unpacker) read(name string, d safetensors.DType, elems int64) ([]byte, error) {
	t := u.r.Lookup(name)
	if t == nil || t.DType != d || t.Elems() != elems {
		return nil, fmt.Errorf("%s: expected %v [%d], found %s", name, d, elems, describe(t))
	}
	return readTensor(t)
}

func (u *unpacker) floats(name string, elems int64) ([]float32, error) {
	raw, err := u.read(name, safetensors.F32, elems)
	if err != nil {
		return nil, err
	}
	v := make([]float32, elems)
	kernel.Widen(v, raw, kernel.F32)
	return v, nil
}

func describe(t *safetensors.Tensor) string {
	if t == nil {
		return "no such tensor"
	}
	return fmt.Sprintf("%v %v", t.DType, t.Shape)
}

// readTensor reads all of a tensor, whose size the reader has compared with the file's.
func readTensor(t *safetensors.Tensor) ([]byte, error) {
	p := make([]byte, t.Size())
	n, err := t.ReadAt(p, 0)
	if n == len(p) {
		return p, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %s: %w", t.Name, err)
}

func floatBytes(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}
