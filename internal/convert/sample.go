package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// samplePiece is how many elements of a sample lie together: whole groups of scales of the usual blocks, and whole blocks of
// any.
const samplePiece = 1 << 14

// Sample reads about n elements of a weight that is to be quantized, in pieces spread evenly over it; all where it has no more.
// A value that cannot be quantized is a [*weights.ValueError].
func (p *Plan) Sample(it *Item, n int64) (*quantize.Sample, error) {
	var moments []float32
	if p.inputs != nil {
		var err error
		if moments, err = p.inputs.Columns(it.Name, it.Shape[1]); err != nil {
			return nil, err
		}
	}
	run := kernelElem(p.runDType)
	s, err := quantize.NewSample(kernelType(it.Spec.Type), run, it.Shape[1], moments)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.Name, err)
	}
	t := it.Floats()
	all := it.Elems()
	pieces := min((n+samplePiece-1)/samplePiece, (all+samplePiece-1)/samplePiece)
	const align = 4096 // the largest block
	for i := range pieces {
		first := all / align * i / pieces * align
		end := min(first+samplePiece, all)
		if n >= all {
			first, end = i*samplePiece, min((i+1)*samplePiece, all)
		}
		values, err := p.sample(&t, first, int(end-first), run)
		if err != nil {
			return nil, err
		}
		s.Add(first, values)
	}
	return s, nil
}

// sample reads elements of a tensor in a dtype.
func (p *Plan) sample(t *weights.Tensor, first int64, n int, run kernel.Elem) ([]byte, error) {
	values, raw := make([]byte, n*run.Size()), make([]byte, n*t.Elem().Size())
	at, err := t.ReadAs(values, run, raw, first, n)
	if err != nil {
		return nil, err
	}
	if at >= 0 {
		of, index := t.Part(at)
		return nil, &weights.ValueError{Tensor: of.Name, File: of.File, Index: index, Shape: of.Shape,
			Value: weights.ValueAt(raw, t.Elem(), int(at-first)), DType: p.runDType}
	}
	return values, nil
}
