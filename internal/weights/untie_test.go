package weights

import (
	"os"
	"path/filepath"
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
	if head.Name != HeadName || string(got) != string(want) || u.Query.Tied || u.TiedHead() != nil {
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
		"stored":   tiny(t, tinyConfig, HeadName),
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
