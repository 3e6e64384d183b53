package measure

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// job measures one tensor: a first pass over its chunks finds every scale, a second one encodes with them.
type job struct {
	*Weight
	run      kernel.Elem
	opt      *Options
	set      *formatSet
	progress func(string, int64)

	n      int64
	chunks []int64 // numbers of the chunks measured, ascending
	of     int64   // chunks of the tensor
	hold   bool    // the bytes stay in memory between the passes
	slabs  *stream.Buffers
	data   [][]byte // slabs of the measured chunks in order
	lean   bool     // of small blocks no scale is kept between the passes: there are too many

	absmax [][]float32 // by block size of the set, scales of the measured chunks in order
	scale  [][]float32 // what double quantization makes of them
	mean   []float64   // of the scales of each block size
	blocks []int64     // how many there are
	sum    []stream.InOrder[float32]
	rows   []uint32 // largest magnitude of each row, as bits
	most   uint32   // of the tensor, as bits

	weights []float32 // by column; nil: none
	sums    [][]kernel.Sums
	wE2     [][]float64
	wX2     []float64

	mu     sync.Mutex
	counts [][256]int64
	zeros  []int64
	errors []errorParts
	hist   Histogram

	outliers []int64 // by block size, of those that are not kept
}

// leanBlock is the largest block of which a chunk has whole groups of double quantization.
const leanBlock = kernel.Chunk / doublequant.BlockSize

// keeps reports whether the scales of block size i stay in memory between the passes.
func (j *job) keeps(i int) bool { return !j.lean || j.set.blocks[i] > leanBlock }

// slabBytes are a chunk of the widest elements, or several of narrower ones: what one job held, the next holds again.
const slabBytes = kernel.Chunk * 8

func newJob(e *Weight, run kernel.Elem, opt *Options, set *formatSet, slabs *stream.Buffers, progress func(string, int64)) *job {
	j := &job{Weight: e, run: run, opt: opt, set: set, slabs: slabs, progress: progress, n: e.Elems()}
	j.of = (j.n + kernel.Chunk - 1) / kernel.Chunk
	j.chunks = sampleChunks(e.Name, j.of, opt.Sample)
	return j
}

func (j *job) measured() int64 {
	var n int64
	for _, c := range j.chunks {
		n += j.length(c)
	}
	return n
}

// length of chunk c.
func (j *job) length(c int64) int64 { return min(kernel.Chunk, j.n-c*kernel.Chunk) }

// heldChunks is how many chunks a slab holds.
func (j *job) heldChunks() int { return slabBytes / (kernel.Chunk * j.Elem().Size()) }

func (j *job) dataSlabs() int { return (len(j.chunks) + j.heldChunks() - 1) / j.heldChunks() }

func (j *job) dataBytes() int64 { return int64(j.dataSlabs()) * slabBytes }

// fixedBytes is what a job holds besides the weights.
func (j *job) fixedBytes() int64 {
	var b int64
	chunks := int64(len(j.chunks))
	for i, size := range j.set.blocks {
		if !j.keeps(i) {
			continue
		}
		scales := chunks * kernel.Chunk / int64(size)
		b += 4 * scales
		if j.set.double[i] {
			b += 5 * scales
		}
	}
	if j.set.rows {
		b += 4 * j.n / max(j.Shape[len(j.Shape)-1], 1)
	}
	return b + int64(len(j.set.formats))*(chunks*64+256*8)
}

