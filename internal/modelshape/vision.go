package modelshape

// Vision towers, and the models that put one in front of a decoder.

// textOf builds the decoder of a composite model from its text_config, with
// typ where the file does not say which.
func (b *builder) textOf(c *config, typ, prefix, head string) *Stack {
	t := c.sub("text_config", typ)
	if _, ok := c.keys["text_config"]; !ok && c.keys["num_hidden_layers"] != nil {
		t.keys, t.typ = c.keys, typ // Qwen2-VL's published files have the text keys at the top
		t.def = defaults()[typ]
	}
	outer := b.m.Type
	b.m.Type = t.typ
	switch t.typ {
	case "mistral":
		b.llama(t, prefix, head, decoder{})
	case "qwen2", "qwen2_vl_text", "qwen2_5_vl_text":
		b.llama(t, prefix, head, decoder{qkvBias: true})
	case "qwen3", "qwen3_vl_text":
		d := biases(t)
		d.qkNorm = headQKNorm
		b.llama(t, prefix, head, d)
	case "gemma2":
		b.llama(t, prefix, head, gemma2Decoder(t, noQKNorm))
	case "gemma3_text":
		b.llama(t, prefix, head, gemma2Decoder(t, headQKNorm))
	case "llama", "gemma", "granite", "smollm3", "":
		b.llama(t, prefix, head, biases(t))
	default:
		c.fail("text_config.model_type", "no shape is known for a language model of type %q", t.typ)
	}
	b.m.Type = outer
	return &b.m.Stack
}

// attention4 are four square projections with biases.
func (b *builder) attention4(name string, h int64, bias bool, names ...string) {
	for _, n := range names {
		b.linear(name+"."+n, h, h, bias)
	}
}

// clipLayers is the layer that CLIP and SigLIP share.
func (b *builder) clipLayers(n, h, inter int64) {
	b.in("encoder.layers.*.", n, func() {
		b.attention4("self_attn", h, true, "k_proj", "v_proj", "q_proj", "out_proj")
		b.norm("layer_norm1", h, true)
		b.linear("mlp.fc1", inter, h, true)
		b.linear("mlp.fc2", h, inter, true)
		b.norm("layer_norm2", h, true)
	})
}

func patches(v *config) int64 {
	n := v.num("image_size") / v.num("patch_size")
	return n * n
}

func (b *builder) patchConv(name string, v *config, h int64, bias bool) {
	p := v.num("patch_size")
	b.add(Other, name+".weight", h, v.num("num_channels"), p, p)
	if bias {
		b.add(Other, name+".bias", h)
	}
}

func (b *builder) clipVision(v *config) {
	h := v.num("hidden_size")
	b.add(Other, "embeddings.class_embedding", h)
	b.patchConv("embeddings.patch_embedding", v, h, false)
	b.add(Other, "embeddings.position_embedding.weight", patches(v)+1, h)
	b.norm("pre_layrnorm", h, true)
	b.clipLayers(v.num("num_hidden_layers"), h, v.num("intermediate_size"))
	b.norm("post_layernorm", h, true)
}

func (b *builder) siglipVision(v *config) {
	h, i := v.num("hidden_size"), v.num("intermediate_size")
	b.patchConv("embeddings.patch_embedding", v, h, true)
	b.add(Other, "embeddings.position_embedding.weight", patches(v), h)
	b.clipLayers(v.num("num_hidden_layers"), h, i)
	b.norm("post_layernorm", h, true)
	if v.raw([]string{"vision_use_head"}) == nil || v.bool("vision_use_head") {
		b.in("head.", 1, func() {
			b.add(Other, "probe", 1, 1, h)
			b.add(Other, "attention.in_proj_weight", 3*h, h)
			b.add(Other, "attention.in_proj_bias", 3*h)
			b.module(Kept, "attention.out_proj", h, h, true) // of nn.MultiheadAttention, a subclass of Linear
			b.norm("layernorm", h, true)
			b.linear("mlp.fc1", i, h, true)
			b.linear("mlp.fc2", h, i, true)
		})
	}
}

func (b *builder) tower(name string, fn func()) { b.as(Tower, func() { b.in(name, 1, fn) }) }

func (b *builder) projector(name string, fn func()) { b.as(Projector, func() { b.in(name, 1, fn) }) }

// towerOf adds the tower of the vision_config's own type.
func (b *builder) towerOf(c *config, v *config, name string) {
	b.tower(name, func() {
		switch v.typ {
		case "clip_vision_model":
			b.in("vision_model.", 1, func() { b.clipVision(v) })
		case "siglip_vision_model":
			b.in("vision_model.", 1, func() { b.siglipVision(v) })
		case "pixtral":
			b.pixtralVision(v)
		default:
			c.fail("vision_config.model_type", "no shape is known for a vision tower of type %q", v.typ)
		}
	})
}

