package fourbit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// goldens holds checkpoints that save_pretrained wrote.
const goldens = "../../nf4/bnb/testdata"

// openGolden returns every tensor of a checkpoint that save_pretrained wrote.
func openGolden(t *testing.T, dir string) []Tensor {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldens, dir, "*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	var out []Tensor
	for _, name := range files {
		f, err := safetensors.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		for _, tensor := range f.Tensors() {
			out = append(out, Tensor{tensor, filepath.Base(name)})
		}
	}
	return out
}

func TestGroupSavePretrained(t *testing.T) {
	g, err := Group(openGolden(t, "nf4-dq"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range g.Problems {
		t.Errorf("problem: %v", p)
	}
	if len(g.Weights) != 14 || len(g.Plain) != 7 {
		t.Errorf("%d weights and %d plain tensors, want 14 and 7", len(g.Weights), len(g.Plain))
	}
	w := g.Weights[0]
	if w.Name != "model.layers.0.mlp.down_proj.weight" {
		t.Errorf("first weight is %s", w.Name)
	}
	want := &bnb.State{Format: bnb.Format{BlockSize: 64}, DType: nf4.BFloat16, Shape: [2]int64{32, 48}, NestedBlockSize: 256,
		NestedOffset: w.State.NestedOffset}
	if diff := cmp.Diff(want, w.State); diff != "" || w.State.NestedOffset <= 0 {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(bnb.Size{Elems: 1536, Packed: 768, Blocks: 24, Nested: 1, Data: 768 + 24 + 4, Total: 768 + 24 + 4 + 64 + 1024 + 256}, w.Size); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
	normal, float, dynamic := nf4.Codebook(nf4.NF4), nf4.Codebook(nf4.FP4), doublequant.Map()
	for _, w := range g.Weights {
		problems, err := w.CheckTables(&normal, &dynamic)
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v %v", w.Name, problems, err)
		}
		problems, err = w.CheckTables(&float, nil)
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "quant_map: wrong code table: expected 0 at code 0, found -1") {
			t.Errorf("%s against FP4: %v %v", w.Name, problems, err)
		}
	}
}

// TestGroupSplitShards: save_pretrained itself parts weights from sidecars when the shard size says so.
func TestGroupSplitShards(t *testing.T) {
	g, err := Group(openGolden(t, "fp4-shards"))
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Weights) != 14 || len(g.Plain) != 7 || len(g.Errors()) != 0 {
		t.Errorf("%d weights, %d plain tensors, errors %v", len(g.Weights), len(g.Plain), g.Errors())
	}
	if len(g.Problems) == 0 {
		t.Error("no problem told")
	}
	for _, p := range g.Problems {
		if p.Kind != SplitSidecars || p.Severity != Warning {
			t.Errorf("problem: %v", p)
		}
	}
	if want := "model-00002-of-00003.safetensors: model.layers.0.mlp.gate_proj.weight.absmax: sidecars split: expected the file of its weight, " +
		"model-00001-of-00003.safetensors, found model-00002-of-00003.safetensors; breaks transformers up to 4.55, diffusers"; g.Problems[0].String() != want {
		t.Errorf("problem (-want +got):\n%s", cmp.Diff(want, g.Problems[0].String()))
	}
	float := nf4.Codebook(nf4.FP4)
	for _, w := range g.Weights {
		if problems, err := w.CheckTables(&float, nil); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v %v", w.Name, problems, err)
		}
	}
}

// set is a checkpoint in the making: tensors by name, with their contents.
type set map[string]*part

type part struct {
	entry safetensors.Entry
	data  []byte
	shard string
}

// weight adds a quantized weight as Entries lays it out.
func (s set) weight(t *testing.T, name string, shape [2]int64, f bnb.Format) {
	t.Helper()
	s.decodesTo(t, nf4.BFloat16, name, shape, f)
}

func (s set) decodesTo(t *testing.T, d nf4.DType, name string, shape [2]int64, f bnb.Format) {
	t.Helper()
	entries, err := f.Entries(name, shape)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		s.add(e, "a")
	}
	state := bnb.State{Format: f, DType: d, Shape: shape}
	blob, err := state.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s[f.Names(name).QuantState].data = blob
}

func (s set) add(e safetensors.Entry, shard string) {
	n := int64(1)
	for _, d := range e.Shape {
		n *= d
	}
	s[e.Name] = &part{entry: e, data: make([]byte, n*int64(e.DType.Bits())/8), shard: shard}
}

