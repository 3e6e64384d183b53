package modelshape

// Decoders older than Llama's naming: LayerNorm with bias, an MLP without
// gate, positions of their own.

func (b *builder) gpt(c *config, inter int64) *Stack {
	s := b.stack(c)
	s.Gated, s.RMSNorm = false, false
	if s.Inter == 0 {
		s.Inter = inter * s.Hidden
	}
	return s
}

// gpt2Family: GPT-2 stores Conv1D weights as [in, out]; GPT-BigCode has
// Linears and one key-value head.
func gpt2Family(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i := s.Hidden, s.Inter
	s.KVHeads = s.Heads
	qkv := 3 * h
	if b.m.Type == "gpt_bigcode" && c.bool("multi_query") {
		s.KVHeads = 1
		qkv = h + 2*s.HeadDim
	}
	w := func(name string, out, in int64) {
		if b.m.Type == "gpt2" {
			b.add(Linear, name+".weight", in, out)
		} else {
			b.add(Linear, name+".weight", out, in)
		}
		b.add(Other, name+".bias", out)
	}
	b.in("transformer.", 1, func() {
		b.embed("wte", s.Vocab, h)
		b.add(Other, "wpe.weight", c.num("n_positions"), h)
		b.in("h.*.", s.Layers, func() {
			b.norm("ln_1", h, true)
			w("attn.c_attn", qkv, h)
			w("attn.c_proj", h, h)
			b.norm("ln_2", h, true)
			w("mlp.c_fc", i, h)
			w("mlp.c_proj", h, i)
		})
		b.norm("ln_f", h, true)
	})
	b.head("lm_head", s.Vocab, h, false)
}

func gptNeoFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i := s.Hidden, s.Inter
	b.in("transformer.", 1, func() {
		b.embed("wte", s.Vocab, h)
		b.add(Other, "wpe.weight", c.num("max_position_embeddings"), h)
		b.in("h.*.", s.Layers, func() {
			b.norm("ln_1", h, true)
			for _, n := range []string{"k_proj", "v_proj", "q_proj"} {
				b.linear("attn.attention."+n, h, h, false)
			}
			b.linear("attn.attention.out_proj", h, h, true)
			b.norm("ln_2", h, true)
			b.linear("mlp.c_fc", i, h, true)
			b.linear("mlp.c_proj", h, i, true)
		})
		b.norm("ln_f", h, true)
	})
	b.head("lm_head", s.Vocab, h, false)
}

func gptjFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i := s.Hidden, s.Inter
	s.Norms = 1
	b.in("transformer.", 1, func() {
		b.embed("wte", s.Vocab, h)
		b.in("h.*.", s.Layers, func() {
			b.norm("ln_1", h, true)
			for _, n := range []string{"k_proj", "v_proj", "q_proj", "out_proj"} {
				b.linear("attn."+n, h, h, false)
			}
			b.linear("mlp.fc_in", i, h, true)
			b.linear("mlp.fc_out", h, i, true)
		})
		b.norm("ln_f", h, true)
	})
	b.head("lm_head", s.Vocab, h, true)
}

func gptNeoxFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i := s.Hidden, s.Inter
	bias := c.bool("attention_bias")
	b.in("gpt_neox.", 1, func() {
		b.embed("embed_in", s.Vocab, h)
		b.in("layers.*.", s.Layers, func() {
			b.norm("input_layernorm", h, true)
			b.norm("post_attention_layernorm", h, true)
			b.linear("attention.query_key_value", 3*h, h, bias)
			b.linear("attention.dense", h, h, bias)
			b.linear("mlp.dense_h_to_4h", i, h, true)
			b.linear("mlp.dense_4h_to_h", h, i, true)
		})
		b.norm("final_layer_norm", h, true)
	})
	b.head("embed_out", s.Vocab, h, false)
}

// fairseq adds the attention of OPT, BART and their kin.
func (b *builder) fairseq(name string, h int64, bias, keyBias bool) {
	b.in(name+".", 1, func() {
		b.linear("k_proj", h, h, keyBias)
		b.linear("v_proj", h, h, bias)
		b.linear("q_proj", h, h, bias)
		b.linear("out_proj", h, h, bias)
	})
	b.norm(name+"_layer_norm", h, true)
}

func optFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i, e := s.Hidden, s.Inter, c.opt("word_embed_proj_dim")
	if e == 0 {
		e = h
	}
	bias := c.bool("enable_bias")
	b.in("model.decoder.", 1, func() {
		b.embed("embed_tokens", s.Vocab, e)
		b.add(Other, "embed_positions.weight", c.num("max_position_embeddings")+2, h)
		if e != h {
			b.linear("project_out", e, h, false)
			b.linear("project_in", h, e, false)
		}
		b.in("layers.*.", s.Layers, func() {
			b.fairseq("self_attn", h, bias, bias)
			b.linear("fc1", i, h, bias)
			b.linear("fc2", h, i, bias)
			b.norm("final_layer_norm", h, true)
		})
		if c.bool("do_layer_norm_before") && !c.bool("_remove_final_layer_norm") {
			b.norm("final_layer_norm", h, true)
		}
	})
	b.head("lm_head", s.Vocab, e, false)
}

func biogptFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i := s.Hidden, s.Inter
	b.in("biogpt.", 1, func() {
		b.embed("embed_tokens", s.Vocab, h)
		b.add(Other, "embed_positions.weight", c.num("max_position_embeddings")+2, h)
		b.in("layers.*.", s.Layers, func() {
			b.fairseq("self_attn", h, true, true)
			b.linear("fc1", i, h, true)
			b.linear("fc2", h, i, true)
			b.norm("final_layer_norm", h, true)
		})
		b.norm("layer_norm", h, true)
	})
	b.head("output_projection", s.Vocab, h, false)
}

func bloomFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h := s.Hidden
	b.in("transformer.", 1, func() {
		b.embed("word_embeddings", s.Vocab, h)
		b.norm("word_embeddings_layernorm", h, true)
		b.in("h.*.", s.Layers, func() {
			b.norm("input_layernorm", h, true)
			b.linear("self_attention.query_key_value", 3*h, h, true)
			b.linear("self_attention.dense", h, h, true)
			b.norm("post_attention_layernorm", h, true)
			b.linear("mlp.dense_h_to_4h", 4*h, h, true)
			b.linear("mlp.dense_4h_to_h", h, 4*h, true)
		})
		b.norm("ln_f", h, true)
	})
	b.head("lm_head", s.Vocab, h, false)
}

// falconFamily: FalconLinear is a subclass of nn.Linear, which transformers
// 5.x therefore does not quantize.
func falconFamily(b *builder, c *config) {
	s := b.gpt(c, 4)
	h, i, bias := s.Hidden, s.Inter, c.bool("bias")
	s.KVHeads = s.Heads
	grouped := c.bool("new_decoder_architecture")
	switch {
	case grouped:
		if kv := c.opt("num_kv_heads"); kv > 0 {
			s.KVHeads = kv
		}
	case c.bool("multi_query"):
		s.KVHeads = 1
	}
	b.in("transformer.", 1, func() {
		b.embed("word_embeddings", s.Vocab, h)
		b.in("h.*.", s.Layers, func() {
			b.module(Kept, "self_attention.query_key_value", (s.Heads+2*s.KVHeads)*s.HeadDim, h, bias)
			b.module(Kept, "self_attention.dense", h, h, bias)
			b.module(Kept, "mlp.dense_h_to_4h", i, h, bias)
			b.module(Kept, "mlp.dense_4h_to_h", h, i, bias)
			switch {
			case grouped && c.opt("num_ln_in_parallel_attn") != 1:
				b.norm("ln_attn", h, true)
				b.norm("ln_mlp", h, true)
			case c.bool("parallel_attn"):
				b.norm("input_layernorm", h, true)
				s.Norms = 1
			default:
				b.norm("input_layernorm", h, true)
				b.norm("post_attention_layernorm", h, true)
			}
		})
		b.norm("ln_f", h, true)
	})
	b.head("lm_head", s.Vocab, h, false)
}

func mptFamily(b *builder, c *config) {
	s := b.gpt(c, c.num("expansion_ratio"))
	h, i := s.Hidden, s.Inter
	b.in("transformer.", 1, func() {
		b.embed("wte", s.Vocab, h)
		b.in("blocks.*.", s.Layers, func() {
			b.norm("norm_1", h, false)
			b.linear("attn.Wqkv", 3*h, h, false)
			b.linear("attn.out_proj", h, h, false)
			b.norm("norm_2", h, false)
			b.linear("ffn.up_proj", i, h, false)
			b.linear("ffn.down_proj", h, i, false)
		})
		b.norm("norm_f", h, false)
	})
	b.head("lm_head", s.Vocab, h, false)
}
