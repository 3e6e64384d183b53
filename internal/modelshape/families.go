package modelshape

// families builds the groups of each model type. A composite model type
// ("llava") is in vision.go, an encoder in encoder.go, what is not named like
// Llama in gpt.go and encdec.go.
var families map[string]func(*builder, *config)

// One table, as long as there are families. A map literal would refer to itself through the composite types.
func init() {
	families = map[string]func(*builder, *config){
		"llama": llamaFamily, "granite": llamaFamily, "smollm3": llamaFamily, "helium": llamaFamily,
		"mistral": func(b *builder, c *config) { b.llama(c, "model.", "lm_head", decoder{}) },
		"qwen2":   func(b *builder, c *config) { b.llama(c, "model.", "lm_head", decoder{qkvBias: true}) },
		"qwen3":   qwen3Family,
		"gemma":   llamaFamily,
		"gemma2":  func(b *builder, c *config) { b.llama(c, "model.", "lm_head", gemma2Decoder(c, noQKNorm)) },
		"gemma3_text": func(b *builder, c *config) {
			b.llama(c, "model.", "lm_head", gemma2Decoder(c, headQKNorm))
		},
		"phi": func(b *builder, c *config) {
			b.llama(c, "model.", "lm_head", decoder{qkvBias: true, oBias: true, mlpBias: true, normBias: true, headBias: true,
				norms: []string{"input_layernorm"}, plainMLP: [2]string{"fc1", "fc2"}, out: "dense", finalNorm: "final_layernorm"})
		},
		"phi3": func(b *builder, c *config) {
			b.llama(c, "model.", "lm_head", decoder{fusedQKV: true, fusedGateUp: true})
		},
		"stablelm": func(b *builder, c *config) {
			d := decoder{qkvBias: c.bool("use_qkv_bias"), normBias: true}
			if c.bool("use_parallel_residual") {
				d.norms = []string{"input_layernorm"}
			}
			b.llama(c, "model.", "lm_head", d)
		},
		"starcoder2": func(b *builder, c *config) {
			bias := c.bool("use_bias")
			b.llama(c, "model.", "lm_head", decoder{qkvBias: bias, oBias: bias, mlpBias: bias, normBias: true, plainMLP: [2]string{"c_fc", "c_proj"}})
		},
		"olmo":  func(b *builder, c *config) { d := biases(c); d.noNorm = true; b.llama(c, "model.", "lm_head", d) },
		"olmo2": olmo2Family, "olmo3": olmo2Family,
		"cohere": cohereFamily, "cohere2": cohereFamily,
		"glm":  func(b *builder, c *config) { b.llama(c, "model.", "lm_head", glmDecoder(c)) },
		"glm4": glm4Family,
		"exaone4": func(b *builder, c *config) {
			b.llama(c, "model.", "lm_head", decoder{qkNorm: headQKNorm, norms: []string{"post_attention_layernorm", "post_feedforward_layernorm"}})
		},
		"ernie4_5": func(b *builder, c *config) {
			bias := c.bool("use_bias")
			b.llama(c, "model.", "lm_head", decoder{qkvBias: bias, oBias: bias, mlpBias: bias})
		},
		"seed_oss": func(b *builder, c *config) {
			b.llama(c, "model.", "lm_head", decoder{qkvBias: c.bool("attention_bias"), oBias: c.bool("attention_out_bias"), mlpBias: c.bool("mlp_bias")})
		},
		"arcee": func(b *builder, c *config) {
			d := biases(c)
			d.plainMLP = [2]string{"up_proj", "down_proj"}
			b.llama(c, "model.", "lm_head", d)
		},
		"apertus": func(b *builder, c *config) {
			d := biases(c)
			d.plainMLP = [2]string{"up_proj", "down_proj"}
			d.qkNorm, d.norms = headQKNorm, []string{"attention_layernorm", "feedforward_layernorm"}
			d.extra = func(b *builder) { b.add(Other, "mlp.act_fn.alpha_p", 1); b.add(Other, "mlp.act_fn.alpha_n", 1) }
			b.llama(c, "model.", "lm_head", d)
		},

		"mixtral":      mixtralFamily,
		"phimoe":       phimoeFamily,
		"qwen2_moe":    qwen2MoeFamily,
		"qwen3_moe":    qwen3MoeFamily,
		"olmoe":        olmoeFamily,
		"granitemoe":   granitemoeFamily,
		"gpt_oss":      gptOssFamily,
		"glm4_moe":     glm4MoeFamily,
		"ernie4_5_moe": ernieMoeFamily,
		"llama4_text":  llama4Family,
		"deepseek_v2":  deepseekFamily, "deepseek_v3": deepseekFamily,
		"qwen3_next": qwen3NextFamily, "qwen3_5_text": qwen3NextFamily,
		"minimax": minimaxFamily,

		"gpt2": gpt2Family, "gpt_bigcode": gpt2Family,
		"gpt_neo": gptNeoFamily, "gptj": gptjFamily, "gpt_neox": gptNeoxFamily,
		"opt": optFamily, "biogpt": biogptFamily, "bloom": bloomFamily, "falcon": falconFamily, "mpt": mptFamily,

		"bert": bertFamily, "roberta": bertFamily, "xlm-roberta": bertFamily, "camembert": bertFamily, "electra": bertFamily,
		"distilbert": distilbertFamily, "mpnet": mpnetFamily, "deberta-v2": debertaFamily, "modernbert": modernbertFamily,

		"t5": t5Family, "mt5": t5Family, "umt5": t5Family,
		"bart": bartFamily, "mbart": bartFamily, "pegasus": bartFamily, "m2m_100": bartFamily, "marian": bartFamily, "whisper": bartFamily,

		"llava": llavaFamily, "paligemma": paligemmaFamily, "gemma3": gemma3Family, "mistral3": mistral3Family,
		"internvl": internvlFamily, "idefics3": idefics3Family, "smolvlm": idefics3Family,
		"qwen2_vl": qwenVLFamily, "qwen2_5_vl": qwenVLFamily, "qwen3_vl": qwenVLFamily,
		"vit": vitFamily, "dinov2": dinov2Family, "clip": clipFamily, "siglip": siglipFamily,
	}
}

