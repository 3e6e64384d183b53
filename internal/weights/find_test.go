package weights

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// testTensor is a tensor of a file to be written.
type testTensor struct {
	name  string
	dtype safetensors.DType
	shape []int64
	data  []byte
}

// write makes a model directory and opens it.
func write(t *testing.T, config string, tensors []testTensor) *checkpoint.Source {
	t.Helper()
	dir := t.TempDir()
	var entries []safetensors.Entry
	data := make(map[string][]byte)
	for _, s := range tensors {
		entries = append(entries, safetensors.Entry{Name: s.name, DType: s.dtype, Shape: s.shape})
		data[s.name] = s.data
	}
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	file := bytes.Clone(l.Header())
	for _, p := range l.Tensors() {
		if int64(len(data[p.Name])) != p.Size {
			t.Fatalf("%s: %d bytes, want %d", p.Name, len(data[p.Name]), p.Size)
		}
		file = append(file, data[p.Name]...)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), file, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	return openDir(t, dir)
}

func openDir(t *testing.T, path string) *checkpoint.Source {
	t.Helper()
	src, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// values reads all elements.
func values(t *testing.T, e *Tensor) []float32 {
	t.Helper()
	raw := make([]byte, e.Elems()*int64(e.Elem().Size()))
	if err := e.Read(raw, 0); err != nil {
		t.Fatal(err)
	}
	v := make([]float32, e.Elems())
	kernel.Widen(v, raw, e.Elem())
	return v
}

func index(t *testing.T, src *checkpoint.Source) *Index {
	t.Helper()
	ix, err := NewIndex(src)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

func floats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// TestFP8 takes the FP8 weights that torch has decoded in package decode's goldens: scales by block.
func TestFP8(t *testing.T) {
	golden, err := safetensors.Open("../decode/testdata/fp8-128.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	read := func(x *safetensors.Tensor) []byte {
		b := make([]byte, x.Size())
		if n, err := x.ReadAt(b, 0); n < len(b) {
			t.Fatal(err)
		}
		return b
	}
	rename := func(name string) string {
		return strings.NewReplacer("a.weight", "model.layers.0.mlp.up_proj.weight", "b.weight", "model.layers.0.mlp.down_proj.weight").Replace(name)
	}
	want := make(map[string]*safetensors.Tensor)
	tensors := []testTensor{{"model.norm.weight", safetensors.BF16, []int64{2}, []byte{0x80, 0x3f, 0, 0x40}}}
	for _, x := range golden.Tensors() {
		if name, ok := strings.CutPrefix(x.Name, "want:"); ok {
			want[rename(name)] = x
			continue
		}
		tensors = append(tensors, testTensor{rename(x.Name), x.DType, x.Shape, read(x)})
	}
	src := write(t, `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "quantization_config": `+golden.Metadata()["quantization_config"]+`}`, tensors)
	ix := index(t, src)
	if diff := cmp.Diff([]string{"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"}, ix.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for name, w := range want {
		for what, find := range map[string]func(string, []int64) (*Tensor, error){"Find": ix.Find, "Kept": ix.Kept} {
			e, err := find(name, w.Shape)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			raw := read(w)
			wantV := make([]float32, len(raw)/4)
			kernel.Widen(wantV, raw, kernel.F32)
			if diff := cmp.Diff(wantV, values(t, e), cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("%s of %s (-torch +got):\n%s", what, name, diff)
			}
		}
	}
	e, err := ix.Kept("model.norm.weight", []int64{2})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float32{1, 2}, values(t, e)); diff != "" {
		t.Errorf("norm (-want +got):\n%s", diff)
	}
}

// TestConv1D: quantized, the weight is [out, in]; kept, it lies as the source has it, though both shapes are one.
func TestConv1D(t *testing.T) {
	const name = "transformer.h.0.attn.c_proj.weight"
	src := write(t, `{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "torch_dtype": "float32"}`,
		[]testTensor{{name, safetensors.F32, []int64{2, 2}, floats(1, 2, 3, 4)}})
	ix := index(t, src)
	for want, find := range map[string]func(string, []int64) (*Tensor, error){"[1 3 2 4]": ix.Find, "[1 2 3 4]": ix.Kept} {
		e, err := find(name, []int64{2, 2})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(values(t, e)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestFloat64: a weight that was quantized is read as float32, a kept one as it is.
func TestFloat64(t *testing.T) {
	double := func(v ...float64) []byte {
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		}
		return b
	}
	src := write(t, `{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}`, []testTensor{
		{"model.layers.0.mlp.up_proj.weight", safetensors.F64, []int64{1, 2}, double(1, 1+1e-12)},
		{"model.layers.0.self_attn.rotary_emb.inv_freq", safetensors.F64, []int64{2}, double(1, 0.5)},
	})
	ix := index(t, src)
	for name, want := range map[string]struct {
		elem  kernel.Elem
		shape []int64
		v     []float32
	}{
		"model.layers.0.mlp.up_proj.weight":            {kernel.F32, []int64{1, 2}, []float32{1, 1}},
		"model.layers.0.self_attn.rotary_emb.inv_freq": {kernel.F32, []int64{2}, []float32{1, 0.5}},
	} {
		e, err := ix.Find(name, want.shape)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.v, values(t, e)); e.Elem() != want.elem || diff != "" {
			t.Errorf("%s: elements %v, want %v (-want +got):\n%s", name, e.Elem(), want.elem, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	src := write(t, `{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}`, []testTensor{
		{"model.layers.0.mlp.up_proj.weight", safetensors.BF16, []int64{1, 2}, make([]byte, 4)},
		{"ids", safetensors.I64, []int64{1}, make([]byte, 8)},
	})
	for _, tt := range []struct {
		name  string
		shape []int64
		want  string
	}{
		{"nothing", []int64{1}, `expected a tensor "nothing" in `},
		{"model.layers.0.mlp.up_proj.weight", []int64{2, 1}, "expected shape [2 1] in model.safetensors, found [1 2]"},
		{"ids", []int64{1}, "expected floats in model.safetensors, found I64"},
	} {
		if _, err := index(t, src).Find(tt.name, tt.shape); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: error %v, want one with %q", tt.name, tt.shape, err, tt.want)
		}
	}
	e, err := index(t, src).Find("model.layers.0.mlp.up_proj.weight", []int64{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Read(make([]byte, 4), 1); err == nil || !strings.Contains(err.Error(), "model.safetensors: read model.layers.0.mlp.up_proj.weight: unexpected EOF") {
		t.Errorf("read beyond the end: %v", err)
	}
}

// TestUnread: what is quantized by a method that nobody undoes is taken as it is stored.
func TestUnread(t *testing.T) {
	src := write(t, `{"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}`, []testTensor{
		{"model.layers.0.mlp.up_proj.qweight", safetensors.I32, []int64{1, 2}, make([]byte, 8)}, {"model.norm.weight", safetensors.F32, []int64{2}, floats(1, 2)}})
	if _, err := Open(src); err == nil {
		t.Fatal("GPTQ is decoded")
	}
	ix := index(t, src)
	e, err := ix.Kept("model.norm.weight", []int64{2})
	if err != nil || fmt.Sprint(values(t, e)) != "[1 2]" {
		t.Errorf("%v, %v", e, err)
	}
	if diff := cmp.Diff([]string{"model.layers.0.mlp.up_proj.qweight", "model.norm.weight"}, ix.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
