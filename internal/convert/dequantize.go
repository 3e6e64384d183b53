package convert

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
)

// packed is where the parts of a quantized weight are, for decoding.
type packed struct {
	codes, absmax io.ReaderAt
	typ           nf4.Type
	blockSize     int
	nested        []float32 // second-level scales; nil without double quantization
	nestedBlock   int64     // scales of one of them
	nestedMap     [256]float32
	offset        float32
	transposed    bool // the logical [out, in] weight goes back to [in, out]
}

// dequantizer is the job that decodes one weight, by ranges of whole rows when
// the result is transposed.
type dequantizer struct {
	*execution
	item *Item
	*packed
	dst      kernel.Elem
	dstSize  int64
	n, step  int64
	standard bool // the nested map is bitsandbytes' own
}

func (x *execution) newDequantizer(it *Item) *job {
	d := &dequantizer{execution: x, item: it, packed: it.packed, dst: kernelElem(it.Out), n: it.Elems()}
	d.dstSize = int64(d.dst.Size())
	d.standard = d.nestedMap == doublequant.Map() && d.nestedBlock == doublequant.BlockSize
	d.step = rangeBytes / d.dstSize
	tasks := int((d.n + d.step - 1) / d.step)
	return &job{name: it.Name, stages: []stage{{func() (int, error) { return tasks, nil }, d.decode}}}
}

func (d *dequantizer) decode(w *worker, task int) error {
	first := int64(task) * d.step
	n := min(d.step, d.n-first)
	bs := int64(d.blockSize)
	codes := w.slab[rangeBytes:][:(n+1)/2]
	if err := readFull(d.codes, codes, first/2); err != nil {
		return err
	}
	scale, err := d.scales(w, first/bs, int((n+bs-1)/bs))
	if err != nil {
		return err
	}
	out := w.slab[:n*d.dstSize]
	kernel.Dequantize(kernelType(d.typ), d.dst, out, codes, scale, int(n), d.blockSize)
	if at := kernel.FirstNonFinite(d.dst, out, int(n)); at >= 0 {
		return &ValueError{Tensor: d.item.Name, File: d.item.File, Index: first + int64(at), Shape: d.item.Shape,
			Value: valueAt(out, d.dst, at), DType: d.item.Out}
	}
	if d.transposed {
		err = d.writeTransposed(w, out, first, n)
	} else {
		err = d.sink.WriteAt(d.item.Name, out, first*d.dstSize)
	}
	if err != nil {
		return err
	}
	d.advance(d.item, n/2)
	return nil
}

// scales decodes the scales [first, first+n).
func (d *dequantizer) scales(w *worker, first int64, n int) ([]float32, error) {
	dst := grow(&w.scale, n)
	if d.nested == nil {
		b := grow(&w.bytes, 4*n)
		if err := readFull(d.absmax, b, 4*first); err != nil {
			return nil, err
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return dst, nil
	}
	codes := grow(&w.dq, n)
	if err := readFull(d.absmax, codes, first); err != nil {
		return nil, err
	}
	for done := 0; done < n; {
		at := first + int64(done)
		g := at / d.nestedBlock
		k := min(n-done, int(d.nestedBlock-at%d.nestedBlock))
		if d.standard {
			kernel.DynamicDequantize(dst[done:done+k], codes[done:done+k], d.nested[g:g+1], d.offset)
		} else {
			for i := done; i < done+k; i++ {
				dst[i] = float32(d.nestedMap[codes[i]]*d.nested[g]) + d.offset
			}
		}
		done += k
	}
	return dst, nil
}

// writeTransposed puts a run of row-major elements of the logical [out, in]
// matrix where its transpose has them: for each column, one write of as many
// rows as the run covers.
func (d *dequantizer) writeTransposed(w *worker, vals []byte, first, n int64) error {
	// Item.Shape is that of the output, [in, out].
	in, out, size := d.item.Shape[0], d.item.Shape[1], d.dstSize
	row0, row1 := first/in, (first+n-1)/in
	strip := grow(&w.bytes, int((row1-row0+1)*size))
	for i := range in {
		lo, hi := row0, row1
		if lo*in+i < first {
			lo++
		}
		if hi*in+i >= first+n {
			hi--
		}
		if hi < lo {
			continue
		}
		for r := lo; r <= hi; r++ {
			copy(strip[(r-lo)*size:][:size], vals[(r*in+i-first)*size:])
		}
		if err := d.sink.WriteAt(d.item.Name, strip[:(hi-lo+1)*size], (i*out+lo)*size); err != nil {
			return err
		}
	}
	return nil
}