func (b *builder) pixtralVision(v *config) {
	h, i := v.num("hidden_size"), v.num("intermediate_size")
	b.patchConv("patch_conv", v, h, false)
	b.norm("ln_pre", h, false)
	b.in("transformer.layers.*.", v.num("num_hidden_layers"), func() {
		b.norm("attention_norm", h, false)
		b.linear("feed_forward.gate_proj", i, h, false)
		b.linear("feed_forward.up_proj", i, h, false)
		b.linear("feed_forward.down_proj", h, i, false)
		b.attention4("attention", h, false, "k_proj", "v_proj", "q_proj", "o_proj")
		b.norm("ffn_norm", h, false)
	})
}

func llavaFamily(b *builder, c *config) {
	v := c.sub("vision_config", "clip_vision_model")
	b.towerOf(c, v, "vision_tower.")
	s := b.textOf(c, "llama", "language_model.model.", "language_model.lm_head")
	bias := c.raw([]string{"multimodal_projector_bias"}) == nil || c.bool("multimodal_projector_bias")
	layers := int64(1) // of the tower whose outputs are concatenated
	if l := c.ints("vision_feature_layer"); len(l) > 1 {
		layers = int64(len(l))
	}
	b.projector("multi_modal_projector.", func() {
		b.linear("linear_1", s.Hidden, v.num("hidden_size")*layers, bias)
		b.linear("linear_2", s.Hidden, s.Hidden, bias)
	})
}

func paligemmaFamily(b *builder, c *config) {
	v := c.sub("vision_config", "siglip_vision_model")
	b.towerOf(c, v, "vision_tower.")
	b.textOf(c, "gemma", "language_model.model.", "language_model.lm_head")
	b.projector("multi_modal_projector.", func() { b.linear("linear", c.num("projection_dim"), v.num("hidden_size"), true) })
}

func gemma3Family(b *builder, c *config) {
	v := c.sub("vision_config", "siglip_vision_model")
	b.towerOf(c, v, "vision_tower.")
	s := b.textOf(c, "gemma3_text", "language_model.model.", "language_model.lm_head")
	b.projector("multi_modal_projector.", func() {
		b.add(Other, "mm_input_projection_weight", v.num("hidden_size"), s.Hidden)
		b.norm("mm_soft_emb_norm", v.num("hidden_size"), false)
	})
}

func mistral3Family(b *builder, c *config) {
	v := c.sub("vision_config", "pixtral")
	b.towerOf(c, v, "vision_tower.")
	s := b.textOf(c, "mistral", "language_model.model.", "language_model.lm_head")
	vh, merge, bias := v.num("hidden_size"), c.num("spatial_merge_size"), c.bool("multimodal_projector_bias")
	layers := int64(1)
	if l := c.ints("vision_feature_layer"); len(l) > 1 {
		layers = int64(len(l))
	}
	b.projector("multi_modal_projector.", func() {
		b.norm("norm", vh, false)
		b.linear("patch_merger.merging_layer", vh, vh*merge*merge, false)
		b.linear("linear_1", s.Hidden, vh*layers, bias)
		b.linear("linear_2", s.Hidden, s.Hidden, bias)
	})
}

func internvlFamily(b *builder, c *config) {
	v := c.sub("vision_config", "internvl_vision")
	h, i := v.num("hidden_size"), v.num("intermediate_size")
	side := func(key string, def int64) (n int64) {
		n = 1
		l := v.ints(key)
		if len(l) == 0 {
			return def * def
		}
		for j := range 2 {
			n *= l[min(j, len(l)-1)]
		}
		return n
	}
	image, patch := side("image_size", 448), max(side("patch_size", 14), 1)
	b.tower("vision_tower.", func() {
		b.add(Other, "embeddings.cls_token", 1, 1, h)
		if v.bool("use_mask_token") {
			b.add(Other, "embeddings.mask_token", 1, 1, h)
		}
		if v.bool("use_absolute_position_embeddings") {
			b.add(Other, "embeddings.position_embeddings", 1, image/patch+1, h)
		}
		b.add(Other, "embeddings.patch_embeddings.projection.weight", h, v.num("num_channels"), patch)
		b.add(Other, "embeddings.patch_embeddings.projection.bias", h)
		b.in("encoder.layer.*.", v.num("num_hidden_layers"), func() {
			b.add(Other, "lambda_1", h)
			b.add(Other, "lambda_2", h)
			b.attention4("attention", h, v.bool("attention_bias"), "q_proj", "k_proj", "v_proj")
			b.linear("attention.projection_layer", h, h, true)
			if v.bool("use_qk_norm") {
				b.norm("attention.q_norm", h, false)
				b.norm("attention.k_norm", h, false)
			}
			b.linear("mlp.fc1", i, h, true)
			b.linear("mlp.fc2", h, i, true)
			b.norm("layernorm_before", h, true)
			b.norm("layernorm_after", h, true)
		})
		if !v.bool("use_mean_pooling") {
			b.norm("layernorm", h, true)
		}
	})
	s := b.textOf(c, "qwen2", "language_model.model.", "language_model.lm_head")
	const shuffled = 4 // downsample_ratio 0.5 in both directions
	b.projector("multi_modal_projector.", func() {
		b.norm("layer_norm", shuffled*h, true)
		b.linear("linear_1", s.Hidden, shuffled*h, true)
		b.linear("linear_2", s.Hidden, s.Hidden, true)
	})
}

