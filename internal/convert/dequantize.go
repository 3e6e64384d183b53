package convert

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// dequantizer decodes one weight.
type dequantizer struct {
	item    *Item
	dst     kernel.Elem
	dstSize int64
	n, step int64
}

func newDequantizer(it *Item) *dequantizer {
	d := &dequantizer{item: it, dst: kernelElem(it.Out), n: it.Elems()}
	d.dstSize = int64(d.dst.Size())
	d.step = quantize.RangeBytes / d.dstSize
	return d
}

func (x *execution) dequantize(it *Item, each stream.Each[*quantize.Worker]) error {
	d := newDequantizer(it)
	part, err := x.part(it.Name)
	if err != nil {
		return err
	}
	return each(int((d.n+d.step-1)/d.step), func(w *quantize.Worker, task int) error {
		first := int64(task) * d.step
		n := min(d.step, d.n-first)
		out, err := d.values(w, first, n)
		if err != nil {
			return err
		}
		if _, err := part.WriteAt(out, first*d.dstSize); err != nil {
			return err
		}
		x.advance(it, n/2)
		return nil
	})
}

// values decodes elements from first on, which begins a block.
func (d *dequantizer) values(w *quantize.Worker, first, n int64) ([]byte, error) {
	out := w.Range()[:n*d.dstSize]
	if err := d.item.packed.Decode(out, d.dst, first, int(n)); err != nil {
		return nil, err
	}
	if at := kernel.FirstNonFinite(d.dst, out, int(n)); at >= 0 {
		return nil, &weights.ValueError{Tensor: d.item.Name, File: d.item.File, Index: first + int64(at), Shape: d.item.Shape,
			Value: weights.ValueAt(out, d.dst, at), DType: d.item.Out}
	}
	return out, nil
}
