package fourbit

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Open reads what of the weight stays in memory, the second level of the scales, one for 256 blocks or so, and their table.
func (w *Weight) Open() (*decode.FourBit, error) {
	r := &decode.FourBit{Name: w.Name, Codes: w.Packed, Absmax: w.Absmax, BlockSize: w.State.BlockSize, Type: kernel.NF4}
	if w.State.Type == nf4.FP4 {
		r.Type = kernel.FP4
	}
	if w.State.NoDoubleQuant {
		return r, nil
	}
	r.Group, r.Offset = w.State.NestedBlockSize, w.State.NestedOffset
	if r.Group == 0 {
		r.Group = bnb.NestedBlockSize
	}
	var err error
	if r.Nested, err = readFloats(w.NestedAbsmax); err != nil {
		return nil, err
	}
	table, err := readFloats(w.NestedQuantMap)
	if err != nil {
		return nil, err
	}
	if len(table) != len(r.Map) {
		return nil, fmt.Errorf("%s: %d entries; want %d", w.NestedQuantMap.Name, len(table), len(r.Map))
	}
	copy(r.Map[:], table)
	return r, nil
}

func readFloats(t Tensor) ([]float32, error) {
	b, err := readAll(t)
	if err != nil {
		return nil, err
	}
	v := make([]float32, len(b)/4)
	kernel.Widen(v, b, kernel.F32)
	return v, nil
}

// Parts are the stored tensors of the weight, codes first.
func (w *Weight) Parts() []Tensor {
	parts := []Tensor{w.Packed}
	for _, t := range []Tensor{w.Absmax, w.QuantMap, w.NestedAbsmax, w.NestedQuantMap, w.QuantState} {
		if t.Tensor != nil {
			parts = append(parts, t)
		}
	}
	return parts
}

// Scheme is the way from the stored tensors to the weights, as package decode has it for other methods. It reads the second
// level of every weight's scales.
func (g *Groups) Scheme(label string) (*decode.Scheme, error) {
	logical := make([]decode.Logical, len(g.Weights))
	for i, w := range g.Weights {
		r, err := w.Open()
		if err != nil {
			return nil, err
		}
		var names []string
		var bytes int64
		for _, t := range w.Parts() {
			names = append(names, t.Name)
			bytes += t.Size()
		}
		logical[i] = r.Logical(w.State.Dims(), w.Packed.Shard, names, bytes)
	}
	return decode.NewScheme("bitsandbytes", label, logical), nil
}
