package modelshape

// decoder describes the decoders that share Llama's naming by what they
// change in it. The zero value is Llama without biases.
type decoder struct {
	qkvBias, oBias, mlpBias bool
	normBias                bool     // LayerNorm with bias instead of RMSNorm
	noNorm                  bool     // norms without parameters (OLMo)
	qkNorm                  qkNorm   // norms of queries and keys
	norms                   []string // hidden-size norms of a layer; nil: Llama's two
	fusedQKV, fusedGateUp   bool
	plainMLP                [2]string // up and down of an MLP without gate
	out                     string    // o_proj under another name
	mlp                     string    // mlp under another name
	headBias                bool
	finalNorm               string
	moe                     *moe
	denseLayers             int64 // layers with a dense MLP where moe is set
	denseInter              int64 // their width, if not the intermediate size
	gateQ                   bool  // q_proj also makes an output gate (Qwen3-Next)
	sinks                   bool
	extra                   func(b *builder) // once per layer
}

type qkNorm uint8

const (
	noQKNorm   qkNorm = iota
	headQKNorm        // over the head dimension
	fullQKNorm        // over all heads
)

// moe is the expert block of a layer. Experts have one tensor each in
// published checkpoints, whether transformers fuses them or not.
type moe struct {
	block                string // "mlp", "block_sparse_moe"
	experts, inter       int64
	gate, up, down       string // names of an expert's weights; gate "" if fused into up
	fused                bool   // experts stored as 3-D tensors
	fusedBias            bool
	router               string
	routerBias           bool
	shared               string // name of the shared expert; "" if none
	sharedInter          int64  // 0: none
	sharedGate           string // sigmoid gate of the shared expert
	correction           string // name of a per-expert correction bias that is a parameter
	correctionDimensions []int64
}

