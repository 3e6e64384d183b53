package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// gaussian is a float32 tensor of normal numbers.
// weight is one in float32.
func weight(name string, raw []byte, rows, cols int64) Weight {
	return Weight{weights.Tensor{Name: name, File: "test", DType: safetensors.F32, Shape: []int64{rows, cols}, Values: weights.Unhinted(bytes.NewReader(raw))}, "q_proj"}
}

func gaussian(name string, rows, cols int64, seed uint64) Weight {
	rng := rand.New(rand.NewPCG(seed, 64))
	raw := make([]byte, 0, 4*rows*cols)
	for range rows * cols {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(rng.NormFloat64())))
	}
	return weight(name, raw, rows, cols)
}

func allFormats(t testing.TB) []Format {
	t.Helper()
	var kinds []Kind
	for k := range numKinds {
		kinds = append(kinds, k)
	}
	formats, err := Grid(kinds, []int{32, 64, 256, 4096}, []bool{true, false})
	if err != nil {
		t.Fatal(err)
	}
	return formats
}

// TestGaussian checks what is known of normal weights in blocks of 64 without double quantization: the SQNR of NF4, FP4
// and int4, and the entropy of NF4's codes.
func TestGaussian(t *testing.T) {
	formats, err := Grid([]Kind{NF4, FP4, Int4}, []int{64}, []bool{false})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Run(t.Context(), []Weight{gaussian("w", 2048, 2048, 1)}, Options{Formats: formats, Run: safetensors.F32})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{20.73, 18.28, 19.36} {
		if r := &got[0].Results[i]; math.Abs(r.Figures().SQNR-want) > 0.03 {
			t.Errorf("%s: SQNR %.3f dB, want %.2f within 0.03", r.Format, r.Figures().SQNR, want)
		}
	}
	if e := Entropy(got[0].Results[0].Counts); math.Abs(e-3.884) > 0.002 {
		t.Errorf("entropy of NF4's codes %.4f bits, want 3.884", e)
	}
}

// TestSameWithAnyJobs: no figure depends on the number of workers, or on whether a tensor fits the memory.
func TestSameWithAnyJobs(t *testing.T) {
	tensors := []Weight{gaussian("a.0.w", 300, 701, 1), gaussian("a.1.w", 7, 9, 2), gaussian("a.2.w", 1, 65537, 3)}
	h := func(_ string, cols int64) ([]float32, error) {
		v := make([]float32, cols)
		for i := range v {
			v[i] = float32(i%5) + 0.5
		}
		return v, nil
	}
	var first []Tensor
	for _, o := range []stream.Options{{Jobs: 1}, {Jobs: 7}, {Jobs: 2, Memory: stream.LeastMemory(2)}} {
		got, err := Run(t.Context(), tensors, Options{Formats: allFormats(t), Run: safetensors.BF16, Stream: o, Weights: h})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
			continue
		}
		if diff := cmp.Diff(first, got, cmp.AllowUnexported(Result{}, moments{})); diff != "" {
			t.Errorf("%+v (-one worker +these):\n%s", o, diff)
		}
	}
}

func TestNotFinite(t *testing.T) {
	for _, c := range []struct {
		value float32
		run   safetensors.DType
		at    int
	}{{float32(math.NaN()), safetensors.BF16, 70000}, {float32(math.Inf(-1)), safetensors.F32, 5}, {1e6, safetensors.F16, 70001}} {
		e := gaussian("w", 1, 70002, 1)
		raw := make([]byte, 4*70002)
		if _, err := e.Values.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint32(raw[4*c.at:], math.Float32bits(c.value))
		e.Values = weights.Unhinted(bytes.NewReader(raw))
		_, err := Run(t.Context(), []Weight{e}, Options{Formats: allFormats(t), Run: c.run})
		var ve *weights.ValueError
		if !errors.As(err, &ve) || ve.Index != int64(c.at) {
			t.Errorf("%v at %d: error %v", c.value, c.at, err)
		}
	}
}

// TestSmallAndEmpty: shapes around the edges, and values without any scale.
func TestSmallAndEmpty(t *testing.T) {
	for _, v := range [][]float32{{}, {0}, {0, 0, 0}, {1}, {-1e36, 1e36}, {1e-45, -1e-45, 0}, make([]float32, 4097)} {
		var raw []byte
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
		e := weight("w", raw, 1, int64(len(v)))
		got, err := Run(t.Context(), []Weight{e}, Options{Formats: allFormats(t), Run: safetensors.F32})
		if err != nil {
			t.Fatalf("%d values: %v", len(v), err)
		}
		for _, r := range got[0].Results {
			s := r.Sums
			for _, x := range []float64{s.E2, s.X2, s.W2, s.XW, s.AbsE, s.Max} {
				if math.IsNaN(x) {
					t.Errorf("%d values in %s: sums %+v", len(v), r.Format, s)
				}
			}
			var n int64
			for _, k := range r.Counts {
				n += k
			}
			if n != int64(len(v)) || s.N != int64(len(v)) {
				t.Errorf("%d values in %s: %d codes counted, %d in the sums", len(v), r.Format, n, s.N)
			}
			if s.X2 == 0 && (s.E2 != 0 || r.Zeros != int64(len(v))) {
				t.Errorf("%d zeros in %s: error %v, %d decode to 0", len(v), r.Format, s.E2, r.Zeros)
			}
		}
	}
}

