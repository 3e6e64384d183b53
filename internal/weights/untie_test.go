package weights

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

const tinyConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
 "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 6, "rms_norm_eps": 1.0, "tie_word_embeddings": true}`

func tiny(t *testing.T, config string, more ...string) *Model {
	t.Helper()
	var entries []safetensors.Entry
	for _, name := range append([]string{"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"}, more...) {
		shape := []int64{4, 4}
		switch {
		case strings.Contains(name, "norm"):
			shape = []int64{4}
		case strings.HasSuffix(name, "bias"):
			shape = []int64{6}
		case strings.Contains(name, "position"), strings.Contains(name, "per_layer"):
			shape = []int64{8, 4}
		case strings.Contains(name, "embed"), strings.Contains(name, "head"):
			shape = []int64{6, 4}
		}
		entries = append(entries, safetensors.Entry{Name: name, DType: safetensors.BF16, Shape: shape})
	}
	layout, err := safetensors.NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), layout)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		n := 2 * e.Shape[0]
		if len(e.Shape) == 2 {
			n *= e.Shape[1]
		}
		if err := w.WriteAt(e.Name, []byte(strings.Repeat(string(rune('a'+i)), int(n))), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := Open(src)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An untied model has a head of its own, and the model that it was made of is as before.
func TestUntie(t *testing.T) {
	m := tiny(t, tinyConfig)
	before := string(m.Source.Config)
	u, err := m.Untie()
	if err != nil {
		t.Fatal(err)
	}
	head := &u.Tensors[len(u.Tensors)-1]
	got, want := make([]byte, 48), make([]byte, 48)
	if err := head.Read(got, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.TiedHead().Read(want, 0); err != nil {
		t.Fatal(err)
	}
	if head.Name != "lm_head.weight" || string(got) != string(want) || u.Query.Tied || u.TiedHead() != nil {
		t.Errorf("%s %q, tied %v", head.Name, got, u.Query.Tied)
	}
	if after := string(u.Source.Config); after != strings.Replace(before, "true", "false", 1) {
		t.Errorf("config.json %s", after)
	}
	if string(m.Source.Config) != before || !m.Query.Tied || len(m.Tensors) != len(u.Tensors)-1 {
		t.Error("the tied model has changed")
	}
}

// No head is tied that is stored, is said not to be, or is not known to be there.
func TestTiedHead(t *testing.T) {
	for name, m := range map[string]*Model{
		"stored":   tiny(t, tinyConfig, "lm_head.weight"),
		"untied":   tiny(t, strings.Replace(tinyConfig, "true", "false", 1)),
		"headless": tiny(t, strings.Replace(tinyConfig, "LlamaForCausalLM", "LlamaForSequenceClassification", 1), "score.weight"),
	} {
		if x := m.TiedHead(); x != nil {
			t.Errorf("%s: %s", name, x.Name)
		}
	}
	if tiny(t, strings.Replace(tinyConfig, `, "tie_word_embeddings": true`, "", 1)).TiedHead() == nil {
		t.Error("a head that is neither stored nor spoken of is not tied")
	}
}

// The head of a type has the name that its class gives it, and BERT's its own bias. What is larger than the embeddings of the text, as
// positions and those of each layer may be, shares nothing.
func TestUntieNames(t *testing.T) {
	bert := []string{"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight", "cls.predictions.bias", "cls.predictions.transform.dense.weight"}
	for name, c := range map[string]struct {
		config  string
		tensors []string
		tied    string
		added   []string
	}{
		"BERT": {`{"architectures": ["BertForMaskedLM"], "model_type": "bert"}`, bert, bert[0], []string{"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}},
		"ESM": {`{"architectures": ["EsmForMaskedLM"], "model_type": "esm"}`, []string{"esm.embeddings.word_embeddings.weight", "lm_head.bias", "lm_head.dense.weight"},
			"esm.embeddings.word_embeddings.weight", []string{"lm_head.decoder.weight"}},
		"DistilBERT": {`{"architectures": ["DistilBertForMaskedLM"], "model_type": "distilbert"}`, []string{"distilbert.embeddings.word_embeddings.weight"},
			"distilbert.embeddings.word_embeddings.weight", []string{"vocab_projector.weight"}},
		"XLM": {`{"architectures": ["XLMWithLMHeadModel"], "model_type": "xlm"}`, []string{"transformer.embeddings.weight", "transformer.position_embeddings.weight", "pred_layer.proj.bias"},
			"transformer.embeddings.weight", []string{"pred_layer.proj.weight"}},
		"Gemma 3n": {`{"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text"}`, []string{"model.embed_tokens_per_layer.weight"}, "model.embed_tokens.weight", []string{"lm_head.weight"}},
		"Gemma 3": {`{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}`,
			[]string{"language_model.model.embed_tokens.weight"}, "language_model.model.embed_tokens.weight", []string{"language_model.lm_head.weight"}},
	} {
		m := tiny(t, c.config, c.tensors...)
		if x := m.TiedHead(); x == nil || x.Name != c.tied {
			t.Fatalf("%s: %+v are tied, want %s", name, x, c.tied)
		}
		u, err := m.Untie()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var added []string
		for _, x := range u.Tensors[len(m.Tensors):] {
			added = append(added, x.Name)
		}
		if !slices.Equal(added, c.added) || u.Query.TextTied != nil && *u.Query.TextTied {
			t.Errorf("%s: %v, want %v", name, added, c.added)
		}
		if sub := m.Query.Sub["text_config"]; (sub != "") != (u.Query.TextTied != nil) {
			t.Errorf("%s: %s", name, u.Source.Config)
		}
	}
}
