package fourbit

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// FuzzGroup: whatever a file's header and records say, no tensor is in two places, none of a sound group is lost, what is
// a Weight can have its tables read, and there are no more problems than a few a tensor.
func FuzzGroup(f *testing.F) {
	for _, format := range []bnb.Format{{}, {Type: nf4.FP4, NoDoubleQuant: true}, {BlockSize: 128, Storage: bnb.BFloat16}} {
		entries, err := format.Entries("l.q_proj.weight", [2]int64{8, 40})
		if err != nil {
			f.Fatal(err)
		}
		entries = append(entries, safetensors.Entry{Name: "l.q_proj.weight.odd", DType: safetensors.U8, Shape: []int64{1}})
		l, err := safetensors.NewLayout(entries, nil)
		if err != nil {
			f.Fatal(err)
		}
		state := bnb.State{Format: format, DType: nf4.BFloat16, Shape: [2]int64{8, 40}}
		blob, err := state.Encode()
		if err != nil {
			f.Fatal(err)
		}
		file := append(bytes.Clone(l.Header()), make([]byte, l.Size()-int64(len(l.Header())))...)
		at, _, _ := l.Offset(format.Names("l.q_proj.weight").QuantState)
		copy(file[at:], blob)
		n := 8 + binary.LittleEndian.Uint64(file)
		f.Add(file[8:n], file[n:])
	}
	f.Fuzz(func(t *testing.T, header, data []byte) {
		file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		file = append(append(file, header...), data...)
		r, err := safetensors.NewReader(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		var tensors []Tensor
		for _, tensor := range r.Tensors() {
			tensors = append(tensors, Tensor{tensor, "a"}, Tensor{tensor, "b"})
		}
		tensors = tensors[:len(tensors)/2] // some are there twice
		g, err := Group(tensors)
		if err != nil {
			t.Fatalf("a file that is all there: %v", err)
		}
		codes, nested := nf4.Codebook(nf4.NF4), doublequant.Map()
		seen := map[string]bool{}
		for _, p := range g.Plain {
			if seen[p.Name] {
				t.Errorf("%q is plain twice", p.Name)
			}
			seen[p.Name] = true
		}
		for _, w := range g.Weights {
			for _, part := range []Tensor{w.Packed, w.Absmax, w.QuantMap, w.NestedAbsmax, w.NestedQuantMap, w.QuantState} {
				if part.Tensor == nil {
					continue
				}
				if seen[part.Name] {
					t.Errorf("%q is of two weights, or plain too", part.Name)
				}
				seen[part.Name] = true
			}
			if _, err := w.CheckTables(&codes, &nested); err != nil {
				t.Errorf("%s: %v", w.Name, err)
			}
		}
		if n := len(g.Problems); n > 16*len(tensors) {
			t.Errorf("%d problems of %d tensors", n, len(tensors))
		}
		for _, p := range g.Problems {
			_ = p.String()
		}
	})
}
