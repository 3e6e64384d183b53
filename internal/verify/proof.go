package verify

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// What may differ in a checkpoint that somebody else made; nothing of it may in one that has a manifest of ours. A GPU
// multiplies by a reciprocal where a CPU divides, and sums in another order.
//
// bitsandbytes 0.50 on a CPU finds the code of y = (scale - offset)/m in a table of 65,536 entries, that of the place
// nearest to y on a grid of 1/32767.5: its code is the nearest to some number within 1/65535 of y. That misses the nearest
// to y once in 580 scales of normal weights, once in 170 of scales spread over decades, and adds at most 3.1e-5 of m to the
// error of one scale and 0.005 % to that of all. About zero it passes over several codes: a scale that equals the mean gets
// 123 or 131 in place of 127.
const (
	nearThreshold = 1e-6               // a scaled value this near to a threshold may have either code
	nearOffset    = 4e-6               // of the offset: about 64 roundings of a sum in float32
	nearLookup    = (1 + 1e-3) / 65535 // of m; the lookup's own arithmetic is in float32

	// How many of them there may be in a whole checkpoint: several times what was seen. Scales nearer to the mean than the
	// grid are not counted, since all of a weight may be.
	fewNear    = 256
	nearCodes  = 1000 // one in so many codes
	nearScales = 50   // one in so many scales
)

// A Proof is the outcome of deriving a checkpoint from its source again.
type Proof struct {
	Exact   bool  // our own file: no tolerance
	Weights int64 // quantized weights compared
	Plain   int64 // plain tensors compared
	Codes   int64 // 4-bit codes compared
	Scales  int64 // constants compared, both levels
	Tolerated

	WrongCodes  int64 // beyond any tolerance
	WrongScales int64
	WrongPlain  int64 // plain tensors that differ
	Unproven    int   // tensors without a counterpart in the source
}

// Tolerated counts differences within the tolerances for files by others.
type Tolerated struct {
	NearCodes   int64   // one step away, the scaled value within 1e-6 of the threshold
	ZeroCodes   int64   // the other of FP4's two zeros
	Padding     int64   // missing nibbles of odd counts
	NestedCodes int64   // the nearest to a scale that is off by no more than bitsandbytes' lookup
	Offsets     int64   // offsets that differ
	MaxOffset   float64 // largest difference of an offset

	offCenter int64 // of NestedCodes, those of scales that do not practically equal the mean
}

// Total is the number of differences that were tolerated.
func (t *Tolerated) Total() int64 {
	return t.NearCodes + t.ZeroCodes + t.Padding + t.NestedCodes + t.Offsets
}

func (t *Tolerated) add(o *Tolerated) {
	t.NearCodes += o.NearCodes
	t.ZeroCodes += o.ZeroCodes
	t.Padding += o.Padding
	t.NestedCodes += o.NestedCodes
	t.Offsets += o.Offsets
	t.MaxOffset = max(t.MaxOffset, o.MaxOffset)
	t.offCenter += o.offCenter
}

// prove derives every tensor of the checkpoint from opt.Source.
func (r *Report) prove(ctx context.Context, sub *subject, opt Options) error {
	groups := sub.groups
	p := &Proof{Exact: r.Manifest != nil}
	r.Proof = p
	scale := func(string) bnb.Scale { return bnb.AbsMax }
	if m := r.Manifest; m != nil {
		var ok bool
		if scale, ok = r.methods(m, opt.Inputs); !ok {
			p.Unproven = len(groups.Weights)
			return nil
		}
		if diff := m.Source.Compare(opt.Source); diff != "" {
			r.find(fourbit.Warning, manifest.Name, "", "source: %s: the one given is not the one recorded", diff)
		}
	}
	progress := opt.progress()
	jobs := make([]*prover, 0, len(groups.Weights)+len(groups.Plain))
	for _, w := range groups.Weights {
		jobs = append(jobs, &prover{w: w, t: w.Packed, shape: w.State.Shape[:], exact: p.Exact, scale: scale(w.Name), known: opt.Inputs, progress: progress})
	}
	for _, t := range groups.Plain {
		jobs = append(jobs, &prover{t: t, shape: t.Shape, exact: p.Exact, progress: progress})
	}
	ix, err := weights.NewIndex(opt.Source)
	if err != nil {
		return err
	}
	run, used := r.pair(sub, ix, opt.Source, jobs)
	err = stream.Run(ctx, opt.Stream, newScratch, len(run), func(i int) int64 { return run[i].cost() },
		func(i int, each stream.Each[*scratch]) error { return run[i].run(each) })
	if err != nil {
		return err
	}
	var lost feedbackError
	fed := 0
	for _, j := range run {
		p.take(j)
		r.Findings = append(r.Findings, j.found...)
		if j.w != nil && j.scale == bnb.Feedback {
			fed++
			lost.weights += j.lost.weights
			lost.stored += j.lost.stored
			lost.nearest += j.lost.nearest
		}
	}
	if fed > 0 {
		r.codesByFeedback(fed, lost)
	}
	r.tooMany(p)
	r.missing(sub, ix, used, layers(opt.Source))
	return nil
}

