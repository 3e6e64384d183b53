package modelshape

// Encoder-decoders. The Stack is the decoder's, with the encoder's layers as
// groups of part Encoder.

// t5Family: the wo of the MLP is in _keep_in_fp32_modules and never quantized.
func t5Family(b *builder, c *config) {
	s := &b.m.Stack
	h, i, kv, heads := c.num("d_model"), c.num("d_ff"), c.num("d_kv"), c.num("num_heads")
	enc := c.num("num_layers")
	dec := c.opt("num_decoder_layers")
	if dec == 0 {
		dec = enc
	}
	gated := c.bool("is_gated_act")
	if f := c.str("feed_forward_proj"); f != "" {
		gated = len(f) > 6 && f[:6] == "gated-"
	}
	*s = Stack{Layers: dec, Hidden: h, Heads: heads, KVHeads: heads, HeadDim: kv, ValDim: kv, Inter: i, Gated: gated,
		RMSNorm: true, Norms: 3, Vocab: c.num("vocab_size")}
	b.embed("shared", s.Vocab, h)
	attention := func(layer, name string) {
		b.in("block.*.layer."+layer+".", 1, func() {
			for _, n := range []string{"q", "k", "v"} {
				b.linear(name+"."+n, heads*kv, h, false)
			}
			b.linear(name+".o", h, heads*kv, false)
			b.norm("layer_norm", h, false)
		})
	}
	mlp := func(layer string) {
		b.in("block.*.layer."+layer+".", 1, func() {
			if gated {
				b.linear("DenseReluDense.wi_0", i, h, false)
				b.linear("DenseReluDense.wi_1", i, h, false)
			} else {
				b.linear("DenseReluDense.wi", i, h, false)
			}
			b.module(Kept, "DenseReluDense.wo", h, i, false)
			b.norm("layer_norm", h, false)
		})
	}
	bias := func(layers int64) { // in the first block only, but in all of UMT5's
		n := int64(1)
		if b.m.Type == "umt5" {
			n = layers
		}
		b.in("block.0.layer.0.SelfAttention.", n, func() {
			b.add(Other, "relative_attention_bias.weight", c.num("relative_attention_num_buckets"), heads)
		})
	}
	b.as(Encoder, func() {
		b.in("encoder.", 1, func() {
			b.in("", enc, func() { attention("0", "SelfAttention"); mlp("1") })
			bias(enc)
			b.norm("final_layer_norm", h, false)
		})
	})
	b.in("decoder.", 1, func() {
		b.in("", dec, func() { attention("0", "SelfAttention"); attention("1", "EncDecAttention"); mlp("2") })
		bias(dec)
		b.norm("final_layer_norm", h, false)
	})
	b.head("lm_head", s.Vocab, h, false)
}

// bartFamily: BART, mBART, Pegasus, M2M100, Marian and Whisper differ in
// their positions and in the norms around the stacks.
func bartFamily(b *builder, c *config) {
	t := b.m.Type
	s := &b.m.Stack
	h := c.num("d_model")
	heads := c.num("decoder_attention_heads")
	enc, dec := c.num("encoder_layers"), c.num("decoder_layers")
	vocab := c.num("vocab_size")
	*s = Stack{Layers: dec, Hidden: h, Heads: heads, KVHeads: heads, HeadDim: h / heads, ValDim: h / heads,
		Inter: c.num("decoder_ffn_dim"), Norms: 3, Vocab: vocab}
	keyBias := t != "whisper"
	layer := func(inter int64, cross bool) {
		b.fairseq("self_attn", h, true, keyBias)
		if cross {
			b.fairseq("encoder_attn", h, true, keyBias)
		}
		b.linear("fc1", inter, h, true)
		b.linear("fc2", h, inter, true)
		b.norm("final_layer_norm", h, true)
	}
	// offset 2 is BART's; M2M100's positions are a buffer, not a parameter.
	positions := func(n, offset int64) { b.add(Other, "embed_positions.weight", n+offset, h) }
	ends := func() {
		switch t {
		case "bart":
			b.norm("layernorm_embedding", h, true)
		case "mbart":
			b.norm("layernorm_embedding", h, true)
			b.norm("layer_norm", h, true)
		case "pegasus", "m2m_100", "whisper":
			b.norm("layer_norm", h, true)
		}
	}
	b.in("model.", 1, func() {
		if t == "whisper" {
			b.embed("decoder.embed_tokens", vocab, h)
		} else {
			b.embed("shared", vocab, h)
		}
		b.as(Encoder, func() {
			b.in("encoder.", 1, func() {
				switch t {
				case "whisper":
					b.add(Other, "conv1.weight", h, c.num("num_mel_bins"), 3)
					b.add(Other, "conv1.bias", h)
					b.add(Other, "conv2.weight", h, h, 3)
					b.add(Other, "conv2.bias", h)
					positions(c.num("max_source_positions"), 0)
				case "bart", "mbart":
					positions(c.num("max_position_embeddings"), 2)
				case "pegasus", "marian":
					positions(c.num("max_position_embeddings"), 0)
				}
				b.in("layers.*.", enc, func() { layer(c.num("encoder_ffn_dim"), false) })
				ends()
			})
		})
		b.in("decoder.", 1, func() {
			switch t {
			case "whisper":
				positions(c.num("max_target_positions"), 0)
			case "bart", "mbart":
				positions(c.num("max_position_embeddings"), 2)
			case "pegasus", "marian":
				positions(c.num("max_position_embeddings"), 0)
			}
			b.in("layers.*.", dec, func() { layer(s.Inter, true) })
			ends()
		})
	})
	head := "lm_head"
	if t == "whisper" {
		head = "proj_out"
	}
	b.head(head, vocab, h, false)
}