// biases are the switches that Llama's own config has.
func biases(c *config) decoder {
	a := c.bool("attention_bias")
	return decoder{qkvBias: a, oBias: a, mlpBias: c.bool("mlp_bias")}
}

func llamaFamily(b *builder, c *config) { b.llama(c, "model.", "lm_head", biases(c)) }

func qwen3Family(b *builder, c *config) {
	d := biases(c)
	d.qkNorm = headQKNorm
	b.llama(c, "model.", "lm_head", d)
}

func gemma2Decoder(c *config, n qkNorm) decoder {
	d := biases(c)
	d.qkNorm = n
	d.norms = []string{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"}
	return d
}

func olmo2Family(b *builder, c *config) {
	d := biases(c)
	d.qkNorm, d.norms = fullQKNorm, []string{"post_attention_layernorm", "post_feedforward_layernorm"}
	b.llama(c, "model.", "lm_head", d)
}

func cohereFamily(b *builder, c *config) {
	d := biases(c)
	d.norms = []string{"input_layernorm"}
	b.llama(c, "model.", "lm_head", d)
	if c.bool("use_qk_norm") { // one row per head
		s := &b.m.Stack
		s.QKNorm = true
		b.in("model.layers.*.self_attn.", s.Layers, func() {
			b.add(Other, "q_norm.weight", s.Heads, s.HeadDim)
			b.add(Other, "k_norm.weight", s.KVHeads, s.HeadDim)
		})
	}
}

func glmDecoder(c *config) decoder {
	return decoder{qkvBias: c.bool("attention_bias"), fusedGateUp: true}
}

func glm4Family(b *builder, c *config) {
	d := glmDecoder(c)
	d.norms = []string{"input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"}
	b.llama(c, "model.", "lm_head", d)
}

func mixtralFamily(b *builder, c *config) {
	e := c.num("num_local_experts")
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", decoder{moe: &moe{block: "block_sparse_moe", experts: e, inter: c.num("intermediate_size"), gate: "w1", up: "w3", down: "w2"}})
}

func phimoeFamily(b *builder, c *config) {
	d := decoder{normBias: true, headBias: c.bool("lm_head_bias"), qkvBias: c.bool("attention_bias"), oBias: c.bool("attention_bias"),
		moe: &moe{block: "block_sparse_moe", experts: c.num("num_local_experts"), inter: c.num("intermediate_size"), gate: "w1", up: "w3", down: "w2"}}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}

// sparse is the number of MoE layers of the Qwen MoE models: every
// decoder_sparse_step-th, less those listed in mlp_only_layers.
func sparse(c *config, layers int64) int64 {
	step := max(c.opt("decoder_sparse_step"), 1)
	only := map[int64]bool{}
	for _, i := range c.ints("mlp_only_layers") {
		only[i] = true
	}
	var n int64
	for i := range min(layers, 1<<20) {
		if !only[i] && (i+1)%step == 0 {
			n++
		}
	}
	return n
}

func qwen2MoeFamily(b *builder, c *config) {
	layers := c.num("num_hidden_layers")
	bias := true
	if c.raw([]string{"qkv_bias"}) != nil {
		bias = c.bool("qkv_bias")
	}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", decoder{qkvBias: bias, denseLayers: layers - sparse(c, layers), moe: &moe{
		block: "mlp", experts: c.num("num_experts"), inter: c.num("moe_intermediate_size"),
		shared: "shared_expert", sharedInter: c.num("shared_expert_intermediate_size"), sharedGate: "shared_expert_gate"}})
}

