package report

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

func TestModelCard(t *testing.T) {
	r := sample(t)
	c := Card{Name: "model-nf4", BaseModel: "a/model", Tags: []string{"nf4"}, Format: "NF4, block size 64", Bits: 5.1, Saved: 68.2, Package: "transformers", Class: "AutoModelForCausalLM"}
	for _, k := range []struct {
		name, source string
		card         Card
		want         map[string]any
	}{
		{"kept", "---\nlicense: llama3.2\nlicense_link: LICENSE\nlanguage:\n- en\n- de\ntags: [pytorch, nf4]\nmodel-index:\n- name: x\n---\n# Old\n", c,
			map[string]any{"base_model": "a/model", "base_model_relation": "quantized", "license": "llama3.2", "license_link": "LICENSE",
				"language": []any{"en", "de"}, "tags": []any{"pytorch", "nf4", "bitsandbytes", "4-bit"}}},
		{"no card", "", c, map[string]any{"base_model": "a/model", "base_model_relation": "quantized", "tags": []any{"bitsandbytes", "4-bit", "nf4"}}},
		{"no front matter", "# Just text\n---\n", Card{Name: "m"}, map[string]any{"tags": []any{"bitsandbytes", "4-bit"}}},
		{"broken", "---\n{[\n---\n", Card{Name: "m"}, map[string]any{"tags": []any{"bitsandbytes", "4-bit"}}},
		{"aliases", "---\nx: &a mit\nlicense: *a\n---\n", Card{Name: "m"}, map[string]any{"tags": []any{"bitsandbytes", "4-bit"}}},
		{"windows", "---\r\nlicense: mit\r\nbase_model:\r\n- b/base\r\n---\r\n", Card{Name: "m"},
			map[string]any{"license": "mit", "base_model": "b/base", "base_model_relation": "quantized", "tags": []any{"bitsandbytes", "4-bit"}}},
	} {
		t.Run(k.name, func(t *testing.T) {
			out, err := ModelCard([]byte(k.source), k.card, r)
			if err != nil {
				t.Fatal(err)
			}
			text := string(out)
			front, body, ok := strings.Cut(strings.TrimPrefix(text, "---\n"), "\n---\n")
			if !ok {
				t.Fatalf("no front matter:\n%s", text)
			}
			var got map[string]any
			if err := yaml.Unmarshal([]byte(front), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(k.want, got); diff != "" {
				t.Errorf("front matter (-want +got):\n%s", diff)
			}
			if !strings.Contains(body, "# "+k.card.Name+"\n") || !strings.Contains(body, "| nf4,block=64,dq | 21 |") {
				t.Errorf("body:\n%s", body)
			}
		})
	}
}

func FuzzModelCard(f *testing.F) {
	f.Add([]byte("---\nlicense: mit\ntags:\n- a\n---\n# x\n"))
	f.Add([]byte("---\nlicense: [a, {b: c}]\n---\n"))
	r := New(nil)
	f.Fuzz(func(t *testing.T, source []byte) {
		out, err := ModelCard(source, Card{Name: "m"}, r)
		if err != nil {
			t.Skip()
		}
		if front := frontMatter(out); only(front["tags"]) == "" {
			t.Fatalf("no tags in:\n%s", out)
		}
	})
}
