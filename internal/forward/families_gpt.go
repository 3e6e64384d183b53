package forward

import (
	"encoding/json"
	"fmt"
	"math"
)

// gptLike is a model with LayerNorms, biases and a plain MLP. Its names are to be given.
func gptLike(c *config, act string, width int) *model {
	m := newModel(c, layerCount(c, "num_hidden_layers", "n_layer", "num_layers"))
	heads := c.size("num_attention_heads", "n_head", "num_heads")
	dim := m.width / heads
	if dim*heads != m.width {
		c.refuse("hidden_size", "%d elements are not to be divided among %d heads", m.width, heads)
	}
	m.each(func(i int, b *block) {
		*b = block{residual: 1, attn: attention{heads: heads, kvHeads: heads, dim: dim, scale: 1 / math.Sqrt(float64(dim))}, mlp: mlp{act: act, width: width}}
	})
	return m
}

// gpt2Like is gptLike with an inner width by GPT-2's key, and its names.
func gpt2Like(c *config) *model {
	inner := c.optional("n_inner")
	if inner == 0 {
		inner = 4 * c.size("hidden_size", "n_embd")
	}
	m := gptLike(c, c.text("activation_function"), inner)
	m.gptNames(c)
	return m
}

// gptNames gives GPT-2's names to all modules.
func (m *model) gptNames(c *config) {
	n := norm{kind: centred, bias: true, eps: c.number("layer_norm_epsilon")}
	m.embed, m.positions, m.norm = "transformer.wte", "transformer.wpe", n.named("transformer.ln_f")
	m.each(func(i int, b *block) {
		b.prefix = fmt.Sprintf("transformer.h.%d.", i)
		b.attnIn, b.mlpIn = n.named("ln_1"), n.named("ln_2")
		b.attn.qkv, b.attn.o = linear{"attn.c_attn", true}, linear{"attn.c_proj", true}
		b.mlp.up, b.mlp.down = linear{"mlp.c_fc", true}, linear{"mlp.c_proj", true}
	})
}

func gpt2(c *config) *model {
	m := gpt2Like(c)
	scaled, byLayer := c.truth("scale_attn_weights"), c.truth("scale_attn_by_inverse_layer_idx")
	m.each(func(i int, b *block) {
		if !scaled {
			b.attn.scale = 1
		}
		if byLayer {
			b.attn.scale /= float64(i + 1)
		}
	})
	c.ignore("reorder_and_upcast_attn", "n_ctx") // the same in float32; an older name of n_positions that nothing reads
	return m
}

func gptNeoX(c *config) *model {
	m := gptLike(c, c.text("hidden_act"), c.size("intermediate_size"))
	n := norm{kind: centred, bias: true, eps: c.number("layer_norm_eps")}
	m.embed, m.head.name, m.norm = "gpt_neox.embed_in", "embed_out", n.named("gpt_neox.final_layer_norm")
	rope, rotated := ropeOf(c, "", c.theta(), 0.25, m.layers[0].attn.dim)
	bias, parallel := c.truth("attention_bias"), c.truth("use_parallel_residual")
	m.each(func(i int, b *block) {
		b.prefix, b.parallel = fmt.Sprintf("gpt_neox.layers.%d.", i), parallel
		b.attnIn, b.mlpIn = n.named("input_layernorm"), n.named("post_attention_layernorm")
		b.attn.qkv, b.attn.o, b.attn.byHead = linear{"attention.query_key_value", bias}, linear{"attention.dense", bias}, true
		b.attn.rope, b.attn.rotated = rope, rotated
		b.mlp.up, b.mlp.down = linear{"mlp.dense_h_to_4h", true}, linear{"mlp.dense_4h_to_h", true}
	})
	return m
}

func opt(c *config) *model {
	m := gptLike(c, c.text("activation_function"), c.size("ffn_dim"))
	n := norm{kind: centred, bias: true, eps: 1e-5}
	if !c.truth("layer_norm_elementwise_affine") {
		n = norm{kind: bare, eps: 1e-5}
	}
	before, bias := c.truth("do_layer_norm_before"), c.truth("enable_bias")
	m.embed, m.positions, m.skip = "model.decoder.embed_tokens", "model.decoder.embed_positions", 2
	if before && !c.truth("_remove_final_layer_norm") {
		m.norm = n.named("model.decoder.final_layer_norm")
	}
	c.ignore("_remove_final_layer_norm")
	if m.embedWidth = c.optional("word_embed_proj_dim"); m.embedWidth != 0 && m.embedWidth != m.width {
		m.in, m.out = linear{"model.decoder.project_in", false}, linear{"model.decoder.project_out", false}
	}
	m.each(func(i int, b *block) {
		b.prefix, b.after = fmt.Sprintf("model.decoder.layers.%d.", i), !before
		b.attnIn, b.mlpIn = n.named("self_attn_layer_norm"), n.named("final_layer_norm")
		if b.after {
			b.attnIn, b.attnOut, b.mlpIn, b.mlpOut = norm{}, b.attnIn, norm{}, b.mlpIn
		}
		b.attn.q, b.attn.k, b.attn.v = linear{"self_attn.q_proj", bias}, linear{"self_attn.k_proj", bias}, linear{"self_attn.v_proj", bias}
		b.attn.o = linear{"self_attn.out_proj", bias}
		b.mlp.up, b.mlp.down = linear{"fc1", bias}, linear{"fc2", bias}
	})
	return m
}

