package convert

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Sizes that fix how a tensor is cut. None of them reaches the output.
const (
	rangeBytes  = 1 << 20 // source bytes of one task
	codesBytes  = 1 << 18 // codes of the most elements that a range can have
	slabBytes   = rangeBytes + codesBytes
	chunkElems  = 1 << 16 // elements of one partial error sum (part of the report's definition)
	groupTask   = 1 << 17 // scales of one double-quantization task, a multiple of doublequant.BlockSize
	sumsBytes   = 2 * 64  // bytes of the partial sums of one chunk
	scratchSize = rangeBytes + slabBytes
)

// A worker owns the scratch memory of one goroutine.
type worker struct {
	slab  []byte    // a range of the source and its codes, when the job holds none
	run   []byte    // the range in the run dtype
	scale []float32 // decoded scales of a range
	abs   []float32 // scales read back from the spill file
	bytes []byte    // scales as bytes
	dq    []byte    // double-quantized scales of a range
}

func newWorker() *worker {
	return &worker{slab: make([]byte, slabBytes), run: make([]byte, rangeBytes)}
}

func grow[T any](p *[]T, n int) []T {
	if cap(*p) < n {
		*p = make([]T, n)
	}
	return (*p)[:n]
}

// A slabPool recycles the buffers in which jobs hold ranges.
type slabPool struct {
	mu   sync.Mutex
	free [][]byte
}

func (p *slabPool) get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	return make([]byte, slabBytes)
}

func (p *slabPool) put(s []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, s)
}

// quantizer is the job that quantizes one tensor: a first stage over ranges of
// the source, double quantization over groups of scales, and a stage of error
// sums over the ranges again.
type quantizer struct {
	*execution
	item             *Item
	names            bnb.Names // of the weight and its sidecars
	cfg              nf4.Config
	ktype            kernel.Type
	src              kernel.Elem
	runE             kernel.Elem
	srcSize, runSize int64 // bytes of an element
	n                int64 // elements
	blocks           int64
	step             int64 // elements of a range
	held             bool  // ranges stay in memory between the stages
	spill            *os.File

	slabs  [][]byte
	absmax []float32 // nil when spilled
	nested []float32
	codes  []byte // double-quantized scales; nil when spilled
	offset float32
	pages  pages

	written, other []kernel.Sums // a partial sum for each chunk
}

// heldCost is the memory that a quantizer needs to read its tensor once.
func heldCost(n, srcBytes, blocks int64, dq, measure bool) int64 {
	c := scaleCost(blocks, dq)
	if measure {
		ranges := (srcBytes + rangeBytes - 1) / rangeBytes
		c += ranges*slabBytes + (n+chunkElems-1)/chunkElems*sumsBytes
	}
	return c
}

func scaleCost(blocks int64, dq bool) int64 {
	if !dq {
		return 4 * blocks
	}
	return 5*blocks + 4*((blocks+doublequant.BlockSize-1)/doublequant.BlockSize)
}

// newQuantizer decides, from sizes alone, what of the tensor is kept in memory.
func (x *execution) newQuantizer(it *Item) *job {
	n := it.Elems()
	bs := int64(it.Spec.Block())
	q := &quantizer{
		execution: x, item: it, names: it.Spec.Names(it.Name), cfg: it.Spec.Config(), ktype: kernelType(it.Spec.Type),
		src: it.elem, runE: kernelElem(x.plan.RunDType), n: n,
		srcSize: int64(it.elem.Size()), runSize: 2, blocks: (n + bs - 1) / bs,
		step: rangeBytes / int64(it.elem.Size()),
	}
	dq := !it.Spec.NoDoubleQuant
	cost := heldCost(n, n*q.srcSize, q.blocks, dq, x.measure)
	q.held = x.measure && cost <= x.budget
	if !q.held {
		cost = scaleCost(q.blocks, dq)
		if x.measure {
			cost += (n + chunkElems - 1) / chunkElems * sumsBytes
		}
	}
	spilled := cost > x.budget
	if spilled {
		cost = min(cost, x.budget)
	}
	ranges := int((n + q.step - 1) / q.step)
	j := &job{name: it.Name, cost: cost, end: q.close}
	j.stages = append(j.stages, stage{func() (int, error) { return ranges, q.begin(spilled, ranges) }, q.quantize})
	if dq {
		tasks := int((q.blocks + groupTask - 1) / groupTask)
		j.stages = append(j.stages, stage{func() (int, error) { return tasks, q.mean() }, q.doubleQuantize})
	}
	last := stage{prepare: func() (int, error) { return 0, q.constants() }}
	if x.measure {
		last = stage{func() (int, error) { return ranges, q.constants() }, q.sums}
		j.stages = append(j.stages, last, stage{prepare: func() (int, error) { return 0, q.report() }})
	} else {
		j.stages = append(j.stages, last)
	}
	return j
}

