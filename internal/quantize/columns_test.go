package quantize

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Weights fall with the energy of the column to the power of -3/8, told from rows over all of the weight, of which no more are read
// than are wanted.
func TestOwnWeights(t *testing.T) {
	const cols = 3*searchStep + 7 // more than is read at a time
	size := func(c int64) float64 { return math.Exp2(float64(c%5) - 2) }
	for _, rows := range []int64{1, 2, 255, 256, 257, 5000} {
		var at []int64
		got, err := ownWeights(rows, cols, func(first int64, x []float32) error {
			if first < 0 || first+int64(len(x)) > rows*cols {
				t.Fatalf("%d rows: elements %d to %d are read", rows, first, first+int64(len(x)))
			}
			at = append(at, first/cols)
			for i := range x {
				x[i] = float32(size((first+int64(i))%cols)) * float32(1-2*(i%2))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if at = slices.Compact(at); int64(len(at)) != min(rows, surveyRows) || !slices.IsSorted(at) || at[0] != 0 || at[len(at)-1] < rows-1-rows/surveyRows {
			t.Errorf("%d rows: rows %v are read", rows, at)
		}
		want := make([]float32, cols)
		for c := range want {
			want[c] = float32(math.Pow(size(int64(c)), -0.75))
		}
		same(t, got, want)
	}
}

// same compares what columns count, of whatever unit.
func same(t *testing.T, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d columns, expected %d", len(got), len(want))
	}
	for c := range got {
		if a, b := got[c]*want[0], want[c]*got[0]; math.Abs(float64(a-b)) > 1e-5*float64(b) {
			t.Fatalf("column %d counts %v, expected %v", c, a, b)
		}
	}
}

// What is not there, zeros and values that are not finite say nothing of inputs; a column of zeros counts no more than 32 times as much
// as the mean. What fails to be read is an error.
func TestOwnWeightsOfNothing(t *testing.T) {
	fill := func(v float32) func(int64, []float32) error {
		return func(_ int64, x []float32) error {
			for i := range x {
				x[i] = v
			}
			return nil
		}
	}
	equal := []float32{1, 1, 1}
	for _, c := range []struct {
		v    float32
		want []float32
	}{
		{0, nil}, {float32(math.NaN()), nil}, {float32(math.Inf(-1)), nil},
		{math.MaxFloat32, equal}, {math.SmallestNonzeroFloat32, equal}, {3, equal},
	} {
		got, err := ownWeights(9, 3, fill(c.v))
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, c.want)
	}
	for _, shape := range [][2]int64{{0, 3}, {3, 0}} {
		if _, err := ownWeights(shape[0], shape[1], func(int64, []float32) error { return errors.New("is read") }); err != nil {
			t.Errorf("%v: %v", shape, err)
		}
	}
	got, err := ownWeights(2, 3, func(_ int64, x []float32) error { copy(x, []float32{0, 1, 1}); return nil })
	if err != nil {
		t.Fatal(err)
	}
	most := float32(math.Pow(leastEnergy, -0.375))
	ones := float32(math.Pow(1.5, -0.375))
	same(t, got, []float32{most, ones, ones})
	failure := errors.New("gone")
	if _, err := ownWeights(2, 3, func(int64, []float32) error { return failure }); err != failure {
		t.Errorf("what cannot be read: %v", err)
	}
}

// Where inputs are known mse-columns is mse-signed, and where not it is not.
func TestColumns(t *testing.T) {
	for _, known := range []bool{false, true} {
		var in Inputs
		if known {
			in.Moments = inputs(96).Moments
		}
		signed := make4bit(t, bnb.MSESigned, 70, 96, 64, true, in, stream.Options{Jobs: 2})
		columns := make4bit(t, bnb.MSEColumns, 70, 96, 64, true, in, stream.Options{Jobs: 2})
		if equal(signed.parts, columns.parts) != known {
			t.Errorf("inputs known: %v; mse-columns and mse-signed give the same bytes: %v", known, !known)
		}
	}
}
