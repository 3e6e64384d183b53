package forward

import (
	"fmt"
	"math"
)

// gptLike is a model with LayerNorms, biases and a plain MLP. Its names are to be given.
func gptLike(c *config, act string, width int) *model {
	m := newModel(c, layerCount(c, "num_hidden_layers", "n_layer"))
	heads := c.size("num_attention_heads", "n_head")
	dim := m.width / heads
	if dim*heads != m.width {
		c.refuse("hidden_size", "%d elements are not to be divided among %d heads", m.width, heads)
	}
	m.each(func(i int, b *block) {
		*b = block{residual: 1, attn: attention{heads: heads, kvHeads: heads, dim: dim, scale: 1 / math.Sqrt(float64(dim))}, mlp: mlp{act: act, width: width}}
	})
	return m
}

func gpt2(c *config) *model {
	inner := c.optional("n_inner")
	if inner == 0 {
		inner = 4 * c.size("hidden_size", "n_embd")
	}
	m := gptLike(c, c.text("activation_function"), inner)
	n := norm{kind: centred, bias: true, eps: c.number("layer_norm_epsilon")}
	m.embed, m.positions, m.norm = "transformer.wte", "transformer.wpe", n.named("transformer.ln_f")
	scaled, byLayer := c.truth("scale_attn_weights"), c.truth("scale_attn_by_inverse_layer_idx")
	m.each(func(i int, b *block) {
		b.prefix = fmt.Sprintf("transformer.h.%d.", i)
		b.attnIn, b.mlpIn = n.named("ln_1"), n.named("ln_2")
		b.attn.qkv, b.attn.o = linear{"attn.c_attn", true}, linear{"attn.c_proj", true}
		b.mlp.up, b.mlp.down = linear{"mlp.c_fc", true}, linear{"mlp.c_proj", true}
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