func (q *quantizer) begin(spilled bool, ranges int) error {
	q.pages = newPages(q.item, q.step)
	if q.held {
		q.slabs = make([][]byte, ranges)
	}
	if q.measure {
		chunks := (q.n + chunkElems - 1) / chunkElems
		q.written = make([]kernel.Sums, chunks)
		q.other = make([]kernel.Sums, chunks)
	}
	if !spilled {
		q.absmax = q.floats.get(int(q.blocks))
		if q.dq() {
			q.codes = make([]byte, q.blocks)
			q.nested = make([]float32, doublequant.NestedLen(int(q.blocks)))
		}
		return nil
	}
	if !q.dq() {
		return nil // the output itself holds the scales
	}
	f, err := q.sink.Temp()
	if err != nil {
		return fmt.Errorf("spill scales: %w", err)
	}
	q.spill = f
	return nil
}

func (q *quantizer) dq() bool { return !q.item.Spec.NoDoubleQuant }

func (q *quantizer) close() {
	for _, s := range q.slabs {
		if s != nil {
			q.pool.put(s)
		}
	}
	q.floats.put(q.absmax)
	q.slabs, q.absmax, q.codes = nil, nil, nil
	if q.spill != nil {
		q.spill.Close()
		os.Remove(q.spill.Name())
	}
}

// span is the part of the tensor that one task works on.
type span struct {
	first, n int64 // elements
	block    int64 // first block
	blocks   int
}

func (q *quantizer) span(task int) span {
	s := span{first: int64(task) * q.step}
	s.n = min(q.step, q.n-s.first)
	bs := int64(q.cfg.BlockSize)
	s.block = s.first / bs
	s.blocks = int((s.n + bs - 1) / bs)
	return s
}

func (s span) codes() int { return int((s.n + 1) / 2) }

// load reads a range of the source and rounds it to the run dtype. The second
// result is the first when the source has that dtype already.
func (q *quantizer) load(w *worker, slab []byte, s span) (src, run []byte, err error) {
	src = slab[:s.n*q.srcSize]
	if err := readFull(q.item.Source, src, s.first*q.srcSize); err != nil {
		return nil, nil, err
	}
	run, err = q.round(w, src, s)
	return src, run, err
}

func (q *quantizer) round(w *worker, src []byte, s span) ([]byte, error) {
	if q.src == q.runE {
		return src, nil
	}
	run := w.run[:s.n*q.runSize]
	overflow, nonFinite := kernel.Convert(run, q.runE, src, q.src, int(s.n))
	if at := firstOf(overflow, nonFinite); at >= 0 {
		return nil, q.nonFinite(src, s.first, at)
	}
	return run, nil
}

// nonFinite reports element at of a range of the source that begins at first.
func (q *quantizer) nonFinite(src []byte, first int64, at int) error {
	return &ValueError{Tensor: q.item.Name, File: q.item.File, Index: first + int64(at), Shape: q.item.Shape,
		Value: valueAt(src, q.src, at), DType: q.plan.RunDType}
}