func (s set) reshape(name string, d safetensors.DType, shape ...int64) {
	s.add(safetensors.Entry{Name: name, DType: d, Shape: shape}, s[name].shard)
}

func (s set) setBlob(name, text string) {
	p := s[name]
	p.entry.Shape = []int64{int64(len(text))}
	p.data = []byte(text)
}

// tensors writes each shard and reads it back.
func (s set) tensors(t *testing.T) []Tensor {
	t.Helper()
	shards := make(map[string][]safetensors.Entry)
	for _, p := range s {
		shards[p.shard] = append(shards[p.shard], p.entry)
	}
	var out []Tensor
	for shard, entries := range shards {
		l, err := safetensors.NewLayout(entries, nil)
		if err != nil {
			t.Fatal(err)
		}
		file := bytes.Clone(l.Header())
		file = append(file, make([]byte, l.Size()-int64(len(file)))...)
		for _, e := range entries {
			at, _, _ := l.Offset(e.Name)
			copy(file[at:], s[e.Name].data)
		}
		r, err := safetensors.NewReader(bytes.NewReader(file), l.Size())
		if err != nil {
			t.Fatal(err)
		}
		for _, tensor := range r.Tensors() {
			out = append(out, Tensor{tensor, shard})
		}
	}
	return out
}

