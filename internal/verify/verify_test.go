package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

const llama = "../../testdata/llama"

// converted is a fresh conversion of a source, with its manifest.
func converted(t testing.TB, source string, opt convert.Options) string {
	t.Helper()
	src := open(t, source)
	p, err := convert.NewPlan(src, opt)
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "out")
	out, err := checkpoint.Create(dst, checkpoint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rec := manifest.NewRecorder()
	sink, err := p.OpenSink(out, rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Execute(t.Context(), sink, convert.Execution{NoError: true}); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Tool: "test", Source: manifest.SourceOf(src)}
	if m.Tensors, err = rec.Digests(); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteSideFiles(t.Context(), out, m, nil); err != nil {
		t.Fatal(err)
	}
	if err := out.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dst
}

func open(t testing.TB, path string) *checkpoint.Source {
	t.Helper()
	src, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func check(t testing.TB, dir string, opt Options) *Report {
	t.Helper()
	src, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r, err := Check(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// severe are the findings that make a checkpoint fail.
func severe(r *Report) []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if f.Severity >= fourbit.Warning {
			out = append(out, f)
		}
	}
	return out
}

func TestOwnCheckpointsVerify(t *testing.T) {
	for name, opt := range map[string]convert.Options{
		"nf4":           {},
		"fp4 plain":     {Spec: bnb.Format{Type: 1, NoDoubleQuant: true, BlockSize: 128}},
		"f16, block 32": {Spec: bnb.Format{BlockSize: 32}, DType: "float16"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := converted(t, llama, opt)
			for _, so := range []stream.Options{{}, {Jobs: 1, Memory: stream.LeastMemory(1)}} {
				r := check(t, dir, Options{Source: open(t, llama), Stream: so})
				for _, f := range severe(r) {
					t.Errorf("finding: %+v", f)
				}
				p := r.Proof
				if r.Digests == 0 || !p.Exact || p.Weights != 28 || p.Plain != 11 || p.Codes != 884736 ||
					p.WrongCodes+p.WrongScales+p.WrongPlain+p.Total() != 0 || p.Unproven != 0 {
					t.Errorf("digests %d, proof %+v", r.Digests, p)
				}
			}
		})
	}
}

func TestFormula(t *testing.T) {
	for want, opt := range map[float64]convert.Options{4.126953125: {}, 4.25: {Spec: bnb.Format{NoDoubleQuant: true, BlockSize: 128}}} {
		if r := check(t, converted(t, llama, opt), Options{StructureOnly: true}); r.Formula != want {
			t.Errorf("formula %v bits per parameter, want %v", r.Formula, want)
		}
	}
}

