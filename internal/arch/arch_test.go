package arch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTableParses(t *testing.T) {
	for a, of := range aliases() {
		if tableText.Find(of) == "" || tableText.Find(a) != "" {
			t.Errorf("alias %s of %s", a, of)
		}
	}
	names := slices.Concat(slices.Collect(tableText.Names()), slices.Collect(diffusersText.Names()))
	if len(names) < 800 {
		t.Errorf("the tables have only %d types", len(names))
	}
	for _, name := range names {
		block := tableText.Find(name)
		if block == "" {
			block = diffusersText.Find(name)
		}
		mt, err := parseBlock(block)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if mt.name != name || len(mt.classes) == 0 {
			t.Errorf("block %s: parsed as %q with %d classes", name, mt.name, len(mt.classes))
		}
		for _, c := range mt.classes {
			checkNode(t, c, c.root)
		}
	}
}

// Every nested model must exist, or a checkpoint would be classified in part,
// and kinds must be letters that classify knows.
func checkNode(t *testing.T, c *class, n *node) {
	t.Helper()
	e := &entry{class: c}
	for _, m := range n.models {
		if e.nested(m) == nil {
			t.Errorf("%s/%s: nothing to include for %s %s at %q", c.typ.name, c.name, m.typ, m.class, m.name)
		}
	}
	for _, r := range []*row{n.weight, n.param} {
		if r != nil && (!strings.ContainsRune("LSCKFXEP-", rune(r.k[V5])) || !strings.ContainsRune("LSCKFXEP-", rune(r.k[V4])) ||
			strings.Trim(r.roles, "rxvja") != "") {
			t.Errorf("%s/%s: row %q has kinds %c%c and roles %q", c.typ.name, c.name, r.name, r.k[V5], r.k[V4], r.roles)
		}
	}
	for _, k := range n.kids {
		checkNode(t, c, k)
	}
	if n.number != nil {
		checkNode(t, c, n.number)
	}
}

func TestParseBlockRejects(t *testing.T) {
	for _, block := range []string{
		" LL a: b\n",
		"type x 5\n LL a: b\n",
		"type x 5\nwhat y\n",
		"type x 5\nclass\n",
		"type x 5\nclass A what=1\n",
		"type x 5\nclass A rows=none/B\n",
		"type x 5\nclass A\n LL\n",
		"type x 5\nclass A\n L a: b\n",
		"type x 5\nclass A\n LL a b: c\n",
		"type x 5\nclass A\n @ a: one two\n",
	} {
		if _, err := parseBlock(block); err == nil {
			t.Errorf("%q: no error", block)
		}
	}
}

// want is the part of a Class that a table of cases states.
type want struct {
	Q5, Q4 bool
	Paths  []string
	Reason string
	Flags  string
}