// pair gives each job the tensor of the source that its own was made of, and returns those that have one, and the names used.
func (r *Report) pair(sub *subject, ix *weights.Index, source *checkpoint.Source, jobs []*prover) (run []*prover, used map[string]bool) {
	names := make([]string, len(jobs))
	for i, j := range jobs {
		names[i] = j.t.Name
	}
	twins := newCounterparts(sub, sourceModel(sub, ix), ix.Names(), names)
	used = make(map[string]bool, len(jobs))
	for _, j := range jobs {
		name := twins.of(j.t.Name)
		used[name] = true
		if t, ok := source.Lookup(name); j.w == nil && ok && t.DType == j.t.DType && slices.Equal(t.Shape, j.t.Shape) {
			j.raw = t.Tensor // no rounding between them: compared as bytes
			run = append(run, j)
			continue
		}
		var err error
		if j.w != nil {
			j.src, err = ix.Find(name, j.shape)
		} else {
			j.src, err = ix.Kept(name, j.shape)
		}
		if err != nil {
			r.Proof.Unproven++
			severity := fourbit.Warning
			if strings.HasSuffix(j.t.Name, "num_batches_tracked") {
				severity = fourbit.Notice // a BatchNorm's count, which no output depends on, and which transformers 5 casts as it loads in 16 bits
			}
			r.find(severity, j.t.Shard, j.t.Name, "not proven: %v", err)
			continue
		}
		for _, part := range j.src.Of {
			used[part.Name] = true
		}
		run = append(run, j)
	}
	return run, used
}

// tooMany finds differences that are small one by one and more than any implementation makes.
func (r *Report) tooMany(p *Proof) {
	if most := fewNear + p.Codes/nearCodes; p.NearCodes > most {
		r.find(fourbit.Error, "", "", "%d of %d codes are the other one of a threshold nearby: expected at most %d", p.NearCodes, p.Codes, most)
	}
	if most := fewNear + p.Scales/nearScales; p.offCenter > most {
		r.find(fourbit.Error, "", "", "%d of %d scale codes are next to the nearest: expected at most %d", p.offCenter, p.Scales, most)
	}
}

func (p *Proof) take(j *prover) {
	if j.w == nil {
		p.Plain++
		if j.wrong > 0 {
			p.WrongPlain++
		}
		return
	}
	p.Weights++
	if j.scale != bnb.Feedback {
		p.Codes += j.w.Size.Elems
	}
	p.Scales += j.w.Size.Blocks + j.w.Size.Nested
	p.WrongCodes += j.wrong
	p.WrongScales += j.wrongScales
	p.Tolerated.add(&j.Tolerated)
}