func (b *builder) stack(c *config) *Stack {
	s := &b.m.Stack
	s.Layers = c.num("num_hidden_layers", "n_layer", "n_layers", "num_layers")
	s.Hidden = c.num("hidden_size", "n_embd", "d_model")
	s.Heads = c.num("num_attention_heads", "n_head", "n_heads", "num_heads")
	s.KVHeads = c.opt("num_key_value_heads", "num_kv_heads")
	if s.KVHeads <= 0 {
		s.KVHeads = s.Heads
	}
	s.HeadDim = c.opt("head_dim")
	if s.HeadDim <= 0 {
		s.HeadDim = s.Hidden / s.Heads
	}
	s.ValDim = s.HeadDim
	s.Inter = c.opt("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
	s.Vocab = c.num("vocab_size")
	s.Gated, s.RMSNorm, s.Norms = true, true, 2
	if w := c.opt("sliding_window"); w > 0 {
		use, has := c.keys["use_sliding_window"]
		if !has || string(use) == "true" {
			s.Window, s.WindowLayers = w, s.Layers
			if n, ok := c.count("sliding_attention"); ok {
				s.WindowLayers = n
			}
		}
	}
	return s
}

// llama adds a decoder under prefix ("model.") with its head.
func (b *builder) llama(c *config, prefix, head string, d decoder) {
	s := b.stack(c)
	h := s.Hidden
	b.in(prefix, 1, func() {
		b.embed("embed_tokens", s.Vocab, h)
		b.in("layers.*.", s.Layers, func() { b.attention("self_attn.", s, d) })
		b.layerNorms(s, d)
		b.mlps(s, d)
		if !d.noNorm {
			b.norm(orElse(d.finalNorm, "norm"), h, d.normBias)
		}
	})
	if head != "" {
		b.head(head, s.Vocab, h, d.headBias)
	}
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// attention adds the projections of every layer the builder stands in.
func (b *builder) attention(name string, s *Stack, d decoder) {
	q, kv, h := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim, s.Hidden
	b.in(name, 1, func() {
		qOut := q
		if d.gateQ {
			qOut *= 2
		}
		if d.fusedQKV {
			b.linear("qkv_proj", qOut+2*kv, h, d.qkvBias)
		} else {
			b.linear("q_proj", qOut, h, d.qkvBias)
			b.linear("k_proj", kv, h, d.qkvBias)
			b.linear("v_proj", kv, h, d.qkvBias)
		}
		b.linear(orElse(d.out, "o_proj"), h, q, d.oBias)
		switch d.qkNorm {
		case headQKNorm:
			b.norm("q_norm", s.HeadDim, false)
			b.norm("k_norm", s.HeadDim, false)
		case fullQKNorm:
			b.norm("q_norm", q, false)
			b.norm("k_norm", kv, false)
		}
		if d.sinks {
			b.add(Other, "sinks", s.Heads)
		}
	})
	s.QKNorm = d.qkNorm != noQKNorm
}

func (b *builder) layerNorms(s *Stack, d decoder) {
	norms := d.norms
	if norms == nil {
		norms = []string{"input_layernorm", "post_attention_layernorm"}
	}
	s.Norms, s.RMSNorm = int64(len(norms)), !d.normBias && !d.noNorm
	if d.noNorm {
		return
	}
	b.in("layers.*.", s.Layers, func() {
		for _, n := range norms {
			b.norm(n, s.Hidden, d.normBias)
		}
	})
}

func (b *builder) mlps(s *Stack, d decoder) {
	dense := s.Layers
	if d.moe != nil {
		dense = min(d.denseLayers, s.Layers)
		b.in("layers.*.", s.Layers-dense, func() { b.experts(s, d.moe) })
		s.MoELayers = s.Layers - dense
	}
	inter := s.Inter
	if d.denseInter > 0 {
		inter = d.denseInter
	}
	b.in("layers.*.", dense, func() { b.mlp(inter, s, d) })
	if d.extra != nil {
		b.in("layers.*.", s.Layers, func() { d.extra(b) })
	}
}

func (b *builder) mlp(inter int64, s *Stack, d decoder) {
	h := s.Hidden
	b.in(orElse(d.mlp, "mlp")+".", 1, func() {
		switch {
		case d.plainMLP[0] != "":
			s.Gated = false
			b.linear(d.plainMLP[0], inter, h, d.mlpBias)
			b.linear(d.plainMLP[1], h, inter, d.mlpBias)
		case d.fusedGateUp:
			b.linear("gate_up_proj", 2*inter, h, d.mlpBias)
			b.linear("down_proj", h, inter, d.mlpBias)
		default:
			b.linear("gate_proj", inter, h, d.mlpBias)
			b.linear("up_proj", inter, h, d.mlpBias)
			b.linear("down_proj", h, inter, d.mlpBias)
		}
	})
}

func (b *builder) experts(s *Stack, m *moe) {
	h := s.Hidden
	s.Experts, s.ExpertInter, s.SharedInter = m.experts, m.inter, m.sharedInter
	b.in(m.block+".", 1, func() {
		router := orElse(m.router, "gate")
		b.add(Router, router+".weight", m.experts, h)
		if m.routerBias {
			b.add(Other, router+".bias", m.experts)
		}
		if m.correction != "" {
			b.add(Other, m.correction, m.correctionDimensions...)
		}
		if m.fused {
			b.add(Expert, "experts.gate_up_proj", m.experts, h, 2*m.inter)
			b.add(Expert, "experts.down_proj", m.experts, m.inter, h)
			if m.fusedBias {
				b.add(Expert, "experts.gate_up_proj_bias", m.experts, 2*m.inter)
				b.add(Expert, "experts.down_proj_bias", m.experts, h)
			}
		} else {
			b.in("experts.*.", m.experts, func() {
				b.add(Expert, orElse(m.gate, "gate_proj")+".weight", m.inter, h)
				b.add(Expert, orElse(m.up, "up_proj")+".weight", m.inter, h)
				b.add(Expert, orElse(m.down, "down_proj")+".weight", h, m.inter)
			})
		}
		if m.shared != "" && m.sharedInter > 0 {
			b.in(m.shared+".", 1, func() {
				b.linear("gate_proj", m.sharedInter, h, false)
				b.linear("up_proj", m.sharedInter, h, false)
				b.linear("down_proj", h, m.sharedInter, false)
			})
		}
		if m.sharedGate != "" {
			b.linear(m.sharedGate, 1, h, false)
		}
	})
}