func idefics3Family(b *builder, c *config) {
	v := c.sub("vision_config", "idefics3_vision")
	vh := v.num("hidden_size")
	b.tower("model.vision_model.", func() {
		b.patchConv("embeddings.patch_embedding", v, vh, true)
		b.add(Other, "embeddings.position_embedding.weight", patches(v), vh)
		b.clipLayers(v.num("num_hidden_layers"), vh, v.num("intermediate_size"))
		b.norm("post_layernorm", vh, true)
	})
	s := b.textOf(c, "llama", "model.text_model.", "lm_head")
	scale := int64(2)
	if n := c.opt("scale_factor"); n > 0 {
		scale = n
	}
	b.projector("model.connector.", func() { b.linear("modality_projection.proj", s.Hidden, vh*scale*scale, false) })
}

// qwenVLFamily: Qwen2-VL, 2.5-VL and 3-VL differ in the tower's MLP and
// norms, and 3-VL merges three inner layers too.
func qwenVLFamily(b *builder, c *config) {
	t := b.m.Type
	v := c.sub("vision_config", t+"_vision")
	h := v.num("hidden_size")
	if t == "qwen2_vl" {
		h = v.num("embed_dim")
	}
	out := v.opt("out_hidden_size")
	if t == "qwen2_vl" {
		out = v.num("hidden_size")
	}
	merge, p := v.num("spatial_merge_size"), v.num("patch_size")
	wide := h * merge * merge
	lnBias := t != "qwen2_5_vl"
	prefix, text := "visual.", "model."
	if t == "qwen3_vl" {
		prefix, text = "model.visual.", "model.language_model."
	}
	b.tower(prefix, func() {
		b.add(Other, "patch_embed.proj.weight", h, v.num("in_channels", "in_chans"), v.num("temporal_patch_size"), p, p)
		if t == "qwen3_vl" {
			b.add(Other, "patch_embed.proj.bias", h)
			b.add(Other, "pos_embed.weight", v.num("num_position_embeddings"), h)
		}
		b.in("blocks.*.", v.num("depth"), func() {
			b.norm("norm1", h, lnBias)
			b.norm("norm2", h, lnBias)
			b.linear("attn.qkv", 3*h, h, true)
			b.linear("attn.proj", h, h, true)
			switch t {
			case "qwen2_vl":
				b.linear("mlp.fc1", h*v.num("mlp_ratio"), h, true)
				b.linear("mlp.fc2", h, h*v.num("mlp_ratio"), true)
			case "qwen2_5_vl":
				i := v.num("intermediate_size")
				b.linear("mlp.gate_proj", i, h, true)
				b.linear("mlp.up_proj", i, h, true)
				b.linear("mlp.down_proj", h, i, true)
			default:
				i := v.num("intermediate_size")
				b.linear("mlp.linear_fc1", i, h, true)
				b.linear("mlp.linear_fc2", h, i, true)
			}
		})
		merger := func(norm, fc1, fc2 string, normDim int64) {
			b.norm(norm, normDim, lnBias)
			b.linear(fc1, wide, wide, true)
			b.linear(fc2, out, wide, true)
		}
		if t == "qwen3_vl" {
			merger("merger.norm", "merger.linear_fc1", "merger.linear_fc2", h)
			n := int64(3)
			if l := v.ints("deepstack_visual_indexes"); v.keys["deepstack_visual_indexes"] != nil {
				n = int64(len(l))
			}
			b.in("deepstack_merger_list.*.", n, func() { merger("norm", "linear_fc1", "linear_fc2", wide) })
		} else {
			merger("merger.ln_q", "merger.mlp.0", "merger.mlp.2", h)
		}
	})
	b.textOf(c, t+"_text", text, "lm_head")
}

