package quantize

import (
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/search"
)

// Columns is the method mse-columns: mse-signed where the inputs are known, and where they are not it weighs errors by what the
// weight itself says of them, see ownWeights.
type Columns struct{ Searched }

// Needs is two passes, and a look at some rows before.
func (m Columns) Needs(w *Weight) Needs {
	n := m.Searched.Needs(w)
	n.Columns = true
	return n
}

// surveyRows is how many rows, spread over a weight, the energy of its columns is told from.
const surveyRows = 256

// leastEnergy is the least that a column is taken for, in parts of the mean: a column of zeros says nothing of its inputs.
const leastEnergy = 1e-4

// ownWeights are what errors in the columns of a weight count of which no inputs are known, of any unit: the mean square of the column to
// the power of -3/8. nil says that there is nothing to go by. read fills x with elements of the weight from first on, as they are quantized.
//
// In models that were trained for long, inputs are the larger, on the whole, the smaller the weights that they meet; in one trained for
// minutes it is the other way round. The power is the one that gains on the first and costs the last little, of 0 to -1 tried on four
// models: docs/scales.md has the figures. There is no other source.
//
// The fourth and eighth roots are square roots of square roots, so that the same bits come out on every machine.
func ownWeights(rows, cols int64, read func(first int64, x []float32) error) ([]float32, error) {
	if rows <= 0 || cols <= 0 {
		return nil, nil
	}
	energy, x := make([]float64, cols), make([]float32, min(cols, searchStep))
	for i, n := int64(0), min(rows, surveyRows); i < n; i++ {
		row := i * rows / n * cols
		for c := int64(0); c < cols; c += int64(len(x)) {
			part := x[:min(int64(len(x)), cols-c)]
			if err := read(row+c, part); err != nil {
				return nil, err
			}
			for k, v := range part {
				energy[c+int64(k)] += float64(float64(v) * float64(v))
			}
		}
	}
	var mean float64
	for _, e := range energy {
		mean += e
	}
	mean /= float64(cols)
	if !(mean > 0) || math.IsInf(mean, 0) { // a value that is not finite is found by who quantizes it
		return nil, nil
	}
	own := make([]float32, cols)
	for c, e := range energy {
		root := math.Sqrt(math.Sqrt(math.Max(e/mean, leastEnergy)))
		own[c] = float32(1 / (root * math.Sqrt(root)))
	}
	return own, nil
}

// survey weighs errors by the weight's own columns.
func (j *Job) survey(w *Worker, _ int) error {
	own, err := InputsOwn(j.Rows, j.Cols, func(first int64, x []float32) error {
		_, run, err := j.load(w, first, int64(len(x)), reading{})
		if err == nil {
			kernel.Widen(x, run, j.Run)
		}
		return err
	})
	j.Inputs.weights = own.weights
	return err
}

// InputsOwn are inputs of which nothing is known but the weight itself, see ownWeights.
func InputsOwn(rows, cols int64, read func(first int64, x []float32) error) (in Inputs, err error) {
	own, err := ownWeights(rows, cols, read)
	if err == nil {
		in.weights, err = search.NewWeights(own)
	}
	return in, err
}
