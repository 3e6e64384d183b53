package measure

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// scaled is a code of 4 bits under the largest magnitude of a block, which the kernels have.
type scaled struct {
	t    kernel.Type
	less int64 // bytes of tables and records that bitsandbytes stores for its own types, and this one does not need
}

func (s scaled) bytes(size bnb.Size, _ int64) (constants, tables int64) {
	return size.Data - (size.Elems+1)/2, size.Total - size.Data - s.less
}

func (s scaled) measure(c *chunk, i int, f Format) {
	n := len(c.x)
	codes := c.w.packed[:(n+1)/2]
	abs, scale := c.scalesOf(f)
	kernel.Codes(s.t, c.job.run, codes, abs, c.run, f.BlockSize)
	kernel.ErrorSums(&c.sums[i][c.k], s.t, c.Elem(), c.src, codes, scale, f.BlockSize)
	c.w.counts[i].addPacked(codes, n)
	if c.errors || c.weights != nil {
		v := c.w.v[:n]
		kernel.DequantizeF32(s.t, v, codes, scale, f.BlockSize)
		c.compare(i, v)
	}
}

// e2m1 is FP4 under scales of 8 bits.
type e2m1 struct {
	scales func(c *chunk, f Format, scale []float32) // finds those of the chunk's blocks
	tensor int64                                     // bytes of the scale of the scales
}

func (e e2m1) bytes(_ bnb.Size, scales int64) (constants, tables int64) { return scales + e.tensor, 0 }

func (e e2m1) measure(c *chunk, i int, f Format) {
	n := len(c.x)
	codes, v, scale := c.w.packed[:(n+1)/2], c.w.v[:n], c.w.scale[:(n+f.BlockSize-1)/f.BlockSize]
	e.scales(c, f, scale)
	kernel.E2M1(codes, v, c.q, scale, f.BlockSize)
	kernel.PairSums(&c.sums[i][c.k], c.x, v)
	c.w.counts[i].addPacked(codes, n)
	c.compare(i, v)
}

// exponents are mxfp4's scales.
func exponents(c *chunk, f Format, scale []float32) {
	for b, a := range c.blocksOf(c.w, c.set.block(f.BlockSize), c.k, len(c.x)) {
		scale[b] = e8m0(a)
	}
}

// smallFloats are nvfp4's scales, E4M3 in units of the tensor's.
func smallFloats(c *chunk, f Format, scale []float32) {
	unit := math.Float32frombits(c.most) / (6 * 448)
	for b := range scale {
		scale[b] = 0
		if unit > 0 {
			_, s := e4m3(maxAbs(c.q[b*f.BlockSize:min((b+1)*f.BlockSize, len(c.q))]) / 6 / unit)
			scale[b] = s * unit
		}
	}
}

// plain is a code whose codes are a byte each here.
type plain struct {
	encode func(c *chunk, f Format, codes []byte, v []float32, lo int) // of a piece that begins at element lo
	scale  int64                                                       // bytes of one
	zero   int64                                                       // bits of its zero point
	table  int64                                                       // bytes, once a tensor
}

func (p plain) bytes(_ bnb.Size, scales int64) (constants, tables int64) {
	return p.scale*scales + (p.zero*scales+7)/8, p.table
}

func (p plain) measure(c *chunk, i int, f Format) {
	for lo := 0; lo < len(c.x); lo += piece {
		n := min(piece, len(c.x)-lo)
		codes, v := c.w.codes[:n], c.w.v[lo:lo+n]
		p.encode(c, f, codes, v, lo)
		c.w.counts[i].add(codes)
		if traits[f.Kind].zeros != nil {
			continue
		}
		for _, v := range v {
			if v == 0 {
				c.w.zeros[i]++
			}
		}
	}
	v := c.w.v[:len(c.x)]
	kernel.PairSums(&c.sums[i][c.k], c.x, v)
	c.compare(i, v)
}

func asymmetricBlocks(c *chunk, f Format, codes []byte, v []float32, lo int) {
	q := c.q[lo : lo+len(codes)]
	for b := 0; b < len(q); b += f.BlockSize {
		e := min(b+f.BlockSize, len(q))
		asymmetric(codes[b:e], v[b:e], q[b:e])
	}
}

func int8Rows(c *chunk, _ Format, codes []byte, v []float32, lo int) {
	q, cols := c.q[lo:lo+len(codes)], c.Shape[len(c.Shape)-1]
	for b := 0; b < len(q); {
		at := c.first + int64(lo+b)
		row := at / cols
		e := int(min((row+1)*cols-at, int64(len(q)-b))) + b
		int8Row(codes[b:e], v[b:e], q[b:e], math.Float32frombits(c.rows[row]))
		b = e
	}
}

func fp8Tensor(c *chunk, _ Format, codes []byte, v []float32, lo int) {
	fp8Block(codes, v, c.q[lo:lo+len(codes)], math.Float32frombits(c.most)/448)
}

func dynamicBlocks(c *chunk, _ Format, codes []byte, v []float32, lo int) {
	dynamicChunk(codes, v, c.q[lo:lo+len(codes)], c.w.nested[:])
}
