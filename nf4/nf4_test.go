package nf4

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func quantize(t *testing.T, c Config, src []float32) ([]byte, []float32) {
	t.Helper()
	codes, absmax := make([]byte, c.CodesLen(len(src))), make([]float32, c.Blocks(len(src)))
	if err := c.Quantize(codes, absmax, src); err != nil {
		t.Fatal(err)
	}
	return codes, absmax
}

// A short block divides by its absmax and a full block multiplies by the reciprocal; with these values the two differ.
func TestShortBlockDivides(t *testing.T) {
	src := make([]float32, 64)
	src[0], src[1] = 0.7559108138084412, -0.6410852074623108
	short, _ := quantize(t, Config{}, src[:2])
	full, _ := quantize(t, Config{}, src)
	if short[0] != 0xf0 || full[0] != 0xf1 {
		t.Errorf("codes of a short and a full block are %#x and %#x (want 0xf0 and 0xf1)", short[0], full[0])
	}
}

func TestZeroBlock(t *testing.T) {
	for _, tc := range []struct {
		typ  Type
		n    int
		code byte
		a    float32
	}{
		{NF4, 64, 0x77, 0}, {FP4, 64, 0x00, 0},
		{NF4, 3, 0x77, math.Float32frombits(0x006ce3ee)}, {FP4, 3, 0x00, math.Float32frombits(0x006ce3ee)},
	} {
		codes, absmax := quantize(t, Config{Type: tc.typ}, make([]float32, tc.n))
		for _, c := range codes {
			if c != tc.code {
				t.Fatalf("%v n=%d: code %#x (want %#x)", tc.typ, tc.n, c, tc.code)
			}
		}
		if absmax[0] != tc.a {
			t.Errorf("%v n=%d: absmax %v (want %v)", tc.typ, tc.n, absmax[0], tc.a)
		}
	}
}

// The value before, at and after every threshold, scaled by an absmax of 1.
func TestThresholds(t *testing.T) {
	for _, typ := range []Type{NF4, FP4} {
		order, thr := Order(typ), Thresholds(typ)
		for i, v := range thr {
			src := make([]float32, 64)
			src[0], src[1], src[2], src[3] = 1, math.Nextafter32(v, -1), v, math.Nextafter32(v, 1)
			codes, _ := quantize(t, Config{Type: typ}, src)
			got := []byte{codes[0] & 15, codes[1] >> 4, codes[1] & 15}
			if diff := cmp.Diff([]byte{order[i], order[i], order[i+1]}, got); diff != "" {
				t.Errorf("%v threshold %v: (-want +got)\n%s", typ, v, diff)
			}
		}
		values := Codebook(typ)
		for i := range 15 {
			if mid := (values[order[i]] + values[order[i+1]]) / 2; mid != thr[i] {
				t.Errorf("%v threshold %d is %v (want %v)", typ, i, thr[i], mid)
			}
		}
	}
}

func TestNegativeZero(t *testing.T) {
	src := make([]float32, 64)
	src[0], src[1] = 1, float32(math.Copysign(0, -1))
	codes, _ := quantize(t, Config{Type: FP4}, src)
	if codes[0] != 0x30 {
		t.Errorf("codes of 1, -0 are %#x (want 0x30)", codes[0])
	}
}

func TestNonFinite(t *testing.T) {
	for _, tc := range []struct {
		n, at int
		value float32
	}{
		{64, 0, float32(math.NaN())}, {200, 199, float32(math.Inf(1))}, {200, 100, float32(math.Inf(-1))}, {1, 0, float32(math.NaN())},
	} {
		src := make([]float32, tc.n)
		src[tc.at] = tc.value
		var c Config
		codes, absmax := make([]byte, c.CodesLen(tc.n)), make([]float32, c.Blocks(tc.n))
		var nf *NonFiniteError
		check := func(err error) {
			t.Helper()
			if !errors.As(err, &nf) {
				t.Fatalf("n=%d: error %v (want a NonFiniteError)", tc.n, err)
			}
			same := nf.Value == tc.value || nf.Value != nf.Value && tc.value != tc.value
			if nf.Index != tc.at || !same {
				t.Errorf("n=%d: index %d value %v (want %d, %v)", tc.n, nf.Index, nf.Value, tc.at, tc.value)
			}
		}
		check(c.Quantize(codes, absmax, src))
		for _, d := range []DType{Float32, BFloat16, Float16} {
			b := make([]byte, tc.n*d.Size())
			switch u := math.Float32bits(tc.value); d {
			case Float32:
				binary.LittleEndian.PutUint32(b[4*tc.at:], u)
			case BFloat16:
				binary.LittleEndian.PutUint16(b[2*tc.at:], uint16(u>>16))
			case Float16:
				binary.LittleEndian.PutUint16(b[2*tc.at:], uint16(u>>16&0x8000|0x7c00|u>>13&0x3ff))
			}
			check(c.QuantizeBytes(codes, absmax, b, d))
		}
	}
}

func TestMisuse(t *testing.T) {
	for name, err := range map[string]error{
		"block size":     Config{BlockSize: 48}.Validate(),
		"type":           Config{Type: 2}.Validate(),
		"codes":          Config{}.Quantize(make([]byte, 3), make([]float32, 1), make([]float32, 5)[:4]),
		"absmax":         Config{}.Quantize(make([]byte, 2), make([]float32, 2), make([]float32, 4)),
		"odd bytes":      Config{}.QuantizeBytes(make([]byte, 2), make([]float32, 1), make([]byte, 7), BFloat16),
		"dtype":          Config{}.QuantizeBytes(make([]byte, 2), make([]float32, 1), make([]byte, 8), 3),
		"dst":            Config{}.DequantizeBytes(make([]byte, 7), BFloat16, make([]byte, 2), make([]float32, 1), 4),
		"negative":       Config{}.DequantizeBytes(nil, BFloat16, nil, nil, -1),
		"dequantize":     Config{}.Dequantize(make([]float32, 4), make([]byte, 1), make([]float32, 1)),
		"unknown name":   func() error { _, err := ParseType("nf5"); return err }(),
		"dequant absmax": Config{}.Dequantize(make([]float32, 65), make([]byte, 33), make([]float32, 1)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSizes(t *testing.T) {
	c := Config{}
	for _, tc := range [][3]int{{0, 0, 0}, {1, 1, 1}, {63, 32, 1}, {64, 32, 1}, {65, 33, 2}, {math.MaxInt, math.MaxInt/2 + 1, math.MaxInt/64 + 1}} {
		if got := [3]int{tc[0], c.CodesLen(tc[0]), c.Blocks(tc[0])}; got != tc {
			t.Errorf("sizes %v (want %v)", got, tc)
		}
	}
	if b := c.BitsPerParameter(); b != 4.5 {
		t.Errorf("bits per parameter %v (want 4.5)", b)
	}
}
