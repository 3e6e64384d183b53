package convert

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// experts are the routed experts of a layer, one by one, with a router and a Linear.
func experts(inner int64) []testTensor {
	out := []testTensor{
		{name: "model.layers.0.self_attn.q_proj.weight", dtype: safetensors.BF16, shape: []int64{64, 64}},
		{name: "model.layers.0.mlp.gate.weight", dtype: safetensors.BF16, shape: []int64{2, 64}},
	}
	for e := range 2 {
		for _, m := range []string{"gate_proj", "up_proj"} {
			out = append(out, testTensor{name: fmt.Sprintf("model.layers.0.mlp.experts.%d.%s.weight", e, m), dtype: safetensors.BF16, shape: []int64{inner, 64}})
		}
		out = append(out, testTensor{name: fmt.Sprintf("model.layers.0.mlp.experts.%d.down_proj.weight", e), dtype: safetensors.BF16, shape: []int64{64, inner}})
	}
	return out
}

func stacks(prefix string) []testTensor {
	return []testTensor{
		{name: "model.layers.0.self_attn.q_proj.weight", dtype: safetensors.BF16, shape: []int64{64, 64}},
		{name: prefix + "experts.gate_up_proj", dtype: safetensors.BF16, shape: []int64{3, 8, 16}},
		{name: prefix + "experts.down_proj", dtype: safetensors.BF16, shape: []int64{3, 16, 4}},
	}
}

const (
	qwenConfig   = `{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "torch_dtype": "bfloat16"}`
	gemmaConfig  = `{"model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "torch_dtype": "bfloat16"}`
	gptOSSConfig = `{"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "torch_dtype": "bfloat16"}`
)

// TestUnsloth: stacks are packed whole, under records of three sizes, and experts one by one are joined to stacks, unless they are to
// stay as they are.
func TestUnsloth(t *testing.T) {
	for name, tt := range map[string]struct {
		config    string
		tensors   []testTensor
		perExpert bool
		packed    int
		stack     []int64
		warning   string
	}{
		"one by one":     {qwenConfig, experts(32), false, 3, []int64{2, 64, 64}, ""},
		"stay":           {qwenConfig, experts(32), true, 7, nil, ""},
		"one is missing": {qwenConfig, experts(32)[:7], false, 6, nil, ""},
		"stacks":         {gemmaConfig, stacks("model.layers.0."), false, 3, []int64{3, 8, 16}, ""},
		"gpt-oss":        {gptOSSConfig, stacks("model.layers.0.mlp."), false, 1, nil, "gate_up_projs.0"},
	} {
		p, err := NewPlan(writeModel(t, tt.config, tt.tensors), Options{Targets: arch.Unsloth, AllowIncomplete: true, PerExpert: tt.perExpert})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := len(quantized(p)); n != tt.packed {
			t.Errorf("%s: %d weights are packed, want %d: %v", name, n, tt.packed, quantized(p))
		}
		if got := strings.Join(p.warnings, "; "); tt.warning != "" && !strings.Contains(got, tt.warning) {
			t.Errorf("%s: warnings %q, want %q", name, got, tt.warning)
		}
		var stack []int64
		for i := range p.items {
			if it := &p.items[i]; it.Quantize && strings.HasSuffix(it.Name, "experts.gate_up_proj") {
				stack = it.State(p.runDType).Dims()
			}
		}
		if diff := cmp.Diff(tt.stack, stack); diff != "" {
			t.Errorf("%s: gate_up_proj (-want +got):\n%s", name, diff)
		}
		if bad := strings.Contains(string(p.configJSON), "experts"); bad {
			t.Errorf("%s: the skip list names experts: %s", name, p.configJSON)
		}
	}
}