func flags(c Class) string {
	var out []string
	for _, f := range []struct {
		on   bool
		name string
	}{
		{c.Module, "module"}, {c.Conv1D, "conv1d"}, {c.Head, "head"}, {c.Embedding, "embedding"}, {c.Router, "router"},
		{c.Expert, "expert"}, {c.Tower, "tower"}, {c.Projector, "projector"}, {c.Hold[V5] == HoldAlways, "fp32"}, {c.Hold[V5] == HoldInFloat16, "fp32-in-f16"}, {c.Hold[V4] == HoldAlways, "fp32-in-4.57"}, {c.Fused, "fused"},
		{c.Split, "split"}, {c.Stray, "stray"}, {c.Unlisted, "unlisted"}, {!c.Known, "unknown"},
	} {
		if f.on {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, " ")
}

func TestClassify(t *testing.T) {
	tests := []struct {
		config string
		name   string
		want   want
	}{
		{`{"model_type":"llama","architectures":["LlamaForCausalLM"]}`, "model.layers.31.self_attn.q_proj.weight",
			want{true, true, []string{"model.layers.31.self_attn.q_proj", "layers.31.self_attn.q_proj"}, "", "module"}},
		{`{"model_type":"llama","architectures":["LlamaForCausalLM"]}`, "lm_head.weight",
			want{false, false, []string{"lm_head"}, "output head or last module of the model's task head", "module head"}},
		{`{"model_type":"llama","architectures":["LlamaForCausalLM"]}`, "model.embed_tokens.weight",
			want{false, false, nil, "embedding", "embedding"}},
		// The head's name differs between the versions.
		{`{"model_type":"gpt_neox","architectures":["GPTNeoXForCausalLM"]}`, "embed_out.weight",
			want{false, false, []string{"embed_out", "lm_head"}, "output head or last module of the model's task head", "module head"}},
		{`{"model_type":"gpt2","architectures":["GPT2LMHeadModel"]}`, "transformer.h.3.attn.c_attn.weight",
			want{true, true, []string{"transformer.h.3.attn.c_attn", "h.3.attn.c_attn"}, "", "module conv1d"}},
		// Names without the prefix that loaders add (GPT-2's own checkpoint).
		{`{"model_type":"gpt2","architectures":["GPT2LMHeadModel"]}`, "h.3.attn.c_attn.weight",
			want{true, true, []string{"h.3.attn.c_attn", "transformer.h.3.attn.c_attn"}, "", "module conv1d"}},
		{`{"model_type":"bert","architectures":["BertModel"]}`, "pooler.dense.weight",
			want{true, false, []string{"pooler.dense", "bert.pooler.dense"}, "transformers 4.57 does not quantize it", "module"}},
		{`{"model_type":"bert","architectures":["BertForMaskedLM"]}`, "bert.pooler.dense.weight",
			want{false, false, []string{"bert.pooler.dense", "pooler.dense"}, "not part of BertForMaskedLM (BertModel has it)", "module stray"}},
		{`{"model_type":"roberta","architectures":["RobertaForMaskedLM"]}`, "lm_head.dense.weight",
			want{true, false, []string{"lm_head.dense"}, "output head or last module of the model's task head", "module head"}},
		{`{"model_type":"distilbert","architectures":["DistilBertForSequenceClassification"]}`, "pre_classifier.weight",
			want{true, true, []string{"pre_classifier"}, "no skip list keeps classifier without also keeping this one in transformers 5", "module unlisted"}},
		{`{"model_type":"falcon","architectures":["FalconForCausalLM"]}`, "transformer.h.0.mlp.dense_h_to_4h.weight",
			want{false, true, []string{"transformer.h.0.mlp.dense_h_to_4h", "h.0.mlp.dense_h_to_4h"},
				"a subclass of Linear, which transformers 5 does not quantize", "module"}},
		{`{"model_type":"t5","architectures":["T5ForConditionalGeneration"]}`, "decoder.block.0.layer.2.DenseReluDense.wo.weight",
			want{false, false, []string{"decoder.block.0.layer.2.DenseReluDense.wo"}, "transformers keeps it in 32 bits", "module fp32-in-f16 fp32-in-4.57"}},
		{`{"model_type":"mixtral","architectures":["MixtralForCausalLM"]}`, "model.layers.0.block_sparse_moe.gate.weight",
			want{false, true, []string{"model.layers.0.block_sparse_moe.gate", "layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate", "layers.0.mlp.gate"},
				"router", "module router"}},
		{`{"model_type":"mixtral","architectures":["MixtralForCausalLM"]}`, "model.layers.0.block_sparse_moe.experts.7.w1.weight",
			want{false, true, []string{"model.layers.0.block_sparse_moe.experts.7.w1", "layers.0.block_sparse_moe.experts.7.w1"},
				"transformers 5 fuses the experts and cannot load them packed", "module expert fused"}},
		{`{"model_type":"deepseek_v3","architectures":["DeepseekV3ForCausalLM"]}`, "model.layers.5.mlp.gate.e_score_correction_bias",
			want{false, false, nil, "not a Linear of DeepseekV3ForCausalLM", "fp32 unknown"}},
		// The nested model type is the config's, not the default one.
		{`{"model_type":"llava","architectures":["LlavaForConditionalGeneration"],"text_config":{"model_type":"phi"}}`,
			"language_model.model.layers.0.mlp.fc1.weight",
			want{true, true, []string{"language_model.model.layers.0.mlp.fc1", "model.language_model.layers.0.mlp.fc1"}, "", "module"}},
		{`{"model_type":"llava","architectures":["LlavaForConditionalGeneration"]}`, "multi_modal_projector.linear_1.weight",
			want{true, true, []string{"multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1"}, "", "module projector"}},
		{`{"model_type":"qwen2_vl","architectures":["Qwen2VLForConditionalGeneration"]}`, "visual.blocks.0.attn.qkv.weight",
			want{true, true, []string{"visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"}, "", "module tower"}},
	}
	for _, test := range tests {
		q, err := ParseConfig([]byte(test.config))
		if err != nil {
			t.Fatal(err)
		}
		m, err := Resolve(q, lookupType(q.ModelType).class(q.Architectures[0]).names("0"))
		if err != nil {
			t.Fatal(err)
		}
		c := m.Classify(test.name)
		got := want{c.Quant[V5], c.Quant[V4], c.AllPaths, c.Reason, flags(c)}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", m.Class, test.name, diff)
		}
	}
}

