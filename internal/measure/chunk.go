package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// chunk is what the second pass knows of one chunk.
type chunk struct {
	*job
	w        *scratch
	k        int   // position among the measured chunks
	first    int64 // element of the tensor
	src, run []byte
	x, q     []float32 // the source's values, and those in the run dtype
	x2       float64
	errors   bool // goes into the error histogram
}

// column of element i.
func (c *chunk) column(i int) int { return int((c.first + int64(i)) % int64(len(c.weights))) }

// format measures one format.
func (c *chunk) format(i int) {
	f := c.set.formats[i]
	if f.Kind == NF4 || f.Kind == FP4 {
		c.packed(i, f)
		return
	}
	var acc accumulator
	var wE2 float64
	for lo := 0; lo < len(c.x); lo += piece {
		n := min(piece, len(c.x)-lo)
		codes, v := c.w.codes[:n], c.w.v[:n]
		c.encode(f, codes, v, lo)
		x := c.x[lo : lo+n]
		acc.add(x, v)
		c.w.counts[i].add(codes)
		if f.Kind == Int4Asym || f.Kind == Dynamic8 {
			for _, v := range v {
				if v == 0 {
					c.w.zeros[i]++
				}
			}
		}
		if c.errors {
			c.w.errors[i].add(x, v)
		}
		if c.weights != nil {
			wE2 += weighted(x, v, c.weights, c.column(lo))
		}
	}
	c.sums[i][c.k], c.wE2[i][c.k] = acc.sums(len(c.x), c.x2), wE2
	for _, z := range zeroCodes[f.Kind] {
		c.w.zeros[i] += c.w.counts[i].total(z)
	}
}

// zeroCodes are the codes of the value 0, of the kinds that have them once and for all.
var zeroCodes = [numKinds][]int{NF4: {7}, FP4: {0, 8}, AF4: {7}, Int4: {7}, MXFP4: {0, 8}, NVFP4: {0, 8}, Int8: {0}, FP8: {0, 0x80}}

// encode writes the codes and values of a piece that begins at element lo.
func (c *chunk) encode(f Format, codes []byte, v []float32, lo int) {
	q := c.q[lo : lo+len(codes)]
	switch f.Kind {
	case AF4:
		c.book(af4Book, f, codes, v, q, lo)
	case Int4:
		c.book(int4Book, f, codes, v, q, lo)
	case Int4Asym:
		for b := 0; b < len(q); b += f.BlockSize {
			e := min(b+f.BlockSize, len(q))
			asymmetric(codes[b:e], v[b:e], q[b:e])
		}
	case MXFP4:
		abs := c.blocksOf(c.set.block(f.BlockSize), c.k, len(c.x))[lo/f.BlockSize:]
		for b := 0; b < len(q); b += f.BlockSize {
			e := min(b+f.BlockSize, len(q))
			scale, inverse := e8m0(abs[b/f.BlockSize])
			e2m1Block(codes[b:e], v[b:e], q[b:e], scale, inverse, true)
		}
	case NVFP4:
		unit := math.Float32frombits(c.most) / (6 * 448)
		for b := 0; b < len(q); b += f.BlockSize {
			e := min(b+f.BlockSize, len(q))
			var scale float32
			if unit > 0 {
				_, scale = e4m3(maxAbs(q[b:e]) / 6 / unit)
			}
			e2m1Block(codes[b:e], v[b:e], q[b:e], scale*unit, 0, false)
		}
	case Int8:
		cols := c.Shape[len(c.Shape)-1]
		for b := 0; b < len(q); {
			at := c.first + int64(lo+b)
			row := at / cols
			e := int(min((row+1)*cols-at, int64(len(q)-b))) + b
			int8Row(codes[b:e], v[b:e], q[b:e], math.Float32frombits(c.rows[row]))
			b = e
		}
	case FP8:
		fp8Block(codes, v, q, math.Float32frombits(c.most)/448)
	case Dynamic8:
		dynamicChunk(codes, v, q, c.w.nested[:])
	}
}

// book encodes blocks with a scale of their largest magnitude.
func (c *chunk) book(b *book, f Format, codes []byte, v, q []float32, lo int) {
	abs, scale := c.scalesOf(f)
	for at := 0; at < len(q); at += f.BlockSize {
		e := min(at+f.BlockSize, len(q))
		n := (lo + at) / f.BlockSize
		b.encode(codes[at:e], v[at:e], q[at:e], abs[n], scale[n], e-at == f.BlockSize)
	}
}

// scalesOf are the largest magnitudes of the chunk's blocks, and the scales they are decoded with.
func (c *chunk) scalesOf(f Format) (abs, scale []float32) {
	i := c.set.block(f.BlockSize)
	abs = c.blocksOf(i, c.k, len(c.x))
	if !f.DoubleQuant {
		return abs, abs
	}
	return abs, c.scale[i][c.k*(kernel.Chunk/f.BlockSize):][:len(abs)]
}

// packed is format for the two types that have kernels.
func (c *chunk) packed(i int, f Format) {
	t := kernel.NF4
	if f.Kind == FP4 {
		t = kernel.FP4
	}
	n := len(c.x)
	codes := c.w.packed[:(n+1)/2]
	abs, scale := c.scalesOf(f)
	kernel.Codes(t, c.job.run, codes, abs, c.run, f.BlockSize)
	kernel.ErrorSums(&c.sums[i][c.k], t, c.Elem, c.src, codes, scale, f.BlockSize)
	var bytes counts
	bytes.add(codes)
	h := &c.w.counts[i]
	for b := range 256 {
		k := uint32(bytes.total(b))
		h[0][b>>4] += k
		h[1][b&15] += k
	}
	if n%2 != 0 {
		h[1][codes[len(codes)-1]&15]-- // the padding
	}
	for _, z := range zeroCodes[f.Kind] {
		c.w.zeros[i] += h.total(z)
	}
	if !c.errors && c.weights == nil {
		return
	}
	for lo := 0; lo < n; lo += piece {
		m := min(piece, n-lo)
		v, x := c.w.v[:m], c.x[lo:lo+m]
		kernel.DequantizeF32(t, v, codes[lo/2:(lo+m+1)/2], scale[lo/f.BlockSize:(lo+m+f.BlockSize-1)/f.BlockSize], f.BlockSize)
		if c.errors {
			c.w.errors[i].add(x, v)
		}
		if c.weights != nil {
			c.wE2[i][c.k] += weighted(x, v, c.weights, c.column(lo))
		}
	}
}

// histogram counts the scaled weights of chunks that go into the error histogram.
func (c *chunk) histogram() (h Histogram) {
	if !c.errors {
		return h
	}
	abs := c.blocksOf(c.set.block(histogramBlock), c.k, len(c.x))
	for b, a := range abs {
		if a == 0 {
			continue
		}
		f := HistogramBins / 2 / a
		for _, x := range c.q[b*histogramBlock : min((b+1)*histogramBlock, len(c.q))] {
			h[min(max(int(x*f+HistogramBins/2), 0), HistogramBins-1)]++
		}
	}
	return h
}