// vision fills the stack of a model that is a vision encoder alone.
func (b *builder) vision(c *config, inter int64) *Stack {
	s := &b.m.Stack
	h, heads := c.num("hidden_size"), c.num("num_attention_heads")
	*s = Stack{Layers: c.num("num_hidden_layers"), Hidden: h, Heads: heads, KVHeads: heads, HeadDim: h / heads, ValDim: h / heads,
		Inter: inter, Norms: 2, Bidirect: true}
	return s
}

func vitFamily(b *builder, c *config) {
	s := b.vision(c, c.num("intermediate_size"))
	h, bias := s.Hidden, c.bool("qkv_bias")
	b.add(Other, "embeddings.cls_token", 1, 1, h)
	b.add(Other, "embeddings.position_embeddings", 1, patches(c)+1, h)
	b.patchConv("embeddings.patch_embeddings.projection", c, h, true)
	b.in("encoder.layer.*.", s.Layers, func() {
		b.attention4("attention.attention", h, bias, "query", "key", "value")
		b.linear("attention.output.dense", h, h, true)
		b.norm("layernorm_before", h, true)
		b.norm("layernorm_after", h, true)
		b.linear("intermediate.dense", s.Inter, h, true)
		b.linear("output.dense", h, s.Inter, true)
	})
	b.norm("layernorm", h, true)
	if b.m.bare() {
		b.linear("pooler.dense", h, h, true)
	}
}

func dinov2Family(b *builder, c *config) {
	s := b.vision(c, c.num("hidden_size")*c.num("mlp_ratio"))
	h, bias := s.Hidden, c.bool("qkv_bias")
	if c.bool("use_swiglu_ffn") {
		c.fail("use_swiglu_ffn", "the SwiGLU form is not known here")
	}
	b.add(Other, "embeddings.cls_token", 1, 1, h)
	if c.bool("use_mask_token") {
		b.add(Other, "embeddings.mask_token", 1, h)
	}
	b.add(Other, "embeddings.position_embeddings", 1, patches(c)+1, h)
	b.patchConv("embeddings.patch_embeddings.projection", c, h, true)
	b.in("encoder.layer.*.", s.Layers, func() {
		b.attention4("attention.attention", h, bias, "query", "key", "value")
		b.linear("attention.output.dense", h, h, true)
		b.norm("norm1", h, true)
		b.norm("norm2", h, true)
		b.add(Other, "layer_scale1.lambda1", h)
		b.add(Other, "layer_scale2.lambda1", h)
		b.linear("mlp.fc1", s.Inter, h, true)
		b.linear("mlp.fc2", h, s.Inter, true)
	})
	b.norm("layernorm", h, true)
}

// clipFamily and siglipFamily are dual encoders; the stack is the text one's.
func clipFamily(b *builder, c *config) {
	t, v := c.sub("text_config", "clip_text_model"), c.sub("vision_config", "clip_vision_model")
	s := b.encoder(t)
	h, dim := s.Hidden, c.num("projection_dim")
	b.add(Other, "logit_scale")
	b.in("text_model.", 1, func() {
		b.embed("embeddings.token_embedding", s.Vocab, h)
		b.add(Other, "embeddings.position_embedding.weight", t.num("max_position_embeddings"), h)
		b.clipLayers(s.Layers, h, s.Inter)
		b.norm("final_layer_norm", h, true)
	})
	b.tower("vision_model.", func() { b.clipVision(v) })
	b.projector("", func() {
		b.linear("visual_projection", dim, v.num("hidden_size"), false)
		b.module(Kept, "text_projection", dim, h, false) // the last module, which the default skip list keeps
	})
}

func siglipFamily(b *builder, c *config) {
	t, v := c.sub("text_config", "siglip_text_model"), c.sub("vision_config", "siglip_vision_model")
	s := b.encoder(t)
	h := s.Hidden
	out := t.opt("projection_size")
	if out == 0 {
		out = h
	}
	b.add(Other, "logit_scale", 1)
	b.add(Other, "logit_bias", 1)
	b.in("text_model.", 1, func() {
		b.embed("embeddings.token_embedding", s.Vocab, h)
		b.add(Other, "embeddings.position_embedding.weight", t.num("max_position_embeddings"), h)
		b.clipLayers(s.Layers, h, s.Inter)
		b.norm("final_layer_norm", h, true)
		b.linear("head", out, h, true)
	})
	b.tower("vision_model.", func() { b.siglipVision(v) })
}
