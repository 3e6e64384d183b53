package convert

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// TestRestore takes sources whose weights are split or transposed for packing there and back: the names and shapes are the source's
// again, the values those that each matrix decodes to by itself.
func TestRestore(t *testing.T) {
	const llama4 = `{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "dtype": "bfloat16"}`
	const gpt2 = `{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "bfloat16"}`
	experts := func(n, hidden, inner int64) []testTensor {
		return []testTensor{
			bf16("model.layers.0.feed_forward.experts.gate_up_proj", n, hidden, 2*inner),
			bf16("model.layers.0.feed_forward.experts.down_proj", n, inner, hidden),
			bf16("model.layers.0.self_attn.q_proj.weight", 32, 64),
			bf16("model.norm.weight", 64),
		}
	}
	for _, c := range []struct {
		name, config string
		tensors      []testTensor
		opt          Options
	}{
		{"experts", llama4, experts(3, 80, 56), Options{}},
		{"more than a tile", llama4, experts(2, 701, 1503), Options{Spec: bnb.Format{BlockSize: 4096}}},
		{"a kept expert", llama4, experts(3, 80, 56), Options{Skip: []*regexp.Regexp{regexp.MustCompile(`experts\.1\.`)}, Spec: bnb.Format{NoDoubleQuant: true}}},
		{"all experts kept", llama4, experts(2, 80, 56), Options{Skip: []*regexp.Regexp{regexp.MustCompile(`experts\.`)}}},
		{"Conv1D", gpt2, []testTensor{bf16("transformer.h.0.attn.c_attn.weight", 80, 240), bf16("transformer.wte.weight", 64, 80)}, Options{}},
		{"a large Conv1D", gpt2, []testTensor{bf16("transformer.h.0.mlp.c_fc.weight", 701, 1503)}, Options{DType: "float16"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name == "more than a tile" {
				t.Skip("slow under the race detector")
			}
			c.opt.AllowIncomplete = true // these are parts of models
			p, err := NewPlan(writeModel(t, c.config, c.tensors), c.opt)
			if err != nil {
				t.Fatal(err)
			}
			quantized := written(t, p)
			plan, plain := dequantized(t, quantized, Execution{Jobs: 3})
			want := map[string][]int64{}
			for _, x := range c.tensors {
				want[x.name] = x.shape
			}
			got := map[string][]int64{}
			for _, it := range plan.items {
				got[it.Name] = it.Shape
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("names and shapes (-source +dequantized):\n%s", diff)
			}
			// The same tensors as those of another model are decoded one by one, as they lie.
			bare := withConfig(t, quantized, strings.NewReplacer("llama4_text", "llama", "gpt2", "llama", "Llama4ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel", "LlamaForCausalLM").Replace(c.config))
			parts, values := dequantized(t, bare, Execution{Jobs: 1})
			var params int64
			for _, it := range parts.items {
				params += it.Elems()
				checkPlace(t, &it, values[it.Name], got, plain)
			}
			if plan.stats.Params != params {
				t.Errorf("%d parameters, want %d", plan.stats.Params, params)
			}
			_, one := dequantized(t, quantized, Execution{Jobs: 1, MaxMemory: 16 << 20})
			for _, name := range slices.Sorted(maps.Keys(plain)) {
				if !slices.Equal(plain[name], one[name]) {
					t.Errorf("%s: other bytes with one job and 16 MiB", name)
				}
			}
		})
	}
}

var splitExpert = regexp.MustCompile(`^(.*\.)(\d{1,6})\.(gate_proj|up_proj|down_proj)\.weight$`)

// checkPlace finds the values of a part [out, in] in the tensor that it belongs to.
func checkPlace(t *testing.T, it *Item, values []byte, shapes map[string][]int64, plain map[string][]byte) {
	t.Helper()
	m := splitExpert.FindStringSubmatch(it.Name)
	shape, transposed := shapes[it.Name], strings.Contains(it.Name, ".c_")
	whole, expert, column := it.Name, int64(0), int64(0)
	if m != nil {
		whole, transposed = m[1]+"down_proj", true
		if m[3] != "down_proj" {
			whole = m[1] + "gate_up_proj"
		}
		shape = shapes[whole]
		expert = int64(m[2][0] - '0')
		if m[3] == "up_proj" {
			column = it.Shape[0]
		}
		shape = shape[1:]
	}
	if !transposed {
		if !slices.Equal(values, plain[whole]) {
			t.Errorf("%s: other bytes", it.Name)
		}
		return
	}
	out, in := it.Shape[0], it.Shape[1]
	for r := range out {
		for k := range in {
			at := 2 * (expert*shape[0]*shape[1] + k*shape[1] + column + r)
			if got, want := binary.LittleEndian.Uint16(plain[whole][at:]), binary.LittleEndian.Uint16(values[2*(r*in+k):]); got != want {
				t.Fatalf("%s: element [%d, %d] is %#x in %s, want %#x", it.Name, r, k, got, whole, want)
			}
		}
	}
}

func dequantized(t *testing.T, src *checkpoint.Source, x Execution) (*Plan, map[string][]byte) {
	t.Helper()
	p, err := NewDequantizePlan(src, DequantizeOptions{AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newMemSink(t, p)
	if _, err := p.Execute(t.Context(), s, x); err != nil {
		t.Fatal(err)
	}
	return p, s.data
}

// withConfig is a copy of src with another config.json.
func withConfig(t *testing.T, src *checkpoint.Source, config string) *checkpoint.Source {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(src.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}