// TestUnslothUniform: what Unsloth would decode by the settings of another expert is refused.
func TestUnslothUniform(t *testing.T) {
	rule := func(s string) []Rule {
		r, err := ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		return []Rule{r}
	}
	for name, tt := range map[string]struct {
		opt  Options
		want string
	}{
		"block":    {Options{Rules: rule(`experts\.1\.up_proj=block=128`)}, "reads all experts of model.layers.0.mlp.experts.gate_up_proj as the first"},
		"type":     {Options{Rules: rule(`experts\.1\.down_proj=fp4`)}, "reads all experts of model.layers.0.mlp.experts.down_proj as the first"},
		"kept":     {Options{Skip: []*regexp.Regexp{regexp.MustCompile(`experts\.0`)}}, "in 4 bits or none"},
		"by stack": {Options{Rules: rule(`down_proj=block=128`)}, ""},
		"stack":    {Options{Rules: rule(`experts\.gate_up_proj=block=128`)}, ""},
		"another":  {Options{Targets: arch.VLLM}, "stands alone"},
		"float":    {Options{Spec: bnb.Format{Storage: bnb.BFloat16}}, ""},
	} {
		tt.opt.Targets |= arch.Unsloth
		tt.opt.AllowIncomplete = true
		_, err := NewPlan(writeModel(t, qwenConfig, experts(32)), tt.opt)
		var oe *OptionError
		if got := errors.As(err, &oe); got != (tt.want != "") || got && !strings.Contains(oe.Msg, tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	p, err := NewPlan(writeModel(t, qwenConfig, experts(33)), Options{Targets: arch.Unsloth, AllowIncomplete: true, PerExpert: true, Spec: bnb.Format{BlockSize: 128}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.notices, "; "); !strings.Contains(got, "no whole blocks of 128") || !strings.Contains(got, "--block-size 64 fits") {
		t.Errorf("notices %q", got)
	}
}

// TestUnslothAlone: the only expert of a layer is a stack or nothing.
func TestUnslothAlone(t *testing.T) {
	one := experts(32)
	one = slices.DeleteFunc(one, func(x testTensor) bool { return strings.Contains(x.name, "experts.1.") })
	for name, tt := range map[string]struct {
		tensors   []testTensor
		perExpert bool
		want      string
	}{
		"a stack":             {one, false, ""},
		"by itself":           {one, true, "cannot decode the only expert of a layer where it lies by itself, as model.layers.0.mlp.experts.0."},
		"by need, not joined": {one[:3], false, "cannot decode the only expert"},
		"of two":              {experts(32), true, ""},
	} {
		_, err := NewPlan(writeModel(t, qwenConfig, tt.tensors), Options{Targets: arch.Unsloth, AllowIncomplete: true, PerExpert: tt.perExpert})
		var oe *OptionError
		if got := errors.As(err, &oe); got != (tt.want != "") || got && !strings.Contains(oe.Msg, tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestJoinExperts: experts that lie one by one, in any order, come out as the stack does that holds the same values, byte for byte, and
// the tensors of the source are those that its files are read for.
func TestJoinExperts(t *testing.T) {
	value := func(seed, i int) float64 { return 0.02 * math.Sin(float64(1+seed)*float64(i)) }
	const inner, hidden, count = 33, 70, 3
	single := experts(1)[:2]
	whole := []testTensor{
		single[0], single[1],
		{name: "model.layers.0.mlp.experts.gate_up_proj", dtype: safetensors.F32, shape: []int64{count, 2 * inner, hidden}, at: func(i int) float64 {
			return value(i/(inner*hidden), i%(inner*hidden))
		}},
		{name: "model.layers.0.mlp.experts.down_proj", dtype: safetensors.F32, shape: []int64{count, hidden, inner}, at: func(i int) float64 {
			return value(100+i/(inner*hidden), i%(inner*hidden))
		}},
	}
	for e := range count {
		for m, leaf := range []string{"gate_proj", "up_proj", "down_proj"} {
			shape, seed := []int64{inner, hidden}, 2*e+m
			if leaf == "down_proj" {
				shape, seed = []int64{hidden, inner}, 100+e
			}
			single = append(single, testTensor{name: fmt.Sprintf("model.layers.0.mlp.experts.%d.%s.weight", e, leaf), dtype: safetensors.F32, shape: shape,
				at: func(i int) float64 { return value(seed, i) }})
		}
	}
	slices.Reverse(single[2:])
	for _, spec := range []bnb.Format{{}, {BlockSize: 256, NoDoubleQuant: true}} {
		opt := Options{Targets: arch.Unsloth, AllowIncomplete: true, Spec: spec, FitExperts: true}
		_, _, want := execute(t, writeModel(t, qwenConfig, whole), opt, Execution{Jobs: 1})
		p, _, got := execute(t, writeModel(t, qwenConfig, single), opt, Execution{Jobs: 2})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the joined stacks differ (-want +got):\n%s", spec, diff)
		}
		if p.stats.QuantCount != 3 || len(p.notices) > 0 {
			t.Errorf("%s: %d weights are packed, want 3; notices %q", spec, p.stats.QuantCount, p.notices)
		}
		read := map[string]bool{}
		for i := range p.items {
			for _, s := range p.items[i].sources() {
				read[s.Name] = true
			}
		}
		if len(read) != len(single) {
			t.Errorf("%s: %d tensors are read, want %d", spec, len(read), len(single))
		}
	}
	single[4].at = func(i int) float64 { return math.NaN() }
	p, err := NewPlan(writeModel(t, qwenConfig, single), Options{Targets: arch.Unsloth, AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Execute(t.Context(), newMemSink(t, p), Execution{})
	var bad *weights.ValueError
	if !errors.As(err, &bad) || bad.Tensor != single[4].name || bad.Index != 0 {
		t.Errorf("a NaN: %v; want one that names %s and element 0", err, single[4].name)
	}
}

// TestUnslothFits: without a block size of the user's, experts get one that they are whole blocks of, if there is any.
func TestUnslothFits(t *testing.T) {
	for _, tt := range []struct {
		inner, block int64
		rules        []Rule
		want         map[int]int // experts by block size
		notice       string
	}{
		{32, 0, nil, map[int]int{64: 6}, ""},
		{33, 128, nil, map[int]int{64: 6}, "2112 weights, no whole blocks of 128: experts of that size are in blocks of 64"},
		{33, 128, []Rule{{Pattern: regexp.MustCompile("down_proj"), Change: bnb.Change{BlockSize: new(256)}}}, map[int]int{64: 4, 256: 2}, "in blocks of 64"},
		{33, 4096, nil, map[int]int{64: 6}, "in blocks of 64"},
	} {
		p, err := NewPlan(writeModel(t, qwenConfig, experts(tt.inner)),
			Options{Targets: arch.Unsloth, AllowIncomplete: true, PerExpert: true, FitExperts: true, Rules: tt.rules, Spec: bnb.Format{BlockSize: int(tt.block)}})
		if err != nil {
			t.Fatal(err)
		}
		got := map[int]int{}
		for i := range p.items {
			if it := &p.items[i]; it.Quantize && it.Class.Expert {
				got[it.Spec.Block()]++
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%d in blocks of %d (-want +got):\n%s", tt.inner, tt.block, diff)
		}
		if notices := strings.Join(p.notices, "; "); !strings.Contains(notices, tt.notice) || tt.notice == "" && notices != "" {
			t.Errorf("%d in blocks of %d: notices %q, want %q", tt.inner, tt.block, notices, tt.notice)
		}
	}
}
