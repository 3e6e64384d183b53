package modelshape

// encoder fills the stack of an encoder-only model.
func (b *builder) encoder(c *config) *Stack {
	s := &b.m.Stack
	s.Layers = c.num("num_hidden_layers", "n_layers")
	s.Hidden = c.num("hidden_size", "dim")
	s.Heads = c.num("num_attention_heads", "n_heads")
	s.KVHeads, s.HeadDim = s.Heads, s.Hidden/s.Heads
	s.ValDim = s.HeadDim
	s.Inter = c.num("intermediate_size", "hidden_dim")
	s.Vocab = c.num("vocab_size")
	s.Norms, s.Bidirect = 2, true
	return s
}

// bertEmbeddings are words, positions and segments with one LayerNorm.
func (b *builder) bertEmbeddings(c *config, dim int64, positions bool) {
	b.in("embeddings.", 1, func() {
		b.embed("word_embeddings", c.num("vocab_size"), dim)
		if positions {
			b.add(Other, "position_embeddings.weight", c.num("max_position_embeddings"), dim)
		}
		if n := c.opt("type_vocab_size"); n > 0 {
			b.add(Other, "token_type_embeddings.weight", n, dim)
		}
		b.norm("LayerNorm", dim, true)
	})
}

// bertLayer adds one layer; the attention's own names vary.
func (b *builder) bertLayer(s *Stack, qkv [3]string, out, norm string) {
	h, i := s.Hidden, s.Inter
	for _, n := range qkv {
		b.linear("attention."+n, h, h, true)
	}
	b.linear("attention."+out, h, h, true)
	b.norm("attention."+norm, h, true)
	b.linear("intermediate.dense", i, h, true)
	b.linear("output.dense", h, i, true)
	b.norm("output.LayerNorm", h, true)
}

func bertFamily(b *builder, c *config) {
	s := b.encoder(c)
	h, e := s.Hidden, s.Hidden
	if v := c.opt("embedding_size"); v > 0 {
		e = v
	}
	prefix := map[string]string{"bert": "bert.", "electra": "electra."}[b.m.Type]
	if prefix == "" {
		prefix = "roberta."
	}
	if b.m.bare() {
		prefix = ""
	}
	b.in(prefix, 1, func() {
		b.bertEmbeddings(c, e, true)
		if e != h {
			b.linear("embeddings_project", h, e, true)
		}
		b.in("encoder.layer.*.", s.Layers, func() {
			b.bertLayer(s, [3]string{"self.query", "self.key", "self.value"}, "output.dense", "output.LayerNorm")
		})
		if b.m.bare() && b.m.Type != "electra" {
			b.linear("pooler.dense", h, h, true)
		}
	})
	switch {
	case b.m.bare():
	case b.m.Type == "electra":
		b.linear("generator_predictions.dense", e, h, true)
		b.norm("generator_predictions.LayerNorm", e, true)
		b.head("generator_lm_head", s.Vocab, e, true)
	case b.m.Type == "bert":
		b.in("cls.predictions.", 1, func() {
			b.linear("transform.dense", h, h, true)
			b.norm("transform.LayerNorm", h, true)
			b.head("decoder", s.Vocab, h, true)
		})
	default:
		b.robertaHead(s)
	}
}

func (b *builder) robertaHead(s *Stack) {
	b.in("lm_head.", 1, func() {
		b.linear("dense", s.Hidden, s.Hidden, true)
		b.norm("layer_norm", s.Hidden, true)
		b.head("decoder", s.Vocab, s.Hidden, true)
	})
}

func mpnetFamily(b *builder, c *config) {
	s := b.encoder(c)
	prefix := "mpnet."
	if b.m.bare() {
		prefix = ""
	}
	b.in(prefix, 1, func() {
		b.bertEmbeddings(c, s.Hidden, true)
		b.in("encoder.", 1, func() {
			b.in("layer.*.", s.Layers, func() { b.bertLayer(s, [3]string{"attn.q", "attn.k", "attn.v"}, "attn.o", "LayerNorm") })
			b.add(Other, "relative_attention_bias.weight", c.num("relative_attention_num_buckets"), s.Heads)
		})
		if b.m.bare() {
			b.linear("pooler.dense", s.Hidden, s.Hidden, true)
		}
	})
	if !b.m.bare() {
		b.robertaHead(s)
	}
}