func gptBigCode(c *config) *model {
	m := gpt2Like(c)
	scaled, single := c.truth("scale_attn_weights"), c.truth("multi_query")
	m.each(func(i int, b *block) {
		if b.attn.byHead = !single; single {
			b.attn.kvHeads = 1
		}
		if !scaled {
			b.attn.scale = 1
		}
	})
	if n := c.optional("num_key_value_heads"); n != 0 && n != m.layers[0].attn.kvHeads {
		c.refuse("num_key_value_heads", "%d: multi_query makes it %d", n, m.layers[0].attn.kvHeads)
	}
	c.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner", "validate_runner_input", "pre_allocate_kv_cache",
		"max_batch_size", "max_sequence_length", "pad_key_length")
	return m
}

func gptNeo(c *config) *model {
	inner := c.optional("intermediate_size")
	if inner == 0 {
		inner = 4 * c.size("hidden_size")
	}
	m := gptLike(c, c.text("activation_function"), inner)
	m.gptNames(c)
	var kinds []string
	type repeated struct {
		kinds []string
		times int
	}
	for _, raw := range list[[2]json.RawMessage](c, "attention_types") {
		var r repeated
		if json.Unmarshal(raw[0], &r.kinds) != nil || json.Unmarshal(raw[1], &r.times) != nil || r.times < 0 || r.times*len(r.kinds) > len(m.layers) {
			c.refuse("attention_types", "expected lists of kinds of layers, and how often each comes")
			return m
		}
		for range r.times {
			kinds = append(kinds, r.kinds...)
		}
	}
	if kinds == nil {
		for len(kinds) < 24 {
			kinds = append(kinds, "global", "local")
		}
	}
	if len(kinds) != len(m.layers) {
		c.refuse("attention_types", "expected %d layers, found %d", len(m.layers), len(kinds))
		return m
	}
	c.ignore("attention_layers")
	window := c.optional("window_size")
	m.each(func(i int, b *block) {
		b.attn.scale = 1
		b.attn.q, b.attn.k, b.attn.v = linear{"attn.attention.q_proj", false}, linear{"attn.attention.k_proj", false}, linear{"attn.attention.v_proj", false}
		b.attn.qkv, b.attn.o = linear{}, linear{"attn.attention.out_proj", true}
		switch kinds[i] {
		case "local":
			b.attn.window = window
		case "global":
		default:
			c.refuse("attention_types", "no layers of type %q", kinds[i])
		}
	})
	return m
}

func gptJ(c *config) *model {
	m := gpt2Like(c)
	m.positions, m.head.bias = "", true
	rotated := c.optional("rotary_dim")
	a := &m.layers[0].attn
	if rotated == 0 || rotated%2 != 0 || rotated > a.dim {
		c.refuse("rotary_dim", "%d of %d elements of a head would be rotated; want an even number", rotated, a.dim)
		return m
	}
	rope := &rope{freqs: make([]float32, rotated/2), scale: 1}
	for i := range rope.freqs {
		rope.freqs[i] = 1 / power(10_000, i, rotated)
	}
	m.each(func(i int, b *block) {
		b.parallel, b.mlpIn = true, norm{}
		b.attn.rope, b.attn.rotated, b.attn.interleaved = rope, rotated, true
		b.attn.q, b.attn.k, b.attn.v = linear{"attn.q_proj", false}, linear{"attn.k_proj", false}, linear{"attn.v_proj", false}
		b.attn.qkv, b.attn.o = linear{}, linear{"attn.out_proj", false}
		b.mlp.up, b.mlp.down = linear{"mlp.fc_in", true}, linear{"mlp.fc_out", true}
	})
	c.ignore("rotary", "n_ctx", "scale_attn_weights")
	return m
}
