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