// flip changes one bit of a file, and back when the returned function is called.
func flip(t testing.TB, f *os.File, at int64, bit uint) func() {
	t.Helper()
	var b [1]byte
	turn := func() {
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << bit
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	turn()
	return turn
}

// TestFlippedBit flips single bits of tensors at random: the recorded digests find every one, and the source every one
// in codes and plain weights.
func TestFlippedBit(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	base := len(severe(check(t, dir, Options{})))
	src := open(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(6, 6))
	for range 300 {
		// By tensor first, so that small ones are hit too.
		ten := src.Tensors[rng.IntN(len(src.Tensors))]
		at, bit := ten.Offset()+rng.Int64N(ten.Size()), uint(rng.IntN(8))
		undo := flip(t, f, at, bit)
		r := check(t, dir, Options{})
		undo()
		found := false
		for _, x := range severe(r) {
			found = found || x.Tensor == ten.Name && strings.Contains(x.Text, "BLAKE3")
		}
		if !found {
			t.Fatalf("bit %d of byte %d (%s) flipped: not found", bit, at, ten.Name)
		}
	}
	if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil {
		t.Fatal(err)
	}
	source := open(t, llama)
	for range 60 {
		ten := src.Tensors[rng.IntN(len(src.Tensors))]
		if !strings.HasSuffix(ten.Name, ".weight") {
			continue
		}
		at, bit := ten.Offset()+rng.Int64N(ten.Size()), uint(rng.IntN(8))
		undo := flip(t, f, at, bit)
		r := check(t, dir, Options{Source: source})
		undo()
		if len(severe(r)) != base+1 {
			t.Fatalf("bit %d of byte %d (%s) flipped: found %d problems, want %d", bit, at, ten.Name, len(severe(r)), base+1)
		}
		if p := r.Proof; p.Exact || p.WrongCodes+p.WrongPlain != 1 {
			t.Fatalf("bit %d of byte %d (%s) flipped: proof %+v, want one wrong", bit, at, ten.Name, p)
		}
	}
}

// rewrite writes the weights file of dir again, without the tensors that edit drops and with the bytes it returns.
func rewrite(t testing.TB, dir string, edit func(name string, data []byte) (newName string, newData []byte)) {
	t.Helper()
	src := open(t, dir)
	var entries []safetensors.Entry
	data := map[string][]byte{}
	for _, ten := range src.Tensors {
		raw := make([]byte, ten.Size())
		if _, err := ten.ReadAt(raw, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		name, raw := edit(ten.Name, raw)
		if name == "" {
			continue
		}
		data[name] = raw
		shape := ten.Shape
		if int64(len(raw)) != ten.Size() {
			shape = []int64{int64(len(raw))}
		}
		entries = append(entries, safetensors.Entry{Name: name, DType: ten.DType, Shape: shape})
	}
	writeFile(t, filepath.Join(dir, "model.safetensors"), entries, data)
}

func writeFile(t testing.TB, path string, entries []safetensors.Entry, data map[string][]byte) {
	t.Helper()
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := safetensors.NewWriter(f, l)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range data {
		if err := w.WriteAt(name, raw, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFinds(t *testing.T) {
	const q0, q1 = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
	keep := func(name string, data []byte) (string, []byte) { return name, data }
	swap := func(dir string) {
		rewrite(t, dir, func(name string, data []byte) (string, []byte) {
			switch {
			case strings.HasPrefix(name, q0):
				name = q1 + name[len(q0):]
			case strings.HasPrefix(name, q1):
				name = q0 + name[len(q1):]
			}
			return name, data
		})
	}
	config := func(old, new string) func(dir string) {
		return func(dir string) {
			path := filepath.Join(dir, "config.json")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(raw, []byte(old)) {
				t.Fatalf("config.json has no %s", old)
			}
			if err := os.WriteFile(path, bytes.Replace(raw, []byte(old), []byte(new), 1), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	drop := func(suffix string) func(dir string) {
		return func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if name == q0+suffix {
					return "", nil
				}
				return keep(name, data)
			})
		}
	}
	for _, c := range []struct {
		name   string
		damage func(dir string)
		source bool
		want   string // in a finding
	}{
		{"swapped tensors, by digest", swap, false, "BLAKE3"},
		{"swapped tensors, by source", func(dir string) { swap(dir); os.Remove(filepath.Join(dir, manifest.Name)) }, true, "codes differ from those derived"},
		{"deleted absmax", drop(".absmax"), false, "missing sidecar"},
		{"deleted nested_absmax", drop(".nested_absmax"), false, "missing sidecar"},
		{"deleted quant_state", drop(".quant_state.bitsandbytes__nf4"), false, "missing sidecar"},
		{"deleted quant_map", drop(".quant_map"), false, "missing sidecar"},
		{"deleted weight", drop(""), false, "orphan sidecar"},
		// unsloth issues 10276 and 10010: loaders fail in the first forward pass
		{"a packed weight without any sidecar", func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if strings.HasPrefix(name, q0+".") {
					return "", nil
				}
				return name, data
			})
		}, false, "model.layers.0.self_attn.q_proj.weight"},
		// transformers loads it without a word, and its output is off
		{"a Linear whose shape is turned", func(dir string) {
			os.Remove(filepath.Join(dir, manifest.Name))
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if strings.HasPrefix(name, "model.layers.1.mlp.up_proj.weight.quant_state.") {
					data = bytes.Replace(data, []byte("[448, 128]"), []byte("[128, 448]"), 1)
				}
				return name, data
			})
		}, false, "misshapen: expected shape [448, 128], found [128, 448]"},
		{"a lost layer, by the source", func(dir string) {
			os.Remove(filepath.Join(dir, manifest.Name))
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if strings.HasPrefix(name, "model.layers.3.") {
					return "", nil
				}
				return name, data
			})
		}, true, "expected 4 layers (num_hidden_layers), found 3"},
		{"stale type in config", config(`"bnb_4bit_quant_type": "nf4"`, `"bnb_4bit_quant_type": "fp4"`), false, "config mismatch"},
		{"stale double quantization in config", config(`"bnb_4bit_use_double_quant": true`, `"bnb_4bit_use_double_quant": false`), false, "config mismatch"},
		{"compute dtype", config(`"bnb_4bit_compute_dtype": "bfloat16"`, `"bnb_4bit_compute_dtype": "junk"`), false, "no such dtype of torch"},
		{"both widths", config(`"load_in_8bit": false`, `"load_in_8bit": true`), false, "only one can be used"},
		{"dtype", config(`"torch_dtype": "bfloat16"`, `"torch_dtype": "brainfloat"`), false, "dtype: expected bfloat16"},
		{"plain config", config(`"quantization_config"`, `"other"`), false, "quantization_config: expected one"},
		{"edited config", config(`"hidden_size": 128`, `"hidden_size": 256`), false, "changed after the conversion"},
		{"deleted config", func(dir string) { os.Remove(filepath.Join(dir, "config.json")) }, false, "config.json: expected it"},
		{"stray weights", func(dir string) { os.WriteFile(filepath.Join(dir, "consolidated.safetensors"), nil, 0o666) }, false, "Mistral"},
		{"stray adapter", func(dir string) { os.WriteFile(filepath.Join(dir, "adapter_config.json"), nil, 0o666) }, false, "PEFT"},
		{"manifest of something else", func(dir string) { os.WriteFile(filepath.Join(dir, manifest.Name), []byte("{}"), 0o666) }, false, "schema"},
		{"missing plain tensor", func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if name == "model.norm.weight" {
					return "", nil
				}
				return name, data
			})
		}, true, "has its digest, found none"},
		{"infinite constant", func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if name == q0+".nested_absmax" {
					copy(data, []byte{0, 0, 0x80, 0x7f})
				}
				return name, data
			})
		}, false, "expected a finite number, found +Inf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := converted(t, llama, convert.Options{})
			before := check(t, dir, Options{})
			for _, f := range before.Findings {
				if strings.Contains(f.Text, c.want) {
					t.Fatalf("found before the damage: %+v", f)
				}
			}
			c.damage(dir)
			opt := Options{Targets: arch.Transformers5 | arch.Transformers4 | arch.VLLM}
			if c.source {
				opt.Source = open(t, llama)
			}
			r := check(t, dir, opt)
			for _, f := range severe(r) {
				if strings.Contains(f.Text, c.want) {
					return
				}
			}
			t.Errorf("nothing with %q in %+v", c.want, r.Findings)
		})
	}
}