// missing lists the tensors of the source that are not in the checkpoint. Those that its model needs make it a failure;
// transformers leaves out tied heads and what it does not know when it saves.
func (r *Report) missing(sub *subject, ix *weights.Index, used map[string]bool, layers int) {
	patterns := map[string]bool{}
	for name := range used {
		patterns[pattern(name)] = true
	}
	var lost, left []string
	for _, name := range ix.Names() {
		switch {
		case used[name]:
		case r.Proof.Exact || firstNumber(name) < layers && (sub.needs(name) || patterns[pattern(name)]):
			lost = append(lost, name)
		default:
			left = append(left, name)
		}
	}
	for _, l := range []struct {
		severity fourbit.Severity
		names    []string
	}{{fourbit.Error, lost}, {fourbit.Notice, left}} {
		if len(l.names) > 0 {
			most := l.names[:min(len(l.names), 5)]
			r.find(l.severity, "", most[0], "%d tensors of the source are not in the checkpoint: %s", len(l.names), strings.Join(most, ", "))
		}
	}
}

// prover compares one tensor with what is derived from its source.
type prover struct {
	w        *fourbit.Weight // nil for a plain tensor
	t        fourbit.Tensor
	shape    []int64
	src      *weights.Tensor
	raw      *safetensors.Tensor // of the dtype of t: instead of src
	exact    bool
	scale    bnb.Scale // how scales were chosen
	known    *Inputs   // and what weighted with; nil: nothing
	progress func(string, int64)

	mu          sync.Mutex
	wrong       int64 // codes, or elements of a plain tensor
	wrongScales int64
	first       int64 // index of the first wrong element, -1 if none
	lost        feedbackError
	Tolerated
	found []Finding
}

func (j *prover) cost() int64 {
	switch {
	case j.w == nil:
		return 0
	case j.scale != bnb.AbsMax:
		return 18 * j.w.Size.Blocks // scales, as derived and as stored, their codes, and what they decode to
	case j.w.State.BlockSize > largestInRange:
		return 14 * j.w.Size.Blocks
	}
	return 0
}

func (j *prover) run(each stream.Each[*scratch]) error {
	j.first = -1
	switch {
	case j.raw != nil:
		return j.runRaw(each)
	case j.w == nil:
		return j.runPlain(each)
	}
	return j.runWeight(each)
}

func (j *prover) add(s fourbit.Severity, t fourbit.Tensor, format string, args ...any) {
	j.found = append(j.found, Finding{Severity: s, Kind: format, File: t.Shard, Tensor: t.Name, Text: fmt.Sprintf(format, args...)})
}

// note counts n wrong elements, the first of them at index.
func (j *prover) note(n, index int64) {
	if n == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.wrong += n
	if j.first < 0 || index < j.first {
		j.first = index
	}
}

func (j *prover) runRaw(each stream.Each[*scratch]) error {
	size := j.t.Size()
	err := each(int((size+rangeBytes-1)/rangeBytes), func(w *scratch, i int) error {
		off := int64(i) * rangeBytes
		n := int(min(rangeBytes, size-off))
		want := grow(&w.buf2, n)
		if err := stream.ReadFull(j.raw, want, off); err != nil {
			return fmt.Errorf("read source of %s: %w", j.t.Name, err)
		}
		return j.compare(w, want, off, 1)
	})
	return j.endPlain(err)
}

// runPlain compares a tensor that was kept: rounded to the dtype it is stored in.
func (j *prover) runPlain(each stream.Each[*scratch]) error {
	dst, ok := map[safetensors.DType]kernel.Elem{safetensors.BF16: kernel.BF16, safetensors.F16: kernel.F16, safetensors.F32: kernel.F32}[j.t.DType]
	if !ok {
		j.add(fourbit.Warning, j.t, "not proven: expected floats of 16 or 32 bits, found %s", j.t.DType)
		return nil
	}
	n := j.src.Elems()
	const step = rangeBytes / 8
	err := each(int((n+step-1)/step), func(w *scratch, i int) error {
		first := int64(i) * step
		k := int(min(step, n-first))
		p := grow(&w.buf2, k*j.src.Elem().Size())
		if err := j.src.Read(p, first); err != nil {
			return err
		}
		want := grow(&w.run, k*dst.Size())
		kernel.Convert(want, dst, p, j.src.Elem(), k)
		return j.compare(w, want, first*int64(dst.Size()), dst.Size())
	})
	return j.endPlain(err)
}