// quantize is the first stage: codes are written at once, scales kept.
func (q *quantizer) quantize(w *worker, task int) error {
	s := q.span(task)
	slab := w.slab
	if q.held {
		slab = q.pool.get()
		q.slabs[task] = slab
	}
	q.pages.reading(task)
	_, run, err := q.load(w, slab, s)
	if err != nil {
		return err
	}
	if q.held || !q.measure {
		q.pages.done(task)
	}
	abs := q.absmaxOf(w, s)
	codes := slab[rangeBytes:][:s.codes()]
	kernel.Quantize(q.ktype, q.runE, codes, abs, run, q.cfg.BlockSize)
	for _, a := range abs {
		if !(a <= math.MaxFloat32) {
			return q.nonFinite(run, s.first, kernel.FirstNonFinite(q.runE, run, int(s.n)))
		}
	}
	if err := q.sink.WriteAt(q.names.Weight, codes, s.first/2); err != nil {
		return err
	}
	if !q.dq() {
		if err := q.writeFloats(w, q.names.Absmax, abs, s.block*4); err != nil {
			return err
		}
	}
	if q.spill != nil {
		if _, err := q.spill.WriteAt(q.encode(w, abs), s.block*4); err != nil {
			return fmt.Errorf("spill scales: %w", err)
		}
	}
	q.advance(q.item, s.n*q.srcSize)
	return nil
}

// absmaxOf is the place for the scales of a range, in the tensor's own array or,
// when that is spilled, in the worker's.
func (q *quantizer) absmaxOf(w *worker, s span) []float32 {
	if q.absmax != nil {
		return q.absmax[s.block:][:s.blocks]
	}
	return grow(&w.abs, s.blocks)
}

