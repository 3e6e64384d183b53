package weights

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// HeadName is the output head of transformers' causal language models.
const HeadName = "lm_head.weight"

// headed are the endings of the classes that have an output head, which may be tied.
var headed = []string{"ForCausalLM", "LMHeadModel", "ForConditionalGeneration"}

// TiedHead is the embeddings that the output head of a language model shares; nil where the head is stored, or the model
// has none that is known.
func (m *Model) TiedHead() *Tensor {
	if m.Arch == nil || !slices.ContainsFunc(headed, func(s string) bool { return strings.HasSuffix(m.Arch.Class, s) }) || m.Query.TiedSet && !m.Query.Tied {
		return nil
	}
	var tied *Tensor
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if t.Class.Head {
			return nil
		}
		if t.Class.Embedding && len(t.Shape) == 2 && (tied == nil || t.Elems() > tied.Elems()) {
			tied = t // the largest: positions are embeddings too
		}
	}
	if tied != nil && strings.HasSuffix(tied.Name, "shared.weight") {
		return nil // an encoder and a decoder share them too, and would have to get their own
	}
	return tied
}

// Untie is the model with an output head of its own, equal to the embeddings that it shared.
func (m *Model) Untie() (*Model, error) {
	tied := m.TiedHead()
	if tied == nil {
		return nil, fmt.Errorf("weights: internal error: no tied head in %s", m.Source.Path)
	}
	src, out := *m.Source, *m
	var err error
	if src.Config, err = checkpoint.EditConfig(src.Config, checkpoint.Set("tie_word_embeddings", []byte("false"))); err != nil {
		return nil, err
	}
	head := *tied
	head.Name = HeadName
	out.Source, out.Tensors = &src, append(slices.Clone(m.Tensors), head)
	if err := out.resolve(); err != nil {
		return nil, err
	}
	for i := range out.Tensors {
		if t := &out.Tensors[i]; t.Parts == nil {
			t.Class = out.Arch.ClassifyTensor(t.Name, len(t.Shape))
		}
	}
	if last := &out.Tensors[len(out.Tensors)-1]; !last.Class.Head || out.Query.Tied {
		return nil, &SourceError{Path: src.Path, Tensor: tied.Name, Msg: "it is the output head too, and how to give the model one of its own is not known",
			Hint: "load it with transformers, set tie_word_embeddings to false, save it, and take that"}
	}
	return &out, nil
}