func TestGroupProblems(t *testing.T) {
	const w = "l.q_proj.weight"
	nf4Names, fp4Names := bnb.Format{}.Names(w), bnb.Format{Type: nf4.FP4}.Names(w)
	u8, f32, bf16 := safetensors.U8, safetensors.F32, safetensors.BF16
	dq, plain := bnb.Format{}, bnb.Format{NoDoubleQuant: true}
	for _, c := range []struct {
		name   string
		format bnb.Format
		change func(s set)
		want   []string // "severity text", in order
	}{
		{"sound", dq, func(set) {}, nil},
		{"sound without double quantization", plain, func(set) {}, nil},
		{"no absmax", dq, func(s set) { delete(s, nf4Names.Absmax) }, []string{
			"error l.q_proj.weight.absmax: missing sidecar: expected the scales, found no such tensor (bitsandbytes raises KeyError)"}},
		{"no quant_map", dq, func(s set) { delete(s, nf4Names.QuantMap) }, []string{
			"error l.q_proj.weight.quant_map: missing sidecar: expected the code table, found no such tensor (bitsandbytes raises KeyError)"}},
		{"no quant_state", dq, func(s set) { delete(s, nf4Names.QuantState) }, []string{
			"error l.q_proj.weight.quant_state.bitsandbytes__nf4 or fp4: missing sidecar: expected the quant_state record, found no such tensor (bitsandbytes raises KeyError or ValueError)"}},
		{"no nested_absmax", dq, func(s set) { delete(s, nf4Names.NestedAbsmax) }, []string{
			"error l.q_proj.weight.nested_absmax: missing sidecar: expected the second level of the U8 scales, found no such tensor (transformers takes the codes for the scales without an error)"}},
		{"no nested_quant_map", dq, func(s set) { delete(s, nf4Names.NestedQuantMap) }, []string{
			"error l.q_proj.weight.nested_quant_map: missing sidecar: expected the table of the second level, found no such tensor (bitsandbytes raises KeyError)"}},
		{"no weight", dq, func(s set) { delete(s, w) }, []string{
			"error a: l.q_proj.weight.absmax: orphan sidecar: expected its weight l.q_proj.weight, found no such tensor",
			"error a: l.q_proj.weight.nested_absmax: orphan sidecar: expected its weight l.q_proj.weight, found no such tensor",
			"error a: l.q_proj.weight.nested_quant_map: orphan sidecar: expected its weight l.q_proj.weight, found no such tensor",
			"error a: l.q_proj.weight.quant_map: orphan sidecar: expected its weight l.q_proj.weight, found no such tensor",
			"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: orphan sidecar: expected its weight l.q_proj.weight, found no such tensor"}},
		{"packed weight alone", plain, func(s set) {
			delete(s, nf4Names.Absmax)
			delete(s, nf4Names.QuantMap)
			delete(s, nf4Names.QuantState)
		}, []string{"error l.q_proj.weight.quant_state.bitsandbytes__*: missing sidecar: expected a quant_state for the packed weight l.q_proj.weight [512 1], " +
			"found no sidecar at all (transformers takes the packed bytes for the weight)"}},
		{"nested_quant_map without nested_absmax", plain, func(s set) {
			s.add(safetensors.Entry{Name: nf4Names.NestedQuantMap, DType: f32, Shape: []int64{256}}, "a")
		}, []string{"error a: l.q_proj.weight.nested_quant_map: orphan sidecar: expected nested_absmax beside it, found no such tensor"}},
		{"nested tensors, plain record", plain, func(s set) {
			s.reshape(nf4Names.Absmax, u8, 16)
			s.add(safetensors.Entry{Name: nf4Names.NestedAbsmax, DType: f32, Shape: []int64{1}}, "a")
			s.add(safetensors.Entry{Name: nf4Names.NestedQuantMap, DType: f32, Shape: []int64{256}}, "a")
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: state mismatch: expected nested fields, for there is a nested_absmax, found none (bitsandbytes raises KeyError)"}},
		{"plain tensors, nested record", dq, func(s set) {
			s.reshape(nf4Names.Absmax, f32, 16)
			delete(s, nf4Names.NestedAbsmax)
			delete(s, nf4Names.NestedQuantMap)
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: state mismatch: expected no nested fields, for there is no nested_absmax, found nested fields (bitsandbytes decodes without the second level)"}},
		{"unknown sidecar", dq, func(s set) {
			s.add(safetensors.Entry{Name: w + ".foo", DType: u8, Shape: []int64{1}}, "a")
		}, []string{"warning a: l.q_proj.weight.foo: unknown sidecar: expected only bitsandbytes' own tensors below a quantized weight, found an unknown one"}},
		{"two records", dq, func(s set) {
			s.add(safetensors.Entry{Name: fp4Names.QuantState, DType: u8, Shape: []int64{256}}, "a")
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: two quant_states: expected one quant_state record, found l.q_proj.weight.quant_state.bitsandbytes__fp4 too (bitsandbytes raises ValueError)"}},
		{"record of the other type", dq, func(s set) {
			p := s[nf4Names.QuantState]
			delete(s, nf4Names.QuantState)
			p.entry.Name = fp4Names.QuantState
			s[fp4Names.QuantState] = p
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__fp4: state mismatch: expected quant_type fp4 as in its name, found nf4 (bitsandbytes decodes by the record)"}},
		{"record under another name", dq, func(s set) {
			p := s[nf4Names.QuantState]
			delete(s, nf4Names.QuantState)
			p.entry.Name = w + ".quant_state.bitsandbytes__int4"
			s[p.entry.Name] = p
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__int4: bad quant_state: expected a name ending in bitsandbytes__nf4 or bitsandbytes__fp4, found bitsandbytes__int4 (bitsandbytes raises ValueError)"}},
		{"record padded with NUL", dq, func(s set) {
			s.setBlob(nf4Names.QuantState, strings.TrimRight(string(s[nf4Names.QuantState].data), " ")+"\x00")
		}, []string{"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: bad quant_state: expected JSON padded with spaces, found a NUL byte at offset 152 (bitsandbytes raises JSONDecodeError)"}},
		{"record with another field", plain, func(s set) {
			s.setBlob(nf4Names.QuantState, `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 128], "by": "me"}`)
		}, []string{`error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: bad quant_state: expected field "by" to be only bitsandbytes' own fields, found an unknown one (bitsandbytes raises a bare AssertionError)`}},
		{"record as I8", dq, func(s set) { s.reshape(nf4Names.QuantState, safetensors.I8, 256) }, []string{
			"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: bad quant_state: expected U8 with one dimension of at most 65536, found I8 [256]"}},
		{"huge record", dq, func(s set) { s.reshape(nf4Names.QuantState, u8, bnb.MaxStateSize+1) }, []string{
			"error a: l.q_proj.weight.quant_state.bitsandbytes__nf4: bad quant_state: expected U8 with one dimension of at most 65536, found U8 [65537]"}},
		{"too few scales", dq, func(s set) { s.reshape(nf4Names.Absmax, u8, 15) }, []string{
			"error a: l.q_proj.weight.absmax: wrong shape: expected U8 [16], found U8 [15]"}},
		{"scales in bf16", plain, func(s set) { s.reshape(nf4Names.Absmax, bf16, 16) }, []string{
			"error a: l.q_proj.weight.absmax: wrong dtype: expected F32 [16], found BF16 [16] (loaders decode it to garbage, most of them without an error)"}},
		{"F32 scales beside nested ones", dq, func(s set) { s.reshape(nf4Names.Absmax, f32, 16) }, []string{
			"error a: l.q_proj.weight.absmax: wrong dtype: expected U8 [16], found F32 [16] (loaders decode it to garbage, most of them without an error)"}},
		{"scales in two dimensions", plain, func(s set) { s.reshape(nf4Names.Absmax, f32, 4, 4) }, []string{
			"warning a: l.q_proj.weight.absmax: unusual shape: expected shape [16], found [4 4]"}},
		{"quant_map in bf16", plain, func(s set) { s.reshape(nf4Names.QuantMap, bf16, 16) }, []string{
			"error a: l.q_proj.weight.quant_map: wrong dtype: expected F32 [16], found BF16 [16] (loaders decode it to garbage, most of them without an error)"}},
		{"short quant_map", plain, func(s set) { s.reshape(nf4Names.QuantMap, f32, 8) }, []string{
			"error a: l.q_proj.weight.quant_map: wrong shape: expected F32 [16], found F32 [8]"}},
		{"short nested_quant_map", dq, func(s set) { s.reshape(nf4Names.NestedQuantMap, f32, 255) }, []string{
			"error a: l.q_proj.weight.nested_quant_map: wrong shape: expected F32 [256], found F32 [255]"}},
		{"too many nested scales", dq, func(s set) { s.reshape(nf4Names.NestedAbsmax, f32, 2) }, []string{
			"error a: l.q_proj.weight.nested_absmax: wrong shape: expected F32 [1], found F32 [2]"}},
		{"weight flat", dq, func(s set) { s.reshape(w, u8, 512) }, []string{
			"warning a: l.q_proj.weight: unusual shape: expected shape [512 1], found [512]"}},
		{"weight as a row", dq, func(s set) { s.reshape(w, u8, 1, 512) }, []string{
			"warning a: l.q_proj.weight: unusual shape: expected shape [512 1], found [1 512]"}},
		{"weight with half the columns", dq, func(s set) { s.reshape(w, u8, 8, 64) }, []string{
			"warning a: l.q_proj.weight: unusual shape: expected shape [512 1], found [8 64]"}},
		{"weight too short", dq, func(s set) { s.reshape(w, u8, 511, 1) }, []string{
			"error a: l.q_proj.weight: wrong shape: expected 512 packed bytes for shape [8 128], found 511 bytes (U8 [511 1])"}},
		{"weight as I8", dq, func(s set) { s.reshape(w, safetensors.I8, 512, 1) }, []string{
			"error a: l.q_proj.weight: wrong dtype: expected packed bytes as U8, BF16, F16 or F32, found I8 [512 1]"}},
		{"weight not packed", dq, func(s set) { s.reshape(w, bf16, 8, 128) }, []string{
			"error a: l.q_proj.weight: weight not packed: expected 512 packed bytes beside its quant_state, found BF16 [8 128]"}},
		{"storage", bnb.Format{Storage: bnb.BFloat16}, func(set) {}, []string{
			"warning a: l.q_proj.weight: quant storage: expected U8, found BF16 (transformers 4 casts the packed bytes by value unless loaded in that dtype)"}},
		{"sidecar in another file", dq, func(s set) { s[nf4Names.NestedAbsmax].shard = "b" }, []string{
			"warning b: l.q_proj.weight.nested_absmax: sidecars split: expected the file of its weight, a, found b"}},
		{"nested block size", dq, func(s set) {
			s.setBlob(nf4Names.QuantState, strings.Replace(string(s[nf4Names.QuantState].data), "256", "128", 1))
		}, []string{"warning a: l.q_proj.weight.quant_state.bitsandbytes__nf4: nested block size: expected nested_blocksize 256, found 128 (matmul_4bit raises NotImplementedError)"}},
		{"block size 32", bnb.Format{BlockSize: 32, NoDoubleQuant: true}, func(set) {}, []string{
			"notice a: l.q_proj.weight.quant_state.bitsandbytes__nf4: small block size: expected a block size of 64 or more, found 32 (only recent bitsandbytes reads it)"}},
		{"decodes to float32", plain, func(s set) { s.decodesTo(t, nf4.Float32, w, [2]int64{8, 128}, plain) }, []string{
			"notice a: l.q_proj.weight.quant_state.bitsandbytes__nf4: decoded dtype: expected dtype bfloat16 or float16, found float32"}},
		{"8-bit", dq, func(s set) {
			s.add(safetensors.Entry{Name: "l.k_proj.weight", DType: safetensors.I8, Shape: []int64{4, 4}}, "a")
			s.add(safetensors.Entry{Name: "l.k_proj.SCB", DType: f32, Shape: []int64{4}}, "a")
		}, []string{"error a: l.k_proj.SCB: 8-bit weight: expected a 4-bit or an unquantized weight, found the scales of an 8-bit one"}},
		{"a tensor called absmax", dq, func(s set) {
			s.add(safetensors.Entry{Name: "absmax", DType: f32, Shape: []int64{4}}, "a")
			s.add(safetensors.Entry{Name: ".absmax", DType: f32, Shape: []int64{4}}, "a")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := make(set)
			s.weight(t, w, [2]int64{8, 128}, c.format)
			s.add(safetensors.Entry{Name: "norm.weight", DType: bf16, Shape: []int64{8}}, "a")
			c.change(s)
			g, err := Group(s.tensors(t))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			fatal := false
			for _, p := range g.Problems {
				got = append(got, p.Severity.String()+" "+p.Error())
				fatal = fatal || p.Severity == Error && strings.HasPrefix(p.Tensor, w)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if whole := len(g.Weights) == 1; whole == fatal {
				t.Errorf("%d weights beside errors %v", len(g.Weights), g.Errors())
			}
			if !slices.ContainsFunc(g.Plain, func(t Tensor) bool { return t.Name == "norm.weight" }) {
				t.Error("norm.weight is not plain")
			}
		})
	}
}

func TestGroupOddAndMixed(t *testing.T) {
	s := make(set)
	s.weight(t, "a.weight", [2]int64{3, 5}, bnb.Format{NoDoubleQuant: true})
	s.weight(t, "b.weight", [2]int64{8, 8}, bnb.Format{})
	s.weight(t, "c.weight", [2]int64{8, 8}, bnb.Format{})
	s.weight(t, "d.weight", [2]int64{8, 8}, bnb.Format{Type: nf4.FP4})
	g, err := Group(s.tensors(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range g.Problems {
		got = append(got, p.String())
	}
	want := []string{
		"a: a.weight: odd element count: expected an even number of elements, found 15; breaks vLLM, SGLang",
		"a: a.weight: mixed quantization: expected nf4 with double quantization as in 2 other weights, found nf4 without double quantization in 1 weights " +
			"(it derives the names of all sidecars from the config); breaks transformers 4.57, transformers up to 4.55",
		"a: d.weight: mixed quantization: expected nf4 with double quantization as in 2 other weights, found fp4 with double quantization in 1 weights " +
			"(it derives the names of all sidecars from the config); breaks transformers 4.57, transformers up to 4.55",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestGroupDuplicate(t *testing.T) {
	s := make(set)
	s.weight(t, "a.weight", [2]int64{8, 8}, bnb.Format{NoDoubleQuant: true})
	tensors := s.tensors(t)
	again := tensors[0]
	again.Shard = "b"
	g, err := Group(append(tensors, again))
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Problems) != 1 || g.Problems[0].Kind != DuplicateTensor || g.Problems[0].Severity != Error {
		t.Errorf("problems %v", g.Problems)
	}
}

// brokenReader fails on every read after the header.
type brokenReader struct {
	io.ReaderAt
	from int64
}

func (r brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.from {
		return 0, os.ErrDeadlineExceeded
	}
	return r.ReaderAt.ReadAt(p, off)
}

func TestGroupReadError(t *testing.T) {
	entries, err := bnb.Format{NoDoubleQuant: true}.Entries("w", [2]int64{8, 8})
	if err != nil {
		t.Fatal(err)
	}
	l, err := safetensors.NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	header := int64(len(l.Header()))
	r, err := safetensors.NewReader(brokenReader{bytes.NewReader(l.Header()), header}, l.Size())
	if err != nil {
		t.Fatal(err)
	}
	var tensors []Tensor
	for _, tensor := range r.Tensors() {
		tensors = append(tensors, Tensor{tensor, "a"})
	}
	if _, err := Group(tensors); !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "read w.quant_state.bitsandbytes__nf4 in a: ") {
		t.Errorf("error %v", err)
	}
}

// A name below weights below weights is told of once: a file of 100 MB could ask for millions of problems otherwise.
func TestGroupUnknownOnce(t *testing.T) {
	s := make(set)
	for name, depth := "w", 0; depth < 5; name, depth = name+".w", depth+1 {
		s.weight(t, name, [2]int64{8, 8}, bnb.Format{NoDoubleQuant: true})
	}
	s.add(safetensors.Entry{Name: "w.w.w.w.w.odd", DType: safetensors.U8, Shape: []int64{1}}, "a")
	g, err := Group(s.tensors(t))
	if err != nil || len(g.Weights) != 5 {
		t.Fatal(err, g)
	}
	count := map[string]int{}
	for _, p := range g.Problems {
		if p.Kind == UnknownSidecar {
			count[p.Tensor]++
		}
	}
	if count["w.w.w.w.w.odd"] != 1 || count["w.w"] != 1 || count["w.w.w.w.w"] != 1 {
		t.Errorf("problems by tensor: %v", count)
	}
}

func TestCheckTables(t *testing.T) {
	s := make(set)
	s.weight(t, "w", [2]int64{8, 8}, bnb.Format{Type: nf4.FP4})
	codes := nf4.Codebook(nf4.FP4)
	put := func(name string, table []float32) {
		for i, x := range table {
			bits := math.Float32bits(x)
			copy(s[name].data[4*i:], []byte{byte(bits), byte(bits >> 8), byte(bits >> 16), byte(bits >> 24)})
		}
	}
	stored := codes
	stored[8] = float32(math.Copysign(0, -1)) // bitsandbytes' entry 8 is +0.0, its negation of entry 0 would be -0.0
	put("w.quant_map", stored[:])
	dynamic := doublequant.Map()
	dynamic[255] = 0.5
	put("w.nested_quant_map", dynamic[:])
	g, err := Group(s.tensors(t))
	if err != nil || len(g.Weights) != 1 {
		t.Fatal(err, g)
	}
	want := doublequant.Map()
	problems, err := g.Weights[0].CheckTables(&codes, &want)
	if err != nil || len(problems) != 1 {
		t.Fatal(problems, err)
	}
	if got := problems[0].String(); got != "a: w.nested_quant_map: wrong code table: expected 1 at code 255, found 0.5 (decodes to other values on a GPU than on a CPU); breaks bitsandbytes" {
		t.Error(got)
	}
	// Another map that is one breaks nothing.
	dynamic[255] = 1
	dynamic[0] = -1
	put("w.nested_quant_map", dynamic[:])
	if g, err = Group(s.tensors(t)); err != nil {
		t.Fatal(err)
	}
	problems, err = g.Weights[0].CheckTables(&codes, &want)
	if err != nil || len(problems) != 1 || problems[0].Kind != OtherMap || problems[0].Severity != Notice || len(problems[0].Breaks) > 0 {
		t.Error(problems, err)
	}
	dynamic[3] = float32(math.NaN())
	put("w.nested_quant_map", dynamic[:])
	if g, err = Group(s.tensors(t)); err != nil {
		t.Fatal(err)
	}
	if problems, err = g.Weights[0].CheckTables(&codes, &want); err != nil || len(problems) != 1 || problems[0].Kind != WrongTable {
		t.Error(problems, err)
	}
}

func ExampleGroup() {
	f, err := safetensors.Open("../../nf4/bnb/testdata/nf4-dq/model.safetensors")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	var tensors []Tensor
	for _, t := range f.Tensors() {
		tensors = append(tensors, Tensor{t, "model.safetensors"})
	}
	g, err := Group(tensors)
	if err != nil {
		panic(err)
	}
	w := g.Weights[0]
	fmt.Println(len(g.Weights), "weights,", len(g.Plain), "plain tensors,", len(g.Problems), "problems")
	fmt.Println(w.Name, w.State.Type, w.State.Shape, "in", w.Packed.Shape)
	// Output:
	// 14 weights, 7 plain tensors, 0 problems
	// model.layers.0.mlp.down_proj.weight nf4 [32 48] in [768 1]
}
