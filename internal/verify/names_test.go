package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
)

func TestCounterparts(t *testing.T) {
	const llava = `{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}}`
	for _, c := range []struct {
		name, config string
		source       []string
		want         map[string]string
	}{
		{"the same", `{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}`, []string{"model.norm.weight", "lm_head.weight"},
			map[string]string{"model.norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}},
		{"a base model of a head's", `{"model_type": "llama", "architectures": ["LlamaModel"]}`,
			[]string{"model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"},
			map[string]string{"norm.weight": "model.norm.weight", "layers.1.mlp.up_proj.weight": "model.layers.1.mlp.up_proj.weight", "layers.2.mlp.up_proj.weight": "layers.2.mlp.up_proj.weight"}},
		{"a head's of a base model", `{"model_type": "bert", "architectures": ["BertForMaskedLM"]}`,
			[]string{"embeddings.LayerNorm.weight", "encoder.layer.0.attention.self.key.weight"},
			map[string]string{"bert.embeddings.LayerNorm.weight": "embeddings.LayerNorm.weight", "bert.encoder.layer.0.attention.self.key.weight": "encoder.layer.0.attention.self.key.weight"}},
		{"names of 5.x, of those of 4.57", llava,
			[]string{"language_model.model.layers.0.mlp.up_proj.weight", "language_model.model.norm.weight", "language_model.lm_head.weight",
				"vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.weight", "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias"},
			map[string]string{
				"model.language_model.layers.0.mlp.up_proj.weight":                         "language_model.model.layers.0.mlp.up_proj.weight",
				"model.language_model.norm.weight":                                         "language_model.model.norm.weight",
				"lm_head.weight":                                                           "language_model.lm_head.weight",
				"model.vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.weight": "vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.weight",
				"model.vision_tower.vision_model.encoder.layers.0.layer_norm1.bias":        "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias"}},
		{"a tied head that is stored", `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": true}`,
			[]string{"model.embed_tokens.weight", "model.norm.weight"}, map[string]string{"lm_head.weight": "model.embed_tokens.weight"}},
		{"a type that the table does not have", `{"model_type": "nonesuch"}`, []string{"model.layers.0.w.weight"},
			map[string]string{"layers.0.w.weight": "model.layers.0.w.weight", "other.weight": "other.weight"}},
	} {
		query, err := arch.ParseConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for n := range c.want {
			names = append(names, n)
		}
		sub := &subject{query: query}
		if sub.model, err = arch.Resolve(query, names); err != nil {
			sub.model = nil
		}
		source, err := arch.Resolve(query, c.source)
		if err != nil {
			source = nil
		}
		twins := newCounterparts(sub, source, c.source, names)
		for n, want := range c.want {
			if got := twins.of(n); got != want {
				t.Errorf("%s: %s is made of %s, want %s", c.name, n, got, want)
			}
		}
	}
}

// TestBothWays: what the source has and a checkpoint by others has not is a failure where the model needs it.
func TestBothWays(t *testing.T) {
	drop := func(part string) func(dir string) {
		return func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if strings.Contains(name, part) {
					return "", nil
				}
				return name, data
			})
		}
	}
	for _, c := range []struct {
		name   string
		change func(dir string)
		fails  bool
		want   string
	}{
		{"nothing", func(string) {}, false, ""},
		{"a weight with its sidecars", drop("layers.2.mlp.up_proj.weight"), true, "1 tensors of the source are not in the checkpoint"},
		{"a layer", drop("layers.3."), true, "9 tensors of the source"},
		{"a norm", drop("layers.1.input_layernorm"), true, "1 tensors of the source"},
		{"an untied head", drop("lm_head"), true, "1 tensors of the source"},
		{"a layer, in config.json too", func(dir string) {
			drop("layers.3.")(dir)
			replaceIn(t, filepath.Join(dir, "config.json"), `"num_hidden_layers": 4`, `"num_hidden_layers": 3`)
		}, true, "9 tensors of the source"},
		{"a tied head", func(dir string) {
			drop("lm_head")(dir)
			replaceIn(t, filepath.Join(dir, "config.json"), `"tie_word_embeddings": false`, `"tie_word_embeddings": true`)
		}, false, "not in the checkpoint"},
		{"the base model alone, by its names", func(dir string) {
			rewrite(t, dir, func(name string, data []byte) (string, []byte) {
				if name == "lm_head.weight" {
					return "", nil
				}
				return strings.TrimPrefix(name, "model."), data
			})
			replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "LlamaModel")
		}, false, "not in the checkpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := converted(t, llama, convert.Options{})
			os.Remove(filepath.Join(dir, manifest.Name))
			c.change(dir)
			r := check(t, dir, Options{Source: open(t, llama)})
			found := c.want == ""
			for _, f := range r.Findings {
				if strings.Contains(f.Text, c.want) && (f.Severity > fourbit.Notice) == c.fails {
					found = true
				}
			}
			if r.Failed() != c.fails || !found || r.Proof.Unproven > 0 {
				t.Errorf("failed %v, want %v with %q: %+v", r.Failed(), c.fails, c.want, r.Findings)
			}
		})
	}
}

// TestLayersBeyond: layers of the source that its config.json does not count are no part of the model.
func TestLayersBeyond(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	os.Remove(filepath.Join(dir, manifest.Name))
	rewrite(t, dir, func(name string, data []byte) (string, []byte) {
		if strings.Contains(name, "layers.3.") {
			return "", nil
		}
		return name, data
	})
	source := t.TempDir()
	if err := os.CopyFS(source, os.DirFS(llama)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, source} {
		replaceIn(t, filepath.Join(d, "config.json"), `"num_hidden_layers": 4`, `"num_hidden_layers": 3`)
	}
	if r := check(t, dir, Options{Source: open(t, source)}); r.Failed() {
		t.Errorf("findings %+v", severe(r))
	}
}
