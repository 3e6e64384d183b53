package verify

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/bnb"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/origin"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// What may differ in a checkpoint that somebody else made. A GPU multiplies by
// a reciprocal where a CPU divides and sums in another order; bitsandbytes' CPU
// path finds the nested code by a coarse table and misses the nearest about
// once in 600. Nothing of this is tolerated in a checkpoint that has a manifest
// of ours.
const (
	nearThreshold = 1e-6 // a scaled value this near to a threshold may have either code
	nearOffset    = 2e-7 // the offset, absolute
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
	NestedCodes int64   // one step away
	Offsets     int64   // offsets that differ
	MaxOffset   float64 // largest difference of an offset
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
}

// prove derives every tensor of the checkpoint from opt.Source.
func (r *Report) prove(ctx context.Context, src *checkpoint.Source, groups *bnb.Groups, opt Options) error {
	p := &Proof{Exact: r.Manifest != nil}
	r.Proof = p
	if m := r.Manifest; m != nil {
		if s := m.Settings["scale"]; s != "" && s != "absmax" {
			p.Unproven = len(groups.Weights)
			r.find(bnb.Warning, manifest.Name, "", "settings: scales chosen by %q cannot be derived again; only absmax can", s)
			return nil
		}
		if diff := m.Source.Compare(opt.Source); diff != "" {
			r.find(bnb.Warning, manifest.Name, "", "source: %s: the one given is not the one recorded", diff)
		}
	}
	ix := origin.New(opt.Source)
	jobs := make([]*prover, 0, len(groups.Weights)+len(groups.Plain))
	var mu sync.Mutex
	progress := func(name string, n int64) {
		if opt.Progress != nil {
			mu.Lock()
			defer mu.Unlock()
			opt.Progress(name, n)
		}
	}
	for _, w := range groups.Weights {
		jobs = append(jobs, &prover{w: w, t: w.Packed, shape: w.State.Shape, exact: p.Exact, progress: progress})
	}
	for _, t := range groups.Plain {
		jobs = append(jobs, &prover{t: t, shape: t.Shape, exact: p.Exact, progress: progress})
	}
	var run []*prover
	for _, j := range jobs {
		var err error
		if j.src, err = ix.Find(j.t.Name, j.shape); err == nil {
			run = append(run, j)
			continue
		}
		if t, ok := opt.Source.Lookup(j.t.Name); j.w == nil && ok && t.DType == j.t.DType && slices.Equal(t.Shape, j.t.Shape) {
			j.raw = t.Tensor // integers and booleans: compared as bytes
			run = append(run, j)
			continue
		}
		p.Unproven++
		r.find(bnb.Warning, j.t.Shard, j.t.Name, "not proven: %v", err)
	}
	err := stream.Run(ctx, opt.Stream, newScratch, len(run), func(i int) int64 { return run[i].cost() },
		func(i int, each stream.Each[*scratch]) error { return run[i].run(each) })
	if err != nil {
		return err
	}
	for _, j := range run {
		p.take(j)
		r.Findings = append(r.Findings, j.found...)
	}
	r.missing(src, groups, opt.Source)
	return nil
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
	p.Codes += j.w.Sizes.Elems
	p.Scales += j.w.Sizes.Blocks + j.w.Sizes.Nested
	p.WrongCodes += j.wrong
	p.WrongScales += j.wrongScales
	p.Tolerated.add(&j.Tolerated)
}

