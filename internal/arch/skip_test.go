package arch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// layered drops what cannot be in one checkpoint: a layer has either a dense
// MLP or experts.
func layered(names []string) []string {
	sparse := regexp.MustCompile(`expert|\.gate\.|router`)
	dense := regexp.MustCompile(`\.(mlp|feed_forward)\.(gate_proj|up_proj|down_proj|gate_up_proj)\.`)
	if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "expert") }) {
		return names
	}
	odd := regexp.MustCompile(`\.1\.`)
	return slices.DeleteFunc(names, func(n string) bool {
		if odd.MatchString(n) {
			return sparse.MatchString(n)
		}
		return dense.MatchString(n) && !sparse.MatchString(n)
	})
}

func split(m *Model, t Target, names []string) (kept, quantized []Tensor) {
	for _, n := range names {
		c := m.Classify(n)
		switch {
		case c.Quantize(t) && !c.Tower && !c.Projector:
			quantized = append(quantized, Tensor{n, c})
		case c.Module:
			kept = append(kept, Tensor{n, c})
		}
	}
	return kept, quantized
}

// For every class of the table and every target there must be a skip list
// that every loader reads as meant.
func TestSkipListServesEveryClass(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	targets := []Target{Transformers5 | Transformers4, Transformers5, Transformers4}
	for _, info := range Types() {
		mt := lookupType(info.ModelType)
		for _, c := range mt.classes {
			names := layered(c.names("0", "1", "2"))
			for _, tied := range []bool{false, true} {
				if tied && len(c.keep[V5].tied)+len(c.keep[V5].untied)+len(c.keep[V4].tied)+len(c.keep[V4].untied) == 0 {
					continue
				}
				q := Query{ModelType: mt.name, Architectures: []string{c.name}, Tied: tied, TiedSet: true}
				m, err := Resolve(q, names)
				if err != nil {
					t.Fatal(err)
				}
				if m.Class != c.name {
					t.Errorf("%s: resolved %s as %s", mt.name, c.name, m.Class)
				}
				for _, target := range targets {
					kept, quantized := split(m, target, names)
					list, bad := m.SkipList(target, kept, quantized)
					if c.name == "GroundingDinoForObjectDetection" && tied && target == Transformers5|Transformers4 {
						// Its tied copies of bbox_embed are in no checkpoint, and their number is not known: refused.
						if len(bad) == 0 {
							t.Errorf("%s: served by %q", c.name, list)
						}
						continue
					}
					for i, v := range bad {
						if i == 3 {
							break
						}
						t.Errorf("%s/%s for %s, tied %v: %v; list %q", mt.name, c.name, target, tied, v, list)
					}
				}
			}
		}
	}
}

// A null list does for the classes of diffusers, which keep nothing but what
// _keep_in_fp32_modules names.
func TestSkipListServesEveryComponent(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	for _, info := range Components() {
		names := lookupType(info.Class).base.names("0", "1", "2")
		m, err := Resolve(Query{ModelType: info.Class, Diffusers: true}, names)
		if err != nil {
			t.Fatal(err)
		}
		kept, quantized := split(m, Diffusers, names)
		if list, bad := m.SkipList(Diffusers, kept, quantized); len(list)+len(bad) > 0 {
			t.Errorf("%s: list %q, %v; want null", info.Class, list, bad)
		}
		if len(quantized)+len(info.Kept) == 0 {
			t.Errorf("%s: no Linear", info.Class)
		}
	}
}

func llamaTensors(t *testing.T, quantize func(name string) bool) (m *Model, kept, quantized []Tensor) {
	t.Helper()
	c := lookupType("llama").class("LlamaForCausalLM")
	names := c.names("0", "1", "2", "10", "11", "12")
	m, err := Resolve(Query{ModelType: "llama", Architectures: []string{"LlamaForCausalLM"}}, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		switch c := m.Classify(n); {
		case c.Quantize(0) && quantize(n):
			quantized = append(quantized, Tensor{n, c})
		case c.Module:
			kept = append(kept, Tensor{n, c})
		}
	}
	return m, kept, quantized
}

