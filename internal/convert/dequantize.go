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
}

// dequantizer is the job that decodes one weight.
type dequantizer struct {
	*execution
	item *Item
	*packed
	dst      kernel.Elem
	dstSize  int64
	n, step  int64
	standard bool // the nested map is bitsandbytes' own
}

func (x *execution) dequantizer(it *Item) *dequantizer {
	d := &dequantizer{execution: x, item: it, packed: it.packed, dst: kernelElem(it.Out), n: it.Elems()}
	d.dstSize = int64(d.dst.Size())
	d.standard = d.nestedMap == doublequant.Map() && d.nestedBlock == doublequant.BlockSize
	d.step = rangeBytes / d.dstSize
	return d
}

func (x *execution) newDequantizer(it *Item) *job {
	d := x.dequantizer(it)
	tasks := int((d.n + d.step - 1) / d.step)
	return &job{name: it.Name, stages: []stage{{func() (int, error) { return tasks, nil }, d.decode}}}
}

func (d *dequantizer) decode(w *worker, task int) error {
	first := int64(task) * d.step
	n := min(d.step, d.n-first)
	out, err := d.values(w, first, n)
	if err != nil {
		return err
	}
	if err := d.sink.WriteAt(d.item.Name, out, first*d.dstSize); err != nil {
		return err
	}
	d.advance(d.item, n/2)
	return nil
}

// values decodes elements from first on, which begins a block.
func (d *dequantizer) values(w *worker, first, n int64) ([]byte, error) {
	bs := int64(d.blockSize)
	codes := w.slab[rangeBytes:][:(n+1)/2]
	if err := readFull(d.codes, codes, first/2); err != nil {
		return nil, err
	}
	scale, err := d.scales(w, first/bs, int((n+bs-1)/bs))
	if err != nil {
		return nil, err
	}
	out := w.slab[:n*d.dstSize]
	kernel.Dequantize(kernelType(d.typ), d.dst, out, codes, scale, int(n), d.blockSize)
	if at := kernel.FirstNonFinite(d.dst, out, int(n)); at >= 0 {
		return nil, &ValueError{Tensor: d.item.Name, File: d.item.File, Index: first + int64(at), Shape: d.item.Shape,
			Value: valueAt(out, d.dst, at), DType: d.item.Out}
	}
	return out, nil
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
