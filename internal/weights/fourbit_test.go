package weights

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// packed are the stored tensors of a weight of waves.
func packed(t *testing.T, f bnb.Format, name string, shape [2]int64) []testTensor {
	t.Helper()
	v := make([]float32, shape[0]*shape[1])
	for i := range v {
		v[i] = float32(math.Sin(float64(i)) * float64(1+i%7))
	}
	parts, err := f.Pack(name, shape, floats(v...), nf4.Float32)
	if err != nil {
		t.Fatal(err)
	}
	var out []testTensor
	for _, p := range parts {
		out = append(out, testTensor{p.Name, p.DType, p.Shape, p.Data})
	}
	return out
}

// TestFourBit reads what the public packages packed, from any element on, in any dtype, and as they unpack it.
func TestFourBit(t *testing.T) {
	const name = "model.layers.0.mlp.up_proj.weight"
	for _, f := range []bnb.Format{{}, {Type: nf4.FP4, NoDoubleQuant: true, BlockSize: 128}, {BlockSize: 4096}, {Storage: bnb.BFloat16, BlockSize: 32}} {
		for _, shape := range [][2]int64{{5, 77}, {64, 300}, {1, 1}} {
			if f.Storage != bnb.UInt8 && shape[0]*shape[1]%2 == 1 {
				continue // does not fill its words
			}
			tensors := append(packed(t, f, name, shape), testTensor{"model.norm.weight", safetensors.F32, []int64{1}, floats(3)})
			src := write(t, `{"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}`, tensors)
			m, err := Open(src)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Tensors) != 2 || m.FourBit == nil || m.Arch == nil {
				t.Fatalf("%s: %d tensors", f, len(m.Tensors))
			}
			for i := range m.Tensors {
				w := &m.Tensors[i]
				if w.Name != name {
					continue
				}
				want, _, err := bnb.Unpack(src.Shards[0].Reader, name)
				if err != nil {
					t.Fatal(err)
				}
				got := values(t, w)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%s %v (-unpacked +read):\n%s", f, shape, diff)
				}
				n := int(w.Elems())
				for first := 0; first < n; first += 1 + n/41 {
					for _, k := range []int{1, 31, 65, n - first} {
						checkRange(t, w, got, first, min(k, n-first))
					}
				}
				if err := w.ReadRows(make([]byte, 4*shape[1]), shape[0]-1); err != nil {
					t.Error(err)
				}
			}
			if _, err := OpenUnpacked(src); err == nil {
				t.Error("what is packed can be packed")
			}
		}
	}
}

func checkRange(t *testing.T, w *Tensor, whole []float32, first, n int) {
	t.Helper()
	want, got, raw := make([]byte, 2*n), make([]byte, 2*n), make([]byte, 4*n)
	kernel.Narrow(want, kernel.BF16, whole[first:first+n])
	if at, err := w.ReadAs(got, kernel.BF16, raw, int64(first), n); err != nil || at >= 0 || !bytes.Equal(got, want) {
		t.Errorf("%d elements from %d on in bfloat16: %d, %v, or other bytes", n, first, at, err)
	}
	if err := w.Read(raw, int64(first)); err != nil || math.Float32frombits(binary.LittleEndian.Uint32(raw[4*n-4:])) != whole[first+n-1] {
		t.Errorf("%d elements from %d on: %v, or other bytes", n, first, err)
	}
}
