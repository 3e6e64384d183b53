package modelshape

import (
	"fmt"
	"math"
	"math/bits"
)

// Kind is what a group of tensors is to a training run.
type Kind uint8

// The kinds.
const (
	Other     Kind = iota // norms, biases, positions, convolutions, anything without a better name
	Linear                // weight of an nn.Linear or Conv1D that bitsandbytes would quantize
	Kept                  // weight of an nn.Linear (or a subclass) that transformers keeps in 16 or 32 bits
	Embedding             // token embedding
	Head                  // output head, when it is not the embedding itself
	Expert                // weights of routed experts; transformers 5.x keeps them in 16 bits
	Router                // picks the experts
)

// String names the kind as reports print it.
func (k Kind) String() string {
	return [...]string{"other", "linear", "kept linear", "embedding", "head", "expert", "router"}[k]
}

// Part is the component of a model that a group belongs to.
type Part uint8

// The parts.
const (
	Text      Part = iota // the language model, or the only stack there is
	Encoder               // the encoder of an encoder-decoder
	Tower                 // a vision or audio encoder in front of a language model
	Projector             // between a tower and the language model
)

// Group is Count tensors of one shape.
type Group struct {
	Name  string  // checkpoint name; "*" stands for each layer or expert index
	Shape []int64 // rows first, as in the checkpoint
	Count int64
	Kind  Kind
	Part  Part
}

// Elems is the number of elements of one tensor of the group.
func (g Group) Elems() int64 {
	n := int64(1)
	for _, d := range g.Shape {
		n *= d
	}
	return n
}

// Params is the number of parameters of all tensors of the group.
func (g Group) Params() int64 { return g.Elems() * g.Count }

// Stack holds the sizes of a stack of transformer layers that its activations
// and its KV cache depend on. For a decoder of several kinds of layers (MoE
// beside dense, windowed beside global) the counts say how many of each.
type Stack struct {
	Layers  int64
	Hidden  int64
	Heads   int64 // query heads
	KVHeads int64
	HeadDim int64 // of queries and keys
	ValDim  int64 // of values; HeadDim except in multi-head latent attention
	Inter   int64 // width of the dense MLP; the widest, if they differ
	Gated   bool  // MLP has a gate beside the up projection
	RMSNorm bool  // norms that compute in float32 and keep that copy
	Norms   int64 // norms over the hidden size per layer
	QKNorm  bool
	Vocab   int64

	Experts      int64 // routed experts of an MoE layer; 0: a dense model
	TopK         int64 // experts a token passes through
	ExpertInter  int64
	SharedInter  int64 // width of the shared experts together
	MoELayers    int64
	Window       int64 // sliding attention window in tokens; 0: none
	WindowLayers int64 // layers that have it
	LinearLayers int64 // layers with linear attention or a state space: no KV cache
	Bidirect     bool  // an encoder: no causal mask, no KV cache
}

// Model is the shape of a model.
type Model struct {
	Name   string
	Hub    string // repository of a published model; "" if it has none
	Type   string // model_type
	Class  string // transformers class, from "architectures" or assumed
	Tied   bool   // the output head is the embedding
	Groups []Group
	Stack  Stack
	Exact  bool     // the groups were built by a known family or read from headers
	Notes  []string // what was assumed

	Context int64 // positions the model was made for; 0: not known
}

// Params is the number of parameters.
func (m *Model) Params() int64 {
	var n int64
	for _, g := range m.Groups {
		n += g.Params()
	}
	return n
}

// ActiveParams is the number of parameters one token passes through: all,
// less the routed experts it does not visit.
func (m *Model) ActiveParams() int64 {
	n := m.Params()
	if m.Stack.TopK > 0 && m.Stack.TopK < m.Stack.Experts {
		for _, g := range m.Groups {
			if g.Kind == Expert {
				n -= g.Params() / m.Stack.Experts * (m.Stack.Experts - m.Stack.TopK)
			}
		}
	}
	return n
}

// Quantizable is the number of parameters that BitsAndBytesConfig(load_in_4bit)
// of transformers 5.x replaces by Linear4bit, towers and projectors included.
func (m *Model) Quantizable() int64 {
	var n int64
	for _, g := range m.Groups {
		if g.Kind == Linear {
			n += g.Params()
		}
	}
	return n
}

// maxElems bounds every product of sizes, so that byte counts fit in int64
// and, in the page's JavaScript, in a float64.
const maxElems = math.MaxInt64 >> 16

// check reports sizes that are negative or whose products overflow.
func (m *Model) check() error {
	var total int64
	for _, g := range m.Groups {
		n := uint64(1)
		for _, d := range g.Shape {
			if d < 0 {
				return fmt.Errorf("%s: negative size in shape %v", g.Name, g.Shape)
			}
			hi, lo := bits.Mul64(n, uint64(d))
			if hi != 0 || lo > maxElems {
				return fmt.Errorf("%s: shape %v is too large", g.Name, g.Shape)
			}
			n = lo
		}
		if g.Count < 0 {
			return fmt.Errorf("%s: negative count %d", g.Name, g.Count)
		}
		hi, lo := bits.Mul64(n, uint64(g.Count))
		if hi != 0 || lo > maxElems || total > maxElems-int64(lo) {
			return fmt.Errorf("%s: %d tensors of shape %v are too large", g.Name, g.Count, g.Shape)
		}
		total += int64(lo)
	}
	s := m.Stack
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"layers", s.Layers}, {"hidden size", s.Hidden}, {"attention heads", s.Heads}, {"key-value heads", s.KVHeads},
		{"head dimension", s.HeadDim}, {"value dimension", s.ValDim}, {"intermediate size", s.Inter}, {"vocabulary", s.Vocab},
		{"experts", s.Experts}, {"experts per token", s.TopK}, {"expert width", s.ExpertInter}, {"shared expert width", s.SharedInter},
	} {
		if f.v < 0 || f.v > 1<<31 {
			return fmt.Errorf("%s %d is outside 0 to 2^31", f.name, f.v)
		}
	}
	if s.Experts > 0 && s.TopK > s.Experts {
		return fmt.Errorf("%d experts per token of %d", s.TopK, s.Experts)
	}
	// What activations are sums of, so that a byte count per token fits too.
	heads, dim := float64(s.Heads)+float64(s.KVHeads), float64(s.HeadDim)+float64(s.ValDim)
	width := float64(s.Hidden)*float64(max(s.Norms, 1)+2*max(s.TopK, s.Experts)+8) + heads*(dim+1) + float64(s.Inter) +
		float64(max(s.TopK, s.Experts))*float64(s.ExpertInter) + float64(s.SharedInter)
	if float64(max(s.Layers, 1))*width > maxElems {
		return fmt.Errorf("%d layers of these widths are too large", s.Layers)
	}
	return nil
}