func (j *job) measure(each stream.Each[*scratch]) error {
	if j.n == 0 {
		return nil
	}
	if j.opt.Weights != nil {
		var err error
		if j.weights, err = j.opt.Weights(j.Name, j.Shape[len(j.Shape)-1]); err != nil {
			return err
		}
	}
	chunks := len(j.chunks)
	if j.hold {
		j.data = make([][]byte, j.dataSlabs())
		for i := range j.data {
			j.data[i] = j.slabs.Get(slabBytes)
		}
		defer func() {
			for _, slab := range j.data {
				j.slabs.Put(slab)
			}
			j.data = nil
		}()
	}
	j.begin()
	if j.set.rows {
		j.rows = make([]uint32, j.n/j.Shape[len(j.Shape)-1])
	}
	if err := each(chunks, j.scan); err != nil {
		return err
	}
	j.scales()
	formats := len(j.set.formats)
	j.sums, j.wE2, j.wX2 = make([][]kernel.Sums, formats), make([][]float64, formats), make([]float64, chunks)
	for i := range j.sums {
		j.sums[i], j.wE2[i] = make([]kernel.Sums, chunks), make([]float64, chunks)
	}
	j.counts, j.zeros, j.errors = make([][256]int64, formats), make([]int64, formats), make([]errorParts, formats)
	err := each(chunks, j.encode)
	j.scale = nil
	return err
}

// begin makes room for what is found of the scales.
func (j *job) begin() {
	sizes := len(j.set.blocks)
	j.absmax, j.mean, j.blocks = make([][]float32, sizes), make([]float64, sizes), make([]int64, sizes)
	j.sum, j.outliers = make([]stream.InOrder[float32], sizes), make([]int64, sizes)
	for i, size := range j.set.blocks {
		j.blocks[i] = (j.measured() + int64(size) - 1) / int64(size)
		if j.keeps(i) {
			j.absmax[i] = make([]float32, j.blocks[i])
			continue
		}
		j.sum[i].Take = func(part []float32) {
			for _, a := range part {
				j.mean[i] += float64(a)
			}
		}
	}
}

// load gives the bytes of a chunk and those of its values in the run dtype.
func (j *job) load(w *scratch, k int, read bool) (src, run []byte, err error) {
	size := j.Elem().Size()
	c := j.chunks[k]
	n := int(j.length(c))
	src = w.src[:n*size]
	if j.hold {
		src = j.data[k/j.heldChunks()][k%j.heldChunks()*kernel.Chunk*size:][:n*size]
	}
	if read || !j.hold {
		if err := j.Read(src, c*kernel.Chunk); err != nil {
			return nil, nil, err
		}
	}
	if j.Elem() == j.run {
		return src, src, nil
	}
	run = w.run[:n*j.run.Size()]
	overflow, nonFinite := kernel.Convert(run, j.run, src, j.Elem(), n)
	at := overflow
	if at < 0 || nonFinite >= 0 && nonFinite < at {
		at = nonFinite
	}
	if at >= 0 {
		return nil, nil, j.bad(src, c, at)
	}
	return src, run, nil
}

// bad reports element at of chunk c.
func (j *job) bad(src []byte, c int64, at int) error {
	var v [1]float32
	kernel.Widen(v[:], src[at*j.Elem().Size():], j.Elem())
	return &weights.ValueError{File: j.File, Tensor: j.Name, Index: c*kernel.Chunk + int64(at), Shape: j.Shape, Value: float64(v[0]), DType: j.opt.Run}
}

// scan is the first pass: the largest magnitudes of blocks, rows and the tensor.
func (j *job) scan(w *scratch, k int) error {
	src, run, err := j.load(w, k, true)
	if err != nil {
		return err
	}
	c := j.chunks[k]
	n := int(j.length(c))
	smallest := j.set.blocks[0]
	j.magnitudes(w, k, run, n)
	var most float32
	for _, a := range j.blocksOf(w, 0, k, n) {
		if !(a <= math.MaxFloat32) {
			return j.bad(src, c, kernel.FirstNonFinite(j.run, run, n))
		}
		most = max(most, a)
	}
	for i := range j.set.blocks {
		if !j.keeps(i) {
			j.sum[i].Put(k, j.blocksOf(w, i, k, n))
		}
	}
	if j.set.tensor && n%smallest != 0 {
		most = 0 // a short block's magnitude may have been raised
	}
	if j.set.rows || most == 0 {
		kernel.Widen(w.q[:n], run, j.run)
		most = maxAbs(w.q[:n])
	}
	atomicMax(&j.most, math.Float32bits(most))
	if j.set.rows {
		cols := j.Shape[len(j.Shape)-1]
		for lo := int64(0); lo < int64(n); {
			row := (c*kernel.Chunk + lo) / cols
			hi := min((row+1)*cols-c*kernel.Chunk, int64(n))
			atomicMax(&j.rows[row], math.Float32bits(maxAbs(w.q[lo:hi])))
			lo = hi
		}
	}
	j.progress(j.Name, int64(len(src)))
	return nil
}