// TestHostileManifest: names in the manifest do not lead out of the directory.
func TestHostileManifest(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	path := filepath.Join(dir, manifest.Name)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	m["files"] = map[string]string{"../secret": strings.Repeat("00", 32), "/etc/passwd": strings.Repeat("00", 32)}
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range check(t, dir, Options{}).Findings {
		if strings.Contains(f.Text, "expected names within the directory") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d findings on names outside, want 2", n)
	}
}

// TestChangedHeader: the header is read once more, by another decoder, and has to be what it was.
func TestChangedHeader(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	src := open(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flip(t, f, 100, 0)
	r, err := Check(t.Context(), src, Options{StructureOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(severe(r), func(x Finding) bool { return strings.Contains(x.Text, "the header is no longer what it was") }) {
		t.Errorf("findings %v", r.Findings)
	}
}

func TestNothingToVerify(t *testing.T) {
	if _, err := Check(t.Context(), open(t, llama), Options{}); err == nil || !strings.Contains(err.Error(), "nothing to verify") {
		t.Errorf("error %v", err)
	}
}

// A manifest names any number of tensors; of those that are not there, so many are named, and the others counted.
func TestAbsent(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	m, err := manifest.Read(open(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	const more = 7
	for i := range maxAbsent + more {
		m.Tensors[fmt.Sprint("absent.", i)] = manifest.Digest{}
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, manifest.Name), raw, 0o666); err != nil {
		t.Fatal(err)
	}
	named, counted := 0, 0
	for _, f := range severe(check(t, dir, Options{})) {
		switch {
		case strings.HasPrefix(f.Tensor, "absent."):
			named++
		case strings.Contains(f.Text, "expected another 7 tensors"):
			counted++
		}
	}
	if named != maxAbsent || counted != 1 {
		t.Errorf("%d named, %d findings that count the others; want %d and 1", named, counted, maxAbsent)
	}
}
