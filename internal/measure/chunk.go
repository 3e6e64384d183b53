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
	errors   bool      // goes into the error histogram
}

// column of element i.
func (c *chunk) column(i int) int { return int((c.first + int64(i)) % int64(len(c.weights))) }

// format measures one format.
func (c *chunk) format(i int) {
	f := c.set.formats[i]
	t, ok := f.Kind.kernel()
	switch {
	case ok:
		c.packed(i, f, t)
	case f.Kind == MXFP4 || f.Kind == NVFP4:
		c.e2m1(i, f)
	default:
		c.plain(i, f)
	}
	for _, z := range zeroCodes[f.Kind] {
		c.w.zeros[i] += c.w.counts[i].total(z)
	}
}

// packed measures a format that the kernels code and decode in blocks with a scale of their largest magnitude.
func (c *chunk) packed(i int, f Format, t kernel.Type) {
	n := len(c.x)
	codes := c.w.packed[:(n+1)/2]
	abs, scale := c.scalesOf(f)
	kernel.Codes(t, c.job.run, codes, abs, c.run, f.BlockSize)
	kernel.ErrorSums(&c.sums[i][c.k], t, c.Elem(), c.src, codes, scale, f.BlockSize)
	c.w.counts[i].addPacked(codes, n)
	if c.errors || c.weights != nil {
		v := c.w.v[:n]
		kernel.DequantizeF32(t, v, codes, scale, f.BlockSize)
		c.compare(i, v)
	}
}

// e2m1 measures a format of E2M1 values.
func (c *chunk) e2m1(i int, f Format) {
	n := len(c.x)
	codes, v, scale := c.w.packed[:(n+1)/2], c.w.v[:n], c.w.scale[:(n+f.BlockSize-1)/f.BlockSize]
	if f.Kind == MXFP4 {
		for b, a := range c.blocksOf(c.w, c.set.block(f.BlockSize), c.k, n) {
			scale[b] = e8m0(a)
		}
	} else {
		unit := math.Float32frombits(c.most) / (6 * 448)
		for b := range scale {
			scale[b] = 0
			if unit > 0 {
				_, s := e4m3(maxAbs(c.q[b*f.BlockSize:min((b+1)*f.BlockSize, n)]) / 6 / unit)
				scale[b] = s * unit
			}
		}
	}
	kernel.E2M1(codes, v, c.q, scale, f.BlockSize)
	kernel.PairSums(&c.sums[i][c.k], c.x, v)
	c.w.counts[i].addPacked(codes, n)
	c.compare(i, v)
}

// plain measures a format whose codes are bytes here.
func (c *chunk) plain(i int, f Format) {
	for lo := 0; lo < len(c.x); lo += piece {
		n := min(piece, len(c.x)-lo)
		codes, v := c.w.codes[:n], c.w.v[lo:lo+n]
		c.encode(f, codes, v, lo)
		c.w.counts[i].add(codes)
		if f.Kind == Int4Asym || f.Kind == Dynamic8 {
			for _, v := range v {
				if v == 0 {
					c.w.zeros[i]++
				}
			}
		}
	}
	v := c.w.v[:len(c.x)]
	kernel.PairSums(&c.sums[i][c.k], c.x, v)
	c.compare(i, v)
}

// compare adds what is summed of some chunks or with weights only.
func (c *chunk) compare(i int, v []float32) {
	if c.errors {
		c.w.errors[i].add(c.x, v)
	}
	if c.weights == nil {
		return
	}
	for lo := 0; lo < len(v); lo += piece {
		hi := min(lo+piece, len(v))
		c.wE2[i][c.k] += kernel.WeightedSquares(c.x[lo:hi], v[lo:hi], c.weights, c.column(lo))
	}
}

// zeroCodes are the codes of the value 0, of the kinds that have them once and for all.
var zeroCodes = [numKinds][]int{NF4: {7}, FP4: {0, 8}, AF4: {7}, Int4: {7}, MXFP4: {0, 8}, NVFP4: {0, 8}, Int8: {0}, FP8: {0, 0x80}}

// encode writes the codes and values of a piece that begins at element lo.
func (c *chunk) encode(f Format, codes []byte, v []float32, lo int) {
	q := c.q[lo : lo+len(codes)]
	switch f.Kind {
	case Int4Asym:
		for b := 0; b < len(q); b += f.BlockSize {
			e := min(b+f.BlockSize, len(q))
			asymmetric(codes[b:e], v[b:e], q[b:e])
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

// scalesOf are the largest magnitudes of the chunk's blocks, and the scales they are decoded with.
func (c *chunk) scalesOf(f Format) (abs, scale []float32) {
	i := c.set.block(f.BlockSize)
	abs = c.blocksOf(c.w, i, c.k, len(c.x))
	if !f.DoubleQuant {
		return abs, abs
	}
	if !c.keeps(i) {
		return abs, c.w.lean[i].scale[:len(abs)]
	}
	return abs, c.scale[i][c.k*(kernel.Chunk/f.BlockSize):][:len(abs)]
}

// histogram counts the scaled weights of chunks that go into the error histogram.
func (c *chunk) histogram() (h Histogram) {
	if !c.errors {
		return h
	}
	abs := c.blocksOf(c.w, c.set.block(histogramBlock), c.k, len(c.x))
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