func atomicMax(p *uint32, v uint32) {
	for {
		old := atomic.LoadUint32(p)
		if v <= old || atomic.CompareAndSwapUint32(p, old, v) {
			return
		}
	}
}

// magnitudes finds the largest magnitude of every block of a chunk, in every block size.
func (j *job) magnitudes(w *scratch, k int, run []byte, n int) {
	kernel.Absmax(j.run, j.blocksOf(w, 0, k, n), run, j.set.blocks[0])
	// A larger block's magnitude is the largest of its parts'; a short last block's is clamped in the same way.
	for i := 1; i < len(j.set.blocks); i++ {
		small, large := j.blocksOf(w, i-1, k, n), j.blocksOf(w, i, k, n)
		ratio := j.set.blocks[i] / j.set.blocks[i-1]
		for b := range large {
			part := small[b*ratio : min((b+1)*ratio, len(small))]
			large[b] = slices.Max(part)
			if (b+1)*j.set.blocks[i] > n {
				large[b] = max(large[b], minScale)
			}
		}
	}
}

// blocksOf are the scales of chunk k in block size i.
func (j *job) blocksOf(w *scratch, i, k, n int) []float32 {
	size := j.set.blocks[i]
	blocks := (n + size - 1) / size
	if !j.keeps(i) {
		return w.lean[i].absmax[:blocks]
	}
	return j.absmax[i][k*(kernel.Chunk/size):][:blocks]
}

// scales computes what depends on all scales of the tensor.
func (j *job) scales() {
	j.scale = make([][]float32, len(j.set.blocks))
	for i, abs := range j.absmax {
		for _, a := range abs {
			j.mean[i] += float64(a)
		}
		j.mean[i] /= float64(j.blocks[i])
		if j.keeps(i) && j.set.double[i] {
			j.scale[i] = make([]float32, len(abs))
			doubleQuantized(j.scale[i], abs, float32(j.mean[i]))
		}
	}
}

// doubleQuantized is what double quantization makes of scales, whose mean is the offset.
func doubleQuantized(dst, abs []float32, offset float32) {
	codes, nested := make([]byte, len(abs)), make([]float32, doublequant.NestedLen(len(abs)))
	kernel.DynamicQuantize(codes, nested, abs, offset)
	kernel.DynamicDequantize(dst, codes, nested, offset)
}

// again finds the scales of a chunk that were not kept.
func (j *job) again(w *scratch, k int, run []byte, n int) {
	j.magnitudes(w, k, run, n)
	for i := range j.set.blocks {
		if j.keeps(i) {
			continue
		}
		abs, l := j.blocksOf(w, i, k, n), &w.lean[i]
		if j.set.double[i] {
			doubleQuantized(l.scale[:len(abs)], abs, float32(j.mean[i]))
		}
		l.outliers = 0
		for _, a := range abs {
			if outlier(float64(a), j.mean[i]) {
				l.outliers++
			}
		}
	}
}

// errorChunk reports whether chunk k of n goes into the error histogram: every one of fewer than 16, 8 to 15 of fewer than 128,
// one in 16 of more. Half a million errors and more tell a quantile to far less than the width of a bin.
func errorChunk(k, n int) bool { return k%max(1, min(n/8, 16)) == 0 }

