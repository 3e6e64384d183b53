package modelshape

// Decoders whose attention is not Llama's: DeepSeek's latent attention and
// the hybrids with linear attention.

func deepseekFamily(b *builder, c *config) {
	s := b.stack(c)
	h, heads := s.Hidden, s.Heads
	nope, rope, v := c.num("qk_nope_head_dim"), c.num("qk_rope_head_dim"), c.num("v_head_dim")
	qRank, kvRank := c.opt("q_lora_rank"), c.num("kv_lora_rank")
	bias := c.bool("attention_bias")
	s.HeadDim, s.ValDim, s.KVHeads = nope+rope, v, heads
	s.TopK = c.opt("num_experts_per_tok")
	inter := c.num("moe_intermediate_size")
	d := decoder{mlpBias: c.bool("mlp_bias"), denseLayers: c.opt("first_k_dense_replace"), moe: &moe{block: "mlp",
		experts: c.num("n_routed_experts"), inter: inter, shared: "shared_experts", sharedInter: inter * c.opt("n_shared_experts")}}
	b.in("model.", 1, func() {
		b.embed("embed_tokens", s.Vocab, h)
		b.in("layers.*.self_attn.", s.Layers, func() {
			if qRank > 0 {
				b.linear("q_a_proj", qRank, h, bias)
				b.norm("q_a_layernorm", qRank, false)
				b.linear("q_b_proj", heads*s.HeadDim, qRank, false)
			} else {
				b.linear("q_proj", heads*s.HeadDim, h, false)
			}
			b.linear("kv_a_proj_with_mqa", kvRank+rope, h, bias)
			b.norm("kv_a_layernorm", kvRank, false)
			b.linear("kv_b_proj", heads*(nope+v), kvRank, false)
			b.linear("o_proj", h, heads*v, bias)
		})
		b.layerNorms(s, d)
		b.mlps(s, d)
		b.norm("norm", h, false)
	})
	b.head("lm_head", s.Vocab, h, false)
}

// hybrid splits the layers into full attention and the rest by layer_types,
// or by one full layer in every interval.
func hybrid(c *config, layers, interval int64) (full int64) {
	if n, ok := c.count("full_attention"); ok {
		return n
	}
	if i := c.opt("full_attention_interval"); i > 0 {
		interval = i
	}
	return layers / interval
}

// qwen3NextFamily is Gated DeltaNet in three of four layers; Qwen3.5 splits
// the fused projections and, in its dense form, has no experts.
func qwen3NextFamily(b *builder, c *config) {
	s := b.stack(c)
	h := s.Hidden
	full := hybrid(c, s.Layers, 4)
	kh, vh := c.num("linear_num_key_heads"), c.num("linear_num_value_heads")
	kd, vd := c.num("linear_key_head_dim"), c.num("linear_value_head_dim")
	keyDim, valDim := kh*kd, vh*vd
	d := decoder{qkNorm: headQKNorm, gateQ: true}
	if a := c.bool("attention_bias"); a {
		d.qkvBias, d.oBias = true, true
	}
	if b.m.Type == "qwen3_next" {
		d.denseLayers = s.Layers - sparse(c, s.Layers)
		d.moe = &moe{block: "mlp", experts: c.num("num_experts", "num_local_experts"), inter: c.num("moe_intermediate_size"),
			shared: "shared_expert", sharedInter: c.num("shared_expert_intermediate_size"), sharedGate: "shared_expert_gate"}
		s.TopK = c.num("num_experts_per_tok")
	}
	s.LinearLayers = s.Layers - full
	b.in("model.", 1, func() {
		b.embed("embed_tokens", s.Vocab, h)
		b.in("layers.*.linear_attn.", s.LinearLayers, func() {
			b.add(Other, "dt_bias", vh)
			b.add(Other, "A_log", vh)
			b.add(Other, "conv1d.weight", 2*keyDim+valDim, 1, c.num("linear_conv_kernel_dim"))
			if b.m.Type == "qwen3_next" {
				b.linear("in_proj_qkvz", 2*keyDim+2*valDim, h, false)
				b.linear("in_proj_ba", 2*vh, h, false)
			} else {
				b.linear("in_proj_qkv", 2*keyDim+valDim, h, false)
				b.linear("in_proj_z", valDim, h, false)
				b.linear("in_proj_b", vh, h, false)
				b.linear("in_proj_a", vh, h, false)
			}
			b.norm("norm", vd, false)
			b.linear("out_proj", h, valDim, false)
		})
		b.in("layers.*.", full, func() { b.attention("self_attn.", s, d) })
		b.layerNorms(s, d)
		b.mlps(s, d)
		b.norm("norm", h, false)
	})
	b.head("lm_head", s.Vocab, h, false)
}

// minimaxFamily is lightning attention in every other layer.
func minimaxFamily(b *builder, c *config) {
	s := b.stack(c)
	h := s.Hidden
	full := hybrid(c, s.Layers, 2)
	q := s.Heads * s.HeadDim
	s.LinearLayers, s.TopK = s.Layers-full, c.num("num_experts_per_tok")
	d := decoder{moe: &moe{block: "block_sparse_moe", experts: c.num("num_local_experts"), inter: c.num("intermediate_size"), gate: "w1", up: "w3", down: "w2"}}
	b.in("model.", 1, func() {
		b.embed("embed_tokens", s.Vocab, h)
		b.in("layers.*.self_attn.", s.LinearLayers, func() {
			b.norm("norm", q, false)
			b.linear("qkv_proj", 3*q, h, false)
			b.linear("out_proj", h, q, false)
			b.linear("output_gate", q, h, false)
		})
		b.in("layers.*.", full, func() { b.attention("self_attn.", s, d) })
		b.layerNorms(s, d)
		b.mlps(s, d)
		b.norm("norm", h, false)
	})
	b.head("lm_head", s.Vocab, h, false)
}
