package quantize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/doublequant"
	"github.com/nf4kit/nf4kit/internal/feedback"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// inputs are those of a layer of n columns whose inputs are correlated and of many sizes.
func inputs(n int) Inputs {
	r := rand.New(rand.NewPCG(uint64(n), 4))
	in, gram := Inputs{Moments: make([]float32, n)}, make([]float32, n*n)
	in.Gram = func() (calibration, heldout []float32, err error) { return gram, gram, nil }
	u, v := make([]float64, n), make([]float64, n)
	for i := range u {
		size := math.Exp(r.NormFloat64())
		u[i], v[i] = r.NormFloat64()*size, size
	}
	for i := range n {
		for j := range n {
			gram[i*n+j] = float32(u[i] * u[j])
			if i == j {
				gram[i*n+i] += float32(v[i] * v[i])
				in.Moments[i] = gram[i*n+i]
			}
		}
	}
	return in
}

// made is a weight done by a method, decoded.
type made struct {
	parts   [6][]byte
	decoded []float32
	result  Result
}

func make4bit(t *testing.T, name bnb.Scale, rows, cols int64, block int, double bool, in Inputs, o stream.Options) made {
	t.Helper()
	m, err := For(name)
	if err != nil {
		t.Fatal(err)
	}
	n := rows * cols
	blocks := (n + int64(block) - 1) / int64(block)
	src := &counted{data: f32s(n), read: make([]byte, 4*n)}
	var parts [6]memory
	size := [6]int64{(n + 1) / 2, 4 * blocks, 64, 0, 0, 4}
	if double {
		size[1], size[3], size[4] = blocks, int64(4*doublequant.NestedLen(int(blocks))), 1024
	}
	for i := range parts {
		parts[i].data = make([]byte, size[i])
	}
	var offset float32
	w := &Weight{Source: src, Elem: kernel.F32, Run: kernel.F32, Rows: rows, Cols: cols, Type: kernel.NF4, BlockSize: block, DoubleQuant: double, Method: m,
		Load:  func() (Inputs, error) { return in, nil },
		Parts: Parts{&parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &parts[5]},
		State: func(o float32) ([]byte, error) { offset = o; return make([]byte, 4), nil },
		Bad:   func(index int64, value float64) error { return fmt.Errorf("element %d is %v", index, value) },
	}
	dir := t.TempDir()
	r := &Run{Budget: o.Budget(), Measure: true, Jobs: o.Workers(), Temp: func() (*os.File, error) { return os.CreateTemp(dir, "spill") }}
	var out made
	j := r.New(w)
	err = stream.Run(t.Context(), o, NewWorker, 1, func(int) int64 { return j.Cost() }, func(_ int, each stream.Each[*Worker]) (err error) {
		out.result, err = j.Quantize(each)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range parts {
		out.parts[i] = parts[i].data
	}
	scale, floats := make([]float32, blocks), func(b []byte) []float32 {
		v := make([]float32, len(b)/4)
		kernel.Widen(v, b, kernel.F32)
		return v
	}
	if double {
		table := [256]float32(floats(out.parts[4]))
		kernel.MapDequantize(&table, scale, out.parts[1], floats(out.parts[3]), offset)
	} else {
		scale = floats(out.parts[1])
	}
	out.decoded = make([]float32, n)
	kernel.DequantizeF32(kernel.NF4, out.decoded, out.parts[0], scale, block)
	return out
}

// Each method is better than the one before by the measure that it goes by, with and without double quantization, for rows
// that are whole blocks or not.
func TestMethods(t *testing.T) {
	if testing.Short() {
		t.Skip("TestMethodsSame has the race detector see the methods")
	}
	for _, c := range []struct {
		rows, cols int64
		block      int
	}{{64, 256, 64}, {64, 100, 64}, {33, 36, 32}} {
		for _, double := range []bool{false, true} {
			n := int(c.cols)
			x, in := make([]float32, c.rows*c.cols), inputs(n)
			gram, _, _ := in.Gram()
			kernel.Widen(x, f32s(c.rows*c.cols), kernel.F32)
			errors := func(m made) (plain, weighted, output float64) {
				for i := range x {
					d := float64(x[i] - m.decoded[i])
					plain += d * d
					weighted += d * d * float64(in.Moments[i%n])
				}
				return plain, weighted, feedback.OutputErrors(gram, n, x, 1, m.decoded)[0]
			}
			run := func(name bnb.Scale, in Inputs) made {
				m := make4bit(t, name, c.rows, c.cols, c.block, double, in, stream.Options{Jobs: 2})
				e, weighted, output := errors(m)
				if math.Abs(e-m.result.Written.E2) > 1e-6*e {
					t.Errorf("%s %+v: error sum %v, of what was written %v", name, c, m.result.Written.E2, e)
				}
				near := 1e-6
				switch {
				case in.Moments == nil:
					weighted = 0
				case name == bnb.Feedback && in.Gram != nil: // all rows are in the sample, or all but one
					weighted, near = output, 1e-4
					if c.rows == 33 {
						near = 0.05
					}
				}
				if math.Abs(weighted-m.result.Weighted.Written) > near*weighted {
					t.Errorf("%s %+v: weighted error sum %v, of what was written %v", name, c, m.result.Weighted.Written, weighted)
				}
				return m
			}
			moments := Inputs{Moments: in.Moments}
			absmax, absmaxW, absmaxO := errors(run(bnb.AbsMax, Inputs{}))
			mse, mseW, _ := errors(run(bnb.MSE, Inputs{}))
			signed, _, _ := errors(run(bnb.MSESigned, Inputs{}))
			weighted := run(bnb.MSESigned, moments)
			_, weightedW, weightedO := errors(weighted)
			if of := weighted.result.Weighted.Other; !double && math.Abs(of-absmaxW) > 1e-6*absmaxW {
				t.Errorf("%+v: weighted error sum of absmax %v, expected %v", c, of, absmaxW)
			}
			_, _, fedO := errors(run(bnb.Feedback, in))
			if !(mse < 0.95*absmax && signed < mse && weightedW < mseW && weightedW < 0.9*absmaxW && fedO < 0.8*weightedO && fedO < absmaxO) {
				t.Errorf("%+v double %v: error %.3g absmax, %.3g mse, %.3g mse-signed; weighted %.3g, %.3g, %.3g with moments; output %.3g, %.3g with moments, %.3g feedback",
					c, double, absmax, mse, signed, absmaxW, mseW, weightedW, absmaxO, weightedO, fedO)
			}
			// Without what it lives on, feedback is mse-signed.
			if !equal(run(bnb.MSESigned, moments).parts, run(bnb.Feedback, moments).parts) {
				t.Errorf("%+v: feedback without a Gram matrix is not mse-signed", c)
			}
		}
	}
}

// The bytes depend neither on the workers nor on the memory.
func TestMethodsSame(t *testing.T) {
	const cols = 400
	names, rows := []bnb.Scale{bnb.AbsMax, bnb.MSE, bnb.MSESigned, bnb.MSEColumns, bnb.Feedback}, int64(1500) // several ranges
	if testing.Short() {
		names, rows = []bnb.Scale{bnb.AbsMax, bnb.MSEColumns}, 500 // the race detector has feedback in its own package
	}
	for _, name := range names {
		in := inputs(cols)
		if name == bnb.MSEColumns {
			in = Inputs{}
		}
		want := make4bit(t, name, rows, cols, 64, true, in, stream.Options{Jobs: 1})
		for _, o := range []stream.Options{{Jobs: 3}, {Jobs: 2, Memory: stream.LeastMemory(2) + 100}} {
			got := make4bit(t, name, rows, cols, 64, true, in, o)
			if !equal(want.parts, got.parts) {
				t.Errorf("%v: %+v gives other bytes", name, o)
			}
			if diff := cmp.Diff(want.result.Written, got.result.Written); diff != "" {
				t.Errorf("%v: %+v gives other sums (-want +got)\n%s", name, o, diff)
			}
			if want.result.Weighted != got.result.Weighted {
				t.Errorf("%v: %+v gives other weighted sums: %v, expected %v", name, o, got.result.Weighted, want.result.Weighted)
			}
		}
	}
}

// A value that is not finite is found whatever the method.
func TestMethodsNonFinite(t *testing.T) {
	for _, name := range []bnb.Scale{bnb.AbsMax, bnb.MSE, bnb.MSESigned, bnb.MSEColumns, bnb.Feedback} {
		m, err := For(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			data := f32s(640)
			binary.LittleEndian.PutUint32(data[4*333:], math.Float32bits(float32(v)))
			p := &Panel{N: 640, Cols: 64, Rows: 10, Values: data, Elem: kernel.F32, Type: kernel.NF4, BlockSize: 64}
			scale := make([]float32, 10)
			m.Scales(p, scale, make([]byte, 320))
			for i, a := range scale {
				if finite := math.Abs(float64(a)) <= math.MaxFloat32; finite == (i == 333/64) {
					t.Errorf("%v: scale %d of a weight with %v in block %d is %v", name, i, v, 333/64, a)
				}
			}
		}
	}
}

// Weights that share their inputs' factors have the bytes that each would have alone, and the last lets go of them.
func TestShared(t *testing.T) {
	const cols = 96
	in := inputs(cols)
	shared := new(Shared)
	for range 3 {
		shared.Add()
	}
	for i, rows := range []int64{40, 9, 64} {
		alone := make4bit(t, bnb.Feedback, rows, cols, 32, true, in, stream.Options{Jobs: 2})
		with := in
		with.Shared = shared
		if got := make4bit(t, bnb.Feedback, rows, cols, 32, true, with, stream.Options{Jobs: 2}); !equal(got.parts, alone.parts) {
			t.Errorf("%d rows: other bytes with shared factors", rows)
		}
		if kept := shared.factors != nil; kept != (i < 2) {
			t.Errorf("after weight %d the factors are kept: %v", i, kept)
		}
	}
}

// exclusive is a method that sees who else has a turn.
type exclusive struct {
	Searched
	number int
	turns  *turns
}

type turns struct {
	mu    sync.Mutex
	now   int   // between Prepare and Release
	order []int // in which jobs were prepared
}

func (m *exclusive) Needs(*Weight) Needs { return Needs{Passes: 2, Exclusive: true} }

func (m *exclusive) Prepare(*Weight, func(int64, int) (*Panel, []float32, error), int) error {
	m.turns.mu.Lock()
	defer m.turns.mu.Unlock()
	m.turns.now++
	m.turns.order = append(m.turns.order, m.number)
	if m.turns.now != 1 {
		return fmt.Errorf("%d jobs have a turn", m.turns.now)
	}
	return nil
}

func (m *exclusive) Release() {
	m.turns.mu.Lock()
	defer m.turns.mu.Unlock()
	m.turns.now--
}

// Exclusive jobs have their turns one after the other in the order of the weights, however many are under way; none waits for ever
// for one that failed before its own.
func TestTurns(t *testing.T) {
	const jobs = 6
	failure := errors.New("no room")
	for fails := range jobs + 1 { // the last: none
		var all turns
		r := &Run{Budget: 1 << 30, Jobs: 1}
		list := make([]*Job, jobs)
		for i := range list {
			rows := int64(jobs - i) // the later, the sooner they are ready
			list[i] = r.New(&Weight{
				Source: &counted{data: f32s(rows << 12), read: make([]byte, rows<<14)}, Elem: kernel.F32, Run: kernel.F32, Rows: rows, Cols: 1 << 12,
				Type: kernel.NF4, BlockSize: 64, Method: &exclusive{number: i, turns: &all},
				Parts: Parts{Codes: &memory{data: make([]byte, rows<<11)}, Absmax: &memory{data: make([]byte, rows<<8)}, QuantMap: &memory{data: make([]byte, 64)}, State: &memory{}},
				State: func(float32) ([]byte, error) { return nil, nil },
			})
		}
		err := stream.Run(t.Context(), stream.Options{Jobs: 4}, NewWorker, jobs, func(i int) int64 { return list[i].Cost() }, func(i int, each stream.Each[*Worker]) error {
			if i == fails {
				list[i].Leave()
				return failure
			}
			_, err := list[i].Quantize(each)
			return err
		})
		if fails < jobs != (err == failure) || fails == jobs && err != nil {
			t.Errorf("job %d of %d fails: %v", fails, jobs, err)
		}
		if !slices.IsSorted(all.order) || all.now != 0 || fails == jobs && len(all.order) != jobs {
			t.Errorf("job %d of %d fails: turns in the order %v, %d not ended", fails, jobs, all.order, all.now)
		}
	}
}