// encode is the second pass, over all formats of one chunk.
func (j *job) encode(w *scratch, k int) error {
	src, run, err := j.load(w, k, false)
	if err != nil {
		return err
	}
	n := int(j.length(j.chunks[k]))
	if j.lean {
		j.again(w, k, run, n)
	}
	x := w.x[:n]
	kernel.Widen(x, src, j.Elem())
	q := x
	if j.Elem() != j.run {
		q = w.q[:n]
		kernel.Widen(q, run, j.run)
	}
	c := &chunk{job: j, w: w, k: k, first: j.chunks[k] * kernel.Chunk, src: src, run: run, x: x, q: q,
		errors: errorChunk(k, len(j.chunks))}
	if j.weights != nil {
		j.wX2[k] = kernel.WeightedSquares(x, nil, j.weights, c.column(0))
	}
	for i := range j.set.formats {
		w.counts[i] = counts{}
		w.zeros[i] = 0
		if c.errors {
			clear(w.errors[i][:])
		}
		c.format(i)
	}
	hist := c.histogram()
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.set.formats {
		for v := range j.set.codes[i] {
			j.counts[i][v] += w.counts[i].total(v)
		}
		j.zeros[i] += w.zeros[i]
		if c.errors {
			j.errors[i].add(w.errors[i].histogram())
		}
	}
	for b, m := range hist {
		j.hist[b] += m
	}
	for i := range j.outliers {
		if !j.keeps(i) {
			j.outliers[i] += w.lean[i].outliers
		}
	}
	return nil
}

// tensor is the outcome.
func (j *job) tensor() Tensor {
	t := Tensor{Name: j.Name, Kind: j.Kind, Layer: Layer(j.Name), Shape: j.Shape, Elements: j.n, Measured: j.measured(), Weights: j.hist}
	for i, f := range j.set.formats {
		r := Result{Format: f, Counts: j.resultCounts(i)}
		r.Codes, r.Bytes = f.Bytes(j.Shape)
		if j.n > 0 {
			r.Errors, r.Zeros = Merged(j.errors[i]...), j.zeros[i]
			r.spread.of = int(j.of)
			for k := range j.sums[i] {
				s := &j.sums[i][k]
				r.Sums.Add(s)
				r.WeightedE2 += j.wE2[i][k]
				r.WeightedX2 += j.wX2[k]
				r.spread.add(s.E2, s.X2)
			}
			r.scaleUp(float64(t.Elements) / float64(t.Measured))
			r.Sums.N = t.Elements
			if traits[f.Kind].double {
				b := j.set.block(f.BlockSize)
				r.Blocks, r.Outliers = j.blocks[b], j.outliers[b]
				for _, a := range j.absmax[b] {
					if outlier(float64(a), j.mean[b]) {
						r.Outliers++
					}
				}
			}
		}
		t.Results = append(t.Results, r)
	}
	return t
}

// outlier reports a block of more than twice the tensor's mean magnitude. A short block of zeros is stored with the
// scale by which bitsandbytes avoids a division by zero, and is none.
func outlier(absmax, mean float64) bool { return absmax > 2*mean && absmax > leastScale }

const leastScale = float64(float32(1e-38))

func (j *job) resultCounts(i int) []int64 {
	if j.counts == nil {
		return make([]int64, j.set.codes[i])
	}
	return slices.Clone(j.counts[i][:j.set.codes[i]])
}

// scaleUp makes the sums of a sample estimates of those of the tensor.
func (r *Result) scaleUp(by float64) {
	if by == 1 {
		return
	}
	for _, p := range []*float64{&r.Sums.X2, &r.Sums.W2, &r.Sums.XW, &r.Sums.E2, &r.Sums.AbsE, &r.WeightedE2, &r.WeightedX2} {
		*p *= by
	}
}
