package modelshape

import (
	"fmt"
	"slices"
	"strings"
)

// UnknownError reports a model type that no family builds. The checkpoint's
// tensor list gives the exact counts then; see [FromTensors].
type UnknownError struct{ ModelType string }

func (e *UnknownError) Error() string {
	if e.ModelType == "" {
		return "config has no model_type"
	}
	return fmt.Sprintf("no shape is known for model_type %q", e.ModelType)
}

// Types lists the model types that [FromConfig] builds, sorted.
func Types() []string {
	out := make([]string, 0, len(families))
	for t := range families {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// FromConfig builds the shape from the text of a config.json. The error is an
// [*UnknownError] for a model type it does not know and a [*ConfigError] for
// a value that is missing or wrong.
func FromConfig(data []byte) (*Model, error) {
	c, err := parseConfig(data)
	if err != nil {
		return nil, err
	}
	build, ok := families[c.typ]
	if !ok {
		return nil, &UnknownError{ModelType: c.typ}
	}
	m := &Model{Type: c.typ, Exact: true}
	if a := c.strs("architectures"); len(a) > 0 {
		m.Class = a[0]
	}
	b := &builder{m: m, count: 1}
	m.Tied = tied(c)
	build(b, c)
	m.Context = context(c)
	if *c.err != nil {
		return nil, *c.err
	}
	if err := m.check(); err != nil {
		return nil, &ConfigError{Msg: err.Error()}
	}
	return m, nil
}

// tied is tie_word_embeddings: of the file, else of its text_config, else of
// the class.
func tied(c *config) bool {
	if _, ok := c.keys["tie_word_embeddings"]; ok {
		return c.bool("tie_word_embeddings")
	}
	if _, ok := c.keys["text_config"]; ok {
		if t := c.sub("text_config", ""); t.keys["tie_word_embeddings"] != nil {
			return t.bool("tie_word_embeddings")
		}
	}
	return c.bool("tie_word_embeddings")
}

// context is the number of positions that the file gives, 0 if it gives none: the class's default says nothing of a
// checkpoint.
func context(c *config) int64 {
	levels := []*config{c}
	if _, ok := c.keys["text_config"]; ok {
		levels = append(levels, c.sub("text_config", ""))
	}
	for _, l := range levels {
		for _, key := range []string{"max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length"} {
			if _, ok := l.keys[key]; ok {
				return l.num(key)
			}
		}
	}
	return 0
}

// bare reports whether the class is the model without a head ("BertModel").
func (m *Model) bare() bool {
	return strings.HasSuffix(m.Class, "Model") && !strings.HasSuffix(m.Class, "LMHeadModel")
}

// builder appends groups under a name prefix and a repeat count.
type builder struct {
	m      *Model
	prefix string
	count  int64
	part   Part
}

// in runs fn with the name prefixed and everything repeated n times.
func (b *builder) in(name string, n int64, fn func()) {
	p, c := b.prefix, b.count
	b.prefix, b.count = p+name, c*n
	fn()
	b.prefix, b.count = p, c
}

func (b *builder) as(part Part, fn func()) {
	old := b.part
	b.part = part
	fn()
	b.part = old
}

func (b *builder) add(kind Kind, name string, shape ...int64) {
	if b.count == 0 {
		return
	}
	b.m.Groups = append(b.m.Groups, Group{Name: b.prefix + name, Shape: shape, Count: b.count, Kind: kind, Part: b.part})
}

// module is a Linear of the kind with its bias.
func (b *builder) module(kind Kind, name string, out, in int64, bias bool) {
	b.add(kind, name+".weight", out, in)
	if bias {
		b.add(Other, name+".bias", out)
	}
}

func (b *builder) linear(name string, out, in int64, bias bool) {
	b.module(Linear, name, out, in, bias)
}

// norm is a weight of n elements, with a bias for a LayerNorm.
func (b *builder) norm(name string, n int64, bias bool) {
	b.add(Other, name+".weight", n)
	if bias {
		b.add(Other, name+".bias", n)
	}
}

func (b *builder) embed(name string, rows, dim int64) { b.add(Embedding, name+".weight", rows, dim) }

// head adds the output head unless it is the embedding.
func (b *builder) head(name string, vocab, dim int64, bias bool) {
	if !b.m.Tied {
		b.add(Head, name+".weight", vocab, dim)
	}
	if bias {
		b.add(Other, name+".bias", vocab)
	}
}
