package convert

import (
	"encoding/binary"
	"io"
	"math"
	"sync"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
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
	d.step = quantize.RangeBytes / d.dstSize
	return d
}

func (x *execution) dequantize(it *Item, each stream.Each[*quantize.Worker]) error {
	d := x.dequantizer(it)
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

// scratch is what one range needs beyond a worker's own.
type scratch struct {
	scale []float32
	bytes []byte
	dq    []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func grow[T any](p *[]T, n int) []T {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	return (*p)[:n]
}

// values decodes elements from first on, which begins a block.
func (d *dequantizer) values(worker *quantize.Worker, first, n int64) ([]byte, error) {
	w := scratches.Get().(*scratch)
	defer scratches.Put(w)
	bs := int64(d.blockSize)
	codes := worker.Rounded()[:(n+1)/2]
	if err := readFull(d.codes, codes, first/2); err != nil {
		return nil, err
	}
	scale, err := d.scales(w, first/bs, int((n+bs-1)/bs))
	if err != nil {
		return nil, err
	}
	out := worker.Range()[:n*d.dstSize]
	kernel.Dequantize(kernelType(d.typ), d.dst, out, codes, scale, int(n), d.blockSize)
	if at := kernel.FirstNonFinite(d.dst, out, int(n)); at >= 0 {
		return nil, &weights.ValueError{Tensor: d.item.Name, File: d.item.File, Index: first + int64(at), Shape: d.item.Shape,
			Value: weights.ValueAt(out, d.dst, at), DType: d.item.Out}
	}
	return out, nil
}

// scales decodes the scales [first, first+n).
func (d *dequantizer) scales(w *scratch, first int64, n int) ([]float32, error) {
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
