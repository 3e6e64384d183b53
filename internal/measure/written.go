package measure

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4"
)

// A Skipped is a quantized weight that could not be compared, and why.
type Skipped struct {
	Tensor, Reason string
}

// Written measures a checkpoint that somebody wrote, bitsandbytes 4-bit or LLM.int8, against its source. Weights without
// a counterpart in the source are skipped. Options.Formats, Run and Sample are not used.
func Written(ctx context.Context, src, quant *checkpoint.Source, opt Options) ([]Tensor, []Skipped, error) {
	if err := opt.Stream.Validate(); err != nil {
		return nil, nil, err
	}
	jobs, skipped, err := pairs(src, quant, &opt)
	if err != nil {
		return nil, nil, err
	}
	out := make([]Tensor, len(jobs))
	kinds := kindsOf(src)
	var mu sync.Mutex
	err = stream.Run(ctx, opt.Stream, func() *writtenScratch { return new(writtenScratch) }, len(jobs),
		func(i int) int64 { return jobs[i].cost() },
		func(i int, each stream.Each[*writtenScratch]) error {
			j := jobs[i]
			j.progress = func(n int64) {
				if opt.Progress != nil {
					mu.Lock()
					defer mu.Unlock()
					opt.Progress(j.Name, n)
				}
			}
			if opt.Weights != nil {
				var err error
				if j.weights, err = opt.Weights(j.Name, j.Shape[len(j.Shape)-1]); err != nil {
					return err
				}
			}
			var err error
			out[i], err = j.measure(each)
			if out[i].Kind = kinds[j.Name]; out[i].Kind == "" {
				out[i].Kind = lastPart(j.Name)
			}
			return err
		})
	if err != nil {
		return nil, nil, err
	}
	return out, skipped, nil
}

// pairs finds the tensor of the source for every quantized weight that is to be compared, in the order of the weights' names.
func pairs(src, quant *checkpoint.Source, opt *Options) (jobs []*writtenJob, skipped []Skipped, err error) {
	groups, err := fourbit.Group(weights.BnbTensors(quant))
	if err != nil {
		return nil, nil, err
	}
	ix, err := weights.NewIndex(src)
	if err != nil {
		return nil, nil, err
	}
	add := func(j *writtenJob, name string, shape []int64) {
		if opt.Keep != nil && !opt.Keep(name) {
			return
		}
		e, err := ix.Find(name, shape)
		if err != nil {
			skipped = append(skipped, Skipped{name, err.Error()})
			return
		}
		j.Tensor = e
		jobs = append(jobs, j)
	}
	for _, w := range groups.Weights {
		add(&writtenJob{w: w}, w.Name, w.State.Shape[:])
	}
	for _, w := range fourbit.Int8Weights(weights.BnbTensors(quant)) {
		if reason, err := tiled(w); err != nil {
			return nil, nil, err
		} else if reason != "" {
			skipped = append(skipped, Skipped{w.Weight.Name, reason})
			continue
		}
		add(&writtenJob{int8: &w}, w.Weight.Name, w.Weight.Shape)
	}
	if len(jobs) > 0 {
		return jobs, skipped, nil
	}
	e := &weights.SourceError{Path: quant.Path, Msg: "nothing to compare: no bitsandbytes weight with a counterpart in " + src.Path}
	if len(skipped) > 0 {
		e.Msg += fmt.Sprintf("; %s: %s", skipped[0].Tensor, skipped[0].Reason)
	}
	for _, bad := range groups.Errors() {
		if bad.Kind != fourbit.EightBit || len(skipped) == 0 {
			return nil, nil, bad
		}
	}
	return nil, nil, e
}

// kindsOf are the kinds of modules that all of the source's weights are of. They do not depend on which of them a checkpoint has
// packed, so that the figures of several lie side by side.
func kindsOf(src *checkpoint.Source) map[string]string {
	p, err := convert.NewPlan(src, convert.Options{AsBitsandbytes: true, AllowIncomplete: true})
	if err != nil {
		return nil
	}
	kinds := make(map[string]string, len(p.Items()))
	for i := range p.Items() {
		kinds[p.Items()[i].Name] = p.Items()[i].Kind
	}
	return kinds
}