func TestSkipList(t *testing.T) {
	but := func(parts ...string) func(string) bool {
		return func(name string) bool {
			return !slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(name, p) })
		}
	}
	tests := []struct {
		name     string
		target   Target
		quantize func(string) bool
		want     []string
		bad      int
	}{
		// qa_outputs and score are the heads of the type's task models.
		{"default", 0, but(), []string{"lm_head", "qa_outputs", "score"}, 0},
		{"down_proj kept", 0, but("down_proj"), []string{"down_proj", "lm_head", "qa_outputs", "score"}, 0},
		// 4.57 takes the component, 5.x only the ends of paths.
		{"attention kept", 0, but("self_attn"), []string{"k_proj", "lm_head", "o_proj", "q_proj", "qa_outputs", "score", "self_attn", "v_proj"}, 0},
		// "model.layers.1" would hit layers 10 to 12 in 5.0-5.20; the paths
		// without "model." are the base model's.
		{"layer 1 kept", Transformers5, but("layers.1."), []string{"layers.1.mlp", "layers.1.self_attn", "lm_head",
			"model.layers.1.mlp", "model.layers.1.self_attn", "qa_outputs", "score"}, 0},
		{"layer 11 kept", 0, but("layers.11."), []string{"layers.11", "lm_head", "model.layers.11", "qa_outputs", "score"}, 0},
		// vLLM has q, k and v in one module.
		{"one of q, k, v kept", Transformers5 | VLLM, but("layers.11.self_attn.q_proj"),
			[]string{"layers.11.self_attn.q_proj", "lm_head", "model.layers.11.self_attn.q_proj", "qa_outputs", "score"}, 2},
	}
	for _, test := range tests {
		m, kept, quantized := llamaTensors(t, test.quantize)
		list, bad := m.SkipList(test.target, kept, quantized)
		if diff := cmp.Diff(test.want, list); diff != "" || len(bad) != test.bad {
			t.Errorf("%s: %d violations, want %d; list (-want +got):\n%s", test.name, len(bad), test.bad, diff)
		}
		if again := CheckSkip(list, test.target, kept, quantized); !slices.Equal(again, bad) {
			t.Errorf("%s: CheckSkip says %v, SkipList %v", test.name, again, bad)
		}
	}
}

func TestCheckSkip(t *testing.T) {
	_, kept, quantized := llamaTensors(t, func(string) bool { return true })
	tests := []struct {
		list   []string
		target Target
		want   []string
	}{
		{[]string{"lm_head"}, 0, nil},
		{[]string{`lm_head$`}, Transformers5, nil},
		{nil, Transformers5, []string{
			"transformers 5.0-5.20: no entry skips lm_head, which is not quantized",
			"transformers 5.21 and later: no entry skips lm_head, which is not quantized"}},
		{[]string{"lm_head", "model.layers.1"}, Transformers5, []string{
			`transformers 5.0-5.20: entry "model.layers.1" skips model.layers.1.mlp.down_proj, which is quantized`}},
		{[]string{"lm_head", "(?=x)"}, Transformers5, []string{
			`transformers 5.21 and later: entry "(?=x)" is no regular expression that can be checked`}},
		{[]string{"lm_head", "*"}, Transformers4, nil},
	}
	for _, test := range tests {
		var got []string
		for _, v := range CheckSkip(test.list, test.target, kept, quantized) {
			got = append(got, v.String())
		}
		if len(got) > len(test.want) && len(test.want) > 0 {
			got = got[:len(test.want)]
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.list, diff)
		}
	}
}

// A list longer than MaxSkip is cut and reported, not written.
func TestSkipListLimit(t *testing.T) {
	c := lookupType("llama").class("LlamaForCausalLM")
	var names []string
	for l := range 600 {
		names = append(names, fmt.Sprintf("model.layers.%d.self_attn.q_proj.weight", l), fmt.Sprintf("model.layers.%d.self_attn.k_proj.weight", l))
	}
	m, err := Resolve(Query{ModelType: "llama", Architectures: []string{c.name}}, names)
	if err != nil {
		t.Fatal(err)
	}
	var kept, quantized []Tensor
	for i, n := range names {
		if x := (Tensor{n, m.Classify(n)}); i%4 == 0 {
			kept = append(kept, x)
		} else {
			quantized = append(quantized, x)
		}
	}
	list, bad := m.SkipList(0, kept, quantized)
	if len(list) > MaxSkip || len(bad) == 0 {
		t.Errorf("%d entries, %d violations", len(list), len(bad))
	}
}

// The fast comparison of a plain name and the regular expression that it
// stands for must agree.
func FuzzSkipEntry(f *testing.F) {
	f.Add("model.layers.1", "model.layers.11.mlp.up_proj")
	f.Add("lm_head", "lm_head")
	f.Add("model.", "model.x")
	f.Add("", "a.b")
	f.Add("..", "a.b")
	f.Fuzz(func(t *testing.T, text, path string) {
		if strings.ContainsAny(path, "\n") || !utf8.ValidString(path) {
			return // Python and RE2 differ on what a dot matches there
		}
		plain := newSkipEntry(text)
		for l := LoaderT4; l <= LoaderVLLM; l++ {
			plain.matches(l, path)
		}
		if !plain.plain || plain.err != nil || !utf8.ValidString(text) {
			return
		}
		for _, r := range text + path {
			if r > 0x7f {
				return // the names of modules are ASCII
			}
		}
		slow := plain
		slow.plain = false
		slow.open = regexp.MustCompile("^(?:" + text + ")")
		slow.closed = regexp.MustCompile("^(?:" + text + `)(?:$|\.)`)
		for _, l := range []Loader{LoaderT50, LoaderT521} {
			if plain.matches(l, path) != slow.matches(l, path) {
				t.Errorf("%s: %q on %q: plain %v, expression %v", l, text, path, plain.matches(l, path), slow.matches(l, path))
			}
		}
	})
}

