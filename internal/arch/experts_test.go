package arch

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExperts holds what the table says of experts and routers against what bitsandbytes does with them in either version:
// nn.Linear modules are quantized, parameters with three dimensions are not, and what 5.x stacks while it loads cannot be
// packed. Names are those of published checkpoints.
func TestExperts(t *testing.T) {
	type want struct {
		Quant5, Quant4 bool
		Flags          string
	}
	tests := []struct {
		typ, class, name string
		want             want
	}{
		// One Linear an expert in 4.57; fused by 5.x.
		{"mixtral", "MixtralForCausalLM", "model.layers.0.block_sparse_moe.experts.3.w2.weight", want{false, true, "module expert fused"}},
		{"mixtral", "MixtralForCausalLM", "model.layers.0.block_sparse_moe.gate.weight", want{false, true, "module router"}},
		{"qwen3_moe", "Qwen3MoeForCausalLM", "model.layers.0.mlp.experts.127.gate_proj.weight", want{false, true, "module expert fused"}},
		{"qwen3_moe", "Qwen3MoeForCausalLM", "model.layers.0.mlp.gate.weight", want{false, true, "module router"}},
		{"deepseek_v3", "DeepseekV3ForCausalLM", "model.layers.3.mlp.experts.255.down_proj.weight", want{false, true, "module expert fused"}},
		{"deepseek_v3", "DeepseekV3ForCausalLM", "model.layers.3.mlp.shared_experts.down_proj.weight", want{true, true, "module"}},
		{"deepseek_v3", "DeepseekV3ForCausalLM", "model.layers.0.mlp.down_proj.weight", want{true, true, "module"}},
		{"deepseek_v3", "DeepseekV3ForCausalLM", "model.layers.3.mlp.gate.weight", want{false, false, "router"}},
		{"hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", "model.layers.0.mlp.experts.0.up_proj.weight", want{false, true, "module expert fused"}},
		{"hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", "model.layers.0.mlp.shared_mlp.up_proj.weight", want{true, true, "module"}},
		// The router, a Linear that both versions quantize; its float32 weight is no exception.
		{"hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", "model.layers.0.mlp.gate.wg.weight", want{true, true, "module fp32"}},
		// The layout that 5.x saves.
		{"mixtral", "MixtralForCausalLM", "model.layers.0.mlp.experts.gate_up_proj", want{false, false, "expert"}},
		{"qwen3_moe", "Qwen3MoeForCausalLM", "model.layers.0.mlp.experts.down_proj", want{false, false, "expert"}},
		// No Linears in either version.
		{"gpt_oss", "GptOssForCausalLM", "model.layers.0.mlp.experts.gate_up_proj", want{false, false, "expert"}},
		{"gpt_oss", "GptOssForCausalLM", "model.layers.0.mlp.router.weight", want{false, false, "router"}},
		{"dbrx", "DbrxForCausalLM", "transformer.blocks.0.ffn.experts.mlp.w1", want{false, false, "expert"}},
		// Llama-4: both versions split the stacks of a quantized checkpoint; text alone, and with images.
		{"llama4_text", "Llama4ForCausalLM", "model.layers.0.feed_forward.experts.gate_up_proj", want{false, false, "expert split"}},
		{"llama4", "Llama4ForConditionalGeneration", "language_model.model.layers.1.feed_forward.experts.down_proj", want{false, false, "expert split"}},
		{"llama4", "Llama4ForConditionalGeneration", "language_model.model.layers.1.feed_forward.router.weight", want{false, true, "module router"}},
		{"llama4", "Llama4ForConditionalGeneration", "language_model.model.layers.1.feed_forward.shared_expert.up_proj.weight", want{true, true, "module"}},
		// Linears in both versions.
		{"nllb-moe", "NllbMoeForConditionalGeneration", "model.encoder.layers.3.ffn.experts.expert_127.fc1.weight", want{true, true, "module expert"}},
		{"nllb-moe", "NllbMoeForConditionalGeneration", "model.encoder.layers.3.ffn.router.classifier.weight", want{true, true, "module router"}},
		{"switch_transformers", "SwitchTransformersForConditionalGeneration", "encoder.block.1.layer.1.mlp.experts.expert_7.wi.weight", want{true, true, "module expert"}},
		{"switch_transformers", "SwitchTransformersForConditionalGeneration", "encoder.block.1.layer.1.mlp.router.classifier.weight", want{true, true, "module router"}},
		// Zamba-2: a block that several layers share is tied, and kept with that; the Linears of the layers are their own.
		{"zamba2", "Zamba2ForCausalLM", "model.layers.5.shared_transformer.self_attn.q_proj.weight", want{false, false, "module"}},
		{"zamba2", "Zamba2ForCausalLM", "model.layers.5.shared_transformer.feed_forward.gate_up_proj_adapter_list.1.0.weight", want{false, false, "module"}},
		{"zamba2", "Zamba2ForCausalLM", "model.layers.5.linear.weight", want{true, true, "module"}},
		{"zamba2", "Zamba2ForCausalLM", "model.layers.5.mamba_decoder.mamba.in_proj.weight", want{true, true, "module"}},
	}
	for _, test := range tests {
		m, err := Resolve(Query{ModelType: test.typ, Architectures: []string{test.class}}, []string{test.name})
		if err != nil {
			t.Fatal(err)
		}
		c := m.Classify(test.name)
		if diff := cmp.Diff(test.want, want{c.Quant[V5], c.Quant[V4], flags(c)}); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", m.Class, test.name, diff)
		}
	}
}

// TestSeries follows experts past those of the generator's small models.
func TestSeries(t *testing.T) {
	m, err := Resolve(Query{ModelType: "nllb-moe", Architectures: []string{"NllbMoeForConditionalGeneration"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"model.encoder.layers.3.ffn.experts.expert_3.fc1.weight":   {"model.encoder.layers.3.ffn.experts.expert_3.fc1", "encoder.layers.3.ffn.experts.expert_3.fc1"},
		"model.encoder.layers.3.ffn.experts.expert_127.fc1.weight": {"model.encoder.layers.3.ffn.experts.expert_127.fc1", "encoder.layers.3.ffn.experts.expert_127.fc1"},
		"model.encoder.layers.3.ffn.experts.expert_x.fc1.weight":   nil,
		"model.encoder.layers.3.ffn.experts.expert_.fc1.weight":    nil,
		"model.encoder.layers.3.ffn.experts.other_7.fc1.weight":    nil,
	} {
		c := m.Classify(name)
		if c.Expert != (want != nil) {
			t.Errorf("%s: %+v", name, c)
		}
		if want == nil {
			continue
		}
		if diff := cmp.Diff(want, c.Paths[V5]); diff != "" {
			t.Errorf("%s in 5.x (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(want, c.Paths[V4]); diff != "" {
			t.Errorf("%s in 4.57 (-want +got):\n%s", name, diff)
		}
	}
}

// TestThinnedSeries is about a series of which the table has the first, the second and the last, and whose path has the number alone.
func TestThinnedSeries(t *testing.T) {
	m, err := Resolve(Query{ModelType: "inkling_mm_model", Architectures: []string{"InklingModel"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linear_0", "linear_7", "linear_23", "linear_24"} {
		c := m.Classify("vision_tower.layers." + name + ".weight")
		want := "vision_tower.encoder_layers." + strings.TrimPrefix(name, "linear_") + ".projection"
		if !c.Quant[V5] || !slices.Contains(c.Paths[V5], want) {
			t.Errorf("%s: %+v, want %s", name, c, want)
		}
	}
}
