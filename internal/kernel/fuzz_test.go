package kernel

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
)

// FuzzQuantize takes any bytes as elements. All implementations agree, and what is decoded is where the codes say: each
// value is one of the 16 multiples of the absmax, no other is nearer, and encoding it again gives the same value.
func FuzzQuantize(f *testing.F) {
	for i := range patterns {
		f.Add(patterns[i].elements(1, F32, 130, 64), uint8(i))
		f.Add(patterns[i].elements(2, BF16, 201, 32), uint8(7*i+1))
	}
	f.Fuzz(func(t *testing.T, src []byte, how uint8) {
		typ, e := Type(how&1), Elem(how>>1%3)
		blockSize := 32 << (how >> 3 % 8)
		n := len(src) / e.Size()
		src = src[:n*e.Size()]
		blocks := (n + blockSize - 1) / blockSize
		want, wantAbsmax := make([]byte, (n+1)/2), make([]float32, blocks)
		absmaxGeneric(e, wantAbsmax, src, blockSize)
		codesGeneric(typ, e, want, wantAbsmax, src, blockSize)
		wantDecoded := make([]byte, n*e.Size())
		dequantizeGeneric(typ, e, wantDecoded, want, wantAbsmax, n, blockSize)
		implementations(t, func() {
			got, absmax, decoded := make([]byte, (n+1)/2), make([]float32, blocks), make([]byte, n*e.Size())
			Quantize(typ, e, got, absmax, src, blockSize)
			sameFloats(t, "absmax", wantAbsmax, absmax)
			Dequantize(typ, e, decoded, want, absmax, n, blockSize)
			sameElements(t, "decoded", e, wantDecoded, decoded)
			known := bytes.Clone(want)
			forgetNonFinite(known, got, absmax, blockSize)
			sameBytes(t, "codes", known, got)
		})

		x, w := make([]float32, n), make([]float32, n)
		Widen(x, src, e)
		DequantizeF32(typ, w, want, wantAbsmax, blockSize)
		values := Values(typ)
		for i := range x {
			a := wantAbsmax[i/blockSize]
			if math.Float32bits(a) >= infBits || a < 0x1p-100 {
				continue
			}
			err := math.Abs(float64(x[i]) - float64(w[i]))
			for _, v := range values {
				if other := math.Abs(float64(x[i]) - float64(v)*float64(a)); other < err-1e-6*float64(a) {
					t.Fatalf("value %d, %v with absmax %v, decodes to %v, further off than %v times it", i, x[i], a, w[i], v)
				}
			}
		}
		again, decoded := make([]byte, (n+1)/2), make([]float32, n)
		bits := make([]byte, 4*n)
		Narrow(bits, F32, w)
		Codes(typ, F32, again, wantAbsmax, bits, blockSize)
		DequantizeF32(typ, decoded, again, wantAbsmax, blockSize)
		for i := range w {
			if a := wantAbsmax[i/blockSize]; a > 0x1p-100 && math.Float32bits(a) < infBits && w[i] != decoded[i] {
				t.Fatalf("value %d decodes to %v, which encodes to %v", i, w[i], decoded[i])
			}
		}
	})
}

// FuzzDynamic takes any bytes as scales.
func FuzzDynamic(f *testing.F) {
	for i := range patterns {
		f.Add(patterns[i].elements(3, F32, 300, 256), float32(0.1))
	}
	f.Fuzz(func(t *testing.T, b []byte, offset float32) {
		scales := make([]float32, len(b)/4)
		for i := range scales {
			scales[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		blocks := (len(scales) + DynamicBlock - 1) / DynamicBlock
		want, wantNested := make([]byte, len(scales)), make([]float32, blocks)
		dynamicQuantizeGeneric(want, wantNested, scales, offset)
		implementations(t, func() {
			got, nested := make([]byte, len(scales)), make([]float32, blocks)
			DynamicQuantize(got, nested, scales, offset)
			sameFloats(t, "nested", wantNested, nested)
			for i, c := range got {
				if m := nested[i/DynamicBlock]; math.Float32bits(m)&infBits != infBits && c != want[i] {
					t.Fatalf("code %d is %d (want %d)", i, c, want[i])
				}
			}
		})
	})
}
