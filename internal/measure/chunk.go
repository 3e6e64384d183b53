package measure

import (
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
	t := &traits[f.Kind]
	t.measure(c, i, f)
	for _, z := range t.zeros {
		c.w.zeros[i] += c.w.counts[i].total(z)
	}
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