// missing lists the tensors of the source that are not in the checkpoint. Others drop tied weights.
func (r *Report) missing(src *checkpoint.Source, groups *bnb.Groups, source *checkpoint.Source) {
	severity := bnb.Notice
	if r.Proof.Exact {
		severity = bnb.Error
	}
	var names []string
	for _, t := range source.Tensors {
		if _, ok := src.Lookup(t.Name); !ok {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	most := names[:min(len(names), 5)]
	r.find(severity, "", most[0], "%d tensors of the source are not in the checkpoint: %s", len(names), strings.Join(most, ", "))
}

// prover compares one tensor with what is derived from its source.
type prover struct {
	w        *bnb.Weight // nil for a plain tensor
	t        bnb.Tensor
	shape    []int64
	src      *origin.Elements
	raw      *safetensors.Tensor // instead of src
	exact    bool
	progress func(string, int64)

	mu          sync.Mutex
	wrong       int64 // codes, or elements of a plain tensor
	wrongScales int64
	first       int64 // index of the first wrong element, -1 if none
	Tolerated
	found []Finding
}

func (j *prover) cost() int64 {
	if j.w == nil {
		return 0
	}
	return 5*j.w.Sizes.Blocks + 4*j.w.Sizes.Nested
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

func (j *prover) add(s bnb.Severity, t bnb.Tensor, format string, args ...any) {
	j.found = append(j.found, Finding{Severity: s, File: t.Shard, Tensor: t.Name, Text: fmt.Sprintf(format, args...)})
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
		if err := readFull(j.raw, want, off); err != nil {
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
		j.add(bnb.Warning, j.t, "not proven: expected floats of 16 or 32 bits, found %s", j.t.DType)
		return nil
	}
	n := j.src.Len()
	const step = rangeBytes / 8
	err := each(int((n+step-1)/step), func(w *scratch, i int) error {
		first := int64(i) * step
		k := int(min(step, n-first))
		p := grow(&w.buf2, k*j.src.Elem.Size())
		if err := j.src.Read(p, first); err != nil {
			return err
		}
		want := grow(&w.run, k*dst.Size())
		kernel.Convert(want, dst, p, j.src.Elem, k)
		return j.compare(w, want, first*int64(dst.Size()), dst.Size())
	})
	return j.endPlain(err)
}

// compare compares stored bytes at off with want, in elements of size bytes.
func (j *prover) compare(w *scratch, want []byte, off int64, size int) error {
	got := w.buf[:len(want)]
	if err := readFull(j.t, got, off); err != nil {
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
		j.add(bnb.Error, j.t, "%d of %d elements differ from the source, the first at %d", j.wrong, j.t.Elems(), j.first)
	}
	return err
}

// runWeight derives codes and scales range by range, then the second level of the scales.
func (j *prover) runWeight(each stream.Each[*scratch]) error {
	t, err := nf4.ParseType(j.w.State.QuantType)
	if err != nil {
		return fmt.Errorf("%s: %w", j.w.Name, err)
	}
	d := &derivation{prover: j, ktype: kernel.NF4, block: j.w.State.BlockSize, n: j.w.Sizes.Elems, absmax: make([]float32, j.w.Sizes.Blocks)}
	if t == nf4.FP4 {
		d.ktype = kernel.FP4
	}
	d.run, err = runElem(j.w.State.DType)
	if err != nil {
		return fmt.Errorf("%s: %w", j.w.Name, err)
	}
	d.order(kernel.Order(d.ktype), kernel.Thresholds(d.ktype))
	const step = rangeBytes / 4
	err = each(int((d.n+step-1)/step), func(w *scratch, i int) error {
		first := int64(i) * step
		return d.codes(w, first, int(min(step, d.n-first)))
	})
	if err == nil && j.wrong > 0 {
		j.add(bnb.Error, j.w.Packed, "%d of %d codes differ from those derived from the source, the first at element %d", j.wrong, d.n, j.first)
	}
	if err != nil {
		return err
	}
	if j.w.State.DoubleQuant {
		return d.nested()
	}
	return d.plainScales()
}

func runElem(dtype string) (kernel.Elem, error) {
	switch dtype {
	case "bfloat16":
		return kernel.BF16, nil
	case "float16":
		return kernel.F16, nil
	case "float32":
		return kernel.F32, nil
	}
	return 0, fmt.Errorf("dtype %q: expected bfloat16, float16 or float32", dtype)
}

// derivation is the quantization of one weight done again.
type derivation struct {
	*prover
	ktype     kernel.Type
	run       kernel.Elem
	block     int
	n         int64
	rank      [16]int // of a code, in order of value
	threshold [15]float32
	absmax    []float32
}

func (d *derivation) order(order [16]uint8, threshold [15]float32) {
	for r, c := range order {
		d.rank[c] = r
	}
	d.threshold = threshold
}

func (d *derivation) codes(w *scratch, first int64, n int) error {
	src := grow(&w.buf2, n*d.src.Elem.Size())
	if err := d.src.Read(src, first); err != nil {
		return err
	}
	run := src
	if d.src.Elem != d.run {
		run = grow(&w.run, n*d.run.Size())
		overflow, nonFinite := kernel.Convert(run, d.run, src, d.src.Elem, n)
		if at := max(overflow, nonFinite); at >= 0 {
			return &convert.ValueError{File: d.src.File, Tensor: d.src.Name, Index: first + int64(at), Shape: d.src.Shape,
				Value: math.Inf(1), DType: safetensors.BF16}
		}
	}
	b0 := first / int64(d.block)
	abs := d.absmax[b0:][:(n+d.block-1)/d.block]
	want := grow(&w.codes, (n+1)/2)
	kernel.Quantize(d.ktype, d.run, want, abs, run, d.block)
	got := w.buf[:len(want)]
	if err := readFull(d.w.Packed, got, first/2); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.Packed.Shard, d.w.Name, err)
	}
	d.progress(d.w.Name, int64(len(got)))
	if bytes.Equal(got, want) {
		return nil
	}
	d.differences(got, want, run, abs, first, n)
	return nil
}

// differences goes through a range code by code.
func (d *derivation) differences(got, want, run []byte, abs []float32, first int64, n int) {
	var tol Tolerated
	var wrong, at int64
	var x [1]float32
	size := d.run.Size()
	for i := range 2 * len(want) {
		g, v := got[i/2]>>4, want[i/2]>>4
		if i%2 == 1 {
			g, v = got[i/2]&15, want[i/2]&15
		}
		if g == v {
			continue
		}
		ok := false
		switch {
		case d.exact:
		case i >= n:
			tol.Padding++
			ok = true
		case d.ktype == kernel.FP4 && g&7 == 0 && v&7 == 0:
			tol.ZeroCodes++
			ok = true
		default:
			kernel.Widen(x[:], run[i*size:][:size], d.run)
			if ok = d.near(g, v, float64(x[0]), float64(abs[i/d.block])); ok {
				tol.NearCodes++
			}
		}
		if !ok {
			if wrong == 0 {
				at = first + int64(i)
			}
			wrong++
		}
	}
	d.note(wrong, at)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Tolerated.add(&tol)
}

// near reports whether the codes g and v are neighbours and x/a, exactly, is near the threshold between them.
func (d *derivation) near(g, v uint8, x, a float64) bool {
	lo, hi := min(d.rank[g], d.rank[v]), max(d.rank[g], d.rank[v])
	return hi-lo == 1 && a > 0 && math.Abs(x/a-float64(d.threshold[lo])) <= nearThreshold
}

// plainScales compares scales stored in float32. They are largest magnitudes of the block: nothing rounds.
func (d *derivation) plainScales() error {
	got, err := floats(d.w.Absmax)
	if err != nil {
		return err
	}
	d.compareFloats(d.w.Absmax, got, d.absmax, "block")
	return nil
}

func (d *derivation) compareFloats(t bnb.Tensor, got, want []float32, what string) {
	var n int64
	at := -1
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			if at < 0 {
				at = i
			}
			n++
		}
	}
	if n > 0 {
		d.wrongScales += n
		d.add(bnb.Error, t, "%d of %d constants differ from those derived from the source, the first of %s %d: expected %v, found %v",
			n, len(want), what, at, want[at], got[at])
	}
}