func TestResolveClass(t *testing.T) {
	llama := []string{"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"}
	tests := []struct {
		arch  string
		names []string
		class string
	}{
		{"LlamaForCausalLM", llama, "LlamaForCausalLM"},
		{"", llama, "LlamaForCausalLM"},
		{"SomebodysForCausalLM", llama, "LlamaForCausalLM"},
		{"", []string{"layers.0.self_attn.q_proj.weight"}, "LlamaModel"},
		{"LlamaForSequenceClassification", append(slices.Clone(llama[:3]), "score.weight"), "LlamaForSequenceClassification"},
		{"", append(slices.Clone(llama[:3]), "score.weight"), "LlamaForSequenceClassification"},
		{"LlamaForCausalLM", nil, "LlamaForCausalLM"},
	}
	for _, test := range tests {
		q := Query{ModelType: "llama"}
		if test.arch != "" {
			q.Architectures = []string{test.arch}
		}
		m, err := Resolve(q, test.names)
		if err != nil {
			t.Fatal(err)
		}
		if m.Class != test.class {
			t.Errorf("%q with %q: class %s, want %s", test.arch, test.names, m.Class, test.class)
		}
	}
}

func TestUnknownType(t *testing.T) {
	_, err := Resolve(Query{ModelType: "lama"}, nil)
	var unknown *UnknownError
	if !errors.As(err, &unknown) || !slices.Contains(unknown.Near, "llama") {
		t.Errorf("got %v, want an UnknownError near llama", err)
	}
	if _, err := Resolve(Query{}, nil); !errors.As(err, &unknown) {
		t.Errorf("no model_type: got %v", err)
	}
}

func TestUnknownRules(t *testing.T) {
	m := Unknown(Query{ModelType: "somebodys"})
	for name, quantize := range map[string]bool{
		"model.layers.0.self_attn.q_proj.weight":                      true,
		"transformer.h.5.attn.c_attn.weight":                          true,
		"model.layers.0.mlp.experts.3.down_proj.weight":               false,
		"model.layers.0.mlp.shared_experts.up_proj.weight":            true,
		"model.layers.0.mlp.gate.weight":                              false,
		"model.layers.0.mlp.shared_expert_gate.weight":                false,
		"model.layers.0.input_layernorm.weight":                       false,
		"model.layers.0.mamba.in_proj.weight":                         false,
		"model.layers.0.conv.weight":                                  false,
		"model.vision_tower.encoder.layers.0.self_attn.q_proj.weight": false,
		"visual.blocks.0.attn.qkv.weight":                             false,
		"multi_modal_projector.linear_1.weight":                       false,
		"lm_head.weight":                                              false,
		"model.embed_tokens.weight":                                   false,
		"model.layers.0.self_attn.q_proj.bias":                        false,
		"q_proj.weight":                                               false,
		"":                                                            false,
	} {
		if got := m.Classify(name).Quantize(0); got != quantize {
			t.Errorf("%q: quantize %v, want %v", name, got, quantize)
		}
	}
}

// TestStranger is about a Linear of a known class that the table does not have.
func TestStranger(t *testing.T) {
	m, err := Resolve(Query{ModelType: "llama", Architectures: []string{"LlamaForCausalLM"}}, []string{"model.layers.0.mlp.up_proj.weight"})
	if err != nil {
		t.Fatal(err)
	}
	c := m.Classify("model.layers.0.conv.in_proj.weight")
	if !c.Module || c.Quantize(0) || !slices.Contains(c.Paths[V5], "model.layers.0.conv.in_proj") || !slices.Contains(c.Paths[V4], "model.layers.0.conv.in_proj") {
		t.Errorf("got %+v, want a module to keep", c)
	}
	if c := m.Classify("model.layers.0.post_norm.weight"); c.Module {
		t.Errorf("norm: got %+v, want no module", c)
	}
	if c := m.Classify("model.layers.0.mlp.layers.1.weight"); !c.Module || c.Quantize(0) {
		t.Errorf("one more layer of an MLP: got %+v, want a module to keep", c)
	}
}

