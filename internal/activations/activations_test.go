package activations

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// tensor is one of a file under test: float32 values, or nil for zeros.
type tensor struct {
	dtype  safetensors.DType
	shape  []int64
	values []float32
}

const linears = `{"model.layers.0.q.weight": "model.layers.0.q", "model.layers.0.k.weight": "model.layers.0.q"}`

func good() map[string]tensor {
	return map[string]tensor{
		"model.layers.0.q.moments": {safetensors.F32, []int64{2}, []float32{4, 9}},
		"model.layers.0.q.gram":    {safetensors.BF16, []int64{2, 2}, []float32{4, 1, 1, 9}},
		"model.layers.0.q.heldout": {safetensors.F32, []int64{2, 2}, []float32{5, 1, 1, 8}},
	}
}

func write(t *testing.T, tensors map[string]tensor, meta map[string]string) string {
	t.Helper()
	var entries []safetensors.Entry
	for name, x := range tensors {
		entries = append(entries, safetensors.Entry{Name: name, DType: x.dtype, Shape: x.shape})
	}
	l, err := safetensors.NewLayout(entries, meta)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, l.Size())
	copy(b, l.Header())
	for _, p := range l.Tensors() {
		to := b[p.Offset:p.Offset]
		for _, v := range tensors[p.Name].values {
			if p.DType == safetensors.BF16 {
				to = binary.LittleEndian.AppendUint16(to, uint16(math.Float32bits(v)>>16))
			} else {
				to = binary.LittleEndian.AppendUint32(to, math.Float32bits(v))
			}
		}
	}
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	f, err := Open(write(t, good(), map[string]string{"format": Format, "linears": linears}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Len() != 2 || !f.HasGram() {
		t.Errorf("%d weights, Gram matrices %v (want 2, true)", f.Len(), f.HasGram())
	}
	if v, ok := f.Sensitivity("layers.0.k.weight"); f.HasSensitivity() || ok {
		t.Errorf("sensitivity %v, of a file that has none", v)
	}
	// Names of the checkpoint, of a model's class without a prefix, and of one with two.
	for _, name := range []string{"model.layers.0.q.weight", "model.layers.0.k.weight", "layers.0.k.weight", "model.language_model.layers.0.k.weight"} {
		m, err := f.Columns(name, 2)
		if diff := cmp.Diff([]float32{4, 9}, m); diff != "" || err != nil {
			t.Errorf("%s: error %v, moments (-want +got)\n%s", name, err, diff)
		}
		g, h, err := f.Gram(name, 2)
		if diff := cmp.Diff([][]float32{{4, 1, 1, 9}, {5, 1, 1, 8}}, [][]float32{g, h}); diff != "" || err != nil {
			t.Errorf("%s: error %v, Gram matrices (-want +got)\n%s", name, err, diff)
		}
	}
	for _, name := range []string{"model.layers.1.q.weight", "vision.layers.0.q.weight", "q.weight"} {
		m, err := f.Columns(name, 2)
		g, _, err2 := f.Gram(name, 2)
		if m != nil || g != nil || err != nil || err2 != nil {
			t.Errorf("%s: moments %v, Gram matrix %v, errors %v and %v", name, m, g, err, err2)
		}
	}
	var input *checkpoint.InputError
	if _, err := f.Columns("model.layers.0.q.weight", 3); !errors.As(err, &input) {
		t.Errorf("3 columns: error %v", err)
	}
	if _, _, err := f.Gram("model.layers.0.q.weight", 3); !errors.As(err, &input) {
		t.Errorf("3 columns: error %v", err)
	}
}

func TestBadFile(t *testing.T) {
	meta := map[string]string{"format": Format, "linears": linears}
	change := func(name string, x tensor) map[string]tensor {
		m := good()
		m[name] = x
		return m
	}
	without := func(name string) map[string]tensor {
		m := good()
		delete(m, name)
		return m
	}
	const q = "model.layers.0.q"
	for name, c := range map[string]struct {
		tensors map[string]tensor
		meta    map[string]string
	}{
		"no format":         {good(), map[string]string{"linears": linears}},
		"another format":    {good(), map[string]string{"format": "nf4kit.activations/2", "linears": linears}},
		"no names":          {good(), map[string]string{"format": Format}},
		"an empty object":   {good(), map[string]string{"format": Format, "linears": "{}"}},
		"names no object":   {good(), map[string]string{"format": Format, "linears": `["a"]`}},
		"no moments":        {without(q + ".moments"), meta},
		"moments of f16":    {change(q+".moments", tensor{safetensors.F16, []int64{2}, nil}), meta},
		"moments a matrix":  {change(q+".moments", tensor{safetensors.F32, []int64{2, 1}, nil}), meta},
		"no heldout":        {without(q + ".heldout"), meta},
		"gram of integers":  {change(q+".gram", tensor{safetensors.I32, []int64{2, 2}, nil}), meta},
		"gram of other n":   {change(q+".gram", tensor{safetensors.F32, []int64{3, 3}, nil}), meta},
		"heldout of a half": {change(q+".heldout", tensor{safetensors.F32, []int64{2, 1}, nil}), meta},
		"some have a gram": {change("b.moments", tensor{safetensors.F32, []int64{2}, nil}),
			map[string]string{"format": Format, "linears": `{"a.weight": "model.layers.0.q", "b.weight": "b"}`}},
	} {
		var input *checkpoint.InputError
		if _, err := Open(write(t, c.tensors, c.meta)); !errors.As(err, &input) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	f, err := Open(write(t, change(q+".moments", tensor{safetensors.F32, []int64{2}, []float32{1, -1}}), meta))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var input *checkpoint.InputError
	if _, err := f.Columns(q+".weight", 2); !errors.As(err, &input) {
		t.Errorf("negative moment: error %v", err)
	}
}

// Names in the metadata are anybody's: nothing in them makes the package panic.
func FuzzLinears(f *testing.F) {
	f.Add(linears)
	f.Add(`{"": ""}`)
	f.Add(`{"model.": "a", "model.model": "model.layers.0.q"}`)
	f.Fuzz(func(t *testing.T, linears string) {
		if !utf8.ValidString(linears) {
			return // no header holds it, and write would fail
		}
		a, err := Open(write(t, good(), map[string]string{"format": Format, "linears": linears}))
		if err != nil {
			return
		}
		defer a.Close()
		for name := range a.linears {
			if m, err := a.Columns(name, 2); m == nil || err != nil {
				t.Errorf("%q: moments %v, error %v", name, m, err)
			}
		}
	})
}

func TestSensitivity(t *testing.T) {
	meta := func(s string) map[string]string {
		return map[string]string{"format": Format, "linears": linears, "sensitivities": s}
	}
	f, err := Open(write(t, good(), meta(`{"model.layers.0.q.weight": 0.5, "model.layers.0.k.weight": 0}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string]float64{"model.layers.0.q.weight": 0.5, "layers.0.q.weight": 0.5, "model.layers.0.k.weight": 0, "other.weight": -1} {
		got, ok := f.Sensitivity(name)
		if !ok {
			got = -1
		}
		if got != want || !f.HasSensitivity() {
			t.Errorf("%s: sensitivity %v, want %v (-1: none)", name, got, want)
		}
	}
	for _, bad := range []string{"", "[1]", `{"model.layers.0.q.weight": "x"}`, `{"model.layers.0.q.weight": -1}`, `{"model.layers.0.q.weight": 1e999}`} {
		var in *checkpoint.InputError
		if f, err := Open(write(t, good(), meta(bad))); !errors.As(err, &in) {
			t.Errorf("sensitivities %q: %v, error %v", bad, f, err)
		}
	}
}
