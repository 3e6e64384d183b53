package lora

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// An adapter of a vision-language model's text fits that text model alone.
func TestSpellings(t *testing.T) {
	for _, path := range []string{"language_model.model.layers.0.q", "model.language_model.layers.0.q", "layers.0.q"} {
		if !slices.Contains(spellings(path), "model.layers.0.q") {
			t.Errorf("%s: %v", path, spellings(path))
		}
	}
}

// What the table of architectures does not have is where the Linears beside it are.
func TestMoved(t *testing.T) {
	linear := func(stored, memory string) weights.Tensor {
		return weights.Tensor{Name: stored + ".weight", Class: arch.Class{AllPaths: []string{stored, memory}}}
	}
	tensors := []weights.Tensor{
		linear("vit.encoder.layer.0.output.dense", "vit.layers.0.mlp.fc2"), {Name: "vit.encoder.layer.11.layernorm_after.bias"},
		linear("backbone.layers.1.mixer.in_proj", "model.layers.1.mixer.in_proj"), {Name: "backbone.layers.1.mixer.gate.weight"},
		linear("vision_model.layers.0.fc", "model.vision_model.layers.0.fc"), {Name: "vision_model.gate.embedding"}, linear("a.q", "b.q"), {Name: "a.norm.weight"},
	}
	b := newBase(tensors, false)
	for name, want := range map[string]string{
		"vit.layers.11.layernorm_after.bias":    "vit.encoder.layer.11.layernorm_after.bias",
		"model.layers.1.mixer.gate.weight":      "backbone.layers.1.mixer.gate.weight",
		"model.vision_model.gate.embedding":     "vision_model.gate.embedding",
		"vit.layersx.11.layernorm_after.bias":   "",
		"vit.encoder.layer.12.layernorm.weight": "",
		"b.norm.weight":                         "", // in no layer
	} {
		got := ""
		if x := b.tensor(name); x != nil {
			got = x.Name
		}
		if got != want {
			t.Errorf("%s is stored as %q, want %q", name, got, want)
		}
	}
}