// TestUnknownNames is about a vision-language model with the names of 4.51, tied.
func TestUnknownNames(t *testing.T) {
	m := Unknown(Query{ModelType: "somebodys"})
	expert := m.Classify("model.layers.0.mlp.experts.3.down_proj.weight")
	if !expert.Quantize(Transformers4) || expert.Quantize(Transformers5) {
		t.Errorf("expert: %+v", expert)
	}
	var kept, quantized []Tensor
	for _, name := range []string{"language_model.model.layers.0.mlp.up_proj.weight", "vision_tower.layers.0.fc1.weight", "multi_modal_projector.linear_1.weight"} {
		if c := m.Classify(name); c.Quantize(0) {
			quantized = append(quantized, Tensor{name, c})
		} else {
			kept = append(kept, Tensor{name, c})
		}
	}
	list, bad := m.SkipList(Transformers5|Transformers4, kept, quantized)
	for _, path := range []string{"lm_head", "model.vision_tower.layers.0.fc1", "model.multi_modal_projector.linear_1"} {
		if !slices.ContainsFunc(list, func(text string) bool { e := newSkipEntry(text); return e.matches(LoaderT521, path) }) {
			t.Errorf("no entry of %q skips %s", list, path)
		}
	}
	if len(quantized) != 1 || len(bad) > 0 {
		t.Errorf("quantized %v, violations %v", quantized, bad)
	}
}

func TestParseConfig(t *testing.T) {
	tests := []struct {
		config string
		want   Query
	}{
		{`{"model_type":"llama","architectures":["A","B"],"tie_word_embeddings":true}`,
			Query{ModelType: "llama", Architectures: []string{"A", "B"}, Tied: true, TiedSet: true, Sub: map[string]string{}}},
		{`{"model_type":"llava","text_config":{"model_type":"qwen2","tie_word_embeddings":true},"vision_config":{}}`,
			Query{ModelType: "llava", Tied: true, TiedSet: true, TextTied: new(true), Sub: map[string]string{"text_config": "qwen2"}}},
		{`{"model_type":"llava","text_config":{"tie_word_embeddings":false},"tie_word_embeddings":true}`,
			Query{ModelType: "llava", Tied: true, TiedSet: true, TextTied: new(false), Sub: map[string]string{}}},
		{`{"_class_name":"FluxTransformer2DModel","_diffusers_version":"0.42.1"}`, Query{ModelType: "FluxTransformer2DModel", Diffusers: true, Sub: map[string]string{}}},
		{`{"_class_name":["UNet"],"model_type":null}`, Query{Sub: map[string]string{}}},
		{`{"_class_name":"FluxTransformer2DModel","model_type":"llama"}`, Query{ModelType: "llama", Sub: map[string]string{}}},
		{`{"model_type":"x","auto_map":{"AutoModel":"m.M"},"architectures":null,"tie_word_embeddings":"yes"}`,
			Query{ModelType: "x", CustomCode: true, Sub: map[string]string{}}},
		{`{"model_type":7,"architectures":"A"}`, Query{Sub: map[string]string{}}},
	}
	for _, test := range tests {
		got, err := ParseConfig([]byte(test.config))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.config, diff)
		}
	}
	if _, err := ParseConfig([]byte(`[]`)); err == nil {
		t.Error("an array parsed as a config")
	}
}

