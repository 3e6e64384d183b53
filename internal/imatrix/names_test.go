package imatrix

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The names that weights of many families have in llama.cpp, the likeliest first.
func TestCandidates(t *testing.T) {
	for tensor, want := range map[string]string{
		"model.layers.7.self_attn.q_proj.weight":                      "blk.7.attn_q.weight",
		"model.language_model.layers.7.mlp.down_proj.weight":          "blk.7.ffn_down.weight",
		"language_model.model.layers.7.self_attn.o_proj.weight":       "blk.7.attn_output.weight",
		"layers.7.mlp.gate_proj.weight":                               "blk.7.ffn_gate.weight",
		"model.layers.7.mlp.gate_up_proj.weight":                      "blk.7.ffn_up.weight",
		"model.layers.7.self_attn.qkv_proj.weight":                    "blk.7.attn_qkv.weight",
		"model.layers.7.mlp.experts.33.down_proj.weight":              "blk.7.ffn_down_exps.weight",
		"model.layers.7.block_sparse_moe.experts.3.w1.weight":         "blk.7.ffn_gate_exps.weight",
		"model.layers.7.feed_forward.experts.3.up_proj.weight":        "blk.7.ffn_up_exps.weight",
		"model.layers.7.mlp.shared_experts.gate_proj.weight":          "blk.7.ffn_gate_shexp.weight",
		"model.layers.7.shared_mlp.input_linear.weight":               "blk.7.ffn_gate_shexp.weight",
		"model.layers.7.self_attn.kv_a_proj_with_mqa.weight":          "blk.7.attn_kv_a_mqa.weight",
		"model.layers.7.linear_attn.out_proj.weight":                  "blk.7.ssm_out.weight",
		"gpt_neox.layers.7.attention.query_key_value.weight":          "blk.7.attn_qkv.weight",
		"transformer.h.7.attn.c_attn.weight":                          "blk.7.attn_qkv.weight",
		"h.7.mlp.c_proj.weight":                                       "blk.7.ffn_down.weight",
		"bert.encoder.layer.7.attention.self.query.weight":            "blk.7.attn_q.weight",
		"encoder.layer.7.output.dense.weight":                         "blk.7.ffn_down.weight",
		"model.decoder.layers.7.self_attn.k_proj.weight":              "blk.7.attn_k.weight",
		"encoder.block.7.layer.0.SelfAttention.q.weight":              "enc.blk.7.attn_q.weight",
		"decoder.block.7.layer.2.DenseReluDense.wo.weight":            "dec.blk.7.ffn_down.weight",
		"model.layers.7.mixer.in_proj.weight":                         "blk.7.ssm_in.weight",
		"model.layers.7.attention.wqkv.weight":                        "blk.7.attn_q.weight",
		"lm_head.weight":                                              "output.weight",
		"vision_tower.encoder.layers.7.self_attn.q_proj.weight":       "",
		"model.visual.blocks.7.attn.qkv.weight":                       "",
		"model.layers.99999999999999999999.self_attn.q_proj.weight":   "",
		"model.layers.7.mlp.experts.9999999999999.down_proj.weight":   "",
		"model.layers.7.self_attn.rotary_emb.unknown_matrix_x.weight": "",
		"": "",
	} {
		n := nameOf(tensor)
		got := ""
		if c := n.candidates(); len(c) > 0 {
			got = c[0]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", tensor, got, want)
		}
	}
	if n := nameOf("model.layers.7.mlp.experts.33.down_proj.weight"); n.expert != 33 || n.layer != "7" {
		t.Errorf("%+v, want expert 33 of layer 7", n)
	}
}

// families are the model types of the table of architectures that llama.cpp can run, by their names in gguf-py's MODEL_ARCH and
// what convert_hf_to_gguf.py takes for one of these.
var families = strings.Fields(`afmoe apertus arcee bert bitnet bloom chameleon cohere cohere2 dbrx deepseek_v2 deepseek_v32 distilbert dots1
	ernie4_5 ernie4_5_moe eurobert exaone4 exaone_moe gemma gemma2 gemma3 gemma3_text gemma4_text glm glm4 glm_moe_dsa gpt_neox gpt_oss
	gptj granite granitemoe granitemoehybrid granitemoeshared hunyuan_v1_dense hunyuan_v1_moe jais2 jamba lfm2 lfm2_moe llama llama4_text
	mamba mamba2 mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mistral3 mistral4 mixtral modernbert mpt nemotron
	nemotron_h nomic_bert olmo olmo2 olmo3 persimmon phi phi3 phimoe qwen2 qwen2_moe qwen2_vl_text qwen3 qwen3_5_text qwen3_5_moe_text
	qwen3_moe qwen3_next qwen3_vl_text seed_oss smollm3 stablelm starcoder2 step3p5`)

// Every Linear in the layers of a family that llama.cpp can run, as the table of architectures has them, has a name there.
func TestFamilies(t *testing.T) {
	raw, err := os.ReadFile("../arch/data/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	plain := regexp.MustCompile(`^ (?:LL|L-|-L)a? (\S*#\S*): ([\w ]+)$`)
	var family string
	found := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		if f := strings.Fields(line); len(f) > 1 && f[0] == "type" {
			family = f[1]
		}
		p := plain.FindStringSubmatch(line)
		if p == nil || !slices.Contains(families, family) || strings.Count(p[1], "#") > 1 {
			continue
		}
		for leaf := range strings.FieldsSeq(p[2]) {
			n := nameOf(strings.ReplaceAll(p[1], "#", "5") + "." + leaf + ".weight")
			if len(n.candidates()) == 0 && leaf != "unused" {
				t.Errorf("%s: %s.%s has no name in llama.cpp", family, p[1], leaf)
			}
			found[family]++
		}
	}
	if len(found) < len(families)*9/10 {
		t.Errorf("Linears of %d families, of %d: is the table another?", len(found), len(families))
	}
}

// What a file lacks, since llama.cpp has it in one piece or in several, has the input of its siblings. An entry of another width
// is passed over where another name fits.
func TestSiblings(t *testing.T) {
	m := &Matrix{file: "m", entries: map[string]*entry{}}
	add := func(name string, columns, matrices int64) {
		e := &entry{columns: columns, matrices: matrices, sum2: make([]float32, columns*matrices), counts: make([]float32, matrices)}
		for i := range e.sum2 {
			e.sum2[i] = float32(i)
		}
		for i := range e.counts {
			e.counts[i] = 1
		}
		m.entries[name] = e
	}
	add("blk.0.attn_qkv.weight", 2, 1)
	add("blk.1.attn_k.weight", 2, 1)
	add("blk.0.ffn_gate_up_exps.weight", 2, 3)
	add("blk.0.ffn_gate_inp.weight", 2, 1)
	add("blk.2.attn_q.weight", 5, 1)
	add("blk.2.attn_v.weight", 2, 1)
	for _, c := range []struct {
		name string
		want []float32
	}{
		{"model.layers.0.self_attn.v_proj.weight", []float32{0, 1}},
		{"model.layers.1.self_attn.qkv_proj.weight", []float32{0, 1}},
		{"model.layers.0.mlp.experts.2.gate_proj.weight", []float32{4, 5}},
		{"model.layers.0.mlp.experts.3.gate_proj.weight", nil},
		{"model.layers.0.self_attn.o_proj.weight", nil},
		{"model.layers.2.self_attn.q_proj.weight", []float32{0, 1}},
	} {
		got, err := m.Columns(c.name, 2)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: error %v (-want +got)\n%s", c.name, err, diff)
		}
	}
}
