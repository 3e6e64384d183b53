package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

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

// A Hook sees the inputs [tokens, In] of a Linear and its outputs [tokens, Out], a bias included, before anything else is done
// with them. Of one layer the calls come one after another, in an order that depends on nothing but the model, the tokens and
// Options.MaxMemory: for each group of whole sequences, each Linear once, of an expert with those tokens alone that are
// routed to it. The matrices have contiguous rows, are not to be changed, and are no longer theirs when it returns.
type Hook func(l Linear, in, out linalg.Matrix) error

// A Decoder computes the output of one model. Its methods are for one goroutine at a time.
type Decoder struct {
	model   *weights.Model
	opt     Options
	tensors map[string]*weights.Tensor

	desc          *model
	embed         *weights.Tensor
	positions     *weights.Tensor
	embedNorm     *boundNorm
	norm          *boundNorm
	in, out, head *product
	layers        []*layer

	raw   buffers
	panel []float32
	ropes map[ropeKey]ropeTable
}

// New finds the description of a model. It decides from config.json and the headers of m; what it cannot compute is an
// [*Unsupported] error, a checkpoint that is not what its config.json says a [*checkpoint.InputError].
func New(m *weights.Model, opt Options) (*Decoder, error) {
	opt.Jobs = opt.jobs()
	d := &Decoder{model: m, opt: opt, tensors: make(map[string]*weights.Tensor, len(m.Tensors))}
	for i := range m.Tensors {
		d.tensors[m.Tensors[i].Name] = &m.Tensors[i]
	}
	if m.Config == nil {
		return nil, &Unsupported{Path: m.Source.Path, Missing: "there is no config.json beside the tensors, which says what the model is"}
	}
	desc, err := describe(m.Query.ModelType, m.Config.Strict())
	if err != nil {
		var u *Unsupported
		if errors.As(err, &u) {
			u.Path = m.Source.Path
		}
		return nil, err
	}
	d.desc = desc
	return d, d.bind()
}

// describe is the description of a config.json, which is strict JSON.
func describe(typ string, raw []byte) (*model, error) {
	family := families[typ]
	if family == nil {
		return nil, &Unsupported{ModelType: typ, Missing: missing(typ)}
	}
	c, err := newConfig(typ, raw)
	if err != nil {
		return nil, err
	}
	m := family(c)
	if c.err == nil {
		c.rest()
	}
	if c.err == nil {
		m.check(c)
	}
	return m, c.err
}

// check refuses sizes that do not go together.
func (m *model) check(c *config) {
	m.each(func(i int, b *block) {
		a := &b.attn
		if a.heads%a.kvHeads != 0 {
			c.refuse("num_key_value_heads", "%d heads are not to be divided among %d", a.heads, a.kvHeads)
		}
		if a.dim < 1 || a.heads > 1<<20 || a.dim > 1<<20 {
			c.refuse("head_dim", "heads of %d elements", a.dim)
		}
		if act := b.mlp.act; b.experts == nil && activations[act] == nil {
			c.refuse("hidden_act", "no activation %q", act)
		}
		if e := b.experts; e != nil {
			if e.groups > 1 && (e.n%e.groups != 0 || e.topGroups > e.groups || e.topK > e.n/e.groups*e.topGroups) {
				c.refuse("n_group", "%d experts of %d groups, %d of them chosen", e.n, e.groups, e.topGroups)
			}
			if e.topK > e.n {
				c.refuse("num_experts_per_tok", "%d experts of %d", e.topK, e.n)
			}
			if !e.clamped && activations[e.each.act] == nil {
				c.refuse("hidden_act", "no activation %q", e.each.act)
			}
		}
	})
}

// bind finds all tensors.
func (d *Decoder) bind() error {
	m := d.desc
	b := &binder{d: d, prefix: d.prefix()}
	if m.embedWidth == 0 {
		m.embedWidth = m.width
	}
	embed := m.embed + ".weight"
	if head := m.head.name + ".weight"; m.tied && d.tensors[b.prefix(embed)] == nil && d.tensors[b.prefix(head)] != nil {
		embed = head
	}
	d.embed = b.find(embed, m.vocab, m.embedWidth)
	if m.positions != "" {
		d.positions = b.find(m.positions+".weight", m.context+m.skip, m.width)
	}
	d.embedNorm, d.norm = b.norm("", m.embedNorm, m.width, 1), b.norm("", m.norm, m.width, 1)
	d.in, d.out = b.linear("", m.in, m.width, m.embedWidth), b.linear("", m.out, m.embedWidth, m.width)
	d.bindHead(b)
	for i := range m.layers {
		d.layers = append(d.layers, b.layer(&m.layers[i], m.width))
		if b.err != nil {
			break
		}
	}
	return b.err
}

