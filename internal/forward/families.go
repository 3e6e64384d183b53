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
		c.only("mlp_type", `"default"`, "the default MLP alone")
		c.only("norm_type", `"layer_norm"`, "LayerNorm alone")
		c.ignore("activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "scale_attn_weights")
		m.each(func(i int, b *block) {
			b.attn.biases(bias, bias, bias, bias)
			b.mlp.gate = linear{}
			b.mlp.up, b.mlp.down = linear{"mlp.c_fc", bias}, linear{"mlp.c_proj", bias}
		})
		m.windows(c, nil, c.optional("sliding_window"))
		return m
	},
	"olmo": func(c *config) *model {
		m := llama(c)
		m.normKinds(bare, false, 1e-5)
		m.each(func(i int, b *block) { b.attn.clip = c.number("clip_qkv") })
		return m
	},
	"olmo2":   func(c *config) *model { return normedAfter(c, llama(c)) },
	"olmo3":   olmo3,
	"exaone4": exaone4,
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
	"cohere": cohere,
	"cohere2": func(c *config) *model {
		m := cohere(c)
		sliding := c.patterned(m, 4)
		m.windows(c, sliding, c.optional("sliding_window"))
		m.rotateOnly(sliding)
		c.only("position_embedding_type", `"rope_gptj"`, "rotary embeddings alone")
		for _, k := range []string{"use_embedding_sharing", "use_gated_activation", "use_parallel_block"} {
			c.only(k, "true", "true alone")
		}
		c.ignore("order_of_interleaved_layers", "layer_switch", "rotary_pct")
		return m
	},
	"glm": func(c *config) *model {
		m := glm4(c)
		m.each(func(i int, b *block) { b.attnOut, b.mlpOut = norm{}, norm{} })
		return m
	},
	"glm4":  glm4,
	"arcee": func(c *config) *model { return plainMLP(llama(c)) },
	"nemotron": func(c *config) *model {
		m := plainMLP(llamaLike(c, true, 0.5))
		m.normKinds(centredPlusOne, true, c.number("norm_eps"))
		return m
	},
	"helium": func(c *config) *model {
		m := llama(c)
		m.each(func(i int, b *block) { b.attn.interleaved, b.attn.o.bias = true, false })
		return m
	},
	"ernie4_5": func(c *config) *model {
		m, bias := llama(c), c.truth("use_bias")
		m.each(func(i int, b *block) {
			b.attn.interleaved = true
			b.attn.biases(bias, bias, bias, bias)
			b.mlp.gate.bias, b.mlp.up.bias, b.mlp.down.bias = bias, bias, bias
		})
		return m
	},
	"seed_oss": func(c *config) *model {
		m, bias := llama(c), c.truth("attention_out_bias")
		m.each(func(i int, b *block) { b.attn.o.bias = bias })
		return m
	},
	"gpt2":        gpt2,
	"gpt_bigcode": gptBigCode,
	"gpt_neo":     gptNeo,
	"gpt_neox":    gptNeoX,
	"gptj":        gptJ,
	"opt":         opt,
	"mixtral":     mixtral,
	"qwen2_moe":   qwen2MoE,
	"qwen3_moe":   qwen3MoE,
	"olmoe":       olmoe,
	"glm4_moe":    glm4MoE,
	"gpt_oss":     gptOSS,
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
	dim := c.optional("head_dim")
	if dim == 0 || c.typ == "stablelm" || c.typ == "cohere2" { // which derive it whatever the file says
		if dim != 0 && dim != m.width/heads {
			c.refuse("head_dim", "%d: this type divides hidden_size among the heads", dim)
		}
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
	act := "hidden_act"
	if _, known := c.def["hidden_activation"]; known {
		c.ignore(act) // which older files have too
		act = "hidden_activation"
	}
	f := mlp{gate: linear{"mlp.gate_proj", mlpBias}, up: linear{"mlp.up_proj", mlpBias}, down: linear{"mlp.down_proj", mlpBias},
		act: c.text(act), width: c.size("intermediate_size")}
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
