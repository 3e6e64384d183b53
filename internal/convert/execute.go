package convert

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Sink takes the tensors of a plan. WriteAt is called from several
// goroutines, on ranges that do not overlap; ReadAt only for what was written.
type Sink interface {
	WriteAt(shard int, tensor string, p []byte, off int64) error
	ReadAt(shard int, tensor string, p []byte, off int64) error
	Temp() (*os.File, error) // a scratch file that the caller removes
}

// A Result is what execution found out about one item.
type Result struct {
	Measured       bool
	ReadTwice      bool        // larger than the budget: read again for the error figures
	Written, Other kernel.Sums // error of the written type, and of the other of NF4 and FP4 with the same scales
	NonFinite      int64       // index of the first NaN or infinity of a kept tensor, or -1
}

// Execution holds the options that are not part of a plan, since no output
// byte depends on them.
type Execution struct {
	Jobs      int   // workers; 0: one a processor, as many as MaxMemory holds
	MaxMemory int64 // bytes; 0: stream.DefaultMemory
	NoError   bool  // skip the error figures
	Progress  func(tensor string, bytes int64)
}

// Validate reports a limit that the workers cannot keep.
func (o *Execution) Validate() error {
	if err := o.stream().Validate(); err != nil {
		return &OptionError{err.Error()}
	}
	return nil
}

func (o *Execution) stream() stream.Options {
	return stream.Options{Jobs: max(o.Jobs, 0), Memory: max(o.MaxMemory, 0)}
}

// execution is a run of a plan: what its jobs share.
type execution struct {
	plan    *Plan
	sink    shardSink
	measure bool
	workers int
	budget  int64
	results []Result
	pool    slabPool
	floats  floatPool

	progressMu sync.Mutex
	progress   func(string, int64)
}

// shardSink addresses a Sink by tensor name alone.
type shardSink struct {
	Sink
	shard map[string]int
}

func (s shardSink) WriteAt(name string, p []byte, off int64) error {
	if err := s.Sink.WriteAt(s.shard[name], name, p, off); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (s shardSink) ReadAt(name string, p []byte, off int64) error {
	if err := s.Sink.ReadAt(s.shard[name], name, p, off); err != nil {
		return fmt.Errorf("read back %s: %w", name, err)
	}
	return nil
}

// Execute reads the tensors of the plan, quantizes or copies them, and writes
// every byte of every tensor of the plan to sink. The results are those of
// p.Items, in their order. Errors name the tensor; a weight that cannot be
// quantized is a [*ValueError].
func (p *Plan) Execute(ctx context.Context, sink Sink, opt Execution) ([]Result, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	limits := opt.stream()
	x := &execution{
		plan:     p,
		sink:     shardSink{sink, p.shardOf},
		measure:  !opt.NoError,
		workers:  limits.Workers(),
		budget:   limits.Budget(),
		results:  make([]Result, len(p.Items)),
		progress: opt.Progress,
	}
	jobs := make([]*job, 0, len(p.Items))
	for i := range p.Items {
		it := &p.Items[i]
		x.results[i].NonFinite = -1
		switch {
		case it.Elems() == 0:
		case it.Quantize:
			jobs = append(jobs, x.newQuantizer(it))
		case len(it.pieces) > 0:
			jobs = append(jobs, x.newRestorer(it))
		case it.packed != nil:
			jobs = append(jobs, x.newDequantizer(it))
		default:
			jobs = append(jobs, x.newCopier(it))
		}
	}
	e := &engine{workers: x.workers, budget: x.budget}
	if err := e.run(ctx, jobs, newWorker); err != nil {
		return nil, err
	}
	return x.results, nil
}

func (x *execution) advance(it *Item, bytes int64) {
	if x.progress == nil {
		return
	}
	x.progressMu.Lock()
	defer x.progressMu.Unlock()
	x.progress(it.Name, bytes)
}

// A floatPool recycles the arrays in which jobs hold scales: the tensors of a
// model have few distinct sizes.
type floatPool struct {
	mu   sync.Mutex
	free [][]float32
}

const maxPooled = 16

func (p *floatPool) get(n int) []float32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.free {
		if cap(s) >= n && cap(s) <= 2*n {
			p.free = append(p.free[:i], p.free[i+1:]...)
			return s[:n]
		}
	}
	return make([]float32, n)
}