// An nn.MultiheadAttention's in_proj_weight is split into Linears by 5.x, which the list has to keep.
func TestSkipListOfSplitParameter(t *testing.T) {
	const in, out = "transformer.resblocks.0.attn.in_proj_weight", "transformer.resblocks.0.attn.out_proj.weight"
	m, err := Resolve(Query{ModelType: "step3p5_vision", Architectures: []string{"Step3p7VisionModel"}}, []string{in, out})
	if err != nil {
		t.Fatal(err)
	}
	c := m.Classify(in)
	if !c.Module || c.Quant[V5] || !c.Fused {
		t.Errorf("%s: %+v", in, c)
	}
	kept, quantized := []Tensor{{in, c}}, []Tensor{{out, m.Classify(out)}}
	list, bad := m.SkipList(Transformers5, kept, quantized)
	if len(bad) > 0 || len(list) == 0 {
		t.Errorf("list %q, violations %v", list, bad)
	}
	if bad := CheckSkip(list, Transformers5, kept, quantized); len(bad) > 0 {
		t.Errorf("list %q: %v", list, bad)
	}
}

// TestSkipListExpressions is about modules that no name tells from others in transformers 5.
func TestSkipListExpressions(t *testing.T) {
	for _, c := range []struct {
		query Query
		names []string
		want  string // an entry
	}{
		// "proj" is the end of q_proj; the tensor itself is called "weight".
		{Query{ModelType: "jev", Architectures: []string{"JevForDecision"}, Sub: map[string]string{"text_config": "qwen3_5_text"}},
			[]string{"weight", "bias", "model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"}, "proj$"},
		// Of the three layers that share two blocks the last has no tensors, and the second's block is not tied.
		{Query{ModelType: "zamba2", Architectures: []string{"Zamba2ForCausalLM"}},
			[]string{"model.layers.1.shared_transformer.self_attn.q_proj.weight", "model.layers.3.shared_transformer.self_attn.q_proj.weight",
				"model.layers.1.linear.weight", "model.layers.5.linear.weight", "model.layers.0.mamba.in_proj.weight"}, ".*shared_transformer"},
	} {
		m, err := Resolve(c.query, c.names)
		if err != nil {
			t.Fatal(err)
		}
		const both = Transformers5 | Transformers4
		var kept, quantized []Tensor
		for _, n := range c.names {
			switch d := m.Classify(n); {
			case d.Quantize(both):
				quantized = append(quantized, Tensor{n, d})
			case d.Module:
				kept = append(kept, Tensor{n, d})
			}
		}
		list, bad := m.SkipList(both, kept, quantized)
		if len(kept) == 0 || len(quantized) == 0 || len(bad) > 0 || !slices.Contains(list, c.want) {
			t.Errorf("%s: list %q of %d kept and %d quantized, %v; want %q in it", m.Class, list, len(kept), len(quantized), bad, c.want)
		}
	}
}

// TestServed: the list for transformers 5 and 4 keeps the same modules in vLLM and SGLang, where one list can.
func TestServed(t *testing.T) {
	names := []string{
		"vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
		"language_model.model.layers.0.self_attn.q_proj.weight", "language_model.model.layers.0.mlp.down_proj.weight",
	}
	m, err := Resolve(Query{ModelType: "gemma3", Architectures: []string{"Gemma3ForConditionalGeneration"}, Sub: map[string]string{
		"text_config": "gemma3_text", "vision_config": "siglip_vision_model"}}, names)
	if err != nil {
		t.Fatal(err)
	}
	var kept, quantized []Tensor
	for _, n := range names {
		if c := m.Classify(n); c.Tower {
			kept = append(kept, Tensor{n, c})
		} else {
			quantized = append(quantized, Tensor{n, c})
		}
	}
	if len(kept) != 2 || len(quantized) != 2 {
		t.Fatalf("kept %v, quantized %v", kept, quantized)
	}
	list, bad := m.SkipList(0, kept, quantized)
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	if bad := CheckSkip(list, Transformers5|Transformers4|VLLM|SGLang, kept, quantized); len(bad) > 0 {
		t.Errorf("%v: %v", list, bad)
	}
	// The tower's name is a component of what is quantized; another of its components serves.
	quantized = append(quantized, Tensor{"x", Class{AllPaths: []string{"a.vision_tower.fc1"}}})
	list, bad = m.SkipList(0, kept, quantized)
	if diff := cmp.Diff([]string{"encoder", "lm_head", "model.vision_tower", "score"}, list); diff != "" || len(bad) > 0 {
		t.Errorf("list (-want +got):\n%s%v", diff, bad)
	}
}
