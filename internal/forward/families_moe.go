package forward

func mixtral(c *config) *model {
	m := mistral(c)
	e := experts{router: linear{"block_sparse_moe.gate", false}, n: c.size("num_local_experts", "num_experts"), topK: c.size("num_experts_per_tok"),
		normalize: true, scale: 1, each: m.layers[0].mlp, stacks: "mlp.experts"}
	e.each.gate, e.each.up = linear{"block_sparse_moe.experts.%d.w1", false}, linear{"block_sparse_moe.experts.%d.w3", false}
	e.each.down = linear{"block_sparse_moe.experts.%d.w2", false}
	m.each(func(i int, b *block) { b.experts = &e })
	return m
}

// listed are experts of Qwen's names, one by one.
func listed(act string, width int) mlp {
	return mlp{gate: linear{"mlp.experts.%d.gate_proj", false}, up: linear{"mlp.experts.%d.up_proj", false},
		down: linear{"mlp.experts.%d.down_proj", false}, act: act, width: width}
}

func qwen3MoE(c *config) *model {
	m := llama(c)
	m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	m.windows(c, nil, c.windowIfUsed())
	c.ignore("max_window_layers")
	m.sparse(c, qwenExperts(c, m))
	return m
}

// qwenExperts are those of Qwen's keys.
func qwenExperts(c *config, m *model) *experts {
	return &experts{router: linear{"mlp.gate", false}, n: c.size("num_experts", "num_local_experts"), topK: c.size("num_experts_per_tok"),
		normalize: c.truth("norm_topk_prob"), scale: 1, each: listed(m.layers[0].mlp.act, c.size("moe_intermediate_size")), stacks: "mlp.experts"}
}

// sparse gives the experts to the layers that Qwen's keys name.
func (m *model) sparse(c *config, e *experts) {
	dense := map[int]bool{}
	for _, i := range list[int](c, "mlp_only_layers") {
		dense[i] = true
	}
	step := c.size("decoder_sparse_step")
	m.each(func(i int, b *block) {
		if !dense[i] && (i+1)%step == 0 {
			b.experts = e
		}
	})
}

func qwen2MoE(c *config) *model {
	m, bias := llama(c), c.truth("qkv_bias")
	m.each(func(i int, b *block) { b.attn.biases(bias, bias, bias, false) })
	last, window := c.optional("max_window_layers"), c.windowIfUsed()
	m.windows(c, c.layerTypes(m, func(i int) bool { return window > 0 && i%2 == 0 && i < last }), window)
	e, shared := qwenExperts(c, m), m.layers[0].mlp
	shared.gate.name, shared.up.name, shared.down.name = "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"
	shared.width = c.size("shared_expert_intermediate_size")
	e.shared, e.sharedGate = &shared, "mlp.shared_expert_gate"
	m.sparse(c, e)
	return m
}

func olmoe(c *config) *model {
	m := llama(c)
	m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	e := experts{router: linear{"mlp.gate", false}, n: c.size("num_experts", "num_local_experts"), topK: c.size("num_experts_per_tok"),
		normalize: c.truth("norm_topk_prob"), scale: 1, each: listed(m.layers[0].mlp.act, m.layers[0].mlp.width), stacks: "mlp.experts"}
	m.each(func(i int, b *block) { b.experts, b.attn.wholeNorm, b.attn.clip = &e, true, c.number("clip_qkv") })
	return m
}

func glm4MoE(c *config) *model {
	m := llamaLike(c, true, 0.5)
	if c.truth("use_qk_norm") {
		m.headNorms("self_attn.q_norm", "self_attn.k_norm")
	}
	width := c.size("moe_intermediate_size")
	e := experts{router: linear{"mlp.gate", false}, n: c.size("n_routed_experts", "num_local_experts"), topK: c.size("num_experts_per_tok"),
		scores: sigmoids, correction: "mlp.gate.e_score_correction_bias", groups: c.size("n_group"), topGroups: c.size("topk_group"),
		normalize: c.truth("norm_topk_prob"), scale: c.number("routed_scaling_factor"), each: listed(m.layers[0].mlp.act, width), stacks: "mlp.experts"}
	shared := m.layers[0].mlp
	shared.gate.name, shared.up.name, shared.down.name = "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"
	shared.width = width * c.size("n_shared_experts")
	e.shared = &shared
	first := c.optional("first_k_dense_replace")
	m.each(func(i int, b *block) {
		b.attn.o.bias = false
		if i >= first {
			b.experts = &e
		}
	})
	c.ignore("num_nextn_predict_layers", "num_mtp_layers") // layers behind the last, that nothing here needs
	return m
}

func gptOSS(c *config) *model {
	if c.raw("rope_parameters", "rope_scaling") == nil {
		c.keys["rope_parameters"] = []byte(`{"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}`)
	}
	m := llama(c)
	m.windows(c, c.layerTypes(m, func(i int) bool { return i%2 == 0 }), c.optional("sliding_window"))
	e := experts{router: linear{"mlp.router", true}, n: c.size("num_local_experts", "num_experts"), topK: c.size("num_experts_per_tok", "experts_per_token"),
		scores: softmaxTop, scale: 1, stacks: "mlp.experts", across: true, bias: true, clamped: true, alpha: c.number("swiglu_alpha"), limit: c.number("swiglu_limit")}
	e.each.width = m.layers[0].mlp.width
	m.each(func(i int, b *block) { b.experts, b.attn.sinks = &e, "self_attn.sinks" })
	c.ignore("initial_context_length")
	return m
}