func (p *floatPool) put(s []float32) {
	if s == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == maxPooled {
		p.free = append(p.free[:0], p.free[1:]...)
	}
	p.free = append(p.free, s)
}

// ahead is how far before the workers the source is read, and behind them
// dropped, where its pages were not in memory when the tensor's turn came: a
// 140 GB run leaves the page cache as it found it.
const ahead = 8 * rangeBytes

// pages manages the page cache of one tensor that is read in ranges of step
// source bytes. The zero value does nothing.
type pages struct {
	t    *checkpoint.Tensor
	step int64
}

func newPages(it *Item, elems int64) pages {
	if it.cache == nil || it.SrcBytes <= rangeBytes || it.cache.Cached() {
		return pages{}
	}
	return pages{it.cache, elems * int64(it.DType.Bits()) / 8}
}

// reading is called before range i is read.
func (p pages) reading(i int) {
	if p.t == nil {
		return
	}
	if i == 0 {
		p.t.Prefetch(0, ahead)
	}
	p.t.Prefetch(int64(i)*p.step+ahead, p.step)
}

// done is called when range i will not be read again.
func (p pages) done(i int) {
	if p.t != nil {
		p.t.Drop(int64(i)*p.step, p.step)
	}
}

// copier is the job that writes a kept tensor, in the run dtype if it is a
// matrix of floats in another.
type copier struct {
	*execution
	item             *Item
	src, dst         kernel.Elem
	srcSize, dstSize int64
	float            bool
	n, step          int64
	pages            pages

	mu sync.Mutex
}

func (x *execution) newCopier(it *Item) *job {
	c := &copier{execution: x, item: it, n: it.Elems(), float: isFloat(it.DType)}
	if c.float {
		c.src, c.dst = it.elem, kernelElem(it.Out)
		c.srcSize, c.dstSize = int64(c.src.Size()), int64(c.dst.Size())
	} else {
		// Elements of any other dtype are copied as bytes, whole or part of an element.
		c.n, c.srcSize, c.dstSize = it.SrcBytes, 1, 1
	}
	if it.DType == safetensors.F64 && it.Out == safetensors.F64 {
		c.float, c.n, c.srcSize, c.dstSize = false, it.SrcBytes, 1, 1
	}
	c.step = rangeBytes / max(c.srcSize, c.dstSize)
	tasks := int((c.n + c.step - 1) / c.step)
	return &job{name: it.Name, stages: []stage{{func() (int, error) {
		c.pages = newPages(it, c.step*c.srcSize*8/int64(it.DType.Bits()))
		return tasks, nil
	}, c.copy}}}
}

func (c *copier) copy(w *worker, task int) error {
	first := int64(task) * c.step
	n := min(c.step, c.n-first)
	src := w.slab[:n*c.srcSize]
	c.pages.reading(task)
	if err := readFull(c.item.Source, src, first*c.srcSize); err != nil {
		return err
	}
	c.pages.done(task)
	out := src
	if c.float {
		out = w.run[:n*c.dstSize]
		overflow, nonFinite := kernel.Convert(out, c.dst, src, c.src, int(n))
		if overflow >= 0 {
			return &ValueError{Tensor: c.item.Name, File: c.item.File, Index: first + int64(overflow), Shape: c.item.Shape,
				Value: valueAt(src, c.src, overflow), DType: c.item.Out}
		}
		if nonFinite >= 0 {
			c.warn(first + int64(nonFinite))
		}
	}
	if err := c.sink.WriteAt(c.item.Name, out, first*c.dstSize); err != nil {
		return err
	}
	c.advance(c.item, int64(len(src)))
	return nil
}

// warn keeps the lowest index, whatever order the tasks run in.
func (c *copier) warn(index int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.results[c.item.index]
	if r.NonFinite < 0 || index < r.NonFinite {
		r.NonFinite = index
	}
}
