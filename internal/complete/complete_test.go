package complete

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/safetensors"
)

const llamaConfig = `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12,
	"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 10}`

// llama lists the tensors of llamaConfig's model, with so many layers.
func llama(layers int) []Tensor {
	out := []Tensor{weight("model.embed_tokens", 10, 8), weight("model.norm", 8), weight("lm_head", 10, 8)}
	for i := range layers {
		l := fmt.Sprintf("model.layers.%d.", i)
		out = append(out, weight(l+"self_attn.q_proj", 8, 8), weight(l+"self_attn.k_proj", 4, 8), weight(l+"self_attn.v_proj", 4, 8),
			weight(l+"self_attn.o_proj", 8, 8), weight(l+"mlp.gate_proj", 12, 8), weight(l+"mlp.up_proj", 12, 8),
			weight(l+"mlp.down_proj", 8, 12), weight(l+"input_layernorm", 8), weight(l+"post_attention_layernorm", 8))
	}
	return out
}

func weight(module string, shape ...int64) Tensor {
	return Tensor{Name: module + ".weight", DType: safetensors.BF16, Shape: shape}
}

// edit replaces the tensor of that name, or drops it.
func edit(tensors []Tensor, name string, to ...Tensor) []Tensor {
	out := slices.DeleteFunc(tensors, func(t Tensor) bool { return t.Name == name })
	return append(out, to...)
}

func check(t *testing.T, config string, tensors []Tensor) *Report {
	t.Helper()
	q, err := arch.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(tensors))
	for i := range tensors {
		names[i] = tensors[i].Name
	}
	m, err := arch.Resolve(q, names)
	if err != nil {
		m = arch.Unknown(q)
	}
	r, err := Check(m, q, []byte(config), tensors)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUnknownScheme: integers under a name of a scheme's own are no weights, however many names the class does not have.
func TestUnknownScheme(t *testing.T) {
	tensors := []Tensor{weight("model.embed_tokens", 10, 8)}
	for i := range 2 {
		for _, p := range []string{"gate_proj", "up_proj"} {
			name := fmt.Sprintf("model.layers.%d.mlp.%s.weight_", i, p)
			tensors = append(tensors, Tensor{Name: name + "qdata", DType: safetensors.I8, Shape: []int64{12, 8}}, Tensor{Name: name + "scale", DType: safetensors.BF16, Shape: []int64{12, 1}})
		}
	}
	r := check(t, llamaConfig, tensors)
	if want := (Problem{DType, "model.layers.0.mlp.gate_proj.weight_qdata", "floating-point weights", "I8"}); r.Count() != 4 || r.Problems[0] != want {
		t.Errorf("got %v, want four and the first %v", r.Problems, want)
	}
}

// TestListOfUnknownLength: where a list in config.json says how many modules there are, its length is not the default's.
func TestListOfUnknownLength(t *testing.T) {
	const config = `{"model_type": "hubert", "architectures": ["HubertModel"], "conv_dim": [%s], "conv_kernel": [10, 3], "hidden_size": 8}`
	for dims, layers := range map[string]int{"4, 4": 2, "4, 4, 4, 4, 4, 4, 4, 4, 4": 9} {
		var tensors []Tensor
		for i := range layers {
			tensors = append(tensors, weight(fmt.Sprintf("feature_extractor.conv_layers.%d.conv", i), 4, min(4, int64(1+3*i)), []int64{10, 3}[min(i, 1)]))
		}
		for _, p := range check(t, fmt.Sprintf(config, dims), tensors).Problems {
			if strings.Contains(p.Tensor, "conv_layers") && !strings.Contains(p.Tensor, "layer_norm") {
				t.Errorf("%d layers: %s", layers, p)
			}
		}
		if layers > 7 {
			continue // of the eighth the facts know nothing
		}
		last := fmt.Sprintf("feature_extractor.conv_layers.%d.conv.weight", layers-1)
		if !slices.ContainsFunc(check(t, fmt.Sprintf(config, dims), tensors[:layers-1]).Problems, func(p Problem) bool { return p.Tensor == last }) {
			t.Errorf("%d layers: %s is not missed", layers, last)
		}
	}
}

