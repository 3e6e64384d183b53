package convert

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// writeModel makes a model directory of one file.
func writeModel(t testing.TB, config string, tensors []testTensor) *checkpoint.Source {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	writeTensors(t, filepath.Join(dir, "model.safetensors"), tensors, 1)
	return open(t, dir)
}

func bf16(name string, shape ...int64) testTensor {
	return testTensor{name: name, dtype: safetensors.BF16, shape: shape}
}

var tinyLlama = []testTensor{
	bf16("model.embed_tokens.weight", 16, 8),
	bf16("model.layers.0.self_attn.q_proj.weight", 8, 8),
	bf16("model.layers.0.mlp.down_proj.weight", 8, 32),
	bf16("model.layers.0.input_layernorm.weight", 8),
	bf16("model.norm.weight", 8),
	bf16("lm_head.weight", 16, 8),
}

const llamaConfig = `{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "tie_word_embeddings": false,
  "torch_dtype": "float16"
}`

// quantized lists what a plan quantizes.
func quantized(p *Plan) []string {
	var out []string
	for _, it := range p.items {
		if it.Quantize {
			out = append(out, it.Name)
		}
	}
	return out
}

func TestPlanOfModelDirectory(t *testing.T) {
	src := writeModel(t, llamaConfig, tinyLlama)
	p, err := NewPlan(src, Options{AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"model.layers.0.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"}
	if d := cmp.Diff(want, quantized(p)); d != "" {
		t.Errorf("quantized (-want +got):\n%s", d)
	}
	if p.runDType != safetensors.F16 {
		t.Errorf("run dtype %s; config.json says float16", p.runDType)
	}
	config := string(p.configJSON)
	for _, s := range []string{`"rms_norm_eps": 1e-05`, `"rope_theta": 10000.0`, `"torch_dtype": "float16"`, `"llm_int8_threshold": 6.0`,
		`"bnb_4bit_compute_dtype": "float16"`, `"lm_head"`} {
		if !strings.Contains(config, s) {
			t.Errorf("config.json lacks %s:\n%s", s, config)
		}
	}
	for _, it := range p.items {
		if !it.Quantize && it.Reason == "" {
			t.Errorf("%s is kept without a reason", it.Name)
		}
	}
	// 4 bits, 8 a block, 32 a group of blocks: bytes to the byte.
	if got := p.stats.CodeBytes; got != (64/2+1+4)+(256/2+4+4) {
		t.Errorf("%d bytes of codes and constants", got)
	}
	if got := p.stats.QuantBytes - p.stats.CodeBytes; got != 2*(64+1024+256) {
		t.Errorf("%d bytes of tables and records", got)
	}
}

func TestPlanShards(t *testing.T) {
	src := writeModel(t, llamaConfig, tinyLlama)
	p, err := NewPlan(src, Options{MaxShardSize: 1500, AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.shards) < 2 || p.indexJSON == nil {
		t.Fatalf("%d files, index of %d bytes", len(p.shards), len(p.indexJSON))
	}
	var index struct {
		Metadata  map[string]int64  `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(p.indexJSON, &index); err != nil {
		t.Fatal(err)
	}
	if index.Metadata["total_parameters"] != p.stats.Params || index.Metadata["total_size"] != p.stats.OutBytes {
		t.Errorf("index metadata %v; plan has %d parameters, %d bytes", index.Metadata, p.stats.Params, p.stats.OutBytes)
	}
	listed := 0
	for _, sh := range p.shards {
		for _, x := range sh.Layout.Tensors() {
			listed++
			if index.WeightMap[x.Name] != sh.Name {
				t.Errorf("index has %s in %q; it is in %s", x.Name, index.WeightMap[x.Name], sh.Name)
			}
			if base, _, ok := strings.Cut(x.Name, ".weight."); ok && index.WeightMap[base+".weight"] != sh.Name {
				t.Errorf("%s is not in the file of its weight", x.Name)
			}
		}
	}
	if listed != len(index.WeightMap) {
		t.Errorf("index has %d tensors, the files %d", len(index.WeightMap), listed)
	}
}

func TestPlanRefuses(t *testing.T) {
	re := regexp.MustCompile
	fp4 := nf4.FP4
	for _, c := range []struct {
		name    string
		config  string
		tensors []testTensor
		opt     Options
		want    string
		option  bool // the options are at fault, not the source
	}{
		{"head forced by --only", llamaConfig, tinyLlama, Options{Only: []*regexp.Regexp{re("lm_head")}}, "--only lm_head matches only tensors that are never quantized", true},
		{"head forced by --rule", llamaConfig, tinyLlama, Options{Rules: []Rule{{Pattern: re("lm_head"), Change: bnb.Change{BlockSize: new(128)}}}}, "--rule lm_head matches only tensors", true},
		{"everything skipped", llamaConfig, tinyLlama, Options{Skip: []*regexp.Regexp{re("proj")}}, "nothing to quantize in a llama", false},
		{"types mixed", llamaConfig, tinyLlama, Options{Rules: []Rule{{Pattern: re("q_proj"), Change: bnb.Change{Type: &fp4}}}}, "cannot load NF4", true},
		{"fp8 without scales", llamaConfig, append([]testTensor{{name: "model.layers.0.mlp.up_proj.weight", dtype: safetensors.F8_E4M3, shape: []int64{8, 8}}}, tinyLlama...),
			Options{}, "F8_E4M3", false},
		{"odd storage", llamaConfig, append([]testTensor{bf16("model.layers.0.mlp.up_proj.weight", 3, 3)}, tinyLlama...),
			Options{Spec: bnb.Format{Storage: bnb.BFloat16}}, "model.layers.0.mlp.up_proj.weight", false},
		{"gptq", `{"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}`,
			append([]testTensor{{name: "model.layers.0.mlp.up_proj.qweight", dtype: safetensors.I32, shape: []int64{8, 8}}}, tinyLlama...), Options{}, "already quantized by GPTQ 4-bit", false},
		{"no model_type", `{"dtype": "bfloat16"}`, []testTensor{bf16("mid_block.attn.to_q.weight", 64, 64)}, Options{},
			"nothing to quantize in a model whose config.json names no model_type", false},
		{"diffusers model for transformers", fluxConfig, tinyFlux, Options{Targets: arch.Transformers5 | arch.Diffusers},
			"transformers5 cannot load FluxTransformer2DModel, a class of diffusers", true},
		{"list that diffusers cannot read", fluxConfig, tinyFlux, Options{Skip: []*regexp.Regexp{re("^proj_out")}}, "no llm_int8_skip_modules list serves every loader", false},
		{"bad block", llamaConfig, tinyLlama, Options{Spec: bnb.Format{BlockSize: 63}}, "63", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.AllowIncomplete = true // these are parts of models
			_, err := NewPlan(writeModel(t, c.config, c.tensors), c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want %q", err, c.want)
			}
			var oe *OptionError
			if errors.As(err, &oe) != c.option {
				t.Errorf("error %T; at fault are the options: %v", err, c.option)
			}
		})
	}
}

func TestTypesMayMixForTransformers5(t *testing.T) {
	fp4 := nf4.FP4
	_, err := NewPlan(writeModel(t, llamaConfig, tinyLlama), Options{Targets: arch.Transformers5, AllowIncomplete: true,
		Rules: []Rule{{Pattern: regexp.MustCompile("q_proj"), Change: bnb.Change{Type: &fp4}}}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBareFilePolicy(t *testing.T) {
	for name, want := range map[string]bool{
		"model.layers.0.self_attn.q_proj.weight": true,
		"layer.3.attention.output.dense.weight":  true,
		"h.0.attn.c_attn.weight":                 true,
		"x.gate_proj.weight":                     true,
		"model.embed_tokens.weight":              false,
		"bert.embeddings.word_embeddings.weight": false,
		"transformer.wte.weight":                 false,
		"lm_head.weight":                         false,
		"output.weight":                          false,
		"score.weight":                           false,
		"encoder.layer_norm.weight":              false,
		"mlp.gate.weight":                        false,
		"block.router.weight":                    false,
		"rel_pos_bias":                           false,
	} {
		p := newPolicy(&Options{}, nil)
		if d := p.decide(name, safetensors.F32, []int64{4, 4}, arch.Class{}); d.quantize != want {
			t.Errorf("%s: quantized %v (%s); want %v", name, d.quantize, d.reason, want)
		}
		only := newPolicy(&Options{Only: []*regexp.Regexp{regexp.MustCompile(".")}}, nil)
		if d := only.decide(name, safetensors.F32, []int64{4, 4}, arch.Class{}); !d.quantize {
			t.Errorf("%s: --only does not override: %s", name, d.reason)
		}
		if d := only.decide(name, safetensors.I64, []int64{4, 4}, arch.Class{}); d.quantize {
			t.Errorf("%s: integers quantized", name)
		}
	}
}

func TestParseRule(t *testing.T) {
	yes, no := true, false
	fp4 := nf4.FP4
	for _, c := range []struct {
		in      string
		want    Rule
		pattern string
		err     string
	}{
		{in: "a=keep", want: Rule{Keep: true}, pattern: "a"},
		{in: "a=b=fp4,block=32,dq", want: Rule{Change: bnb.Change{Type: &fp4, BlockSize: new(32), DoubleQuant: &yes}}, pattern: "a=b"},
		{in: "a= nodq , block=4096", want: Rule{Change: bnb.Change{BlockSize: new(4096), DoubleQuant: &no}}, pattern: "a"},
		{in: "a", err: "want REGEX=SPEC"},
		{in: "a=", err: `"" is none of`},
		{in: "a=nf5", err: `"nf5" is none of`},
		{in: "a=block=x", err: "not a number"},
		{in: "a=block=0", err: "block size 0"},
		{in: "a=block=8192", err: "8192"},
		{in: "(=keep", err: "missing closing"},
	} {
		r, err := ParseRule(c.in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v; want %q", c.in, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if r.Pattern.String() != c.pattern {
			t.Errorf("%q: pattern %q; want %q", c.in, r.Pattern, c.pattern)
		}
		r.Pattern = nil
		if d := cmp.Diff(c.want, r); d != "" {
			t.Errorf("%q (-want +got):\n%s", c.in, d)
		}
	}
}

// TestDequantizeOfConverted decodes what convert wrote and compares it with
// the public decoder's values; a second conversion of it gives the same codes.
func TestDequantizeOfConverted(t *testing.T) {
	src := openTensors(t, []testTensor{
		bf16("a.proj.weight", 1100, 997),
		bf16("b.proj.weight", 3, 5),
		{name: "norm.weight", dtype: safetensors.BF16, shape: []int64{9}},
	}, 3)
	for _, opt := range []Options{{}, {Spec: bnb.Format{NoDoubleQuant: true, BlockSize: 128}}} {
		p, _, data := execute(t, src, opt, Execution{})
		name := filepath.Join(t.TempDir(), "q.safetensors")
		writeLayout(t, name, p.shards[0].Layout, data)
		packed := open(t, name)
		dp, err := NewDequantizePlan(packed, DequantizeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := newMemSink(t, dp)
		if _, err := dp.Execute(t.Context(), s, Execution{Jobs: 3}); err != nil {
			t.Fatal(err)
		}
		plain := filepath.Join(t.TempDir(), "p.safetensors")
		writeLayout(t, plain, dp.shards[0].Layout, s.data)
		_, r, again := execute(t, open(t, plain), opt, Execution{})
		for _, w := range []string{"a.proj.weight", "b.proj.weight"} {
			if opt.Spec.NoDoubleQuant && !cmp.Equal(again[w], data[w]) {
				t.Errorf("%s %s: codes differ after a round trip", opt.Spec, w)
			}
		}
		// What was decoded differs from the source by the error of the format.
		if rel := r[0].Written.E2 / r[0].Written.X2; rel > 1e-3 {
			t.Errorf("%s: quantizing decoded values again loses %g of their energy", opt.Spec, rel)
		}
	}
}

func writeLayout(t testing.TB, name string, l *safetensors.Layout, data map[string][]byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := safetensors.NewWriter(f, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range l.Tensors() {
		if err := w.WriteAt(x.Name, data[x.Name], 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
