package convert

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Sink takes the tensors of a plan. Their WriteAt is called from several goroutines, on ranges that
// do not overlap; ReadAt only for what was written.
type Sink interface {
	Part(shard int, tensor string) (quantize.Part, error)
	Temp() (*os.File, error) // a scratch file that the caller removes
}

// A Finisher is a Sink that is told when every tensor of a weights file is written, and will not be read again.
type Finisher interface {
	Sink
	Finish(shard int, results []Result) error
	Fail() // something has failed: no file is to be waited for
}

// A Result is what execution found out about one item.
type Result struct {
	quantize.Result
	NonFinite int64 // index of the first NaN or infinity of a kept tensor, or -1
}

// Execution holds the options that are not part of a plan, since no output
// byte depends on them.
type Execution struct {
	Jobs      int   // workers; 0: one a processor, as many as MaxMemory holds
	MaxMemory int64 // bytes; 0: stream.DefaultMemory
	NoError   bool  // skip the error figures
	Progress  func(tensor string, bytes int64)

	files []bool // weights files of the plan to write; nil: all
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

// execution is a run of a plan: what the work on its tensors shares.
type execution struct {
	plan    *Plan
	sink    Sink
	run     quantize.Run
	workers int
	results []Result

	resultsMu  sync.Mutex
	progressMu sync.Mutex
	progress   func(string, int64)

	left []atomic.Int64 // tensors of each weights file that are not written
}

// work is that on one tensor.
type work struct {
	name string
	file int
	cost int64
	do   func(stream.Each[*quantize.Worker]) error
}

// Execute reads the tensors of the plan, quantizes or copies them, and writes
// every byte of every tensor of the plan to sink. The results are those of
// p.Items, in their order. Errors name the tensor; a weight that cannot be
// quantized is a [*weights.ValueError].
func (p *Plan) Execute(ctx context.Context, sink Sink, opt Execution) ([]Result, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	limits := opt.stream()
	x := &execution{
		plan:     p,
		sink:     sink,
		workers:  limits.Workers(),
		run:      quantize.Run{Budget: limits.Budget(), Measure: !opt.NoError, Temp: sink.Temp, Jobs: limits.Workers()},
		results:  make([]Result, len(p.items)),
		progress: opt.Progress,
		left:     make([]atomic.Int64, len(p.shards)),
	}
	list := make([]work, 0, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		x.results[i].NonFinite = -1
		w := work{name: it.Name, file: it.Shard}
		switch {
		case it.Elems() == 0 || opt.files != nil && !opt.files[it.Shard]:
			continue
		case it.packed != nil:
			w.do = func(each stream.Each[*quantize.Worker]) error { return x.copyPacked(it, each) }
		case it.Quantize:
			weight, err := x.weight(it)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", it.Name, err)
			}
			j := x.run.New(weight)
			w.cost, w.do = j.Cost(), func(each stream.Each[*quantize.Worker]) error { return x.quantize(it, j, each) }
		case it.across():
			r := x.newTurner(it)
			w.cost, w.do = r.cost(), r.write
		default:
			w.do = func(each stream.Each[*quantize.Worker]) error { return x.copy(it, each) }
		}
		x.left[w.file].Add(1)
		list = append(list, w)
	}
	err := stream.Run(ctx, limits, quantize.NewWorker, len(list), func(i int) int64 { return list[i].cost },
		func(i int, each stream.Each[*quantize.Worker]) error {
			err := list[i].do(each)
			list[i].do = nil
			if err != nil {
				err = fmt.Errorf("%s: %w", list[i].name, err)
			} else {
				err = x.written(list[i].file)
			}
			if f, ok := x.sink.(Finisher); ok && err != nil {
				f.Fail()
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	return x.results, x.empty(opt.files, list)
}

// empty finishes the files in which no tensor has an element.
func (x *execution) empty(files []bool, list []work) error {
	f, ok := x.sink.(Finisher)
	if !ok {
		return nil
	}
	any := make([]bool, len(x.plan.shards))
	for i := range list {
		any[list[i].file] = true
	}
	for i := range any {
		if !any[i] && (files == nil || files[i]) {
			if err := f.Finish(i, x.results); err != nil {
				return err
			}
		}
	}
	return nil
}

// written follows the last byte of a tensor.
func (x *execution) written(file int) error {
	f, ok := x.sink.(Finisher)
	if x.left[file].Add(-1) > 0 || !ok {
		return nil
	}
	return f.Finish(file, x.results)
}

func (x *execution) advance(it *Item, bytes int64) {
	if x.progress == nil {
		return
	}
	x.progressMu.Lock()
	defer x.progressMu.Unlock()
	x.progress(it.Name, bytes)
}

// part is a tensor of the output.
func (x *execution) part(name string) (quantize.Part, error) {
	p, err := x.sink.Part(x.plan.shardOf[name], name)
	return named{p, name}, err
}

// named says which tensor an error is about.
type named struct {
	quantize.Part
	name string
}

func (n named) WriteAt(p []byte, off int64) (int, error) {
	k, err := n.Part.WriteAt(p, off)
	if err != nil {
		err = fmt.Errorf("write %s: %w", n.name, err)
	}
	return k, err
}

func (n named) ReadAt(p []byte, off int64) (int, error) {
	k, err := n.Part.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read back %s: %w", n.name, err)
	}
	return k, err
}

// weight is what is to be quantized of an item. Its source and its parts are opened in their turn.
func (x *execution) weight(it *Item) (*quantize.Weight, error) {
	method, err := quantize.For(it.Spec.Scale)
	if err != nil {
		return nil, err
	}
	elem, _ := weights.ElemOf(it.DType)
	if elem == kernel.F64 {
		elem = kernel.F32 // see Floats
	}
	run := kernelElem(x.plan.runDType)
	if it.Unrounded {
		run = elem
	}
	return &quantize.Weight{
		Elem: elem, Run: run, Rows: it.Shape[0], Cols: it.Shape[1],
		Type: kernelType(it.Spec.Type), BlockSize: it.Spec.Block(), DoubleQuant: !it.Spec.NoDoubleQuant, Method: method, Words: x.plan.words,
		DynamicMap: !quantize.FitsMap(it.Name),
		Load:       func() (quantize.Inputs, error) { return x.plan.load(it) },
		State: func(offset float32) ([]byte, error) {
			s := it.State(x.plan.runDType)
			if !s.NoDoubleQuant {
				s.NestedOffset = offset
			}
			return s.Encode()
		},
		Bad: func(index int64, value float64) error {
			if of, at := it.Part(index); of != it.Tensor {
				return &weights.ValueError{Tensor: of.Name, File: of.File, Index: at, Shape: of.Shape, Value: value, DType: x.plan.runDType}
			}
			return &weights.ValueError{Tensor: it.Name, File: it.File, Index: index, Shape: it.Shape, Value: value, DType: x.plan.runDType}
		},
		Progress: func(bytes int64) { x.advance(it, bytes) },
	}, nil
}

func (x *execution) quantize(it *Item, j *quantize.Job, each stream.Each[*quantize.Worker]) error {
	t := it.Floats()
	j.Source = t.Begin()
	names := it.Spec.Names(it.Name)
	for _, p := range []struct {
		part *quantize.Part
		name string
	}{
		{&j.Parts.Codes, names.Weight}, {&j.Parts.Absmax, names.Absmax}, {&j.Parts.QuantMap, names.QuantMap},
		{&j.Parts.NestedAbsmax, names.NestedAbsmax}, {&j.Parts.NestedQuantMap, names.NestedQuantMap}, {&j.Parts.State, names.QuantState},
	} {
		if _, ok := x.plan.shardOf[p.name]; !ok {
			continue // of double quantization
		}
		var err error
		if *p.part, err = x.part(p.name); err != nil {
			j.Leave()
			return err
		}
	}
	r, err := j.Quantize(each)
	x.results[it.index].Result = r
	return err
}

// copyBytes is how much of a kept tensor is read and written at a time: little enough to stay in a cache.
const copyBytes = quantize.RangeBytes / 4

// copy writes a kept tensor: floats in the dtype that was decided, all else as it is.
func (x *execution) copy(it *Item, each stream.Each[*quantize.Worker]) error {
	dst, err := x.part(it.Name)
	if err != nil {
		return err
	}
	t := *it.Tensor
	n, from, to := it.Bytes, int64(1), int64(1)
	float := weights.IsFloat(it.DType) && (it.DType != safetensors.F64 || it.Out != safetensors.F64)
	if float {
		t = t.Floats()
		n, from, to = it.Elems(), int64(t.Elem().Size()), int64(kernelElem(it.Out).Size())
	}
	t.Values = t.Begin()
	step := copyBytes / max(from, to)
	return each(int((n+step-1)/step), func(w *quantize.Worker, task int) error {
		first := int64(task) * step
		k := min(step, n-first)
		out := w.Range()[:k*from]
		if task == 0 {
			t.Values.Prefetch(0, quantize.Ahead)
		}
		t.Values.Prefetch(first*from+quantize.Ahead, k*from)
		if float {
			out = w.Rounded()[:k*to]
			if err := x.read(it, &t, out, w.Range(), first, int(k)); err != nil {
				return err
			}
		} else if err := stream.ReadFull(t.Values, out, first*from); err != nil {
			return err
		}
		t.Values.Drop(first*from, k*from)
		if _, err := dst.WriteAt(out, first*to); err != nil {
			return err
		}
		x.advance(it, it.Bytes*k/n)
		return nil
	})
}

// read fills dst with elements of t in the dtype of the output, and notes one that is not finite: of all of them the first,
// whatever order the tasks run in.
func (x *execution) read(it *Item, t *weights.Tensor, dst, raw []byte, first int64, n int) error {
	nonFinite, err := t.ReadAs(dst, kernelElem(it.Out), raw, first, n)
	if err != nil || nonFinite < 0 {
		return err
	}
	x.resultsMu.Lock()
	defer x.resultsMu.Unlock()
	if r := &x.results[it.index]; r.NonFinite < 0 || nonFinite < r.NonFinite {
		r.NonFinite = nonFinite
	}
	return nil
}
