// Package origin finds, for a tensor of a converted checkpoint, the source tensor that it was made of, in the
// orientation and the element type in which it was quantized.
package origin

import (
	"fmt"
	"io"
	"slices"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Elements are the elements of a tensor, row-major in Shape.
type Elements struct {
	Name   string
	File   string // of the source
	Kind   string // what kind of module it is; "" where the plan does not say
	Shape  []int64
	Elem   kernel.Elem
	Source io.ReaderAt
}

// Len is the number of elements.
func (e *Elements) Len() int64 {
	n := int64(1)
	for _, d := range e.Shape {
		n *= d
	}
	return n
}

// Read fills p with whole elements from element first on.
func (e *Elements) Read(p []byte, first int64) error {
	n, err := e.Source.ReadAt(p, first*int64(e.Elem.Size()))
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: read %s: %w", e.File, e.Name, err)
}

// Index knows the tensors of a source, decoded where another method quantized it.
type Index struct {
	src   *checkpoint.Source
	items map[string]*convert.Item // nil if no conversion can be planned
	names []string
}

// New indexes src. A plan of its conversion tells which weights are stored transposed, and which tensors of an FP8, MXFP4
// or LLM.int8 source make one weight; a source that cannot be planned, such as one without anything to quantize, is taken
// as it stands.
func New(src *checkpoint.Source) *Index {
	ix := &Index{src: src}
	plan, err := convert.NewPlan(src, convert.Options{AsBitsandbytes: true, AllowIncomplete: true})
	if err != nil {
		for _, t := range src.Tensors {
			ix.names = append(ix.names, t.Name)
		}
		return ix
	}
	ix.items = make(map[string]*convert.Item, len(plan.Items))
	for i := range plan.Items {
		it := &plan.Items[i]
		ix.items[it.Name] = it
		ix.names = append(ix.names, it.Name)
	}
	slices.Sort(ix.names)
	return ix
}

// Names are the names of the tensors that the source's model has, in ascending order: not those of another method's
// scales, which are decoded away.
func (ix *Index) Names() []string { return ix.names }

// Find returns the elements that the quantized weight of that name and logical shape was made of. The error says what was
// expected of the source and what was found.
func (ix *Index) Find(name string, shape []int64) (*Elements, error) {
	if it := ix.items[name]; it != nil && it.Quantize && slices.Equal(it.Shape, shape) {
		of := Of(it)
		return &of, nil
	}
	return ix.Kept(name, shape)
}

// Kept is Find for a tensor that was not quantized: a Conv1D's weight lies as it is stored then.
func (ix *Index) Kept(name string, shape []int64) (*Elements, error) {
	it := ix.items[name]
	t, stored := ix.src.Lookup(name)
	decoded := it != nil && (!stored || t.DType != it.DType)
	var e Elements
	switch {
	case decoded:
		e = Of(it)
	case !stored:
		return nil, fmt.Errorf("expected a tensor %q in %s, found none", name, ix.src.Path)
	default:
		e = Elements{Name: name, File: t.Shard.Name, Shape: t.Shape, Source: t}
		if it != nil {
			e.Kind = it.Kind
		}
		var ok bool
		if e.Elem, ok = elemOf(t.DType); !ok {
			return nil, fmt.Errorf("expected floats in %s, found %s", e.File, t.DType)
		}
	}
	if !slices.Equal(e.Shape, shape) {
		return nil, fmt.Errorf("expected shape %v in %s, found %v", shape, e.File, e.Shape)
	}
	return &e, nil
}

// Of are the elements of an item of a plan, which presents a float64 source as float32.
func Of(it *convert.Item) Elements {
	elem, ok := elemOf(it.DType)
	if !ok || elem == kernel.F64 {
		elem = kernel.F32
	}
	return Elements{Name: it.Name, File: it.File, Kind: it.Kind, Shape: it.Shape, Elem: elem, Source: it.Source}
}

func elemOf(d safetensors.DType) (kernel.Elem, bool) {
	switch d {
	case safetensors.BF16:
		return kernel.BF16, true
	case safetensors.F16:
		return kernel.F16, true
	case safetensors.F32:
		return kernel.F32, true
	case safetensors.F64:
		return kernel.F64, true
	}
	return 0, false
}
