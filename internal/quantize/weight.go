package quantize

import (
	"io"
	"math"
	"os"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Sizes that fix how a weight is cut. None of them reaches the output, but for Chunk: figures are sums
// over chunks.
const (
	RangeBytes = 1 << 20 // of source values in one task
	codesBytes = 1 << 18 // codes of the most elements that a range can have
	slabBytes  = RangeBytes + codesBytes
	groupTask  = 1 << 17 // scales of one task of double quantization, a multiple of doublequant.BlockSize
	sumsBytes  = 160     // of the sums of one chunk
)

// A Part is one stored tensor of a weight. WriteAt is called from several goroutines, on ranges that
// do not overlap; ReadAt only for what was written.
type Part interface {
	io.ReaderAt
	io.WriterAt
}

// Parts are the stored tensors of a weight, in the terms of bitsandbytes. Those of double quantization
// are nil without it.
type Parts struct {
	Codes, Absmax, QuantMap, NestedAbsmax, NestedQuantMap, State Part
}

// A Source is the values of a weight, as bytes: whole rows one after the other. Prefetch and Drop are
// hints about bytes that will be and will not be read again.
type Source interface {
	io.ReaderAt
	Prefetch(off, n int64)
	Drop(off, n int64)
}

// A Weight is what is quantized, and into what.
type Weight struct {
	Source     Source
	Elem       kernel.Elem // of Source
	Run        kernel.Elem // what values are rounded to first
	Rows, Cols int64

	Type        kernel.Type
	BlockSize   int
	DoubleQuant bool
	DynamicMap  bool // double quantization is by bitsandbytes' own 8-bit map whatever the method, see FitsMap
	Method      Method
	Words       *Words                 // of which none may be a NaN; nil: packed codes are bytes
	Load        func() (Inputs, error) // what is known of the inputs, when the weight's turn comes; nil: nothing
	Inputs      Inputs                 // loaded

	Parts Parts
	State func(offset float32) ([]byte, error) // the quant_state record

	Bad      func(index int64, value float64) error // the error of a value that is not finite, or overflows Run
	Progress func(bytes int64)                      // of the source; nil: nobody asks
}

// A Result is what is known of a weight in the end.
type Result struct {
	Measured  bool
	ReadTwice bool // larger than the budget: read again for the error sums
	// Written is the error of what was written. Other is that of the other of NF4 and FP4 with the same scales; of a method
	// that is not absmax, the error of absmax in the same type, before any double quantization.
	Written, Other kernel.Sums
	Weighted       WeightedSums
	Freed          Freed
}

// WeightedSums are sums of squares times the second moments of the inputs, of each element's column: the mean square of a
// layer's output, had its inputs no correlation, and of its error. They are 0 where the moments are not known. Of feedback they are
// those of the output itself, see Informed.
type WeightedSums struct{ Weights, Written, Other float64 }

func (s *WeightedSums) add(o *WeightedSums) {
	s.Weights += o.Weights
	s.Written += o.Written
	s.Other += o.Other
}

// A Run is what the weights of one run share.
type Run struct {
	Budget  int64 // bytes that weights may hold
	Measure bool  // sum the error
	Temp    func() (*os.File, error)
	Jobs    int // that a method may use by itself

	turn   <-chan struct{} // closed when the last of the exclusive jobs that were made is done with its turn
	slabs  stream.Buffers  // in which jobs hold ranges
	floats stream.Pool[float32]
	bytes  stream.Pool[byte]
}

// Job is the work on one weight.
type Job struct {
	*Weight
	run    *Run
	needs  Needs
	n      int64 // elements
	size   int64 // bytes of one in the source
	step   int64 // elements of a range, a multiple of kernel.Chunk
	panel  int64 // elements of a panel; step unless the method asks for rows
	rows   bool  // panels are whole rows
	held   bool  // the values stay in memory between the stages
	full   bool  // they are there before the first
	cost   int64
	scales scales

	before <-chan struct{} // of an exclusive job: closed when those before it had their turn
	after  chan struct{}   // closed when it had its own

	slabs          [][]byte
	written, other []kernel.Sums // of each chunk
	weighted       []WeightedSums
	freed          []Freed // of each panel
}

// New decides, from sizes alone, what of a weight is kept in memory. Jobs are to be begun in the order in which they are made, and
// each is to be quantized, or to Leave: an exclusive one waits for those before it.
func (r *Run) New(w *Weight) *Job {
	j := &Job{Weight: w, run: r, needs: w.Method.Needs(w), n: w.Rows * w.Cols, size: int64(w.Elem.Size())}
	j.step = RangeBytes / j.size
	j.panel, j.rows = panelOf(w, j.needs, j.step)
	bs := int64(w.BlockSize)
	j.scales = scales{n: (j.n + bs - 1) / bs, double: w.DoubleQuant, parts: &w.Parts, run: r, table: doublequant.Map()}
	streams := j.needs.Memory
	var held int64
	if r.Measure {
		streams += (j.n + kernel.Chunk - 1) / kernel.Chunk * sumsBytes
	}
	if r.Measure || j.needs.Passes > 1 {
		held = (j.n*j.size + RangeBytes - 1) / RangeBytes * slabBytes
	}
	j.cost = held + streams + j.scales.memory()
	if j.held = held > 0 && j.cost <= r.Budget; !j.held {
		j.cost = streams + j.scales.memory()
	}
	if j.cost > r.Budget {
		j.scales.spilled, j.cost = true, r.Budget
	}
	if j.needs.Exclusive {
		j.before, j.after = r.turn, make(chan struct{})
		r.turn = j.after
	}
	return j
}

// panelOf is the number of elements of a panel, at most step.
func panelOf(w *Weight, needs Needs, step int64) (n int64, rows bool) {
	if !needs.Rows {
		return step, false
	}
	if w.Cols > step {
		return step, false
	}
	unit := lcm(w.Cols, int64(w.BlockSize))
	if unit > step {
		return step, false
	}
	return step / unit * unit, true
}

func lcm(a, b int64) int64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// Cost is what the job holds in memory, in bytes.
func (j *Job) Cost() int64 { return j.cost }

// Quantize does it. Every byte of every part is written.
func (j *Job) Quantize(each stream.Each[*Worker]) (Result, error) {
	defer j.release()
	defer j.Leave()
	if err := j.begin(); err != nil {
		return Result{}, err
	}
	ranges, panels := ceilDiv(j.n, j.step), ceilDiv(j.n, j.panel)
	surveys := j.needs.Columns && j.Inputs.Moments == nil
	if j.full = j.held && (surveys || j.panel != j.step); j.full {
		if err := each(ranges, j.fill); err != nil {
			return Result{}, err
		}
	}
	if surveys {
		if err := each(1, j.survey); err != nil {
			return Result{}, err
		}
	}
	if err := each(panels, j.scale); err != nil {
		return Result{}, err
	}
	if j.DoubleQuant {
		if err := each(1, func(w *Worker, _ int) error { return j.scales.mean(w) }); err != nil {
			return Result{}, err
		}
		if j.needs.FitMap && !j.DynamicMap {
			if err := each(1, func(w *Worker, _ int) error { return j.scales.fit(w) }); err != nil {
				return Result{}, err
			}
		}
		if err := each(ceilDiv(j.scales.n, groupTask), j.scales.doubleQuantize); err != nil {
			return Result{}, err
		}
	}
	if err := each(1, j.constants); err != nil {
		return Result{}, err
	}
	if err := j.second(each, panels); err != nil {
		return Result{}, err
	}
	r := Result{Measured: j.run.Measure, ReadTwice: j.run.Measure && !j.held}
	for _, f := range j.freed { // in the order of the weight
		r.Freed.add(f)
	}
	if !j.run.Measure {
		return r, nil
	}
	if err := each(ranges, j.sums); err != nil {
		return Result{}, err
	}
	for i := range j.written {
		r.Written.Add(&j.written[i])
		r.Other.Add(&j.other[i])
	}
	for i := range j.weighted {
		r.Weighted.add(&j.weighted[i])
	}
	if m, ok := j.Method.(Informed); ok {
		if o := m.Outputs(); o != nil {
			r.Weighted = *o
		}
	}
	return r, nil
}

func (j *Job) begin() (err error) {
	if j.Load != nil {
		if j.Inputs, err = j.Load(); err != nil {
			return err
		}
		if j.Inputs.weights, err = search.NewWeights(j.Inputs.Moments); err != nil {
			return err
		}
	}
	if j.held {
		j.slabs = make([][]byte, ceilDiv(j.n, j.step))
	}
	if j.run.Measure {
		chunks := ceilDiv(j.n, kernel.Chunk)
		j.written, j.other = make([]kernel.Sums, chunks), make([]kernel.Sums, chunks)
		if len(j.Inputs.Moments) > 0 {
			j.weighted = make([]WeightedSums, chunks)
		}
	}
	if j.Words != nil {
		j.freed = make([]Freed, ceilDiv(j.n, j.panel))
	}
	return j.scales.begin()
}

func (j *Job) release() {
	for _, s := range j.slabs {
		if s != nil {
			j.run.slabs.Put(s)
		}
	}
	j.slabs, j.Inputs, j.Method = nil, Inputs{}, nil
	j.scales.release()
}

// scale is the first pass over a panel.
func (j *Job) scale(w *Worker, task int) error {
	fill := j.held && !j.full
	p, src, err := j.open(w, task, reading{fill: fill, last: fill || j.needs.Passes == 1 && !j.run.Measure})
	if err != nil {
		return err
	}
	block := p.First / int64(j.BlockSize)
	scale := j.scales.place(w, block, ceilDiv(int64(p.N), int64(j.BlockSize)))
	var codes []byte
	if j.needs.Passes == 1 {
		codes = j.codesOf(w, task, p.N)
	}
	j.Method.Scales(p, scale, codes)
	for _, a := range scale {
		if !(math.Abs(float64(a)) <= math.MaxFloat32) {
			at := kernel.FirstNonFinite(p.Elem, p.Values, p.N)
			return j.Bad(p.First+int64(at), valueAt(p.Values, p.Elem, at))
		}
	}
	if codes != nil {
		if err := j.writeCodes(p, task, scale, codes); err != nil {
			return err
		}
	}
	if err := j.scales.write(w, block, scale); err != nil {
		return err
	}
	if j.Progress != nil {
		j.Progress(int64(len(src)))
	}
	return nil
}

// codes is the second pass over a panel.
func (j *Job) codes(w *Worker, task int) error {
	p, _, err := j.open(w, task, reading{last: !j.run.Measure})
	if err != nil {
		return err
	}
	scale, err := j.scales.decoded(w, p.First/int64(j.BlockSize), ceilDiv(int64(p.N), int64(j.BlockSize)))
	if err != nil {
		return err
	}
	codes := j.codesOf(w, task, p.N)
	j.Method.Codes(p, scale, codes)
	return j.writeCodes(p, task, scale, codes)
}

// writeCodes writes the codes of a panel, without NaNs.
func (j *Job) writeCodes(p *Panel, task int, scale []float32, codes []byte) error {
	if j.Words != nil {
		j.freed[task] = j.Words.Free(p, scale, codes, nil)
	}
	return writeFull(j.Parts.Codes, codes, p.First/2)
}

// codesOf is the place for the codes of a panel: they stay beside the values where these do.
func (j *Job) codesOf(w *Worker, task, n int) []byte {
	var slab []byte
	if j.held && j.panel == j.step {
		slab = j.slabs[task]
	} else {
		slab = w.slab()
	}
	return slab[RangeBytes:][:(n+1)/2]
}

// constants writes what a weight has one of: tables and quant_state.
func (j *Job) constants(w *Worker, _ int) error {
	table := kernel.Values(j.Type)
	if err := writeFloats(w, j.Parts.QuantMap, table[:], 0); err != nil {
		return err
	}
	if j.DoubleQuant {
		if err := writeFloats(w, j.Parts.NestedQuantMap, j.scales.table[:], 0); err != nil {
			return err
		}
	}
	state, err := j.State(j.scales.offset)
	if err != nil {
		return err
	}
	return writeFull(j.Parts.State, state, 0)
}

// sums is the error of the codes and scales that were written, and of the other type with the same
// scales, over a range.
func (j *Job) sums(w *Worker, task int) error {
	first := int64(task) * j.step
	n := min(j.step, j.n-first)
	src, run, err := j.load(w, first, n, reading{last: true})
	if err != nil {
		return err
	}
	codes := w.slab()[RangeBytes:][:(n+1)/2]
	if j.held && j.panel == j.step {
		codes = j.slabs[task][RangeBytes:][:len(codes)]
	} else if err := stream.ReadFull(j.Parts.Codes, codes, first/2); err != nil {
		return err
	}
	bs := int64(j.BlockSize)
	block, blocks := first/bs, ceilDiv(n, bs)
	abs, err := j.scales.read(w, block, blocks)
	if err != nil {
		return err
	}
	scale := abs
	if j.DoubleQuant {
		if scale, err = j.scales.decoded(w, block, blocks); err != nil {
			return err
		}
	}
	for at := int64(0); at < n; at += kernel.Chunk {
		k := min(kernel.Chunk, n-at)
		c := (first + at) / kernel.Chunk
		b0, b1 := at/bs, (at+k+bs-1)/bs
		x := src[at*j.size:][:k*j.size]
		r := run[at*int64(j.Run.Size()):][:k*int64(j.Run.Size())]
		kernel.ErrorSums(&j.written[c], j.Type, j.Elem, x, codes[at/2:][:(k+1)/2], scale[b0:b1], j.BlockSize)
		if _, plain := j.Method.(Absmax); plain {
			kernel.ErrorSumsOf(&j.other[c], otherType(j.Type), j.Run, r, j.Elem, x, abs[b0:b1], scale[b0:b1], j.BlockSize)
			continue
		}
		a := grow(&w.plain, int(b1-b0))
		kernel.Absmax(j.Run, a, r, j.BlockSize)
		kernel.ErrorSumsOf(&j.other[c], j.Type, j.Run, r, j.Elem, x, a, a, j.BlockSize)
		if j.weighted != nil {
			j.weigh(w, c, x, r, codes[at/2:][:(k+1)/2], scale[b0:b1], a)
		}
	}
	if j.held {
		j.run.slabs.Put(j.slabs[task])
		j.slabs[task] = nil
	}
	return nil
}

// weigh sums the weighted errors of chunk c: x are its values as they are stored and run in the run dtype, codes and scale what was
// written, and absmax the largest magnitudes of its blocks.
func (j *Job) weigh(w *Worker, c int64, x, run, codes []byte, scale, absmax []float32) {
	n := len(x) / int(j.size)
	values, v := grow(&w.values, n), grow(&w.decoded, n)
	kernel.Widen(values, x, j.Elem)
	h, col := j.Inputs.Moments, int(c*kernel.Chunk%j.Cols)
	s := &j.weighted[c]
	s.Weights = kernel.WeightedSquares(values, nil, h, col)
	kernel.DequantizeF32(j.Type, v, codes, scale, j.BlockSize)
	s.Written = kernel.WeightedSquares(values, v, h, col)
	plain := grow(&w.dq, len(codes))
	kernel.Codes(j.Type, j.Run, plain, absmax, run, j.BlockSize)
	kernel.DequantizeF32(j.Type, v, plain, absmax, j.BlockSize)
	s.Other = kernel.WeightedSquares(values, v, h, col)
}

func otherType(t kernel.Type) kernel.Type {
	if t == kernel.NF4 {
		return kernel.FP4
	}
	return kernel.NF4
}
