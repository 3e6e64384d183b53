package doublequant

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/testdata/golden"
)

// implementations runs f under every implementation of the kernels that this machine has.
func implementations(t *testing.T, f func(t *testing.T)) {
	for _, impl := range kernel.List() {
		t.Run("impl="+impl, func(t *testing.T) {
			restore, err := kernel.Select(impl)
			if err != nil {
				t.Fatal(err)
			}
			defer restore()
			f(t)
		})
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

func TestGoldenMap(t *testing.T) {
	want, got := golden.Load(t).Float32s(t, "table/dynamic"), Map()
	if !slices.EqualFunc(got[:], want, sameBits) {
		t.Errorf("(-want +got)\n%s", cmp.Diff(want, got[:]))
	}
}

// nearest is the rule in its plainest form: the closest entry, searched for in float64. On a tie, or where the float32
// midpoint is not the exact middle, it returns both candidates.
func nearest(m *[256]float32, y float32) (lower, upper uint8) {
	lower = uint8(sortSearch(m, y))
	if lower == 255 {
		return 255, 255
	}
	mid := (float64(m[lower]) + float64(m[lower+1])) / 2
	switch {
	case math.Abs(float64(y)-mid) <= math.Abs(mid)*0x1p-24:
		return lower, lower + 1
	case float64(y) < mid:
		return lower, lower
	}
	return lower + 1, lower + 1
}

// sortSearch returns the last entry that is not above y, or 0.
func sortSearch(m *[256]float32, y float32) int {
	i := 0
	for i < 255 && m[i+1] <= y {
		i++
	}
	return i
}

// Nested constants are bitsandbytes' bit for bit, and every code is that of the nearest entry. bitsandbytes' CPU library
// misses it now and then, which is counted and bounded.
func TestGoldenQuantize(t *testing.T) { implementations(t, testGoldenQuantize) }

func testGoldenQuantize(t *testing.T) {
	g := golden.Load(t)
	m := Map()
	differ, total := 0, 0
	for _, kind := range g.Names(t, "dq/", "/scales") {
		scales := g.Float32s(t, "dq/"+kind+"/scales")
		offset := g.Float32s(t, "dq/"+kind+"/offset")[0]
		wantCodes, wantNested := g.Bytes(t, "dq/"+kind+"/codes"), g.Float32s(t, "dq/"+kind+"/nested")
		codes, nested := make([]byte, len(scales)), make([]float32, NestedLen(len(scales)))
		if err := Quantize(codes, nested, scales, offset); err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if !slices.EqualFunc(nested, wantNested, sameBits) {
			t.Errorf("%s: nested (-want +got)\n%s", kind, cmp.Diff(wantNested, nested))
		}
		here := 0
		for i, s := range scales {
			a := nested[i/BlockSize]
			if a == 0 {
				if codes[i] != 0 {
					t.Errorf("%s: code %d of a block without spread is %d (want 0)", kind, i, codes[i])
				}
				continue
			}
			y := (s - offset) / a
			if lo, hi := nearest(&m, y); codes[i] != lo && codes[i] != hi {
				t.Errorf("%s: code %d of %v is %d (want %d or %d)", kind, i, y, codes[i], lo, hi)
			}
			if codes[i] != wantCodes[i] {
				here++
			}
		}
		// The library multiplies by the reciprocal of the nested constant, which a subnormal one does not have.
		if kind != "subnormal" {
			differ += here
			total += len(scales)
		}
		if mean := Offset(scales); math.Abs(float64(mean)-float64(offset)) > 1e-6*math.Abs(float64(offset)) {
			t.Errorf("%s: offset %v (bitsandbytes has %v)", kind, mean, offset)
		}
		t.Logf("%s: %d of %d codes differ from bitsandbytes' CPU library", kind, here, len(scales))
	}
	t.Logf("in total %d of %d codes differ from bitsandbytes' CPU library, one in %.0f", differ, total, float64(total)/float64(max(differ, 1)))
	if differ*250 > total {
		t.Errorf("%d of %d codes differ from bitsandbytes' CPU library (want at most one in 250)", differ, total)
	}
}

// bitsandbytes' own codes decode to its own scales.
func TestGoldenDequantize(t *testing.T) { implementations(t, testGoldenDequantize) }

func testGoldenDequantize(t *testing.T) {
	g := golden.Load(t)
	for _, kind := range g.Names(t, "dq/", "/decoded") {
		want := g.Float32s(t, "dq/"+kind+"/decoded")
		got := make([]float32, len(want))
		err := Dequantize(got, g.Bytes(t, "dq/"+kind+"/codes"), g.Float32s(t, "dq/"+kind+"/nested"), g.Float32s(t, "dq/"+kind+"/offset")[0])
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if !slices.EqualFunc(got, want, func(a, b float32) bool { return a == b }) {
			t.Errorf("%s (-want +got)\n%s", kind, cmp.Diff(want, got))
		}
	}
}

// Every threshold and its float32 neighbours: the upper entry only strictly above.
func TestThresholds(t *testing.T) {
	m := Map()
	for i := range 255 {
		mid := (m[i] + m[i+1]) / 2
		// With the first scale 1 and no offset the nested constant is 1 and scales are searched as they are.
		scales := []float32{1, math.Nextafter32(mid, -2), mid, math.Nextafter32(mid, 2), m[i]}
		codes, nested := make([]byte, 5), make([]float32, 1)
		if err := Quantize(codes, nested, scales, 0); err != nil {
			t.Fatal(err)
		}
		lo := uint8(i)
		if diff := cmp.Diff([]byte{255, lo, lo, lo + 1, lo}, codes); diff != "" {
			t.Errorf("threshold %v (-want +got)\n%s", mid, diff)
		}
	}
}

// Parts that are multiples of BlockSize give what the whole gives.
func TestAppendParts(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 1000} {
		scales := make([]float32, n)
		for i := range scales {
			scales[i] = float32(i*i%97) / 97
		}
		offset := Offset(scales)
		codes, nested := make([]byte, n), make([]float32, NestedLen(n))
		if err := Quantize(codes, nested, scales, offset); err != nil {
			t.Fatal(err)
		}
		for _, part := range []int{256, 512, 1024} {
			gotCodes, gotNested := []byte{3}, []float32{3}
			for s := range slices.Chunk(scales, part) {
				var err error
				if gotCodes, gotNested, err = AppendQuantize(gotCodes, gotNested, s, offset); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(codes, gotCodes[1:]) + cmp.Diff(nested, gotNested[1:]); diff != "" || gotCodes[0] != 3 || gotNested[0] != 3 {
				t.Errorf("n=%d in parts of %d:\n%s", n, part, diff)
			}
		}
		want := make([]float32, n)
		if err := Dequantize(want, codes, nested, offset); err != nil {
			t.Fatal(err)
		}
		got, err := AppendDequantize([]float32{7}, codes, nested, offset)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got[1:]); diff != "" {
			t.Errorf("n=%d decoded (-want +got):\n%s", n, diff)
		}
	}
	inf := float32(math.Inf(1))
	if c, s, err := AppendQuantize([]byte{1}, nil, []float32{inf}, 0); err == nil || len(c) != 1 || len(s) != 0 {
		t.Errorf("infinite scale: %d codes, %d constants, %v", len(c), len(s), err)
	}
	if s, err := AppendDequantize(nil, make([]byte, 3), nil, 0); err == nil || len(s) != 0 {
		t.Errorf("no constants: %d scales, %v", len(s), err)
	}
}

func TestConstantScales(t *testing.T) {
	scales := slices.Repeat([]float32{0.3}, 300)
	offset := Offset(scales)
	if offset != 0.3 {
		t.Fatalf("offset %v (want 0.3)", offset)
	}
	codes, nested := slices.Repeat([]byte{9}, 300), make([]float32, 2)
	if err := Quantize(codes, nested, scales, offset); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(make([]byte, 300), codes); diff != "" {
		t.Errorf("codes (-want +got)\n%s", diff)
	}
	got := make([]float32, 300)
	if err := Dequantize(got, codes, nested, offset); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(scales, got); diff != "" {
		t.Errorf("decoded (-want +got)\n%s", diff)
	}
}

// The offset does not depend on how the scales are cut into parts.
func TestMeanParts(t *testing.T) {
	scales := golden.Load(t).Float32s(t, "dq/spread/scales")
	want := Offset(scales)
	for _, part := range []int{1, 7, 256, len(scales)} {
		var m Mean
		for s := range slices.Chunk(scales, part) {
			m.Add(s)
		}
		if m.Offset() != want {
			t.Errorf("offset in parts of %d is %v (want %v)", part, m.Offset(), want)
		}
	}
	if (&Mean{}).Offset() != 0 {
		t.Error("the offset of nothing is not 0")
	}
}

func TestMisuse(t *testing.T) {
	inf := float32(math.Inf(1))
	scales := make([]float32, 300)
	scales[280] = inf
	var nf *NonFiniteError
	if err := Quantize(make([]byte, 300), make([]float32, 2), scales, 0); !errors.As(err, &nf) || nf.Index != 280 || nf.Scale != inf {
		t.Errorf("infinite scale: error %v", err)
	}
	for name, err := range map[string]error{
		"codes":  Quantize(make([]byte, 3), make([]float32, 1), make([]float32, 4), 0),
		"nested": Quantize(make([]byte, 257), make([]float32, 1), make([]float32, 257), 0),
		"decode": Dequantize(make([]float32, 257), make([]byte, 257), make([]float32, 3), 0),
		"offset": Quantize(make([]byte, 1), make([]float32, 1), make([]float32, 1), inf),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := 4 + BitsPerScale/64; got != 4.126953125 {
		t.Errorf("bits per parameter %v (want 4.126953125)", got)
	}
}