func (q *quantizer) encode(w *worker, v []float32) []byte {
	b := grow(&w.bytes, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
	return b
}

func (q *quantizer) writeFloats(w *worker, name string, v []float32, off int64) error {
	return q.sink.WriteAt(name, q.encode(w, v), off)
}

// scales returns scales [first, first+n): from memory, or from the spill file,
// or from the output where that holds them as they are.
func (q *quantizer) scales(w *worker, first int64, n int) ([]float32, error) {
	if q.absmax != nil {
		return q.absmax[first:][:n], nil
	}
	abs := grow(&w.abs, n)
	b := grow(&w.bytes, 4*n)
	if q.spill == nil {
		if err := q.sink.ReadAt(q.names.Absmax, b, first*4); err != nil {
			return nil, err
		}
	} else if err := readFull(q.spill, b, first*4); err != nil {
		return nil, fmt.Errorf("read spilled scales: %w", err)
	}
	for i := range abs {
		abs[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return abs, nil
}

// mean computes the offset, in block order.
func (q *quantizer) mean() error {
	var m doublequant.Mean
	var w worker
	for first := int64(0); first < q.blocks; first += groupTask {
		s, err := q.scales(&w, first, int(min(groupTask, q.blocks-first)))
		if err != nil {
			return err
		}
		m.Add(s)
	}
	q.offset = m.Offset()
	return nil
}

func (q *quantizer) doubleQuantize(w *worker, task int) error {
	first := int64(task) * groupTask
	n := int(min(groupTask, q.blocks-first))
	s, err := q.scales(w, first, n)
	if err != nil {
		return err
	}
	group := first / doublequant.BlockSize
	codes, nested := grow(&w.dq, n), grow(&w.scale, doublequant.NestedLen(n))
	if q.codes != nil {
		codes, nested = q.codes[first:][:n], q.nested[group:][:len(nested)]
	}
	kernel.DynamicQuantize(codes, nested, s, q.offset)
	if err := q.sink.WriteAt(q.names.Absmax, codes, first); err != nil {
		return err
	}
	return q.writeFloats(w, q.names.NestedAbsmax, nested, group*4)
}

// constants writes what a tensor has one of: tables and quant_state.
func (q *quantizer) constants() error {
	var w worker
	table := nf4.Codebook(q.item.Spec.Type)
	if err := q.writeFloats(&w, q.names.QuantMap, table[:], 0); err != nil {
		return err
	}
	st := q.item.State(q.plan.RunDType)
	if q.dq() {
		m := doublequant.Map()
		if err := q.writeFloats(&w, q.names.NestedQuantMap, m[:], 0); err != nil {
			return err
		}
		st.NestedOffset = q.offset
	}
	blob, err := st.Encode()
	if err != nil {
		return err
	}
	return q.sink.WriteAt(q.names.QuantState, blob, 0)
}

// decoded returns the scales that a loader will multiply with: the stored ones,
// or what double quantization made of them.
func (q *quantizer) decoded(w *worker, s span, abs []float32) ([]float32, error) {
	if !q.dq() {
		return abs, nil
	}
	dst := grow(&w.scale, s.blocks)
	group := s.block / doublequant.BlockSize
	groups := (s.block+int64(s.blocks)-1)/doublequant.BlockSize - group + 1
	codes, nested := q.codes, q.nested
	if codes != nil {
		codes, nested = codes[s.block:][:s.blocks], nested[group:][:groups]
	} else {
		codes = grow(&w.dq, s.blocks)
		if err := q.sink.ReadAt(q.names.Absmax, codes, s.block); err != nil {
			return nil, err
		}
		b := grow(&w.bytes, int(4*groups))
		if err := q.sink.ReadAt(q.names.NestedAbsmax, b, 4*group); err != nil {
			return nil, err
		}
		nested = make([]float32, groups)
		for i := range nested {
			nested[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
	// A range may begin inside a group of 256 scales when blocks are large.
	done := 0
	for at := s.block; done < s.blocks; {
		k := min(s.blocks-done, int(doublequant.BlockSize-at%doublequant.BlockSize))
		g := at/doublequant.BlockSize - group
		kernel.DynamicDequantize(dst[done:done+k], codes[done:done+k], nested[g:g+1], q.offset)
		done, at = done+k, at+int64(k)
	}
	return dst, nil
}

// sums is the last stage: the error of the codes and scales that were written,
// and of the other type with the same scales.
func (q *quantizer) sums(w *worker, task int) error {
	s := q.span(task)
	var src, run, codes []byte
	var err error
	if q.held {
		slab := q.slabs[task]
		src, codes = slab[:s.n*q.srcSize], slab[rangeBytes:][:s.codes()]
		run, err = q.round(w, src, s)
	} else {
		q.pages.reading(task)
		src, run, err = q.load(w, w.slab, s)
		q.pages.done(task)
		codes = w.slab[rangeBytes:][:s.codes()]
		if err == nil {
			err = q.sink.ReadAt(q.names.Weight, codes, s.first/2)
		}
	}
	if err != nil {
		return err
	}
	abs, err := q.scales(w, s.block, s.blocks)
	if err != nil {
		return err
	}
	scale, err := q.decoded(w, s, abs)
	if err != nil {
		return err
	}
	bs := int64(q.cfg.BlockSize)
	for at := int64(0); at < s.n; at += chunkElems {
		n := min(chunkElems, s.n-at)
		c := (s.first + at) / chunkElems
		b0, b1 := at/bs, (at+n+bs-1)/bs
		x := src[at*q.srcSize:][:n*q.srcSize]
		r := run[at*q.runSize:][:n*q.runSize]
		kernel.ErrorSums(&q.written[c], q.ktype, q.src, x, codes[at/2:][:(n+1)/2], scale[b0:b1], q.cfg.BlockSize)
		kernel.ErrorSumsOf(&q.other[c], otherType(q.ktype), q.runE, r, q.src, x, abs[b0:b1], scale[b0:b1], q.cfg.BlockSize)
	}
	if q.held {
		q.pool.put(q.slabs[task])
		q.slabs[task] = nil
	}
	return nil
}

// report folds the partial sums in the order of the tensor.
func (q *quantizer) report() error {
	r := &q.results[q.item.index]
	r.Measured, r.ReadTwice = true, !q.held
	for i := range q.written {
		r.Written.Add(&q.written[i])
		r.Other.Add(&q.other[i])
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