func distilbertFamily(b *builder, c *config) {
	s := b.encoder(c)
	h, i := s.Hidden, s.Inter
	prefix := "distilbert."
	if b.m.bare() {
		prefix = ""
	}
	b.in(prefix, 1, func() {
		b.in("embeddings.", 1, func() {
			b.embed("word_embeddings", s.Vocab, h)
			b.add(Other, "position_embeddings.weight", c.num("max_position_embeddings"), h)
			b.norm("LayerNorm", h, true)
		})
		b.in("transformer.layer.*.", s.Layers, func() {
			for _, n := range []string{"q_lin", "k_lin", "v_lin", "out_lin"} {
				b.linear("attention."+n, h, h, true)
			}
			b.norm("sa_layer_norm", h, true)
			b.linear("ffn.lin1", i, h, true)
			b.linear("ffn.lin2", h, i, true)
			b.norm("output_layer_norm", h, true)
		})
	})
	if !b.m.bare() {
		b.linear("vocab_transform", h, h, true)
		b.norm("vocab_layer_norm", h, true)
		b.head("vocab_projector", s.Vocab, h, true)
	}
}

// debertaFamily: DeBERTa v2 and v3 without the rare convolution layer.
func debertaFamily(b *builder, c *config) {
	s := b.encoder(c)
	h := s.Hidden
	prefix := "deberta."
	if b.m.bare() {
		prefix = ""
	}
	if c.opt("conv_kernel_size") > 0 {
		c.fail("conv_kernel_size", "convolution layers are not known here")
	}
	b.in(prefix, 1, func() {
		b.bertEmbeddings(c, h, c.bool("position_biased_input"))
		b.in("encoder.", 1, func() {
			b.in("layer.*.", s.Layers, func() {
				b.bertLayer(s, [3]string{"self.query_proj", "self.key_proj", "self.value_proj"}, "output.dense", "output.LayerNorm")
			})
			if c.bool("relative_attention") {
				n := c.opt("position_buckets")
				if n <= 0 {
					if n = c.opt("max_relative_positions"); n < 1 {
						n = c.num("max_position_embeddings")
					}
				}
				b.add(Other, "rel_embeddings.weight", 2*n, h)
				if c.str("norm_rel_ebd") == "layer_norm" {
					b.norm("LayerNorm", h, true)
				}
			}
		})
	})
	if !b.m.bare() { // the head without its old, "legacy", form
		b.in("cls.predictions.", 1, func() {
			b.linear("transform.dense", h, h, true)
			b.norm("transform.LayerNorm", h, true)
			b.head("decoder", s.Vocab, h, true)
		})
	}
}

func modernbertFamily(b *builder, c *config) {
	s := b.encoder(c)
	h, i := s.Hidden, s.Inter
	s.Gated = true
	a, m, n := c.bool("attention_bias"), c.bool("mlp_bias"), c.bool("norm_bias")
	prefix := "model."
	if b.m.bare() {
		prefix = ""
	}
	b.in(prefix, 1, func() {
		b.embed("embeddings.tok_embeddings", s.Vocab, h)
		b.norm("embeddings.norm", h, n)
		b.in("layers.*.", s.Layers, func() {
			b.linear("attn.Wqkv", 3*h, h, a)
			b.linear("attn.Wo", h, h, a)
			b.norm("mlp_norm", h, n)
			b.linear("mlp.Wi", 2*i, h, m)
			b.linear("mlp.Wo", h, i, m)
		})
		b.in("layers.*.", max(s.Layers-1, 0), func() { b.norm("attn_norm", h, n) }) // layer 0 has none
		b.norm("final_norm", h, n)
	})
	if !b.m.bare() {
		b.linear("head.dense", h, h, c.bool("classifier_bias"))
		b.norm("head.norm", h, n)
		b.head("decoder", s.Vocab, h, c.bool("decoder_bias"))
	}
}