func qwen3MoeFamily(b *builder, c *config) {
	layers := c.num("num_hidden_layers")
	d := biases(c)
	d.qkNorm, d.denseLayers = headQKNorm, layers-sparse(c, layers)
	d.moe = &moe{block: "mlp", experts: c.num("num_experts", "num_local_experts"), inter: c.num("moe_intermediate_size")}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}

func olmoeFamily(b *builder, c *config) {
	d := biases(c)
	d.qkNorm = fullQKNorm
	d.moe = &moe{block: "mlp", experts: c.num("num_experts"), inter: c.num("intermediate_size")}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}

func granitemoeFamily(b *builder, c *config) {
	d := biases(c)
	h, i, e := c.num("hidden_size"), c.num("intermediate_size"), c.num("num_local_experts")
	d.extra = func(b *builder) {
		b.in("block_sparse_moe.", 1, func() {
			b.add(Router, "router.layer.weight", e, h)
			b.add(Expert, "input_linear.weight", e, 2*i, h)
			b.add(Expert, "output_linear.weight", e, h, i)
		})
	}
	s := &b.m.Stack
	b.llamaNoMLP(c, d)
	s.Experts, s.TopK, s.ExpertInter, s.MoELayers = e, c.num("num_experts_per_tok"), i, s.Layers
}

// llamaNoMLP is llama for families whose MLP the extra groups describe.
func (b *builder) llamaNoMLP(c *config, d decoder) {
	d.moe = &moe{block: "none"}
	s := b.stack(c)
	b.in("model.", 1, func() {
		b.embed("embed_tokens", s.Vocab, s.Hidden)
		b.in("layers.*.", s.Layers, func() { b.attention("self_attn.", s, d) })
		b.layerNorms(s, d)
		b.in("layers.*.", s.Layers, func() { d.extra(b) })
		b.norm("norm", s.Hidden, d.normBias)
	})
	b.head("lm_head", s.Vocab, s.Hidden, d.headBias)
}

func gptOssFamily(b *builder, c *config) {
	d := biases(c)
	d.sinks = true
	d.moe = &moe{block: "mlp", experts: c.num("num_local_experts"), inter: c.num("intermediate_size"), fused: true, fusedBias: true,
		router: "router", routerBias: true}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}

func glm4MoeFamily(b *builder, c *config) {
	d := decoder{qkvBias: c.bool("attention_bias"), denseLayers: c.opt("first_k_dense_replace")}
	if c.bool("use_qk_norm") {
		d.qkNorm = headQKNorm
	}
	inter := c.num("moe_intermediate_size")
	d.moe = &moe{block: "mlp", experts: c.num("n_routed_experts"), inter: inter, shared: "shared_experts", sharedInter: inter * c.opt("n_shared_experts")}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}

func ernieMoeFamily(b *builder, c *config) {
	bias := c.bool("use_bias")
	inter, e := c.num("moe_intermediate_size"), c.num("moe_num_experts")
	d := decoder{qkvBias: bias, oBias: bias, mlpBias: bias, denseLayers: c.opt("moe_layer_start_index")}
	d.moe = &moe{block: "mlp", experts: e, inter: inter, shared: "shared_experts", sharedInter: inter * c.opt("moe_num_shared_experts"),
		correction: "moe_statics.e_score_correction_bias", correctionDimensions: []int64{1, e}}
	b.m.Stack.TopK = c.num("moe_k")
	b.llama(c, "model.", "lm_head", d)
}

// llama4Family has experts stored as 3-D tensors, and a dense MLP of its own
// width in the layers between.
func llama4Family(b *builder, c *config) {
	d := biases(c)
	layers := c.num("num_hidden_layers")
	step := max(c.opt("interleave_moe_layer_step"), 1)
	sparse := layers / step
	if l := c.ints("moe_layers"); c.keys["moe_layers"] != nil && len(l) > 0 {
		sparse = int64(len(l))
	}
	inter := c.num("intermediate_size")
	d.denseLayers, d.denseInter, d.mlp = layers-sparse, c.num("intermediate_size_mlp"), "feed_forward"
	d.moe = &moe{block: "feed_forward", experts: c.num("num_local_experts"), inter: inter, fused: true, router: "router",
		shared: "shared_expert", sharedInter: inter}
	b.m.Stack.TopK = c.num("num_experts_per_tok")
	b.llama(c, "model.", "lm_head", d)
}