// TestSample: a sample's interval holds the truth about as often as it says, and the sample is the same every time.
// TestZerosHaveNoOutliers: the last block, a short one, is stored with a scale of 1e-38 where the others have 0.
func TestZerosHaveNoOutliers(t *testing.T) {
	e := weight("w", make([]byte, 4*(64*84+3)), 1, 64*84+3)
	got, err := Run(t.Context(), []Weight{e}, Options{Formats: allFormats(t), Run: safetensors.BF16})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range got[0].Results {
		if r.Outliers != 0 {
			t.Errorf("%s: %d of %d blocks", r.Format, r.Outliers, r.Blocks)
		}
	}
}

func TestSample(t *testing.T) {
	formats, err := Grid([]Kind{NF4}, []int{64}, []bool{true})
	if err != nil {
		t.Fatal(err)
	}
	held, all := 0, 0
	for seed := range uint64(8) {
		// Chunks of different spread, so that there is something to get wrong.
		e := gaussian("w"+string(rune('a'+seed)), 20, kernel.Chunk, seed)
		raw := make([]byte, 4*20*kernel.Chunk)
		if _, err := e.Values.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			if i%4 == 3 && i/4/kernel.Chunk%3 == 0 && i/4%64 == 0 {
				binary.LittleEndian.PutUint32(raw[i-3:], math.Float32bits(20)) // an outlier in every block of every third chunk
			}
		}
		e.Values = weights.Unhinted(bytes.NewReader(raw))
		full, err := Run(t.Context(), []Weight{e}, Options{Formats: formats, Run: safetensors.F32})
		if err != nil {
			t.Fatal(err)
		}
		part, err := Run(t.Context(), []Weight{e}, Options{Formats: formats, Run: safetensors.F32, Sample: 0.3})
		if err != nil {
			t.Fatal(err)
		}
		if part[0].Measured != 6*kernel.Chunk || part[0].Results[0].Sums.N != 20*kernel.Chunk {
			t.Fatalf("measured %d of %d", part[0].Measured, part[0].Results[0].Sums.N)
		}
		half := Interval([]*Tensor{&part[0]}, 0)
		truth, got := full[0].Results[0].Figures().RelRMSE, part[0].Results[0].Figures().RelRMSE
		if Interval([]*Tensor{&full[0]}, 0) != 0 || !(half > 0) {
			t.Errorf("half-widths %v of all, %v of a sample", Interval([]*Tensor{&full[0]}, 0), half)
		}
		all++
		if math.Abs(truth-got) <= half {
			held++
		}
	}
	if held < all-3 {
		t.Errorf("the 95 %% interval held %d of %d times", held, all)
	}
}

func TestGrid(t *testing.T) {
	got, err := Grid([]Kind{NF4, Int4Asym, MXFP4, Int8}, []int{64, 128}, []bool{true, false})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got {
		names = append(names, f.String())
		if err := f.Validate(); err != nil {
			t.Error(err)
		}
	}
	want := []string{"nf4,block=64,dq", "nf4,block=64,nodq", "nf4,block=128,dq", "nf4,block=128,nodq", "int4-asym,block=64", "int4-asym,block=128",
		"mxfp4,block=32", "int8"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("grid (-want +got):\n%s", diff)
	}
	for _, bad := range []int{0, 16, 65, 8192} {
		if _, err := Grid([]Kind{NF4}, []int{bad}, []bool{true}); err == nil {
			t.Errorf("block size %d: no error", bad)
		}
	}
	for _, name := range KindNames() {
		if k, err := ParseKind(name); err != nil || k.String() != name {
			t.Errorf("ParseKind(%q) = %v, %v", name, k, err)
		}
	}
	if _, err := ParseKind("nf5"); err == nil {
		t.Error("nf5: no error")
	}
}

// TestBytes: bits per parameter of large tensors, by the formulas of the formats.
func TestBytes(t *testing.T) {
	shape := []int64{8192, 8192}
	for f, want := range map[Format]float64{
		{NF4, 64, true}: 4 + 8./64 + 32./(64*256), {NF4, 64, false}: 4.5, {FP4, 32, true}: 4 + 8./32 + 32./(32*256),
		{Int4, 128, false}: 4.25, {Int4Asym, 64, false}: 4 + 36./64, {MXFP4, 32, false}: 4.25, {NVFP4, 16, false}: 4.5 + 32./8192/8192,
		{Int8, 0, false}: 8 + 32./8192, {FP8, 0, false}: 8 + 32./8192/8192, {Dynamic8, 256, false}: 8.125,
	} {
		codes, all := f.Bytes(shape)
		if got := 8 * float64(codes) / 8192 / 8192; got != want {
			t.Errorf("%s: %v bits per parameter, want %v", f, got, want)
		}
		if all < codes || all > codes+2048 {
			t.Errorf("%s: %d bytes in all, %d of codes", f, all, codes)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	e := gaussian("w", 4096, 2048, 1)
	raw := make([]byte, 2*e.Elems())
	wide := make([]byte, 4*e.Elems())
	if _, err := e.Values.ReadAt(wide, 0); err != nil {
		b.Fatal(err)
	}
	kernel.Convert(raw, kernel.BF16, wide, kernel.F32, int(e.Elems()))
	e.DType, e.Values = safetensors.BF16, weights.Unhinted(bytes.NewReader(raw))
	for k := range numKinds {
		formats, err := Grid([]Kind{k}, []int{64}, []bool{true})
		if err != nil {
			b.Fatal(err)
		}
		b.Run("format="+k.String(), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := Run(b.Context(), []Weight{e}, Options{Formats: formats, Run: safetensors.BF16, Stream: stream.Options{Jobs: 1}}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(e.Elems()), "ns/weight")
		})
	}
}
