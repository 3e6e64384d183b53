package quantize

import (
	"runtime"
	"sync"

	"github.com/nf4kit/nf4kit/internal/feedback"
	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Feedback is the method of that name: scales as mse-signed finds them, and codes that make up, along a row, for what the
// codes before did to the output. It is of one weight. A weight whose Gram matrix is not known has the codes of mse-signed.
type Feedback struct {
	Searched
	factor *feedback.Factor
	output *WeightedSums
}

// sampleRows is how many rows, spread over a weight, the damping is chosen on. Of SmolLM2's weights the choice costs .3 % over the best,
// .2 % with twice as many and .8 % with half.
const sampleRows = 64

// panelRows is how many rows are worked on at a time: it bounds the memory of a worker, and reads the factor once for as many.
const panelRows = 64

// Needs is two passes over whole rows.
func (m *Feedback) Needs(w *Weight) Needs {
	m.Searched.Signed = true
	return Needs{Passes: 2, Rows: true, Exclusive: true, FitMap: true,
		Memory: int64(runtime.GOMAXPROCS(0)) * (feedback.RowsMemory(panelRows, w.Cols) + 4*panelRows*w.Cols)}
}

// FeedbackMemory is how many bytes the method takes on top of what other methods do, for one weight at a time: two Gram
// matrices, the factors that the damping is chosen from with what that is tried on, and the room in which the last of them is made
// and then refined.
func FeedbackMemory(cols int64) int64 {
	return 2*4*cols*cols + feedback.FactorsMemory(cols) + feedback.TrialMemory(cols) + feedback.RefineMemory(cols)
}

// SharedMemory is what of that Shared holds between weights.
func SharedMemory(cols int64) int64 { return feedback.FactorsMemory(cols) }

// Shared keeps the factors of the inputs that several weights have, from the first of them to the last. Weights that hold one are
// worked on one after another, see Needs.Exclusive.
type Shared struct {
	uses    int
	factors *feedback.Factors
}

// Add counts a weight.
func (s *Shared) Add() { s.uses++ }

// of are the factors for inputs of n columns, kept from the first weight to the last; of a nil Shared each weight's own.
func (s *Shared) of(n int) *feedback.Factors {
	if s == nil {
		return feedback.NewFactors(n)
	}
	if s.factors == nil {
		s.factors = feedback.NewFactors(n)
	}
	f := s.factors
	if s.uses--; s.uses <= 0 {
		s.factors = nil
	}
	return f
}

// Prepare chooses the damping on the Gram matrix that was held out, and factors.
func (m *Feedback) Prepare(w *Weight, sample func(first int64, n int) (*Panel, []float32, error), jobs int) error {
	if w.Inputs.Gram == nil {
		return nil
	}
	gram, heldout, err := w.Inputs.Gram()
	if err != nil || gram == nil {
		return err
	}
	n := int(w.Cols)
	x, scale, err := m.sample(w, sample)
	if err != nil {
		return err
	}
	trial := feedback.Trial{Type: w.Type, BlockSize: w.BlockSize, X: x, Scales: scale, Heldout: heldout}
	m.factor, _, err = w.Inputs.Shared.of(n).Choose(gram, &trial, jobs)
	if err == nil {
		m.factor.Refine(gram, jobs)
		m.measure(w, heldout, x, scale, jobs)
	}
	return err
}

// Release drops the factor.
func (m *Feedback) Release() { m.factor = nil }

// measure finds the output error on the Gram matrix that was held out, of rows x, and that of absmax.
func (m *Feedback) measure(w *Weight, heldout, x, scale []float32, jobs int) {
	n, bs := int(w.Cols), w.BlockSize
	codes, values := make([]byte, (len(x)+1)/2), make([]byte, 4*len(x))
	written, plain, absmax := make([]float32, len(x)), make([]float32, len(x)), make([]float32, len(scale))
	m.factor.QuantizeOn(jobs, w.Type, codes, x, scale, bs)
	kernel.DequantizeF32(w.Type, written, codes, scale, bs)
	kernel.Narrow(values, kernel.F32, x)
	kernel.Quantize(w.Type, kernel.F32, codes, absmax, values, bs)
	kernel.DequantizeF32(w.Type, plain, codes, absmax, bs)
	whole := float64(w.Rows*w.Cols) / float64(len(x))
	e := feedback.OutputErrors(heldout, n, x, jobs, make([]float32, len(x)), written, plain)
	m.output = &WeightedSums{Weights: whole * e[0], Written: whole * e[1], Other: whole * e[2]}
}

// Outputs are the sums of the output's mean squares with all correlations of the inputs, on the Gram matrix that was held out and
// a sample of the rows; nil where that is not known.
func (m *Feedback) Outputs() *WeightedSums { return m.output }

// sample reads rows with their scales, in pieces that are whole rows and blocks, as many as make about sampleRows.
func (m *Feedback) sample(w *Weight, read func(first int64, n int) (*Panel, []float32, error)) (x, scale []float32, err error) {
	unit := lcm(w.Cols, int64(w.BlockSize))
	units := w.Rows * w.Cols / unit
	if units == 0 {
		unit, units = w.Rows*w.Cols, 1
	}
	pieces := min(units, max(1, sampleRows*w.Cols/unit))
	for i := range pieces {
		p, s, err := read(units*i/pieces*unit, int(unit))
		if err != nil {
			return nil, nil, err
		}
		at := len(x)
		x = append(x, make([]float32, p.N)...)
		kernel.Widen(x[at:], p.Values, p.Elem)
		scale = append(scale, s...)
	}
	return x, scale, nil
}

type rowBuffer struct{ values []float32 }

var rowBuffers = sync.Pool{New: func() any { return new(rowBuffer) }}

// Codes works on panelRows rows at a time, or as many more as make whole blocks.
func (m *Feedback) Codes(p *Panel, scale []float32, codes []byte) {
	if m.factor == nil || p.Rows == 0 {
		m.Searched.Codes(p, scale, codes)
		return
	}
	b := rowBuffers.Get().(*rowBuffer)
	defer rowBuffers.Put(b)
	unit := int(lcm(p.Cols, int64(p.BlockSize)))
	step := max(1, panelRows*int(p.Cols)/unit) * unit
	for at := 0; at < p.N; at += step {
		n := min(step, p.N-at)
		x := grow(&b.values, n)
		kernel.Widen(x, p.Values[at*p.Elem.Size():], p.Elem)
		lo, hi := at/p.BlockSize, (at+n+p.BlockSize-1)/p.BlockSize
		m.factor.Quantize(p.Type, codes[at/2:(at+n+1)/2], x, scale[lo:hi], p.BlockSize)
	}
}