func TestCheck(t *testing.T) {
	tied := strings.Replace(llamaConfig, "{", `{"tie_word_embeddings": true, `, 1)
	biased := strings.Replace(llamaConfig, "{", `{"attention_bias": true, `, 1)
	noClass := strings.Replace(llamaConfig, `"architectures": ["LlamaForCausalLM"], `, "", 1)
	bare := func(tensors []Tensor) []Tensor {
		for i := range tensors {
			tensors[i].Name = strings.TrimPrefix(tensors[i].Name, "model.")
		}
		return tensors
	}
	const up = "model.layers.1.mlp.up_proj.weight"
	tests := []struct {
		name, config string
		tensors      []Tensor
		want         []string
	}{
		{"sound", llamaConfig, llama(2), nil},
		{"without prefix", llamaConfig, bare(llama(2)), nil},
		{"tied, no head", tied, edit(llama(2), "lm_head.weight"), nil},
		{"tied, the head alone", tied, edit(llama(2), "model.embed_tokens.weight"), nil},
		{"frequencies", llamaConfig, append(llama(2), Tensor{Name: "model.layers.0.self_attn.rotary_emb.inv_freq", DType: safetensors.F32, Shape: []int64{2}}), nil},
		{"nothing", llamaConfig, nil, nil},
		{"no head", llamaConfig, edit(llama(2), "lm_head.weight"), []string{"missing lm_head.weight: it, of shape [10, 8] / no such tensor"}},
		{"no embedding", llamaConfig, edit(llama(2), "model.embed_tokens.weight"), []string{"missing model.embed_tokens.weight: it, of shape [10, 8] / no such tensor"}},
		{"no norm", llamaConfig, edit(llama(2), "model.norm.weight"), []string{"missing model.norm.weight: it, of shape [8] / no such tensor"}},
		{"no projection", llamaConfig, edit(llama(2), up), []string{"missing " + up + ": it, of shape [12, 8] / no such tensor"}},
		{"cut", llamaConfig, edit(llama(2), up, weight("model.layers.1.mlp.up_proj", 11, 8)), []string{"misshapen " + up + ": shape [12, 8] / [11, 8]"}},
		{"empty", llamaConfig, edit(llama(2), up, weight("model.layers.1.mlp.up_proj", 0)), []string{"empty " + up + ": shape [12, 8] / [0]"}},
		{"integers", llamaConfig, edit(llama(2), up, Tensor{Name: up, DType: safetensors.I8, Shape: []int64{12, 8}}), []string{"wrong type " + up + ": floating-point weights / I8"}},
		{"a layer too many", llamaConfig, llama(3), []string{"foreign model.layers.2: only 2 (num_hidden_layers) by config.json / it, with 9 tensors"}},
		{"renamed", llamaConfig, edit(llama(2), up, weight("model.layers.1.mlp.upper", 12, 8)), []string{
			"missing " + up + ": it, of shape [12, 8] / no such tensor", "foreign model.layers.1.mlp.upper.weight: only tensors of LlamaForCausalLM / it"}},
		{"a bias that config.json denies", llamaConfig, append(llama(2), Tensor{Name: "model.layers.0.self_attn.q_proj.bias", DType: safetensors.BF16, Shape: []int64{8}}),
			[]string{"foreign model.layers.0.self_attn.q_proj.bias: no such tensor by config.json (attention_bias) / it"}},
		{"biases that it wants", biased, llama(1), nil},
		{"the head of another task, of no class", noClass, edit(llama(2), "lm_head.weight", weight("qa_head", 2, 8)), nil},
		{"the head of another task, of a class", llamaConfig, append(llama(2), weight("qa_head", 2, 8)), []string{"foreign qa_head.weight: only tensors of LlamaForCausalLM / it"}},
		{"of no class, within the model", noClass, append(llama(2), weight("model.layers.1.mlp.other", 12, 8)), []string{"foreign model.layers.1.mlp.other.weight: only tensors of LlamaForCausalLM / it"}},
		{"a class of its own, with a module that the base model has too", strings.Replace(llamaConfig, "ForCausalLM", "ForXVector", 1),
			edit(llama(2), "lm_head.weight", weight("norm", 6), weight("head", 2, 8)), nil},
		{"a class of its own, its head empty", strings.Replace(llamaConfig, "ForCausalLM", "ForXVector", 1),
			edit(llama(2), "lm_head.weight", weight("head", 0, 8)), []string{"empty head.weight: weights / shape [0, 8]"}},
		{"a class of its own, within the model", strings.Replace(llamaConfig, "ForCausalLM", "ForXVector", 1),
			append(llama(2), weight("model.layers.1.mlp.other", 12, 8)), []string{"foreign model.layers.1.mlp.other.weight: only tensors of LlamaModel / it"}},
		{"a class of its own, with a parameter within the model", strings.Replace(llamaConfig, "ForCausalLM", "ForMaskedModeling", 1),
			append(llama(2), Tensor{Name: "model.mask_token", DType: safetensors.BF16, Shape: []int64{1, 8}}), nil},
		{"a parameter that its class does not have", llamaConfig, append(llama(2), Tensor{Name: "model.mask_token", DType: safetensors.BF16, Shape: []int64{1, 8}}),
			[]string{"foreign model.mask_token: only tensors of LlamaForCausalLM / it"}},
		{"adapter", llamaConfig, edit(llama(2), up, weight("model.layers.1.mlp.up_proj.base_layer", 12, 8)), []string{
			"foreign model.layers.1.mlp.up_proj.base_layer.weight: a model's own tensors / one of a PEFT model with its adapter"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := check(t, test.config, test.tensors)
			var got []string
			for _, p := range r.Problems {
				got = append(got, fmt.Sprintf("%s %s: %s / %s", p.Kind, p.Tensor, p.Expected, p.Found))
			}
			switch test.name {
			case "nothing":
				if r.Count() < 12 {
					t.Errorf("nothing at all: %d problems", r.Count())
				}
				return
			case "biases that it wants":
				if r.Count() != 1+4 {
					t.Errorf("got %d problems, want a layer and 4 biases: %v", r.Count(), got)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Modules of which nothing is known have lists whose members are not alike: stages, and functions without weights between them.
func TestUnlikeMembers(t *testing.T) {
	const config = `{"model_type": "nobody-knows"}`
	layer := func(path string, n int, names ...string) (out []Tensor) {
		for _, name := range names {
			out = append(out, weight(fmt.Sprintf("%s.%d.%s", path, n, name), 4, 4))
		}
		return out
	}
	list := func(path string, from, to int, names ...string) (out []Tensor) {
		for n := from; n < to; n++ {
			out = append(out, layer(path, n, names...)...)
		}
		return out
	}
	plain := func(path string, n int, shape ...int64) Tensor {
		return weight(fmt.Sprintf("%s.%d", path, n), shape...)
	}
	tests := []struct {
		name    string
		tensors []Tensor
		want    string
	}{
		{"the last stage scales nothing", append(list("stages", 0, 3, "a", "b", "down"), layer("stages", 3, "a", "b")...), ""},
		{"the first stage takes pixels", append(list("stages", 1, 5, "a", "b"), weight("stages.0.a", 4, 3), weight("stages.0.b", 4, 4)), ""},
		{"functions between modules", []Tensor{plain("features", 0, 4, 4), plain("features", 2, 4, 4), plain("features", 3, 4), plain("features", 5, 4, 4), plain("features", 6, 4)}, ""},
		{"functions between blocks", slices.Concat(layer("mix", 0, "a", "b"), layer("mix", 2, "a", "b"), layer("mix", 4, "a", "b"), layer("mix", 6, "a", "b")), ""},
		{"functions between modules of several kinds", slices.Concat(layer("codec", 0, "conv.a"), layer("codec", 1, "block.a", "shortcut.a"), layer("codec", 3, "conv.a"),
			layer("codec", 4, "block.a", "shortcut.a"), layer("codec", 6, "conv.a"), layer("codec", 7, "lstm.a"), layer("codec", 9, "conv.a")), ""},
		{"a stage that scales by one", append(list("stages", 0, 4, "a"), weight("stages.0.resize", 4, 4, 4, 4), weight("stages.1.resize", 4, 4, 2, 2),
			weight("stages.3.resize", 4, 4, 3, 3)), ""},
		{"a block without a branch", append(list("blocks", 0, 4, "a"), slices.Concat(layer("blocks", 0, "conv.x", "norm.steps"), layer("blocks", 3, "norm.steps"),
			layer("blocks", 2, "norm.steps"), []Tensor{weight("blocks.2.conv.x", 4, 2), weight("blocks.3.conv.x", 4, 2)})...), ""},
		{"a layer lost", append(list("layers", 0, 3, "a", "b"), list("layers", 4, 6, "a", "b")...), "layers.3"},
		{"a weight lost", edit(list("layers", 0, 5, "a", "b"), "layers.2.b.weight"), "layers.2.b.weight"},
		{"a weight cut", edit(list("layers", 0, 5, "a", "b"), "layers.2.b.weight", weight("layers.2.b", 3, 4)), "layers.2.b.weight"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := check(t, config, test.tensors)
			var got []string
			for _, p := range r.Problems {
				got = append(got, p.Tensor)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %v, want %q", r.Problems, test.want)
			}
		})
	}
}

// Classes whose heads' size is not in config.json round it in ways that no fact has; where it is, it counts.
func TestUnevenHeads(t *testing.T) {
	base := `{"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_size": 10, "intermediate_size": 12,
		"num_hidden_layers": 1, "num_attention_heads": %d, "num_key_value_heads": 1, "vocab_size": 10}`
	model := func(inner int64) []Tensor {
		l := "model.layers.0."
		return []Tensor{weight("model.embed_tokens", 10, 10), weight("model.norm", 10), weight("lm_head", 10, 10),
			weight(l+"self_attn.o_proj", 10, inner), weight(l+"self_attn.qkv_proj", inner+10, 10), weight(l+"mlp.gate_up_proj", 24, 10),
			weight(l+"mlp.down_proj", 10, 12), weight(l+"input_layernorm", 10), weight(l+"post_attention_layernorm", 10)}
	}
	if r := check(t, fmt.Sprintf(base, 3), model(9)); r.Count() != 0 {
		t.Errorf("3 heads of 3: %v", r.Problems)
	}
	if r := check(t, fmt.Sprintf(base, 2), model(10)); r.Count() != 0 {
		t.Errorf("2 heads of 5: %v", r.Problems)
	}
	if r := check(t, fmt.Sprintf(base, 2), model(9)); r.Count() != 1 || r.Problems[0].Tensor != "model.layers.0.self_attn.o_proj.weight" {
		t.Errorf("2 heads of 5, a row cut off: %v", r.Problems)
	}
}

// A few tensors with high numbers in two holes stand for more experts than anyone can count.
func TestManyMembers(t *testing.T) {
	const config = `{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_hidden_layers": 900000000, "num_local_experts": 900000000}`
	var tensors []Tensor
	for i := range 300 {
		tensors = append(tensors, weight(fmt.Sprintf("model.layers.%d.block_sparse_moe.experts.%d.w1", i*2900000, i*2900000), 8, 8))
	}
	if r := check(t, config, tensors); r.Count() == 0 {
		t.Error("no problem found")
	}
}

func TestReportIsBounded(t *testing.T) {
	const n = 3 * maxHeld
	r := &Report{}
	for i := range n {
		r.add(Problem{Kind: Missing, Tensor: fmt.Sprintf("layers.%d", i*7919%n)})
	}
	if len(r.Problems) > maxHeld {
		t.Errorf("%d problems held", len(r.Problems))
	}
	r.seal()
	if r.Count() != n || len(r.Problems) != maxProblems {
		t.Errorf("%d problems, %d of them by name, want %d and %d", r.Count(), len(r.Problems), n, maxProblems)
	}
	for i, p := range r.Problems {
		if want := fmt.Sprintf("layers.%d", i); p.Tensor != want {
			t.Fatalf("problem %d is of %s, want %s", i, p.Tensor, want)
		}
	}
}

// Encoders are published without a pooler; half of one is a fault, as is none where a head is fed by it.
func TestPooler(t *testing.T) {
	const config = `{"model_type": "bert", "architectures": ["%s"], "hidden_size": 8, "intermediate_size": 12,
		"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 16}`
	encoder := func(prefix string) []Tensor {
		var out []Tensor
		add := func(module string, shape ...int64) {
			out = append(out, weight(prefix+module, shape...), Tensor{Name: prefix + module + ".bias", DType: safetensors.BF16, Shape: shape[:1]})
		}
		for _, e := range []struct {
			name string
			rows int64
		}{{"word", 10}, {"position", 16}, {"token_type", 2}} {
			out = append(out, weight(prefix+"embeddings."+e.name+"_embeddings", e.rows, 8))
		}
		add("embeddings.LayerNorm", 8)
		for _, m := range []string{"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"} {
			add("encoder.layer.0."+m, 8, 8)
		}
		add("encoder.layer.0.attention.output.LayerNorm", 8)
		add("encoder.layer.0.intermediate.dense", 12, 8)
		add("encoder.layer.0.output.dense", 8, 12)
		add("encoder.layer.0.output.LayerNorm", 8)
		return out
	}
	head := []Tensor{weight("classifier", 2, 8), {Name: "classifier.bias", DType: safetensors.BF16, Shape: []int64{2}}}
	for _, k := range []struct {
		name, class string
		tensors     []Tensor
		problems    int
	}{
		{"none", "BertModel", encoder(""), 0},
		{"none, prefixed", "BertModel", encoder("bert."), 0},
		{"half", "BertModel", append(encoder(""), weight("pooler.dense", 8, 8)), 1},
		{"a head without", "BertForSequenceClassification", append(encoder("bert."), head...), 2},
	} {
		if r := check(t, fmt.Sprintf(config, k.class), k.tensors); r.Count() != k.problems || k.problems == 0 && len(r.Notices) != 1 {
			t.Errorf("%s: %v, notices %q; want %d problems", k.name, r.Lines(), r.Notices, k.problems)
		}
	}
}
