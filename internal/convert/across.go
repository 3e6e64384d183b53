package convert

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// turner writes the transposes of matrices [out, in] into a tensor: a Conv1D's, or those of the experts of a stack. It reads
// panels of whole rows, each once: the rows of a panel are runs of the output.
//
//	source  out x in              output  in x out
//	        a b c d   <- panel             a e i
//	        e f g h   <-           ->      b f j
//	        i j k l                        c g k   <- a e, b f, c g, d h
//	                                       d h l      are written
type turner struct {
	*execution
	item   *Item
	dst    kernel.Elem
	panels []rowPanel
	bytes  int64 // of a panel's buffer
	out    quantize.Part
	free   stream.Buffers
}

// A rowPanel is rows [row0, row1) of a matrix whose transpose begins at element first of the output, in which its rows are
// stride elements apart.
type rowPanel struct {
	t             *weights.Tensor
	first, stride int64
	row0, row1    int64
}

func (x *execution) newTurner(it *Item) *turner {
	r := &turner{execution: x, item: it, dst: kernelElem(it.Out)}
	if it.Parts == nil {
		t := it.Floats()
		r.add(&t, 0, t.Shape[0])
		return r
	}
	// [experts, in, matrices*out], the matrices of an expert side by side.
	in, stride := it.Shape[1], it.Shape[2]
	matrices := int64(len(it.Parts)) / it.Shape[0]
	for i := range it.Parts {
		e, m := int64(i)/matrices, int64(i)%matrices
		t := it.Parts[i].Floats()
		r.add(&t, e*in*stride+m*t.Shape[0], stride)
	}
	return r
}

// add cuts a matrix into panels of whole rows.
func (r *turner) add(t *weights.Tensor, first, stride int64) {
	out, in, size := t.Shape[0], t.Shape[1], int64(r.dst.Size())
	room := max(quantize.RangeBytes, r.run.Budget/int64(2*r.workers))
	rows := min(out, max(1, room/(in*size)))
	r.bytes = max(r.bytes, rows*in*size)
	for row := int64(0); row < out; row += rows {
		r.panels = append(r.panels, rowPanel{t, first, stride, row, min(row+rows, out)})
	}
}

// cost is what the panels in work take.
func (r *turner) cost() int64 { return r.bytes * int64(min(len(r.panels), r.workers)) }

func (r *turner) write(each stream.Each[*quantize.Worker]) (err error) {
	if r.out, err = r.part(r.item.Name); err != nil {
		return err
	}
	defer func() { r.free = stream.Buffers{} }()
	return each(len(r.panels), r.panel)
}

func (r *turner) panel(w *quantize.Worker, task int) error {
	p := &r.panels[task]
	buf := r.free.Get(r.bytes)
	defer r.free.Put(buf)
	size, in, rows := int64(r.dst.Size()), p.t.Shape[1], p.row1-p.row0
	step := quantize.RangeBytes / int64(max(r.dst.Size(), p.t.Elem().Size()))
	if step > in {
		step -= step % in
	}
	for first := p.row0 * in; first < p.row1*in; {
		row, col := first/in-p.row0, first%in
		n := min(step, p.row1*in-first)
		if step < in {
			n = min(n, in-col)
		}
		v := w.Rounded()[:n*size]
		if err := r.read(r.item, p.t, v, w.Range(), first, int(n)); err != nil {
			return err
		}
		cols := min(n, in)
		kernel.Transpose(buf[(col*rows+row)*size:], rows, v, in, cols, n/cols, int(size))
		first += n
	}
	for col := range in {
		at := p.first + col*p.stride + p.row0
		if _, err := r.out.WriteAt(buf[col*rows*size:][:rows*size], at*size); err != nil {
			return err
		}
	}
	r.advance(r.item, p.t.Bytes*rows/p.t.Shape[0])
	return nil
}