// nested derives the second level of the scales, with the offset of the file if it is another's.
func (d *derivation) nested() error {
	offset := doublequant.Offset(d.absmax)
	if stored := d.w.State.NestedOffset; stored != offset {
		diff := math.Abs(float64(stored) - float64(offset))
		if d.exact || !(diff <= nearOffset) {
			d.wrongScales++
			d.add(bnb.Error, d.w.QuantState, "nested_offset: expected %v as derived from the source, found %v", offset, stored)
		} else {
			d.Offsets++
			d.MaxOffset = diff
		}
		offset = stored
	}
	if d.w.State.NestedBlockSize != doublequant.BlockSize {
		d.add(bnb.Warning, d.w.Absmax, "not proven: nested_blocksize %d, expected %d", d.w.State.NestedBlockSize, doublequant.BlockSize)
		return nil
	}
	want := make([]byte, len(d.absmax))
	nested := make([]float32, doublequant.NestedLen(len(d.absmax)))
	kernel.DynamicQuantize(want, nested, d.absmax, offset)
	stored, err := floats(d.w.NestedAbsmax)
	if err != nil {
		return err
	}
	d.compareFloats(d.w.NestedAbsmax, stored, nested, "group")
	got := make([]byte, len(want))
	if err := readFull(d.w.Absmax, got, 0); err != nil {
		return fmt.Errorf("%s: read %s: %w", d.w.Absmax.Shard, d.w.Absmax.Name, err)
	}
	var wrong int64
	at := 0
	for i := range want {
		if got[i] == want[i] {
			continue
		}
		// A group of equal scales has m = 0, where 0/0 makes bitsandbytes' code anything; it decodes to the offset.
		step := int(got[i]) - int(want[i])
		if !d.exact && (step == 1 || step == -1 || nested[i/doublequant.BlockSize] == 0) {
			d.NestedCodes++
			continue
		}
		if wrong == 0 {
			at = i
		}
		wrong++
	}
	if wrong > 0 {
		d.wrongScales += wrong
		d.add(bnb.Error, d.w.Absmax, "%d of %d scale codes differ from those derived from the source, the first of block %d: expected %d, found %d",
			wrong, len(want), at, want[at], got[at])
	}
	return nil
}
