package lora

import (
	"encoding/json"
	"slices"
	"testing"
)

// An adapter of a vision-language model's text fits that text model alone.
func TestSpellings(t *testing.T) {
	for _, path := range []string{"language_model.model.layers.0.q", "model.language_model.layers.0.q", "layers.0.q"} {
		if !slices.Contains(spellings(path), "model.layers.0.q") {
			t.Errorf("%s: %v", path, spellings(path))
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
