package memplan

import (
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// computeSize is the bytes of an element of the hidden states between layers.
// After prepare_model_for_kbit_training embeddings and norms are float32, and so
// is everything that follows from them.
func (r Run) computeSize() int64 {
	switch {
	case r.Method == QLoRA && !r.NoKbitPrep, r.Base == F32, r.Method == Full && r.Precision == Autocast:
		return 4
	}
	return 2
}

// layer is what autograd saves of one layer, in bytes per token, by where it
// is. seq is per token and token of the sequence, rank per unit of rank.
type layer struct {
	norm1, attn, out, norm2, mlp int64 // out: the output projection's own input
	attnSeq                      int64
	lora                         map[role]int64
	loraRank                     map[role]int64
}

func (l layer) token() int64 {
	n := l.norm1 + l.attn + l.out + l.norm2 + l.mlp
	for _, v := range l.lora {
		n += v
	}
	return n
}

func (l layer) rank() int64 {
	var n int64
	for _, v := range l.loraRank {
		n += v
	}
	return n
}

// sizes are the widths of the terms below in the package comment's letters.
type sizes struct {
	h, q, kv, v, o, nh int64 // hidden, queries, keys, values, attention result, heads
	c, a               int64 // bytes of a hidden state and of an adapter's input
	lin, mid           int64 // bytes of what attention and the MLP compute on
	copies             bool  // each adapter keeps its own copy of its input
	masked, full, fast bool  // padded batch; full fine-tuning; torch.compile
	norms              bool  // the norms are trained
}

func (r Run) sizes(s modelshape.Stack) sizes {
	z := sizes{h: s.Hidden, q: s.Heads * s.HeadDim, kv: s.KVHeads * s.HeadDim, v: s.KVHeads * s.ValDim, o: s.Heads * s.ValDim, nh: s.Heads,
		c: r.computeSize(), a: r.AdapterDType.Size(), masked: r.Padded, full: r.Method == Full, fast: r.Compile, norms: r.Method == Full || r.Method == Norms}
	z.lin, z.mid, z.copies = z.c, z.c, z.a != z.c || r.Dropout > 0
	if r.Precision == Autocast {
		z.lin, z.a = 2, 2
		if z.full {
			z.mid = 2
		}
		// peft casts the input to the adapter's float32 and autocast casts it
		// back; with bitsandbytes it leaves that to autocast
		// (peft/tuners/lora/layer.py and bnb.py).
		z.copies = z.c != 2 || r.Method == LoRA && r.AdapterDType == F32 || r.Dropout > 0
	}
	return z
}

// normSaved is what one norm over n elements saves. An RMSNorm computes on a
// float32 copy and saves it with its inverse root; trained, also the normed value.
// A LayerNorm saves its input, mean and inverse deviation.
func (z sizes) normSaved(n int64, rms bool) int64 {
	if !rms {
		return z.c*n + 8
	}
	b := 4*n + 4
	if z.norms && !z.fast {
		b += z.c * n
	}
	return b
}

// base is the layer without adapters. inter is the width of its MLP per
// token: of all the experts a token visits and the shared one.
func (r Run) base(s modelshape.Stack, z sizes, inter int64) layer {
	var l layer
	norms := max(s.Norms, 1)
	first := ceilDiv(norms, 2)
	l.norm1, l.norm2 = first*z.normSaved(z.h, s.RMSNorm), (norms-first)*z.normSaved(z.h, s.RMSNorm)
	if s.QKNorm {
		l.attn += z.normSaved(z.q, true) + 4*(z.nh-1) + z.normSaved(z.kv, true) + 4*(s.KVHeads-1)
	}

	k, v := z.kv, z.v
	if s.KVHeads < s.Heads && (z.masked || r.Attention == Eager) { // repeat_kv
		k, v = z.q, z.o
	}
	switch r.Attention {
	case SDPA: // queries, keys, values, the result and the log-sum-exp
		l.attn += z.lin*(z.q+k+v+z.o) + 4*z.nh
		if z.masked {
			l.attnSeq += z.lin // the mask as the kernel's bias
		}
	case Eager: // queries, keys, values; the float32 softmax and its cast
		l.attn += z.lin * (z.q + k + v)
		l.attnSeq += 4 * z.nh
		if z.lin != 4 {
			l.attnSeq += z.lin * z.nh
		}
		if z.full {
			l.out += z.lin * z.o
		}
	}

	switch {
	case s.Gated && z.fast: // the product is computed again
		l.mlp = 2 * z.mid * inter
	case s.Gated: // gate, its activation, up
		l.mlp = 3 * z.mid * inter
	default: // the activation's input
		l.mlp = z.mid * inter
	}
	if r.Bits == 8 && r.Method == QLoRA { // MatMul8bitLt keeps the input of every product (bitsandbytes/autograd/_functions.py)
		l.norm1 += 3 * z.lin * z.h
		l.out += z.lin * z.o
		l.mlp += 2*z.lin*z.h + z.lin*inter
	}
	if z.full { // inputs of the linear layers, for their weights' gradients
		l.mlp += z.mid * inter
		if r.Precision == Autocast { // cast for each layer by itself
			l.norm1 += 3 * z.lin * z.h
			l.norm2 += z.lin * z.h
			if s.Gated {
				l.norm2 += z.lin * z.h
			}
		} else {
			l.norm1 += z.c * z.h
			if norms > 1 {
				l.norm2 += z.c * z.h
			}
		}
	}
	return l
}

// adapt adds what the adapters of one layer save: of each its input in the
// adapter's dtype (a copy if that differs or there is dropout, with the mask;
// else the input itself, once for all that share it), and the rank-wide result.
func (r Run) adapt(l *layer, adapters []Adapter, layers int64, z sizes) {
	l.lora, l.loraRank = map[role]int64{}, map[role]int64{}
	type input struct {
		role   role
		parent string
	}
	seen := map[input]bool{}
	for _, a := range adapters {
		path := modulePath(a.Name)
		ro := roleOf(path)
		share := func(n int64) int64 { return ceilDiv(n*a.Count, max(layers, 1)) } // fewer layers than the stack has, or several a layer
		switch in := (input{ro, path[:max(strings.LastIndexByte(path, '.'), 0)]}); {
		case r.Dropout > 0:
			l.lora[ro] += share((z.a + 1) * a.In)
		case z.copies && !(ro == attnOut && z.shared(r)):
			l.lora[ro] += share(z.a * a.In)
		case ro == elsewhere || !seen[in]:
			seen[in] = true
			if ro != attnOut || r.Attention != SDPA { // saved by attention already
				l.lora[ro] += share(z.c * a.In)
			}
		}
		l.loraRank[ro] += share(z.a)
		if r.DoRA { // the unscaled result, in the adapter's dtype and in the layer's (one measurement)
			l.lora[ro] += share(32 * a.Out / 5)
		}
	}
}

// shared reports whether the output projection's adapter reads attention's own
// result although others keep copies: its dtype is the adapter's already.
func (z sizes) shared(r Run) bool {
	return r.Method == QLoRA && r.Precision == Autocast && r.Attention == SDPA
}

// unseen is what the first layer does not save because nothing before the
// first adapter needs a gradient: the embedding is frozen. Checkpointing needs
// one (enable_input_require_grads), so it saves all.
func (r Run) unseen(l layer, s modelshape.Stack, z sizes, inter int64, adapters []Adapter) (token, seq int64) {
	has := map[string]bool{}
	masks := map[role]int64{}
	first := mlpDown
	for _, a := range adapters {
		path := modulePath(a.Name)
		ro := roleOf(path)
		if ro == elsewhere {
			return 0, 0
		}
		has[path[strings.LastIndexByte(path, '.')+1:]] = true
		masks[ro] += a.In
		first = min(first, ro) // the roles are in the order of the forward pass
	}
	if r.Dropout > 0 {
		token = masks[first] // dropout of what needs no gradient saves no mask
	}
	token += l.norm1
	if first == attnIn {
		if r.Attention == Eager {
			t, q := z.eagerUnseen(has["q_proj"], has["k_proj"], has["v_proj"])
			return token + t, q
		}
		return token, 0
	}
	token, seq = token+l.attn, l.attnSeq
	if first == attnOut {
		if (!z.copies || r.Dropout == 0 && z.shared(r)) && r.Attention == SDPA {
			token -= z.lin * z.o // the adapter's input, which attention would have saved
		}
		return token, seq
	}
	token += l.norm2
	gate, up := has["gate_proj"], has["up_proj"]
	switch {
	case first == mlpDown:
		token += l.mlp
	case s.Gated && gate && !up: // the gate's activation is saved for up
		token += z.mid * inter
	case s.Gated && up && !gate: // its input and up are saved for gate
		token += 2 * z.mid * inter
	}
	return token, seq
}

// eagerUnseen is what eager attention's products do not save where only some
// of queries, keys and values need a gradient.
func (z sizes) eagerUnseen(q, k, v bool) (token, seq int64) {
	if !q && !k && !v { // fused into one projection
		return 0, 0
	}
	if !k {
		token += z.lin * z.q
	}
	if !q {
		token += z.lin * z.q
	}
	if !q && !k {
		token += z.lin * z.o // values, for the scores' gradient
		if !v || z.lin != 4 {
			seq += 4 * z.nh // the softmax, unless it is what the values are multiplied with
		}
	}
	if !v && z.lin != 4 {
		seq += z.lin * z.nh
	}
	return token, seq
}

// casts counts the 16-bit copies that autocast makes of what is float32, a
// prepared head and the adapters, and keeps until the forward pass ends. The copy
// of the first A is not needed for backward where its input needs no gradient.
func (k *Coefficients) casts(m *modelshape.Model, r Run) {
	if r.Precision != Autocast {
		return
	}
	if r.keptSize() == 4 && r.Method != Full {
		for _, g := range m.Groups {
			if g.Kind == modelshape.Head || g.Kind == modelshape.Embedding && m.Tied {
				k.TailFixed += 2 * g.Params()
			}
		}
	}
	if r.AdapterDType != F32 {
		return
	}
	first := elsewhere
	for _, a := range k.Adapters {
		k.TailRank += 2 * a.Count * (a.In + a.Out)
		if ro := roleOf(modulePath(a.Name)); ro != elsewhere && (first == elsewhere || ro < first) {
			first = ro
		}
	}
	if k.Checkpointed {
		return
	}
	for _, a := range k.Adapters {
		if roleOf(modulePath(a.Name)) == first {
			k.TailRank -= 2 * a.In
		}
	}
}

// activations sets everything that grows with the tokens.
func (k *Coefficients) activations(m *modelshape.Model, r Run) {
	s := m.Stack
	if s.Layers == 0 || s.Hidden == 0 {
		return
	}
	z := r.sizes(s)
	routed := s.TopK
	if routed == 0 {
		routed = s.Experts
	}
	moeInter := routed*s.ExpertInter + s.SharedInter
	dense, moe := r.base(s, z, s.Inter), r.base(s, z, moeInter)
	// An MoE layer gathers its tokens once per expert they visit and weighs
	// the experts' results.
	moe.mlp += 2*routed*z.c*z.h + 4*s.Experts
	r.adapt(&dense, k.Adapters, s.Layers, z)
	moe.lora, moe.loraRank = dense.lora, dense.loraRank

	heavy, inter := dense, s.Inter
	if s.MoELayers > 0 && (s.MoELayers == s.Layers || moe.token() > dense.token()) {
		heavy, inter = moe, moeInter
	}
	denseLayers := s.Layers - s.MoELayers
	k.Layers = s.Layers
	k.Checkpointed = !r.NoCheckpointing
	k.SavedToken = denseLayers*dense.token() + s.MoELayers*moe.token()
	k.SavedRank = s.Layers * dense.rank()
	k.SavedSeq = s.Layers * dense.attnSeq
	k.LayerToken, k.LayerRank, k.LayerSeq = heavy.token(), heavy.rank(), heavy.attnSeq
	k.Boundary = z.c * s.Hidden
	if k.Checkpointed {
		if !r.Offload {
			k.Boundaries = s.Layers * k.Boundary
			if r.Sharding == FSDP && r.Method != Full { // measured (docs/plan.md, G), in the backward pass only
				k.SecondToken = k.Boundaries
			}
		}
		if z.c == 4 && s.RMSNorm {
			k.LayerToken -= 4 * s.Hidden // the first norm's float32 input is the boundary itself
		}
	} else if r.Method != Full {
		token, seq := r.unseen(dense, s, z, s.Inter, k.Adapters)
		k.SavedToken -= token
		k.SavedSeq -= seq
	}

	k.mlpBackward(s, z, inter)
	if s.RMSNorm { // five float32 tensors beside what it saved
		k.NormToken = 24 * s.Hidden
	}
	if k.Checkpointed && r.Method != Full {
		k.LeafToken = 2 * z.c * s.Hidden
	}
	if r.Method == QLoRA {
		for _, g := range m.Groups {
			if r.quantized(g) {
				k.Dequant = max(k.Dequant, quantEmbedded*g.Elems())
			}
		}
		k.DequantToken = quantEmbedded * inter
	}
	if r.DoRA { // B A and the norm of what it changes, in float32
		for _, a := range k.Adapters {
			k.Dequant = max(k.Dequant, 8*a.In*a.Out)
		}
	}
	k.attention(r, s, z, heavy)
	k.tail(m, r, z)
}

// mlpBackward sets what the MLP's backward pass works in.
func (k *Coefficients) mlpBackward(s modelshape.Stack, z sizes, inter int64) {
	// In the MLP's backward pass gate, activation, up and their three
	// gradients are alive together, six times the width; what the layer has
	// saved of it is counted in LayerToken.
	downCopy := int64(0)
	for _, a := range k.Adapters {
		if roleOf(modulePath(a.Name)) == mlpDown {
			downCopy = z.a
		}
	}
	parts := int64(6)
	if !s.Gated {
		parts = 3
	}
	saved := int64(1)
	if s.Gated {
		saved = 3
		if z.fast {
			saved = 2
		}
	}
	if z.full {
		saved++
	}
	k.WorkToken = (parts-saved)*z.mid*inter + z.c*s.Hidden - downCopy*inter
	if downCopy > 0 && z.a != z.c {
		// The adapter's float32 gradients of the layer's output and input.
		k.WorkToken = max(k.WorkToken, 3*z.a*s.Hidden+z.a*inter)
	}
	k.WorkToken = max(k.WorkToken, z.c*s.Hidden)
}

// attention sets what grows with the square of the sequence, and what softmax's backward pass works in.
func (k *Coefficients) attention(r Run, s modelshape.Stack, z sizes, heavy layer) {
	if r.Attention == Eager {
		// CUDA's softmax backward: its result, the gradient, their product and
		// what it returns, in float32; half precision returns half
		// (aten/src/ATen/native/cuda/SoftMax.cu).
		k.AttnSeq = 16 * z.nh
		if z.lin == 2 && r.Base == F16 {
			k.AttnSeq = 14 * z.nh
		}
		k.AttnToken = heavy.norm1 + heavy.attn + heavy.lora[attnIn] + z.lin*z.q
		if z.c == 4 && s.RMSNorm && k.Checkpointed {
			k.AttnToken -= 4 * s.Hidden
		}
		k.AttnRank = heavy.loraRank[attnIn]
		k.MaskSeq = z.lin
	} else if r.Padded {
		k.MaskSeq = 1
	}
}

// tail sets what is around the layers.
func (k *Coefficients) tail(m *modelshape.Model, r Run, z sizes) {
	s := m.Stack
	// Around the layers: the final norm, labels shifted for the loss, the ids
	// for a trained embedding, the rotary tables.
	k.TailToken = z.normSaved(s.Hidden, s.RMSNorm) + 8
	k.TailSeq = 2 * s.HeadDim * z.c
	k.TailFixed = 4
	k.casts(m, r)
	if r.Embeddings { // the head's input and the ids
		k.TailToken += z.lin*s.Hidden + 8
	}
	if z.full {
		k.TailToken += z.lin*s.Hidden + 8
		if r.Precision == Autocast { // the 16-bit copies of the weights, cached until the context ends
			for _, g := range m.Groups {
				if g.Kind == modelshape.Linear || g.Kind == modelshape.Kept || g.Kind == modelshape.Head || g.Kind == modelshape.Embedding && m.Tied {
					k.TailFixed += 2 * g.Params()
				}
			}
		}
	}
}
