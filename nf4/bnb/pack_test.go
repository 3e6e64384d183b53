package bnb

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// memory is a file in memory.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// file writes parts and gives the file's bytes.
func file(t testing.TB, parts []safetensors.Filled) memory {
	t.Helper()
	var entries []safetensors.Entry
	for _, p := range parts {
		entries = append(entries, p.Entry)
	}
	l, err := safetensors.NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, l.Size())
	w, err := safetensors.NewWriter(m, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		w.WriteAt(p.Name, p.Data, 0)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, m memory) *safetensors.Reader {
	t.Helper()
	r, err := safetensors.NewReader(bytes.NewReader(m), int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func matrix(t testing.TB, n int, d nf4.DType) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() / 50)
	}
	raw, err := nf4.AppendBytes(nil, x, d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// What Pack writes Unpack reads: the same format, and values within the step of their block; packing those again in the
// same format without double quantization changes nothing.
func TestPackUnpack(t *testing.T) {
	for _, shape := range [][2]int64{{1, 1}, {3, 5}, {8, 64}, {7, 96}, {300, 64}} {
		n := int(shape[0] * shape[1])
		for _, d := range []nf4.DType{nf4.BFloat16, nf4.Float16, nf4.Float32} {
			src := matrix(t, n, d)
			for _, f := range []Format{{}, {Type: nf4.FP4, BlockSize: 32}, {NoDoubleQuant: true, BlockSize: 128}, {Type: nf4.FP4, NoDoubleQuant: true}} {
				parts, err := f.Pack("w", shape, src, d)
				if err != nil {
					t.Fatal(err)
				}
				values, state, err := Unpack(open(t, file(t, parts)), "w")
				if err != nil {
					t.Fatalf("%v %v %v: %v", shape, d, f, err)
				}
				want := State{Format: f, DType: d, Shape: shape, NestedOffset: state.NestedOffset}
				want.BlockSize = f.Block()
				if !f.NoDoubleQuant {
					want.NestedBlockSize = NestedBlockSize
				}
				if diff := cmp.Diff(&want, state); diff != "" {
					t.Errorf("state (-want +got):\n%s", diff)
				}
				if !f.NoDoubleQuant {
					continue
				}
				again, err := nf4.AppendBytes(nil, values, d)
				if err != nil {
					t.Fatal(err)
				}
				parts, err = f.Pack("w", shape, again, d)
				if err != nil {
					t.Fatal(err)
				}
				same, _, err := Unpack(open(t, file(t, parts)), "w")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(values, same); diff != "" {
					t.Errorf("%v %v %v: packed again (-first +second):\n%s", shape, d, f, diff)
				}
			}
		}
	}
}

// TestUnpackGolden: weights of a checkpoint that save_pretrained wrote, and their distance from what they were.
func TestUnpackGolden(t *testing.T) {
	f, err := safetensors.Open("testdata/nf4-dq/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values, state, err := Unpack(f.Reader, "model.layers.0.mlp.down_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	if state.String() != "nf4,block=64,dq" || state.Shape != [2]int64{32, 48} || state.DType != nf4.BFloat16 || len(values) != 32*48 {
		t.Fatalf("%v %v %v, %d values", state, state.Shape, state.DType, len(values))
	}
	// The largest magnitude of a block is decoded to its scale, so some value of the first block is the first scale.
	raw, err := readTensor(f.Lookup("model.layers.0.mlp.down_proj.weight.nested_absmax"))
	if err != nil {
		t.Fatal(err)
	}
	nested := make([]float32, 1)
	kernel.Widen(nested, raw, kernel.F32)
	var largest float64
	for _, v := range values[:64] {
		largest = max(largest, math.Abs(float64(v)))
	}
	if d := math.Abs(largest - float64(state.NestedOffset)); d > float64(nested[0])*1.01 {
		t.Errorf("the largest value of the first block is %v, the scales are within %v of %v", largest, nested[0], state.NestedOffset)
	}
}

func TestPackErrors(t *testing.T) {
	src := matrix(t, 64, nf4.BFloat16)
	var nf *nf4.NonFiniteError
	bad := bytes.Clone(src)
	bad[20], bad[21] = 0x80, 0x7f
	if _, err := (Format{}).Pack("w", [2]int64{8, 8}, bad, nf4.BFloat16); !errors.As(err, &nf) || nf.Index != 10 {
		t.Errorf("infinity: %v", err)
	}
	for want, err := range map[string]error{
		"pack w: bnb: 128 bytes, want those of 63 values": errOf(Format{}.Pack("w", [2]int64{7, 9}, src, nf4.BFloat16)),
		"pack w: bnb: 127 bytes":                          errOf(Format{}.Pack("w", [2]int64{8, 8}, src[1:], nf4.BFloat16)),
		"block size 63":                                   errOf(Format{BlockSize: 63}.Pack("w", [2]int64{8, 8}, src, nf4.BFloat16)),
		"has no elements":                                 errOf(Format{}.Pack("w", [2]int64{0, 8}, nil, nf4.BFloat16)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func errOf(_ []safetensors.Filled, err error) error { return err }

func TestUnpackErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		format Format
		change func(p map[string]*safetensors.Filled)
		want   string
	}{
		{"no record", Format{}, func(p map[string]*safetensors.Filled) { delete(p, "w.quant_state.bitsandbytes__nf4") }, "expected its quant_state record"},
		{"record of another type", Format{}, func(p map[string]*safetensors.Filled) {
			p["w.quant_state.bitsandbytes__nf4"].Name = "w.quant_state.bitsandbytes__fp4"
		}, "expected quant_type fp4 as in its name, found nf4"},
		{"no weight", Format{}, func(p map[string]*safetensors.Filled) { delete(p, "w") }, "expected 32 packed bytes for shape [8 8], found no such tensor"},
		{"no scales", Format{}, func(p map[string]*safetensors.Filled) { delete(p, "w.absmax") }, "w.absmax: expected U8 [1], found no such tensor"},
		{"scales of the other kind", Format{NoDoubleQuant: true}, func(p map[string]*safetensors.Filled) {
			p["w.absmax"].DType, p["w.absmax"].Data = safetensors.U8, []byte{1}
		}, "w.absmax: expected F32 [1], found U8 [1]"},
		{"no nested scales", Format{}, func(p map[string]*safetensors.Filled) { delete(p, "w.nested_absmax") }, "w.nested_absmax: expected F32 [1], found no such tensor"},
		{"nested block size", Format{}, func(p map[string]*safetensors.Filled) {
			r := p["w.quant_state.bitsandbytes__nf4"]
			r.Data = bytes.Replace(r.Data, []byte("256"), []byte("128"), 1)
		}, "expected nested_blocksize 256, found 128"},
		{"another shape", Format{}, func(p map[string]*safetensors.Filled) {
			r := p["w.quant_state.bitsandbytes__nf4"]
			r.Data = bytes.Replace(r.Data, []byte("[8, 8]"), []byte("[9, 8]"), 1)
		}, "expected 36 packed bytes for shape [9 8], found U8 [32 1]"},
		{"huge record", Format{}, func(p map[string]*safetensors.Filled) {
			r := p["w.quant_state.bitsandbytes__nf4"]
			r.Data, r.Shape = make([]byte, MaxStateSize+1), []int64{MaxStateSize + 1}
		}, "expected at most 65536 bytes of U8"},
	} {
		parts, err := c.format.Pack("w", [2]int64{8, 8}, matrix(t, 64, nf4.BFloat16), nf4.BFloat16)
		if err != nil {
			t.Fatal(err)
		}
		byName := map[string]*safetensors.Filled{}
		for i := range parts {
			byName[parts[i].Name] = &parts[i]
		}
		c.change(byName)
		var rest []safetensors.Filled
		for _, p := range byName {
			rest = append(rest, *p)
		}
		if _, _, err := Unpack(open(t, file(t, rest)), "w"); err == nil || !strings.HasPrefix(err.Error(), "unpack w: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
}

// FuzzUnpack: no file makes it panic, or take memory that the file does not account for.
func FuzzUnpack(f *testing.F) {
	for _, format := range []Format{{}, {Type: nf4.FP4, NoDoubleQuant: true}} {
		parts, err := format.Pack("w", [2]int64{5, 7}, matrix(f, 35, nf4.Float16), nf4.Float16)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(file(f, parts)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := safetensors.NewReader(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		values, state, err := Unpack(r, "w")
		if err != nil {
			return
		}
		if int64(len(values)) != state.Shape[0]*state.Shape[1] || len(values) > 2*len(raw) {
			t.Fatalf("%d values of shape %v from %d bytes", len(values), state.Shape, len(raw))
		}
	})
}
