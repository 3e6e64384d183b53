package forward

import "math"

// This file has the descriptions that are Llama with more than a few changes.

func mistral(c *config) *model {
	m := llama(c)
	m.windows(c, nil, c.optional("sliding_window"))
	return m
}

func gemma(c *config) *model { return gemmaOf(c, llama(c)) }

func gemmaOf(c *config, m *model) *model {
	m.normKinds(rmsPlusOne, false, m.norm.eps)
	m.embedScale = float64(float32(math.Sqrt(float64(m.width))))
	c.only("use_bidirectional_attention", "false", "causal attention alone")
	return m
}

func gemma2(c *config) *model {
	m := gemma2Of(c, llama(c))
	m.each(func(i int, b *block) { b.attn.softcap = c.number("attn_logit_softcapping") })
	m.windows(c, c.layerTypes(m, func(i int) bool { return i%2 == 0 }), c.optional("sliding_window"))
	return m
}

// gemma2Of is what Gemma 2 and 3 have in common.
func gemma2Of(c *config, m *model) *model {
	m = gemmaOf(c, m)
	m.sandwich("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
	m.each(func(i int, b *block) { b.attn.scale = 1 / math.Sqrt(c.number("query_pre_attn_scalar")) })
	m.softcap = c.number("final_logit_softcapping")
	return m
}

// sandwich norms what attention and MLP put out.
func (m *model) sandwich(attnOut, mlpIn, mlpOut string) {
	m.each(func(i int, b *block) {
		b.attnOut, b.mlpOut, b.mlpIn = b.attnIn.named(attnOut), b.attnIn.named(mlpOut), b.attnIn.named(mlpIn)
	})
}

func gemma3(c *config) *model {
	m := gemma2Of(c, llamaLike(c, false, 1))
	c.only("attn_logit_softcapping", "null", "no cap on this type's attention")
	m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	sliding := c.patterned(m, 6)
	m.windows(c, sliding, c.optional("sliding_window"))
	m.ropes(c, sliding, or(c.number("rope_theta"), 1_000_000), or(c.number("rope_local_base_freq"), 10_000))
	return m
}

// ropes gives layers with a window other rotary embeddings than those without.
func (m *model) ropes(c *config, sliding []bool, global, local float64) {
	dim := m.layers[0].attn.dim
	full, _ := ropeOf(c, "full_attention", global, 1, dim)
	part, _ := ropeOf(c, "sliding_attention", local, 1, dim)
	m.each(func(i int, b *block) {
		b.attn.rope, b.attn.rotated = full, dim
		if sliding[i] {
			b.attn.rope = part
		}
	})
}

// patterned is layerTypes where older files have the distance of layers without a window.
func (c *config) patterned(m *model, every int) []bool {
	c.ignore("sliding_window_pattern", "_sliding_window_pattern")
	if !c.has("layer_types") {
		if n := c.optional("sliding_window_pattern", "_sliding_window_pattern"); n > 0 {
			every = n
		}
	}
	return c.layerTypes(m, func(i int) bool { return (i+1)%every != 0 })
}

// rotateOnly takes rotary embeddings from the other layers.
func (m *model) rotateOnly(which []bool) {
	m.each(func(i int, b *block) {
		if !which[i] {
			b.attn.rope, b.attn.rotated = nil, 0
		}
	})
}

func or(v, otherwise float64) float64 {
	if v != 0 {
		return v
	}
	return otherwise
}

func phi(c *config) *model {
	m := llamaLike(c, true, 0.5)
	m.normKinds(centred, true, c.number("layer_norm_eps"))
	m.norm.name, m.head.bias = "model.final_layernorm", true
	m.each(func(i int, b *block) {
		b.parallel, b.mlpIn = true, norm{}
		b.attn.o.name = "self_attn.dense"
		b.attn.biases(true, true, true, true)
		b.mlp.gate, b.mlp.up, b.mlp.down = linear{}, linear{"mlp.fc1", true}, linear{"mlp.fc2", true}
	})
	if c.truth("qk_layernorm") {
		m.headNorms("self_attn.q_layernorm", "self_attn.k_layernorm")
	}
	return m
}

func phi3(c *config) *model {
	m := llama(c)
	m.each(func(i int, b *block) {
		b.attn.qkv = linear{"self_attn.qkv_proj", false}
		b.mlp.gateUp = linear{"mlp.gate_up_proj", false}
	})
	m.windows(c, nil, c.optional("sliding_window"))
	c.ignore("original_max_position_embeddings")
	c.only("full_attn_mod", "1", "1 alone")
	c.only("interpolate_factor", "1", "1 alone")
	return m
}

// normedAfter norms what attention and MLP put out, and nothing of what they take; queries and keys as a whole.
func normedAfter(c *config, m *model) *model {
	m.each(func(i int, b *block) {
		b.attnOut, b.mlpOut = b.mlpIn, b.mlpIn.named("post_feedforward_layernorm")
		b.attnIn, b.mlpIn = norm{}, norm{}
		b.attn.wholeNorm = true
	})
	m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	return m
}

func olmo3(c *config) *model {
	m := normedAfter(c, llamaLike(c, false, 1))
	sliding := c.patterned(m, 4)
	m.windows(c, sliding, c.optional("sliding_window"))
	// Of a file with one rope_theta, full attention takes it and the windows keep that of the class.
	m.ropes(c, sliding, or(c.number("rope_theta"), c.theta()), c.theta())
	return m
}

func exaone4(c *config) *model {
	m := normedAfter(c, llama(c))
	m.each(func(i int, b *block) { b.attn.wholeNorm = false })
	window := c.optional("sliding_window")
	if sliding := c.patterned(m, 4); window > 0 {
		m.windows(c, sliding, window)
		m.rotateOnly(sliding)
	}
	return m
}

// plainMLP is that without a gate.
func plainMLP(m *model) *model {
	m.each(func(i int, b *block) { b.mlp.gate = linear{} })
	return m
}

func stablelm(c *config) *model {
	m := llamaLike(c, true, 0.25)
	m.normKinds(centred, true, c.number("layer_norm_eps"))
	bias, parallel, qk := c.truth("use_qkv_bias"), c.truth("use_parallel_residual"), c.truth("qk_layernorm")
	if qk {
		m.headNorms("self_attn.q_layernorm", "self_attn.k_layernorm")
	}
	m.each(func(i int, b *block) {
		b.attn.biases(bias, bias, bias, false)
		if b.parallel = parallel; parallel {
			b.mlpIn = norm{}
		}
		for _, n := range []*norm{&b.attn.qNorm, &b.attn.kNorm} {
			n.bias, n.perHead, n.modules = false, qk, qk
		}
	})
	return m
}

func smollm3(c *config) *model {
	m := llama(c)
	every := c.size("no_rope_layer_interval")
	use := list[int](c, "no_rope_layers")
	if use != nil && len(use) < len(m.layers) {
		c.refuse("no_rope_layers", "expected one for each of %d layers, found %d", len(m.layers), len(use))
		return m
	}
	rotated := func(i int) bool {
		if use != nil {
			return use[i] != 0
		}
		return (i+1)%every != 0
	}
	window := c.windowIfUsed()
	c.ignore("max_window_layers")
	m.windows(c, c.layerTypes(m, func(i int) bool { return window > 0 && !rotated(i) }), window)
	m.each(func(i int, b *block) {
		if !rotated(i) {
			b.attn.rope, b.attn.rotated = nil, 0
		}
	})
	return m
}

func cohere(c *config) *model {
	m := llama(c)
	m.normKinds(centred, false, c.number("layer_norm_eps"))
	m.logitScale = c.number("logit_scale")
	qk := c.truth("use_qk_norm")
	if qk {
		m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	}
	m.each(func(i int, b *block) {
		b.parallel, b.mlpIn, b.attn.interleaved = true, norm{}, true
		b.attn.qNorm.perHead, b.attn.kNorm.perHead = qk, qk
	})
	return m
}

func glm4(c *config) *model {
	m := llamaLike(c, true, 0.5)
	m.each(func(i int, b *block) {
		b.attnOut, b.mlpOut = b.attnIn.named("post_self_attn_layernorm"), b.attnIn.named("post_mlp_layernorm")
		b.attn.interleaved, b.attn.o.bias = true, false
		b.mlp.gateUp = linear{"mlp.gate_up_proj", false}
	})
	return m
}
