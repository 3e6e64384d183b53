package verify

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/safetensors"
)

// TestDamagedMap: an entry of the 8-bit map that another has not rounded but changed, in order or not, differs from the source.
func TestDamagedMap(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil {
		t.Fatal(err)
	}
	src, source := open(t, dir), open(t, llama)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const name = "model.layers.0.mlp.up_proj.weight.nested_quant_map"
	for _, ten := range src.Tensors {
		if ten.Name != name {
			continue
		}
		for bit, wrong := range map[int64]bool{0: false, 4: false, 8: true, 16: true, 30: true} { // of entry 162
			undo := flip(t, f, ten.Offset()+4*162+bit/8, uint(bit%8))
			r := check(t, dir, Options{Source: source})
			undo()
			found := false
			for _, x := range severe(r) {
				found = found || x.Tensor == name && strings.Contains(x.Text, "differs from that derived from the source, first at code 162")
			}
			if found != wrong {
				t.Errorf("bit %d: found %v, want %v", bit, found, wrong)
			}
		}
		return
	}
	t.Fatalf("no %s", name)
}

// TestOneBlock: of a weight of one block bitsandbytes 0.50.2 stores the nested absmax 1e-38 and the code 127, as in the router of a small
// Qwen3-Next; any other absmax decodes to something else.
func TestOneBlock(t *testing.T) {
	raw, v := make([]byte, 2*40), make([]float32, 40)
	for i := range v {
		v[i] = float32(i-20) / 64
	}
	kernel.Narrow(raw, kernel.BF16, v)
	source := filepath.Join(t.TempDir(), "one.safetensors")
	writeFile(t, source, []safetensors.Entry{{Name: "a.weight", DType: safetensors.BF16, Shape: []int64{1, 40}}}, map[string][]byte{"a.weight": raw})
	for _, c := range []struct {
		m    float32
		own  bool
		want int64
	}{{0, true, 0}, {0, false, 0}, {1e-38, false, 0}, {1e-38, true, 1}, {1e-3, false, 1}} {
		dir := converted(t, source, convert.Options{})
		rewrite(t, dir, func(name string, data []byte) (string, []byte) {
			switch name {
			case "a.weight.nested_absmax":
				binary.LittleEndian.PutUint32(data, math.Float32bits(c.m))
			case "a.weight.absmax":
				data[0] = map[bool]byte{true: 0, false: 127}[c.own]
			}
			return name, data
		})
		if !c.own {
			if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil {
				t.Fatal(err)
			}
		}
		if p := check(t, dir, Options{Source: open(t, source)}).Proof; p.WrongScales != c.want {
			t.Errorf("nested absmax %v, own %v: %+v, want %d wrong", c.m, c.own, p, c.want)
		}
	}
}

// TestCounter: transformers 5 casts a BatchNorm's count of batches as it loads a model in 16 bits, and saves a float.
func TestCounter(t *testing.T) {
	const linear, name, other = "proj.weight", "conv.norm.num_batches_tracked", "conv.norm.steps"
	write := func(path string, d safetensors.DType, size int) {
		writeFile(t, path, []safetensors.Entry{{Name: linear, DType: safetensors.BF16, Shape: []int64{8, 8}}, {Name: name, DType: d}, {Name: other, DType: d}},
			map[string][]byte{linear: make([]byte, 128), name: make([]byte, size), other: make([]byte, size)})
	}
	source, floats := filepath.Join(t.TempDir(), "integers.safetensors"), filepath.Join(t.TempDir(), "floats.safetensors")
	write(source, safetensors.I64, 8)
	write(floats, safetensors.F32, 4)
	dir := converted(t, floats, convert.Options{})
	if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range severe(check(t, dir, Options{Source: open(t, source)})) {
		got = append(got, x.Tensor)
	}
	if slices.Contains(got, name) || !slices.Contains(got, other) {
		t.Errorf("findings about %q, want one about %s and none about %s", got, other, name)
	}
}