func FuzzClassify(f *testing.F) {
	for _, n := range []string{"model.layers.0.self_attn.q_proj.weight", "visual.blocks.3.attn.qkv.weight", "a..b", ".", "weight", ".weight",
		"model.layers.99999999999999999999.mlp.up_proj.weight", "#.#", "model.layers.#.mlp.up_proj.weight"} {
		f.Add(n)
	}
	var models []*Model
	for _, q := range []Query{
		{ModelType: "llama"}, {ModelType: "bert"}, {ModelType: "mixtral"}, {ModelType: "llava"}, {ModelType: "qwen2_vl"},
		{ModelType: "t5"}, {ModelType: "gpt2"}, {ModelType: "encoder-decoder"}, {ModelType: "clip"},
	} {
		m, err := Resolve(q, nil)
		if err != nil {
			f.Fatal(err)
		}
		models = append(models, m)
	}
	models = append(models, Unknown(Query{ModelType: "x"}))
	f.Fuzz(func(t *testing.T, name string) {
		for _, m := range models {
			c := m.Classify(name)
			switch {
			case c.Quant[V5] && (!c.Linear[V5] || len(c.Paths[V5]) == 0), c.Quant[V4] && (!c.Linear[V4] || len(c.Paths[V4]) == 0):
				t.Errorf("%s: %q is quantized without a module: %+v", m.Type, name, c)
			case (c.Linear[V5] || c.Linear[V4]) && !c.Module, c.Module && !strings.HasSuffix(name, ".weight"):
				t.Errorf("%s: %q: %+v", m.Type, name, c)
			case c.Quantize(0) != (c.Reason == ""):
				t.Errorf("%s: %q: quantized %v, reason %q", m.Type, name, c.Quantize(0), c.Reason)
			}
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	var names []string
	for l := range 62 {
		for _, p := range []string{"self_attn.q_a_proj", "self_attn.kv_b_proj", "mlp.shared_experts.up_proj", "input_layernorm"} {
			names = append(names, fmt.Sprintf("model.layers.%d.%s.weight", l, p))
		}
		for e := range 256 {
			for _, p := range []string{"gate_proj", "up_proj", "down_proj"} {
				names = append(names, fmt.Sprintf("model.layers.%d.mlp.experts.%d.%s.weight", l, e, p))
			}
		}
	}
	q := Query{ModelType: "deepseek_v3", Architectures: []string{"DeepseekV3ForCausalLM"}}
	b.ReportMetric(float64(len(names)), "names")
	for b.Loop() {
		m, err := Resolve(q, names)
		if err != nil {
			b.Fatal(err)
		}
		var kept, quantized []Tensor
		for _, n := range names {
			c := m.Classify(n)
			if c.Quantize(0) {
				quantized = append(quantized, Tensor{n, c})
			} else if c.Module {
				kept = append(kept, Tensor{n, c})
			}
		}
		if _, bad := m.SkipList(0, kept, quantized); len(bad) > 0 {
			b.Fatal(bad[0])
		}
	}
}

// TestUnloadable is about packed weights that a version has no Linear for, or takes apart.
func TestUnloadable(t *testing.T) {
	const both = Transformers5 | Transformers4
	for _, c := range []struct {
		query  Query
		name   string
		target Target
		by     Target
		why    string
	}{
		{Query{ModelType: "mixtral"}, "model.layers.0.block_sparse_moe.experts.0.w1.weight", both, Transformers5, "fuses the experts"},
		{Query{ModelType: "mixtral"}, "model.layers.0.block_sparse_moe.experts.0.w1.weight", Transformers4 | VLLM, 0, ""},
		{Query{ModelType: "mixtral"}, "model.layers.0.self_attn.q_proj.weight", both, 0, ""},
		{Query{ModelType: "falcon"}, "transformer.h.0.mlp.dense_4h_to_h.weight", both, Transformers5, "a subclass of Linear"},
		{Query{ModelType: "t5"}, "decoder.block.0.layer.2.DenseReluDense.wo.weight", both, both, "in 32 bits"},
		{Query{ModelType: "llama"}, "model.embed_tokens.weight", both, both, "embedding"},
		{Query{ModelType: "gpt2"}, "h.0.attn.c_attn.weight", both | VLLM, 0, ""},
		{Query{ModelType: "WanTransformer3DModel", Diffusers: true}, "condition_embedder.time_embedder.linear_1.weight", Diffusers, Diffusers, "in 32 bits"},
		{Query{ModelType: "WanTransformer3DModel", Diffusers: true}, "blocks.0.attn1.to_q.weight", Diffusers, 0, ""},
	} {
		m, err := Resolve(c.query, []string{c.name})
		if err != nil {
			t.Fatal(err)
		}
		by, why := m.Classify(c.name).Unloadable(c.target)
		if by != c.by || !strings.Contains(why, c.why) || (why == "") != (by == 0) {
			t.Errorf("%s for %s: %s, %q; want %s, %q", c.name, c.target, by, why, c.by, c.why)
		}
	}
}

// TestComponentRules is about classes of diffusers that the table does not have.
func TestComponentRules(t *testing.T) {
	m := Unknown(Query{ModelType: "Flux9Transformer2DModel", Diffusers: true})
	for name, quantize := range map[string]bool{
		"transformer_blocks.0.attn.to_q.weight":                             true,
		"transformer_blocks.0.attn.to_out.0.weight":                         true,
		"transformer_blocks.0.ff.net.0.proj.weight":                         true,
		"transformer_blocks.0.ff.net.2.weight":                              true,
		"down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k.weight": true,
		"transformer_blocks.0.norm1.linear.weight":                          false,
		"transformer_blocks.0.attn.to_q.bias":                               false,
		"time_embed.0.weight":                                               false,
		"x_embedder.weight":                                                 false,
	} {
		c := m.Classify(name)
		if c.Quantize(Diffusers) != quantize || c.Quantize(Transformers5) {
			t.Errorf("%q: %+v, want quantize %v", name, c, quantize)
		}
		if matrix := strings.HasSuffix(name, ".weight"); c.Module != matrix {
			t.Errorf("%q: module %v", name, c.Module)
		}
		if c := m.ClassifyTensor(name, 4); c.Module || c.Quantize(Diffusers) {
			t.Errorf("%q with four dimensions: %+v", name, c)
		}
	}
}