// prefix is how the checkpoint spells the names: those of a bare base model lack the first component.
func (d *Decoder) prefix() func(string) string {
	embed := d.desc.embed + ".weight"
	base, _, _ := strings.Cut(embed, ".")
	for _, spell := range []func(string) string{
		func(s string) string { return s },
		func(s string) string { return strings.TrimPrefix(s, base+".") },
	} {
		if d.tensors[spell(embed)] != nil {
			return spell
		}
	}
	return func(s string) string { return s }
}

// bindHead finds the head: a tensor of its own where there is one, also where config.json ties it to the table of
// embeddings, else the table. So does transformers 5, which does not tie what the checkpoint has twice (modeling_utils.py,
// tie_weights); a table that is not there is the head that is.
func (d *Decoder) bindHead(b *binder) {
	m := d.desc
	name := m.head.name + ".weight"
	switch {
	case d.tensors[b.prefix(name)] != nil:
		d.head = b.linear("", m.head, m.vocab, m.embedWidth)
	case !m.tied:
		b.fail(name, fmt.Sprintf("floats of shape [%d %d]", m.vocab, m.embedWidth), "no such tensor, and config.json does not tie the head to the embeddings",
			"take a checkpoint of the causal language model, not of its base")
	case d.embed != nil:
		d.head = &product{Linear: Linear{Name: d.embed.Name, Expert: -1, Out: m.vocab, In: m.embedWidth}, t: d.embed}
		if m.head.bias {
			d.head.bias = b.find(m.head.name+".bias", m.vocab)
		}
	}
}

// Layers is the number of layers.
func (d *Decoder) Layers() int { return len(d.layers) }

// Vocab is the number of tokens that there are logits for.
func (d *Decoder) Vocab() int { return d.desc.vocab }

// Width is the number of elements of a hidden state.
func (d *Decoder) Width() int { return d.desc.width }

// Context is the longest sequence that the model has positions for, 0 if config.json names none. One with rotary embeddings
// computes longer ones all the same.
func (d *Decoder) Context() int { return d.desc.context }

// Linears are those of a layer, in the order of their use, of experts each.
func (d *Decoder) Linears(layer int) []Linear {
	out := make([]Linear, len(d.layers[layer].linears))
	for i, p := range d.layers[layer].linears {
		out[i] = p.Linear
	}
	return out
}

// Apply writes to out [tokens, l.Out] what a Linear of a layer makes of in [tokens, l.In]: its bias is added. The rows of out are contiguous.
func (d *Decoder) Apply(ctx context.Context, l Linear, out, in linalg.Matrix) error {
	for _, layer := range d.layers {
		for _, p := range layer.linears {
			if p.Name == l.Name && p.Expert == l.Expert {
				return d.multiply(ctx, p, out, in)
			}
		}
	}
	return fmt.Errorf("apply %s: no Linear of a layer", l.Name)
}

// Head writes to logits [rows, Vocab] what follows the last layer: its norm, the output head and what is done to logits. x
// [rows, Width] are hidden states after the last layer, and stay as they are.
func (d *Decoder) Head(ctx context.Context, logits, x linalg.Matrix) error {
	m := d.desc
	if d.norm != nil {
		y := linalg.New(make([]float32, x.Rows*m.width), x.Rows, m.width)
		if err := d.normalize(d.norm, y, x); err != nil {
			return err
		}
		x = y
	}
	if d.out != nil {
		y := linalg.New(make([]float32, x.Rows*m.embedWidth), x.Rows, m.embedWidth)
		if err := d.multiply(ctx, d.out, y, x); err != nil {
			return err
		}
		x = y
	}
	if err := d.multiply(ctx, d.head, logits, x); err != nil {
		return err
	}
	if m.logitScale == 1 && m.softcap == 0 {
		return nil
	}
	stream.Parts(x.Rows, d.opt.Jobs, func(i, end int) {
		for ; i < end; i++ {
			row := logits.Row(i)
			for j, v := range row {
				row[j] = float32(softcap(float64(v)*m.logitScale, m.softcap))
			}
		}
	})
	return nil
}

// softcap bends v towards limit; 0 is none.
func softcap(v, limit float64) float64 {
	if limit == 0 {
		return v
	}
	return limit * tanh(v/limit)
}

// Start makes the hidden states of sequences before the first layer: those of their tokens' embeddings. An id outside of the
// vocabulary is an error, as is a sequence that the model has no positions for.
func (d *Decoder) Start(ctx context.Context, sequences [][]int32) (*States, error) {
	for i, ids := range sequences {
		for j, id := range ids {
			if id < 0 || int(id) >= d.desc.vocab {
				return nil, fmt.Errorf("token %d of sequence %d is %d; want one of the model's vocabulary, 0 to %d", j, i, id, d.desc.vocab-1)
			}
		}
		if d.positions != nil && len(ids) > d.desc.context {
			return nil, fmt.Errorf("sequence %d has %d tokens; the model has positions for %d", i, len(ids), d.desc.context)
		}
	}
	s, err := newStates(sequences, d.desc.width, d.opt)
	if err != nil {
		return nil, err
	}
	if err := d.start(ctx, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
