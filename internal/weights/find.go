package weights

import (
	"fmt"
	"slices"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/panel"
)

// An Index finds, for the tensors of a checkpoint that was made of a model, those that they were made of.
type Index struct {
	Model  *Model // of the source
	byName map[string]*Tensor
	names  []string
}

// NewIndex indexes src, a model in 16 bits or more or one that package decode reads. What is neither is taken as it is stored.
func NewIndex(src *checkpoint.Source) (*Index, error) {
	m, err := OpenUnpacked(src)
	if err != nil {
		m = &Model{Source: src, panels: panel.NewCache(panelBytes)}
		m.list()
	}
	ix := &Index{Model: m, byName: make(map[string]*Tensor, len(m.Tensors))}
	for i := range m.Tensors {
		t := &m.Tensors[i]
		ix.byName[t.Name] = t
		experts, err := m.Experts(t)
		if err != nil {
			return nil, err
		}
		if experts == nil {
			ix.names = append(ix.names, t.Name)
		}
		for i := range experts {
			ix.byName[experts[i].Name] = &experts[i]
			ix.names = append(ix.names, experts[i].Name)
		}
	}
	slices.Sort(ix.names)
	if m.Arch != nil {
		all := make([]*Tensor, len(m.Tensors))
		for i := range m.Tensors {
			all[i] = &m.Tensors[i]
		}
		for _, t := range m.Join(all) {
			if ix.byName[t.Name] == nil {
				ix.byName[t.Name] = t
			}
		}
	}
	return ix, nil
}

// Names are the names of the tensors that a conversion of the model has, in ascending order: not those of another method's
// scales, which are decoded away, and those of the experts in place of their stack's.
func (ix *Index) Names() []string { return ix.names }

// Find returns the tensor that the quantized weight of that name and shape was made of, [out, in], or of a stack of experts
// [experts*out, in]. The error says what was
// expected of the source and what was found.
func (ix *Index) Find(name string, shape []int64) (*Tensor, error) {
	if t := ix.byName[name]; t != nil {
		if s := t.Stacked(); s != nil && slices.Equal(s.Shape, shape) {
			return s, nil
		}
		if l := ix.Model.Linear(t).Floats(); slices.Equal(l.Shape, shape) && IsFloat(l.DType) {
			return &l, nil
		}
	}
	return ix.Kept(name, shape)
}

// Kept is Find for a tensor that was not quantized: a Conv1D's weight is [in, out] then.
func (ix *Index) Kept(name string, shape []int64) (*Tensor, error) {
	t := ix.byName[name]
	switch {
	case t == nil:
		return nil, fmt.Errorf("expected a tensor %q in %s, found none", name, ix.Model.Source.Path)
	case t.Values == nil || !IsFloat(t.DType):
		return nil, fmt.Errorf("expected floats in %s, found %s", t.File, t.DType)
	}
	k := ix.Model.Plain(t)
	if !slices.Equal(k.Shape, shape) {
		return nil, fmt.Errorf("expected shape %v in %s, found %v", shape, k.File, k.Shape)
	}
	return &k, nil
}