// compare compares stored bytes at off with want, in elements of size bytes.
func (j *prover) compare(w *scratch, want []byte, off int64, size int) error {
	got := w.buf[:len(want)]
	if err := stream.ReadFull(j.t, got, off); err != nil {
		return fmt.Errorf("%s: read %s: %w", j.t.Shard, j.t.Name, err)
	}
	j.progress(j.t.Name, int64(len(got)))
	if bytes.Equal(got, want) {
		return nil
	}
	var n, first int64
	for i := len(got) - size; i >= 0; i -= size {
		if !bytes.Equal(got[i:i+size], want[i:i+size]) {
			n++
			first = int64(i)
		}
	}
	j.note(n, (off+first)/int64(size))
	return nil
}

func (j *prover) endPlain(err error) error {
	if err == nil && j.wrong > 0 {
		j.add(fourbit.Error, j.t, "%d of %d elements differ from the source, the first at %d", j.wrong, j.t.Elems(), j.first)
	}
	return err
}

// runWeight derives codes and scales range by range, then the second level of the scales.
func (j *prover) runWeight(each stream.Each[*scratch]) error {
	d := &derivation{prover: j, ktype: kernel.NF4, block: j.w.State.BlockSize, n: j.w.Size.Elems, offset: j.w.State.NestedOffset}
	d.inOrder.Take = d.mean.Add
	if d.searched() || d.block > largestInRange {
		d.absmax = make([]float32, j.w.Size.Blocks)
	}
	if j.w.State.Type == nf4.FP4 {
		d.ktype = kernel.FP4
	}
	d.run = map[nf4.DType]kernel.Elem{nf4.BFloat16: kernel.BF16, nf4.Float16: kernel.F16, nf4.Float32: kernel.F32}[j.w.State.DType]
	d.order(kernel.Order(d.ktype), kernel.Thresholds(d.ktype))
	if d.searched() {
		return d.runSearched(each)
	}
	return d.runAbsmax(each)
}

// step is how many elements a task takes.
const step = rangeBytes / 4

// ranges runs f on every range of the weight.
func (d *derivation) ranges(each stream.Each[*scratch], f func(w *scratch, first int64, n int) error) error {
	return each(int((d.n+step-1)/step), func(w *scratch, i int) error {
		first := int64(i) * step
		return f(w, first, int(min(step, d.n-first)))
	})
}

func (d *derivation) runAbsmax(each stream.Each[*scratch]) error {
	if err := d.ranges(each, d.codes); err != nil {
		return err
	}
	d.wrongCodes()
	return d.constants(each)
}

// runSearched derives the scales first: codes go by what they decode to.
func (d *derivation) runSearched(each stream.Each[*scratch]) error {
	in, err := d.inputs(each)
	if err != nil {
		return err
	}
	err = d.ranges(each, func(w *scratch, first int64, n int) error { return d.searchScales(w, in, first, n) })
	if err != nil {
		return err
	}
	if err := d.constants(each); err != nil || d.decoded == nil {
		return err
	}
	if d.scale == bnb.Feedback {
		d.feedback = make([]feedbackError, (d.n+step-1)/step)
		err := d.ranges(each, d.feedbackCodes)
		d.endFeedback()
		return err
	}
	if err := d.ranges(each, d.searchedCodes); err != nil {
		return err
	}
	d.wrongCodes()
	return nil
}

func (d *derivation) wrongCodes() {
	if d.wrong > 0 {
		d.add(fourbit.Error, d.w.Packed, "%d of %d codes differ from those derived from the source, the first at element %d", d.wrong, d.n, d.first)
	}
}

// constants compares the scales that were kept, and says what was found of all.
func (d *derivation) constants(each stream.Each[*scratch]) error {
	if d.absmax != nil {
		d.mean.Add(d.absmax)
		if d.w.State.NoDoubleQuant {
			d.decoded = d.absmax
		}
		if err := each(1, func(w *scratch, _ int) error { return d.compareScales(w, 0, d.absmax) }); err != nil {
			return err
		}
	}
	d.end()
	return nil
}
