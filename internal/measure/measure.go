package measure

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Options say what is measured.
type Options struct {
	Formats []Format
	Run     safetensors.DType                                     // weights are rounded to it first: BF16 or F16
	Sample  float64                                               // share of the chunks of each tensor; 0 and 1 are all
	Weights func(tensor string, columns int64) ([]float32, error) // mean squared activation by input column; nil, or nil for a tensor: none

	Keep func(tensor string) bool // of Written: what is compared; nil: everything

	Stream   stream.Options
	Progress func(tensor string, bytes int64) // called from one goroutine at a time
}

// Validate reports options that make no sense.
func (o *Options) Validate() error {
	if len(o.Formats) == 0 {
		return fmt.Errorf("formats: want at least one")
	}
	for _, f := range o.Formats {
		if err := f.Validate(); err != nil {
			return err
		}
	}
	if o.Run != safetensors.BF16 && o.Run != safetensors.F16 && o.Run != safetensors.F32 {
		return fmt.Errorf("run dtype %s: want BF16, F16 or F32", o.Run)
	}
	if !(o.Sample >= 0 && o.Sample <= 1) {
		return fmt.Errorf("sample %v: want a share between 0 and 1", o.Sample)
	}
	return o.Stream.Validate()
}

// A Tensor is what was measured of one tensor.
type Tensor struct {
	Name     string
	Kind     string
	Layer    int // -1 for none
	Shape    []int64
	Elements int64
	Measured int64 // of them; fewer in a sample
	Weights  Histogram
	Results  []Result // by format
}

// HistogramBins cut [-1, 1] of the values over the largest magnitude of their block of 64.
const HistogramBins = 80

// Histogram counts scaled weights.
type Histogram [HistogramBins]int64

// A Result is one tensor in one format. The sums stand for the whole tensor, also in a sample.
type Result struct {
	Format   Format
	Sums     kernel.Sums
	Codes    int64   // bytes of codes and constants
	Bytes    int64   // with tables and records
	Counts   []int64 // of every code, of the elements measured
	Zeros    int64   // elements measured whose decoded value is 0
	Blocks   int64   // that were measured; 0 for formats without a largest magnitude by block
	Outliers int64   // of them, with a magnitude above twice the tensor's mean
	Errors   ErrorHistogram

	WeightedE2, WeightedX2 float64 // sums of squares times the mean squared activation; 0 without
	spread                 moments
}

// WeightedRelRMSE is the relative error weighted by activations, which estimates the relative error of the layer's output; NaN without weights.
func (r *Result) WeightedRelRMSE() float64 {
	if r.WeightedX2 == 0 {
		return math.NaN()
	}
	return math.Sqrt(r.WeightedE2 / r.WeightedX2)
}

// Figures are those of the sums.
func (r *Result) Figures() Figures { return FiguresOf(r.Sums) }

// A Weight is what is measured: a tensor [out, in] of the source, and what kind of module it is of.
type Weight struct {
	weights.Tensor
	Kind string
}

// Run measures tensors. A weight that is not finite, or overflows the run dtype, is a *weights.ValueError.
func Run(ctx context.Context, tensors []Weight, opt Options) ([]Tensor, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	run := map[safetensors.DType]kernel.Elem{safetensors.BF16: kernel.BF16, safetensors.F16: kernel.F16, safetensors.F32: kernel.F32}[opt.Run]
	set := newFormatSet(opt.Formats)
	out := make([]Tensor, len(tensors))
	var mu sync.Mutex
	progress := func(name string, n int64) {
		if opt.Progress != nil {
			mu.Lock()
			defer mu.Unlock()
			opt.Progress(name, n)
		}
	}
	var slabs stream.Buffers
	jobs := make([]*job, len(tensors))
	for i := range tensors {
		jobs[i] = newJob(&tensors[i], run, &opt, set, &slabs, progress)
	}
	budget := opt.Stream.Budget()
	err := stream.Run(ctx, opt.Stream, func() *scratch { return newScratch(set) }, len(jobs),
		func(i int) int64 {
			jobs[i].hold = jobs[i].dataBytes()+jobs[i].fixedBytes() <= budget
			if !jobs[i].hold {
				jobs[i].lean = jobs[i].fixedBytes() > budget
				return jobs[i].fixedBytes()
			}
			return jobs[i].dataBytes() + jobs[i].fixedBytes()
		},
		func(i int, each stream.Each[*scratch]) error {
			if err := jobs[i].measure(each); err != nil {
				return err
			}
			out[i] = jobs[i].tensor()
			jobs[i] = nil
			return nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Layer is the first number in a tensor's path, -1 if there is none.
func Layer(name string) int {
	for part := range strings.SplitSeq(name, ".") {
		if n, err := strconv.Atoi(part); err == nil && n >= 0 {
			return n
		}
	}
	return -1
}

// Plan lists what convert would quantize of a plan, for Run.
func Plan(p *convert.Plan) []Weight {
	var out []Weight
	for i := range p.Items() {
		if p.Items()[i].Quantize {
			it := &p.Items()[i]
			out = append(out, Weight{it.Floats(), it.Kind})
		}
	}
	return out
}
