package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// nearestCode is the rule in exact arithmetic: of the decoded values the nearest, of two equally near ones the first in
// Order.
func nearestCode(t Type, scale, x float32) uint8 {
	values, order := Values(t), Order(t)
	distance := func(c uint8) *big.Float {
		d := new(big.Float).SetPrec(600).SetFloat64(float64(float32(values[c] * scale)))
		return d.Sub(d, big.NewFloat(float64(x))).Abs(d)
	}
	best := order[0]
	for _, c := range order[1:] {
		if distance(c).Cmp(distance(best)) < 0 {
			best = c
		}
	}
	return best
}

func decoded(t Type, code uint8, scale float32) float32 {
	values := Values(t)
	return float32(values[code] * scale)
}

func TestEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	scales := []float32{1, -1, 0.37, -0.37, 1e-38, -1e-38, math.SmallestNonzeroFloat32, 3 * math.SmallestNonzeroFloat32, math.MaxFloat32, -math.MaxFloat32}
	for _, typ := range []Type{NF4, FP4, AF4, Int4} {
		values, order := Values(typ), Order(typ)
		for _, s := range scales {
			var src []float32
			for i := range 15 { // around the middle of each two, and the middle itself
				mid := float32((float64(float32(values[order[i]]*s)) + float64(float32(values[order[i+1]]*s))) / 2)
				src = append(src, math.Nextafter32(mid, float32(math.Inf(-1))), mid, math.Nextafter32(mid, float32(math.Inf(1))))
			}
			src = append(src, 0, float32(math.Copysign(0, -1)), math.MaxFloat32, -math.MaxFloat32)
			for range 200 {
				src = append(src, float32((2*r.Float64()-1)*1.2*float64(s)))
			}
			for i, x := range src {
				if math.IsInf(float64(x), 0) {
					src[i] = s
				}
			}
			for len(src)%64 != 33 { // an odd last block
				src = append(src, s)
			}
			blocks := (len(src) + 63) / 64
			codes, all := make([]byte, (len(src)+1)/2), make([]float32, blocks)
			for b := range all {
				all[b] = s
			}
			EncodeF32(typ, codes, all, src, 64)
			for i, x := range src {
				got := codes[i/2] >> (4 * (1 - i%2)) & 15
				want := nearestCode(typ, s, x)
				// FP4 has two zeros, and products of a tiny scale coincide: then any of them reads the same.
				if decoded(typ, got, s) != decoded(typ, want, s) {
					t.Errorf("type %d scale %v: %v has code %d, which decodes to %v (want %d, %v)", typ, s, x, got, decoded(typ, got, s), want, decoded(typ, want, s))
				}
			}
			if pad := codes[len(codes)-1] & 15; pad != books[typ].search(0) {
				t.Errorf("type %d: padding %d (want %d)", typ, pad, books[typ].search(0))
			}
		}
	}
}

// Halfway is the first in Order under either sign, and a zero scale has the codes of zero.
func TestEncodeTies(t *testing.T) {
	for _, c := range []struct {
		typ   Type
		scale float32
		x     float32
		want  byte
	}{
		{FP4, 12, 3.5, 0x70}, {FP4, -12, -3.5, 0x70}, // 3 is code 7, 4 code 4
		{FP4, 12, -3.5, 0xc0}, {FP4, -12, 3.5, 0xc0}, // -4 comes before -3
		{FP4, 1, 1e-30, 0x80}, {FP4, 1, -1e-30, 0x00}, {FP4, -1, -1e-30, 0x80},
		{NF4, 0, 5, 0x77}, {FP4, 0, -5, 0x00}, {NF4, float32(math.Copysign(0, -1)), 1, 0x77},
		{NF4, -2, 2, 0x07}, {NF4, -2, -2, 0xf7},
	} {
		codes := make([]byte, 1)
		EncodeF32(c.typ, codes, []float32{c.scale}, []float32{c.x, 0}[:2], 64)
		if codes[0] != c.want {
			t.Errorf("type %d scale %v: %v is %#02x (want %#02x)", c.typ, c.scale, c.x, codes[0], c.want)
		}
	}
}

// What was quantized decodes to values that encode to the same values again.
func FuzzEncode(f *testing.F) {
	f.Add(uint32(0x3f800000), uint32(0xbf000000), uint8(0))
	f.Add(uint32(0x80000001), uint32(0x00000001), uint8(1))
	f.Fuzz(func(t *testing.T, scaleBits, valueBits uint32, typ uint8) {
		s, x := math.Float32frombits(scaleBits), math.Float32frombits(valueBits)
		if !(math.Abs(float64(s)) <= math.MaxFloat32) || !(math.Abs(float64(x)) <= math.MaxFloat32) || typ >= uint8(numTypes) || s == 0 {
			return // under a scale of zero no code is nearer than another
		}
		codes := make([]byte, 1)
		EncodeF32(Type(typ), codes, []float32{s}, []float32{x}, 64)
		got, want := decoded(Type(typ), codes[0]>>4, s), decoded(Type(typ), nearestCode(Type(typ), s, x), s)
		if got != want {
			t.Fatalf("type %d scale %v: %v is code %d, which decodes to %v, not to %v", typ, s, x, codes[0]>>4, got, want)
		}
	})
}
