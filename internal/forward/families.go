package forward

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// families are the model types that there are descriptions of, each as what sets it apart from another, Llama at the bottom.
// The names are those that transformers 5 and the published checkpoints have; the rules are those of its modeling files.
var families = map[string]func(c *config) *model{
	"llama":   llama,
	"mistral": mistral,
	"gemma":   gemma,
	"qwen2": func(c *config) *model {
		m := llama(c)
		m.each(func(i int, b *block) { b.attn.biases(true, true, true, false) })
		m.lateWindows(c)
		return m
	},
	"qwen3": func(c *config) *model {
		m := llama(c)
		m.headNorms("self_attn.q_norm", "self_attn.k_norm")
		m.lateWindows(c)
		return m
	},
	"gemma2":      gemma2,
	"gemma3_text": gemma3,
	"phi":         phi,
	"phi3":        phi3,
	"stablelm":    stablelm,
	"starcoder2": func(c *config) *model {
		m := llama(c)
		bias := c.truth("use_bias")
		m.normKinds(centred, true, c.number("norm_epsilon"))
		m.each(func(i int, b *block) {
			b.attn.biases(bias, bias, bias, bias)
			b.mlp.gate = linear{}
			b.mlp.up, b.mlp.down = linear{"mlp.c_fc", bias}, linear{"mlp.c_proj", bias}
		})
		m.windows(c, nil, c.optional("sliding_window"))
		return m
	},
	"olmo2": func(c *config) *model {
		m := llama(c)
		m.each(func(i int, b *block) {
			b.attnOut, b.mlpOut = b.mlpIn, b.mlpIn.named("post_feedforward_layernorm")
			b.attnIn, b.mlpIn = norm{}, norm{}
			b.attn.wholeNorm = true
		})
		m.headNorms("self_attn.q_norm", "self_attn.k_norm")
		return m
	},
	"smollm3": smollm3,
	"granite": func(c *config) *model {
		m := llama(c)
		m.embedScale = c.number("embedding_multiplier")
		m.logitScale = 1 / c.number("logits_scaling")
		m.each(func(i int, b *block) {
			b.residual, b.attn.scale = c.number("residual_multiplier"), c.number("attention_multiplier")
		})
		return m
	},
	"cohere":    cohere,
	"glm4":      glm4,
	"gpt2":      gpt2,
	"gpt_neox":  gptNeoX,
	"opt":       opt,
	"mixtral":   mixtral,
	"qwen3_moe": qwen3MoE,
	"gpt_oss":   gptOSS,
}

// Types lists the model types that there are descriptions of.
func Types() []string { return slices.Sorted(maps.Keys(families)) }

// each visits the layers.
func (m *model) each(f func(i int, b *block)) {
	for i := range m.layers {
		f(i, &m.layers[i])
	}
}

func (n norm) named(name string) norm {
	n.name = name
	return n
}

func (a *attention) biases(q, k, v, o bool) {
	a.q.bias, a.k.bias, a.v.bias, a.o.bias = q, k, v, o
}

// newModel is what is common to all: sizes, tables and the head.
func newModel(c *config, layers int) *model {
	return &model{
		vocab: c.size("vocab_size"), width: c.size("hidden_size", "n_embd"), context: c.optional("max_position_embeddings", "n_positions"),
		embed: "model.embed_tokens", embedScale: 1, head: linear{"lm_head", false}, tied: c.truth("tie_word_embeddings"), logitScale: 1,
		layers: make([]block, layers),
	}
}

// layerCount bounds what is allocated: no published model has a tenth of it.
func layerCount(c *config, keys ...string) int {
	n := c.size(keys...)
	if n > 10_000 {
		c.refuse(keys[0], "expected at most 10000 layers, found %d", n)
		return 1
	}
	return n
}

func llama(c *config) *model { return llamaLike(c, true, 1) }

