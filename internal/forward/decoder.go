package forward

import (
	"context"
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// Options of a Decoder. The zero value takes all processors and 2 GiB.
type Options struct {
	Jobs      int    // workers; 0: one for each processor
	MaxMemory int64  // bytes for hidden states and what a layer computes; 0: 2 GiB
	Scratch   string // directory of the file that takes hidden states beyond the budget; "": the system's
}

// An Unsupported error says that there is no way here to compute a model's output.
type Unsupported struct {
	Path      string
	ModelType string
	Key       string // of config.json that is at fault, "" if none is
	Missing   string // what there is none of here, or what was found in place of what
}

func (e *Unsupported) Error() string {
	var s strings.Builder
	if e.Path != "" {
		s.WriteString(e.Path + ": ")
	}
	fmt.Fprintf(&s, "the output of model_type %q cannot be computed: ", e.ModelType)
	if e.Key != "" {
		fmt.Fprintf(&s, "config.json: %s: ", e.Key)
	}
	s.WriteString(e.Missing)
	return s.String()
}

// A Linear is one matrix of a layer that inputs are multiplied with.
type Linear struct {
	Name    string // of the tensor that holds it, as in weights.Model
	Expert  int    // which of a stack [experts, ...] it is; -1 of a matrix of its own
	Out, In int
}

// A Hook sees the inputs [tokens, In] of a Linear and its outputs [tokens, Out], a bias included, before anything else is done with them. Of one
// layer the calls come one after another, in an order that depends on nothing but the model, the tokens and
// Options.MaxMemory: for each group of whole sequences, each Linear once, of an expert with those tokens alone that are
// routed to it. The matrices have contiguous rows, are not to be changed, and are no longer theirs when it returns.
type Hook func(l Linear, in, out linalg.Matrix) error

// A Decoder computes the output of one model. Its methods are for one goroutine at a time.
type Decoder struct {
	model   *weights.Model
	opt     Options
	tensors map[string]*weights.Tensor
}

// New finds the description of a model. It decides from config.json and the headers of m; what it cannot compute is an
// [*Unsupported] error.
func New(m *weights.Model, opt Options) (*Decoder, error) {
	opt.Jobs = opt.jobs()
	d := &Decoder{model: m, opt: opt, tensors: make(map[string]*weights.Tensor, len(m.Tensors))}
	for i := range m.Tensors {
		d.tensors[m.Tensors[i].Name] = &m.Tensors[i]
	}
	return d, nil
}

// Layers is the number of layers.
func (d *Decoder) Layers() int { return 0 }

// Vocab is the number of tokens that there are logits for.
func (d *Decoder) Vocab() int { return 0 }

// Width is the number of elements of a hidden state.
func (d *Decoder) Width() int { return 0 }

// Context is the longest sequence that the model has positions for, 0 if config.json names none.
func (d *Decoder) Context() int { return 0 }

// Linears are those of a layer, in the order of their use, of experts each.
func (d *Decoder) Linears(layer int) []Linear { return nil }

// Tensor is the tensor that holds a Linear, nil if there is none of that name.
func (d *Decoder) Tensor(name string) *weights.Tensor { return d.tensors[name] }

// Replace puts another tensor of the same shape in the place of one: a layer that has been quantized.
func (d *Decoder) Replace(name string, t *weights.Tensor) error { return nil }

// Start makes the hidden states of sequences before the first layer: those of their tokens' embeddings. An id outside of the
// vocabulary is an error.
func (d *Decoder) Start(ctx context.Context, sequences [][]int32) (*States, error) {
	return newStates(sequences, d.Width(), d.opt)
}

// Layer replaces hidden states by those after the layer. hook may be nil.
func (d *Decoder) Layer(ctx context.Context, layer int, s *States, hook Hook) error { return nil }

// Measure calls hook as Layer does and leaves the hidden states as they are.
func (d *Decoder) Measure(ctx context.Context, layer int, s *States, hook Hook) error { return nil }

// Apply writes to out [tokens, l.Out] what a Linear makes of in [tokens, l.In]: its bias is added.
func (d *Decoder) Apply(ctx context.Context, l Linear, out, in linalg.Matrix) error { return nil }

// Head writes to logits [rows, Vocab] what follows the last layer: its norm, the output head and what is done to logits. x
// [rows, Width] are hidden states after the last layer, and stay as they are.
func (d *Decoder) Head(ctx context.Context, logits, x linalg.Matrix) error { return nil }