// Experts are found under the names that checkpoints have for their stacks, whole, in two parts, or with rows by turns.
func TestStacks(t *testing.T) {
	var tensors []weights.Tensor
	for name, shape := range map[string][]int64{
		"a.mlp.experts.gate_up_proj": {3, 8, 5}, "b.mlp.experts.w13_weight": {3, 8, 5}, "b.mlp.experts.w2_weight": {3, 5, 4}, "c.moe.gate_proj.weight": {3, 4, 5},
		"c.moe.up_proj.weight": {3, 4, 5}, "d.moe.gate_proj.weight": {3, 4, 5}, "d.moe.up_proj.weight": {2, 4, 5}, "e.block_sparse_moe.input_linear.weight": {3, 8, 5},
	} {
		tensors = append(tensors, weights.Tensor{Name: name, Shape: shape})
	}
	b := newBase(tensors, false)
	a := &Adapter{Config: &Config{}}
	for path, want := range map[string][]string{"a.mlp.experts": {"gate_up_proj [3, 8, 5] of 1"}, "b.mlp.experts": {"gate_up_proj [3, 8, 5] of 1 woven", "down_proj [3, 5, 4] of 1"},
		"c.mlp.experts": {"gate_up_proj [3, 8, 5] of 2"}, "d.mlp.experts": nil, "e.block_sparse_moe.experts": {"gate_up_proj [3, 8, 5] of 1"}, "x.mlp.experts": nil} {
		var got []string
		for _, p := range b.params(a, path) {
			text := fmt.Sprintf("%s of %d", paramNames([]param{p}), len(p.stacks))
			if p.stacks[0].woven {
				text += " woven"
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// Rows by turns are of the first half of B and of the second.
func TestWoven(t *testing.T) {
	f := &factors{a: []float32{1}, b: []float32{1, 2, 3, 4, 5, 6}}
	u := &update{rank: 1, module: &Module{A: &safetensors.Tensor{Shape: []int64{1, 1}}}}
	left, _ := f.of(u, &part{rows: 6, cols: 1, experts: 1, woven: true})
	plain, _ := f.of(u, &part{rows: 2, cols: 1, experts: 1, row0: 4})
	var got []float32
	for i := range 6 {
		got = append(got, left.At(i, 0))
	}
	if diff := cmp.Diff([]float32{1, 4, 2, 5, 3, 6, 5}, append(got, plain.At(0, 0))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A head that is not stored is that of the embeddings, and its bias the one beside it.
func TestHeads(t *testing.T) {
	embedding := arch.Class{Embedding: true}
	b := newBase([]weights.Tensor{{Name: "bert.embeddings.position_embeddings.weight", Class: embedding, Shape: []int64{9, 4}},
		{Name: "bert.embeddings.word_embeddings.weight", Class: embedding, Shape: []int64{6, 4}}, {Name: "cls.predictions.bias"}}, true)
	for _, path := range []string{"cls.predictions.decoder", "lm_head.decoder", "decoder", "vocab_projector", "output_projection", "lm_loss", "lm_head", "proj_out", "pred_layer.proj", "mlm_score.decoder"} {
		if x := b.module(path); x == nil || x.Name != "bert.embeddings.word_embeddings.weight" {
			t.Errorf("%s: %+v", path, x)
		}
	}
	for name, want := range map[string]bool{"cls.predictions.decoder.bias": true, "cls.predictions.dense.bias": false, "decoder.bias": false} {
		if x := b.tensor(name); (x != nil) != want || want && x.Name != "cls.predictions.bias" {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

// A module that is saved is saved with those in it.
func TestToSave(t *testing.T) {
	for tensor, want := range map[string]bool{"cls.predictions.decoder.weight": true, "cls.predictions_.decoder.weight": false, "model.lm_head.weight": true, "lm_head.x.y.weight": true, "x": false} {
		if got := toSave([]string{"predictions", "lm_head"}, tensor); got != want {
			t.Errorf("%s: %v, want %v", tensor, got, want)
		}
	}
}

// Which modules a config has is what check_target_module_exists says: ends of paths, whole expressions, the first number as layer.
func TestLoads(t *testing.T) {
	const q0, q11, expert = "model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "model.layers.1.mlp.experts.0.up_proj"
	for _, c := range []struct {
		config string
		path   string
		want   bool
	}{
		{`{}`, q0, true}, // the architecture's default
		{`{"target_modules": null}`, q0, true},
		{`{"target_modules": "all-linear"}`, q0, true},
		{`{"target_modules": "^(?!.*vision).*"}`, q0, true}, // RE2 has no lookahead
		{`{"target_modules": ["q_proj"]}`, q0, true},
		{`{"target_modules": ["proj"]}`, q0, false},
		{`{"target_modules": ["model.layers.1.self_attn.q_proj"]}`, q11, false},
		{`{"target_modules": ["language_model.model.layers.0.self_attn.q_proj"]}`, q0, true},
		{`{"target_modules": ".*q_proj"}`, q0, true},
		{`{"target_modules": "q_proj"}`, q0, false},
		{`{"target_modules": ["q_proj"], "layers_to_transform": 0}`, q0, true},
		{`{"target_modules": ["q_proj"], "layers_to_transform": [1]}`, q11, false},
		{`{"target_modules": ["up_proj"], "layers_to_transform": [1]}`, expert, true},
		{`{"target_modules": ["q_proj"], "layers_to_transform": [11], "layers_pattern": "layers"}`, q11, true},
		{`{"target_modules": ["q_proj"], "layers_to_transform": [11], "layers_pattern": ["h"]}`, q11, false},
		{`{"target_modules": ["q_proj"], "exclude_modules": ".*\\.0\\..*"}`, q0, false},
		{`{"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}`, q11, true},
		{`{"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}`, "model.layers.0.mlp.experts.base_layer", true},
		{`{"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}`, q0, false},
		{`{"target_modules": [], "target_parameters": ["q_proj.weight"]}`, q0, true},
		{`{"target_modules": ["embed_tokens"], "ensure_weight_tying": true}`, "lm_head", true},
		{`{"target_modules": ["embed_tokens"]}`, "lm_head", false},
		{`{"target_modules": ["wte"], "ensure_weight_tying": true}`, "lm_head", false}, // no embeddings to PEFT
		{`{"target_modules": "(embed_tokens|x)", "ensure_weight_tying": true}`, "lm_head", true},
		{`{"target_modules": ["x"], "modules_to_save": ["model.embed_tokens"], "ensure_weight_tying": true}`, "lm_head", true},
	} {
		var top map[string]any
		if err := json.Unmarshal([]byte(c.config), &top); err != nil {
			t.Fatal(err)
		}
		top["peft_type"] = "LORA"
		raw, err := json.Marshal(top)
		if err != nil {
			t.Fatal(err)
		}
		config, err := ParseConfig("c", raw)
		if err != nil {
			t.Fatalf("%s: %v", c.config, err)
		}
		if got := config.loads(c.path); got != c.want {
			t.Errorf("%s: %s is loaded: %v, want %v", c.config, c.path, got, c.want)
		}
	}
}

// Layers that share blocks go through them by turns, and are merged in their order.
func TestShared(t *testing.T) {
	var tensors []weights.Tensor
	for _, n := range []string{"1.linear", "1.shared_transf.q", "2.mamba", "3.linear", "3.shared_transf.q", "10.linear", "11.linear"} {
		tensors = append(tensors, weights.Tensor{Name: "model.layers." + n + ".weight"})
	}
	b := newBase(tensors, false)
	for path, want := range map[string]string{"1.shared_transf.q": "1.shared_transf.q", "10.shared_transf.q": "1.shared_transf.q", "11.shared_transf.q": "3.shared_transf.q",
		"2.shared_transf.q": "", "12.shared_transf.q": "", "10.shared_transf.k": "", "10.mamba": ""} {
		got := ""
		if x := b.module("model.layers." + path); x != nil {
			got = strings.TrimSuffix(strings.TrimPrefix(x.Name, "model.layers."), ".weight")
		}
		if got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	// What PEFT has copied is no part of the block any more.
	a, err := Open(file(t, `{"peft_type":"LORA","r":2,"modules_to_save":["q"]}`, map[string][]int64{"model.layers.1.linear.lora_A.weight": {2, 6}, "model.layers.1.linear.lora_B.weight": {4, 2}, "model.layers.1.shared_transf.q.weight": {4, 6}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	block := testBase(map[string][]int64{"model.layers.1.linear.weight": {4, 6}, "model.layers.1.shared_transf.q.weight": {4, 6}}, safetensors.BF16)
	if _, err := NewMerge(block, []*Adapter{a}, Options{}); err == nil || !strings.Contains(err.Error(), "which others share") {
		t.Errorf("a part of a shared block was replaced: %v", err)
	}
	if x, y := (&Module{Path: "model.layers.3.shared_transf.q"}).turn(), (&Module{Path: "model.layers.11.shared_transf.q"}).turn(); x >= y {
		t.Errorf("layer 3 at %d, layer 11 at %d", x, y)
	}
}

// What PEFT saves of the base's embeddings beside their update is no part of the update: it may be weighted, subtracted and combined.
func TestCopies(t *testing.T) {
	const config = `{"peft_type":"LORA","r":2,"target_modules":["e","q"],"modules_to_save":%s}`
	shapes := map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 2}, "m.e.lora_embedding_A": {2, 3}, "m.e.lora_embedding_B": {6, 2}, "m.e.base_layer.weight": {3, 6}}
	base := testBase(map[string][]int64{"m.q.weight": {4, 6}, "m.e.weight": {3, 6}}, safetensors.BF16)
	base[0].Class.Embedding = true
	dir := file(t, fmt.Sprintf(config, "null"), shapes, "")
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := os.WriteFile(filepath.Join(dir, ConfigName), fmt.Appendf(nil, config, `["e"]`), 0o666); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for name, c := range map[string]struct {
		a        *Adapter
		opt      Options
		replaced bool
		fails    bool
	}{
		"merged":           {a, Options{}, true, false},
		"weighted":         {a, Options{Weights: []float64{0.5}}, true, false},
		"subtracted":       {a, Options{Weights: []float64{-1}, Subtract: true}, false, false},
		"saved":            {b, Options{}, true, false},
		"saved, weighted":  {b, Options{Weights: []float64{0.5}}, false, true},
		"saved, taken out": {b, Options{Weights: []float64{-1}, Subtract: true}, false, true},
	} {
		m, err := NewMerge(base, []*Adapter{c.a}, c.opt)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err == nil && (m.edits["m.e.weight"].replace != nil) != c.replaced {
			t.Errorf("%s: replaced %v", name, !c.replaced)
		}
	}
	made, err := Combine([]*Adapter{a, b}, CombineOptions{Method: "cat", Weights: []float64{1, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if made.copies[0].Name != "m.e.base_layer.weight" || !strings.Contains(string(made.Config), `"modules_to_save": [
    "e"
  ]`) {
		t.Errorf("%+v, %s", made.copies, made.Config)
	}
}

// What transformers holds in float32 is merged in it, whatever the others are cast to.
func TestFloat32(t *testing.T) {
	shapes := map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 2}, "m.wo.lora_A.weight": {2, 6}, "m.wo.lora_B.weight": {4, 2}}
	a, err := Open(file(t, plainConfig, shapes, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	base := testBase(map[string][]int64{"m.q.weight": {4, 6}, "m.wo.weight": {4, 6}}, safetensors.F32)
	m, err := NewMerge(base, []*Adapter{a}, Options{Cast: true, DType: safetensors.F16, Float32: map[string]bool{"m.wo.weight": true}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Apply(base)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []safetensors.DType{safetensors.F16, safetensors.F32} {
		raw := make([]byte, 24*want.Bits()/8)
		if out[i].DType != want {
			t.Fatalf("%s is %s, want %s", out[i].Name, out[i].DType, want)
		}
		if err := out[i].Read(raw, 0); err != nil {
			t.Fatal(err)
		}
		coarse := 0
		for j := 0; want == safetensors.F32 && j < len(raw); j += 4 {
			if raw[j] == 0 && raw[j+1]&0x1f == 0 { // as what was rounded to float16
				coarse++
			}
		}
		if coarse == 24 {
			t.Errorf("%s was rounded to float16", out[i].Name)
		}
	}
}