// llamaLike is Llama with rotary embeddings of every layer alike, unless rotary is false, of a part of a head.
func llamaLike(c *config, rotary bool, partial float64) *model {
	m := newModel(c, layerCount(c, "num_hidden_layers", "n_layer"))
	n := norm{kind: rms, eps: c.number("rms_norm_eps")}
	m.norm = n.named("model.norm")
	heads := c.size("num_attention_heads", "n_head")
	kv := c.optional("num_key_value_heads")
	if kv == 0 {
		kv = heads
	}
	dim := 0
	if c.typ != "stablelm" { // whose modeling code alone does not ask for it
		dim = c.optional("head_dim")
	}
	if dim == 0 {
		dim = m.width / heads
	}
	a := attention{q: linear{"self_attn.q_proj", false}, k: linear{"self_attn.k_proj", false}, v: linear{"self_attn.v_proj", false},
		o: linear{"self_attn.o_proj", false}, heads: heads, kvHeads: kv, dim: dim, scale: 1 / math.Sqrt(float64(dim))}
	if rotary {
		a.rope, a.rotated = ropeOf(c, "", c.theta(), partial, dim)
	}
	if c.flag("attention_bias") {
		a.biases(true, true, true, true)
	}
	mlpBias := c.flag("mlp_bias")
	f := mlp{gate: linear{"mlp.gate_proj", mlpBias}, up: linear{"mlp.up_proj", mlpBias}, down: linear{"mlp.down_proj", mlpBias},
		act: c.text("hidden_act", "hidden_activation"), width: c.size("intermediate_size")}
	m.each(func(i int, b *block) {
		*b = block{prefix: fmt.Sprintf("model.layers.%d.", i), attnIn: n.named("input_layernorm"), mlpIn: n.named("post_attention_layernorm"),
			residual: 1, attn: a, mlp: f}
	})
	return m
}

// theta is the base of rotary embeddings that the class assumes.
func (c *config) theta() float64 { return c.number("default_theta") }

// normKinds makes all norms of another kind.
func (m *model) normKinds(kind normKind, bias bool, eps float64) {
	set := func(n *norm) {
		if n.name != "" {
			n.kind, n.bias, n.eps = kind, bias, eps
		}
	}
	set(&m.norm)
	m.each(func(i int, b *block) {
		for _, n := range []*norm{&b.attnIn, &b.attnOut, &b.mlpIn, &b.mlpOut} {
			set(n)
		}
	})
}

// headNorms norms queries and keys as the hidden states are.
func (m *model) headNorms(q, k string) {
	m.each(func(i int, b *block) { b.attn.qNorm, b.attn.kNorm = m.norm.named(q), m.norm.named(k) })
}

// windowIfUsed is the sliding window of classes that have use_sliding_window, 0 if it is off.
func (c *config) windowIfUsed() int {
	if n := c.optional("sliding_window"); c.truth("use_sliding_window") {
		return n
	}
	return 0
}

// layerTypes is which layers have a sliding window: what layer_types says, else the rule.
func (c *config) layerTypes(m *model, sliding func(i int) bool) []bool {
	named := list[string](c, "layer_types")
	out := make([]bool, len(m.layers))
	if named != nil && len(named) < len(out) {
		c.refuse("layer_types", "expected one for each of %d layers, found %d", len(out), len(named))
		return out
	}
	for i := range out {
		if named == nil {
			out[i] = sliding(i)
			continue
		}
		switch named[i] {
		case "sliding_attention":
			out[i] = true
		case "full_attention":
		default:
			c.refuse("layer_types", "no layers of type %q", clip([]byte(named[i])))
		}
	}
	return out
}

// windows gives a window to the layers that have one, all where which is nil.
func (m *model) windows(c *config, which []bool, window int) {
	m.each(func(i int, b *block) {
		if which == nil || which[i] {
			b.attn.window = window
		}
	})
}

// lateWindows gives a window to the layers from max_window_layers on, as Qwen does.
func (m *model) lateWindows(c *config) {
	first, window := c.optional("max_window_layers"), c.windowIfUsed()
	m.windows(c, c.layerTypes(m, func(i int) bool { return window > 0 && i >= first }), window)
}

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
	pattern := 6
	if c.has("sliding_window_pattern") {
		pattern = c.size("sliding_window_pattern")
	} else if c.has("_sliding_window_pattern") {
		pattern = c.size("_sliding_window_pattern")
	}
	sliding := c.layerTypes(m, func(i int) bool { return (i+1)%pattern != 0 })
	m.windows(c, sliding, c.optional("sliding_window"))
	dim := m.layers[0].attn.dim
	var ropes [2]*rope
	ropes[0], _ = ropeOf(c, "full_attention", or(c.number("rope_theta"), 1_000_000), 1, dim)
	ropes[1], _ = ropeOf(c, "sliding_attention", or(c.number("rope_local_base_freq"), 10_000), 1, dim)
	m.each(func(i int, b *block) {
		b.attn.rope, b.attn.rotated = ropes[0], dim
		if sliding[i] {
			b.attn.rope = ropes[1]
		}
	})
	return m
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