// lastPart is the module's own name.
func lastPart(name string) string {
	name = strings.TrimSuffix(name, ".weight")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// tiled says why the codes of w do not lie row by row, "" if they do: before bitsandbytes 0.45 a checkpoint saved from a
// GPU had them in tiles for that generation of GPUs.
func tiled(w fourbit.Int8) (reason string, err error) {
	if w.Format.Tensor == nil {
		return "", nil
	}
	var b [1]byte
	if err := stream.ReadFull(w.Format, b[:], 0); err != nil {
		return "", fmt.Errorf("%s: read %s: %w", w.Format.Shard, w.Format.Name, err)
	}
	if b[0] != 0 {
		return fmt.Sprintf("expected weight_format 0, row-major, found %d", b[0]), nil
	}
	return "", nil
}

// writtenJob compares one weight: w or int8.
type writtenJob struct {
	*weights.Tensor // of the source
	w               *fourbit.Weight
	int8            *fourbit.Int8
	weights         []float32
	progress        func(int64)

	packed *decode.FourBit
	mean   float64   // of the magnitudes of its scales
	rows   []float32 // scales of int8
}

type writtenScratch struct {
	src, codes  []byte
	x, v, scale []float32
	outliers    int64
	counts      counts
	errors      errorCounts
}

func (j *writtenJob) cost() int64 {
	chunks := (j.Elems() + kernel.Chunk - 1) / kernel.Chunk * 80 // sums
	if j.w != nil {
		return chunks + 4*j.w.Size.Nested
	}
	return chunks + 8*j.int8.Scales.Elems()
}

func (j *writtenJob) format() Format {
	if j.w == nil {
		return Format{Kind: Int8}
	}
	f := Format{Kind: NF4, BlockSize: j.w.State.BlockSize, DoubleQuant: !j.w.State.NoDoubleQuant}
	if j.w.State.Type == nf4.FP4 {
		f.Kind = FP4
	}
	return f
}

// bytes of the weight as it is stored.
func (j *writtenJob) bytes() (codes, all int64) {
	if j.w == nil {
		codes = j.int8.Weight.Size() + j.int8.Scales.Size()
		all = codes
		if j.int8.Format.Tensor != nil {
			all += j.int8.Format.Size()
		}
		return codes, all
	}
	for _, t := range []fourbit.Tensor{j.w.Packed, j.w.Absmax, j.w.NestedAbsmax} {
		if t.Tensor != nil {
			codes += t.Size()
		}
	}
	all = codes
	for _, t := range []fourbit.Tensor{j.w.QuantMap, j.w.NestedQuantMap, j.w.QuantState} {
		if t.Tensor != nil {
			all += t.Size()
		}
	}
	return codes, all
}

func (j *writtenJob) measure(each stream.Each[*writtenScratch]) (Tensor, error) {
	if err := each(1, j.open); err != nil {
		return Tensor{}, err
	}
	n := j.Elems()
	chunks := int((n + kernel.Chunk - 1) / kernel.Chunk)
	sums := make([]kernel.Sums, chunks)
	wE2, wX2 := make([]float64, chunks), make([]float64, chunks)
	f := j.format()
	r := Result{Format: f, Counts: make([]int64, 1<<traits[f.Kind].bits)}
	var mu sync.Mutex
	var parts errorParts
	err := each(chunks, func(s *writtenScratch, k int) error {
		first := int64(k) * kernel.Chunk
		m := int(min(kernel.Chunk, n-first))
		if err := j.decode(s, first, m); err != nil {
			return err
		}
		x, v := s.x[:m], s.v[:m]
		kernel.PairSums(&sums[k], x, v)
		if j.weights != nil {
			col := int(first % int64(len(j.weights)))
			wE2[k], wX2[k] = kernel.WeightedSquares(x, v, j.weights, col), kernel.WeightedSquares(x, nil, j.weights, col)
		}
		var zeros int64
		for _, v := range v {
			if v == 0 {
				zeros++
			}
		}
		wanted := errorChunk(k, chunks)
		if wanted {
			clear(s.errors[:])
			s.errors.add(x, v)
		}
		j.progress(int64(m * j.Elem().Size()))
		mu.Lock()
		defer mu.Unlock()
		if wanted {
			parts.add(s.errors.histogram())
		}
		for c := range r.Counts {
			r.Counts[c] += s.counts.total(c)
		}
		r.Zeros += zeros
		r.Outliers += s.outliers
		return nil
	})
	if err != nil {
		return Tensor{}, err
	}
	r.Errors = Merged(parts...)
	for k := range sums {
		r.Sums.Add(&sums[k])
		r.WeightedE2 += wE2[k]
		r.WeightedX2 += wX2[k]
	}
	r.Codes, r.Bytes = j.bytes()
	if j.w != nil {
		r.Blocks = j.w.Size.Blocks
	}
	j.packed, j.rows = nil, nil
	return Tensor{Name: j.Name, Layer: Layer(j.Name), Shape: j.Shape, Elements: n, Measured: n, Results: []Result{r}}, nil
}

// decode fills s.x with m source values from first on, s.v with the decoded ones and s.counts with their codes.
func (j *writtenJob) decode(s *writtenScratch, first int64, m int) error {
	s.src, s.codes = grow(s.src, m*j.Elem().Size()), grow(s.codes, m)
	s.x, s.v = grow(s.x, m), grow(s.v, m)
	if err := j.Read(s.src, first); err != nil {
		return err
	}
	kernel.Widen(s.x, s.src, j.Elem())
	s.counts, s.outliers = counts{}, 0
	if j.w == nil {
		if err := stream.ReadFull(j.int8.Weight, s.codes, first); err != nil {
			return fmt.Errorf("%s: read %s: %w", j.int8.Weight.Shard, j.Name, err)
		}
		cols := j.Shape[1]
		for i, c := range s.codes {
			s.v[i] = float32(float32(int8(c))*j.rows[(first+int64(i))/cols]) * int8Inverse
		}
		s.counts.add(s.codes)
		return nil
	}
	packed := s.codes[:(m+1)/2]
	if err := j.packed.ReadCodes(packed, first); err != nil {
		return fmt.Errorf("%s: %w", j.w.Packed.Shard, err)
	}
	block := j.packed.BlockSize
	s.scale = grow(s.scale, (m+block-1)/block)
	if err := j.packed.Scales(s.scale, first/int64(block)); err != nil {
		return fmt.Errorf("%s: %w", j.w.Absmax.Shard, err)
	}
	kernel.DequantizeF32(j.packed.Type, s.v, packed, s.scale, block)
	s.counts.addPacked(packed, m)
	for _, a := range s.scale {
		if outlier(math.Abs(float64(a)), j.mean) {
			s.outliers++
		}
	}
	return nil
}

// scalesAtOnce is how many scales are read for their mean.
const scalesAtOnce = 1 << 16

// open reads what is kept of the scales: those of int8, and of 4 bits their mean magnitude and the second level.
func (j *writtenJob) open(s *writtenScratch, _ int) (err error) {
	if j.w == nil {
		scb := j.int8.Scales
		j.rows, err = floatsOf(scb, scb.Size(), scb.Shard, scb.Name)
		return err
	}
	if j.packed, err = j.w.Open(); err != nil {
		return err
	}
	n := j.w.Size.Blocks
	var sum float64
	for first := int64(0); first < n; first += scalesAtOnce {
		s.scale = grow(s.scale, int(min(scalesAtOnce, n-first)))
		if err := j.packed.Scales(s.scale, first); err != nil {
			return fmt.Errorf("%s: %w", j.w.Absmax.Shard, err)
		}
		for _, a := range s.scale {
			sum += math.Abs(float64(a))
		}
	}
	j.mean = sum / float64(n)
	return nil
}

func floatsOf(r io.ReaderAt, size int64, file, name string) ([]float32, error) {
	b := make([]byte, size)
	if err := stream.ReadFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", file, name, err)
	}
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v, nil
}

func grow[T any](p []T, n int) []T {
	if cap(p) < n {
		return make([]T, n)
	}
	return p[:n]
}
