package complete

import (
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/safetensors"
)

// TestFacts reads all of facts.txt.
func TestFacts(t *testing.T) {
	types := slices.Collect(factsText.Names())
	if len(types) < 40 {
		t.Fatalf("%d types, want those of the field", len(types))
	}
	for _, name := range types {
		all := factsOf(name)
		if len(all) == 0 {
			t.Errorf("%s: no class", name)
		}
		for _, f := range all {
			if f.version != "5" && f.version != "4" || len(f.layouts) == 0 {
				t.Errorf("%s %s: in=%q, %d layouts", name, f.class, f.version, len(f.layouts))
			}
			for i, l := range f.layouts {
				for pattern, g := range l.groups {
					if len(g.rows) == 0 {
						t.Errorf("%s %s layout %d: %s has no row", name, f.class, i, pattern)
					}
					for _, c := range g.containers {
						if _, ok := l.counts[c]; !ok {
							t.Errorf("%s %s layout %d: no count of %s", name, f.class, i, c)
						}
					}
				}
			}
		}
	}
}

func FuzzParseFacts(f *testing.F) {
	for _, name := range []string{"llama", "gpt2"} {
		_, block, _ := strings.Cut(factsText.Find(name), "\n")
		f.Add(block[:min(len(block), 3000)])
	}
	f.Add("class A in=5 prefix=m\ndefault x =a*b/c\nlayout\ncount l.# ceil(n/2)\nl.#.w - [a+2*b-3,?0] t:x&!lt:0:y 1 e\nclass B in=5 prefix=p\nlayout from=A/0\nl.#.w - none 0 0\n")
	f.Fuzz(func(t *testing.T, block string) {
		all, err := parseFacts(block)
		if err != nil {
			return
		}
		v, err := newValues([]byte(`{"a": 3, "b": [1, "x"], "n": 2, "s": "t", "x": null}`))
		if err != nil {
			t.Fatal(err)
		}
		tensors := []Tensor{{Name: "l.0.w", DType: safetensors.F32, Shape: []int64{3}}, {Name: "l.7.w", DType: safetensors.I8}, {Name: "e"}, {Name: "l.01.w"}}
		for _, f := range all {
			for _, l := range f.layouts {
				l.check(f, v.of(f), tensors, false)
			}
		}
	})
}

// FuzzCheck: whatever names, shapes and configs say, Check ends and reports within its bounds.
func FuzzCheck(f *testing.F) {
	f.Add(llamaConfig, "model.layers.0.mlp.up_proj.weight\nmodel.layers.999999999.mlp.up_proj.weight", int64(4))
	f.Add(`{"model_type": "mixtral", "num_hidden_layers": 1e300, "num_local_experts": -1, "head_dim": 0}`, "model.layers.0.block_sparse_moe.experts.7.w1.weight", int64(0))
	f.Add(`{"model_type": "llama", "id2label": {"0": "a"}, "num_attention_heads": [], "tie_word_embeddings": "x"}`, "layers.0..\n.\n", int64(-1))
	f.Add(`{"model_type": "other", "num_hidden_layers": 4}`, "a.0.w\na.1.w\na.2.w\na.9.w\nb.lora_A.x", int64(1))
	f.Fuzz(func(t *testing.T, config, names string, dim int64) {
		q, err := arch.ParseConfig([]byte(config))
		if err != nil {
			return
		}
		var tensors []Tensor
		lines := strings.Split(names, "\n")
		for i, name := range lines[:min(len(lines), 200)] {
			tensors = append(tensors, Tensor{Name: name, DType: safetensors.DType(i % 12), Shape: []int64{dim, int64(i)}, Turned: i%3 == 0})
		}
		m, err := arch.Resolve(q, lines)
		if err != nil {
			m = arch.Unknown(q)
		}
		r, err := Check(m, q, []byte(config), tensors)
		if err != nil {
			return
		}
		if len(r.Problems) > maxProblems {
			t.Errorf("%d problems spelled out, want at most %d", len(r.Problems), maxProblems)
		}
	})
}
