package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/nf4kit/nf4kit/testdata/golden"
)

var elemNames = map[Elem]string{F32: "float32", BF16: "bfloat16", F16: "float16", F64: "float64", F8E4M3: "float8_e4m3fn", F8E5M2: "float8_e5m2"}

// Every conversion gives torch's result, NaNs compared as NaNs.
func TestGoldenConvert(t *testing.T) {
	g := golden.Load(t)
	for se, from := range elemNames {
		src := g.Bytes(t, "convert/"+from)
		n := len(src) / se.Size()
		for _, de := range runElems {
			want, got := g.Bytes(t, "convert/"+from+"/"+elemNames[de]), make([]byte, n*de.Size())
			implementations(t, func() {
				clear(got)
				Convert(got, de, src, se, n)
				sameElements(t, fmt.Sprintf("%v to %v", se, de), de, want, got)
			})
		}
	}
}

// Every 16-bit and 8-bit value there is, and float32 values of all kinds: equal bits, NaNs included.
func TestConvert(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var f32, all16, all8 []byte
	for i := range 1 << 16 {
		u := r.Uint32()
		switch i % 4 {
		case 1: // near a tie of bfloat16
			u = u&0xffff0000 + 0x8000 + uint32(r.IntN(3)) - 1
		case 2: // near a tie of float16, subnormals and overflow included
			u = math.Float32bits(float32(math.Ldexp(1+float64(r.IntN(2048))/2048, r.IntN(44)-26))) + uint32(r.IntN(3)) - 1
		case 3: // not finite
			u |= infBits
		}
		f32 = binary.LittleEndian.AppendUint32(f32, u)
		all16 = binary.LittleEndian.AppendUint16(all16, uint16(i))
	}
	for i := range 1 << 10 {
		all8 = append(all8, byte(i))
	}
	sources := map[Elem][]byte{F32: f32, BF16: all16, F16: all16, F8E4M3: all8, F8E5M2: all8}
	for se, src := range sources {
		n := len(src) / se.Size()
		for _, de := range runElems {
			want, got := make([]byte, n*de.Size()), make([]byte, n*de.Size())
			convertGeneric(want, de, src, se, n)
			assembly(t, func() {
				clear(got)
				Convert(got, de, src, se, n)
				sameBytes(t, fmt.Sprintf("%v to %v", se, de), want, got)
			})
		}
	}
}

func TestConvertLengths(t *testing.T) {
	assembly(t, func() {
		b := &buffers{t: t}
		for _, se := range []Elem{F32, BF16, F16, F64, F8E4M3, F8E5M2} {
			for _, de := range runElems {
				for n := range 300 {
					b.reset(n%5 == 4)
					src, got := b.bytes(n*se.Size()), b.bytes(n*de.Size())
					for i := range src {
						src[i] = byte(i*151 + n)
					}
					clear(got)
					want := make([]byte, len(got))
					convertGeneric(want, de, src, se, n)
					Convert(got, de, src, se, n)
					sameBytes(t, fmt.Sprintf("%d of %v to %v", n, se, de), want, got)
					if de == F32 && n > 0 {
						clear(got)
						Widen(unsafe.Slice((*float32)(unsafe.Pointer(&got[0])), n), src, se)
						sameBytes(t, fmt.Sprintf("%d of %v widened", n, se), want, got)
					}
					if se == F32 && n > 0 {
						clear(got)
						Narrow(got, de, unsafe.Slice((*float32)(unsafe.Pointer(&src[0])), n))
						sameBytes(t, fmt.Sprintf("%d narrowed to %v", n, de), want, got)
					}
				}
			}
		}
	})
}

// Convert says where a value overflowed and where one was not finite in the source, wherever the two are.
func TestConvertReport(t *testing.T) {
	const n = 10000
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, tc := range []struct {
		values              map[int]float32
		overflow, nonFinite int
	}{
		{nil, -1, -1},
		{map[int]float32{0: nan}, -1, 0},
		{map[int]float32{9999: 7e4}, 9999, -1},
		{map[int]float32{5: inf, 6: nan, 4095: 65504, 4096: -65520, 9000: 1e9}, 4096, 5},
		{map[int]float32{31: 65519.99, 32: 65520, 33: nan, 34: 1e5}, 32, 33},
	} {
		v := make([]float32, n)
		for i, x := range tc.values {
			v[i] = x
		}
		src, dst := make([]byte, 4*n), make([]byte, 2*n)
		Narrow(src, F32, v)
		implementations(t, func() {
			if o, f := Convert(dst, F16, src, F32, n); o != tc.overflow || f != tc.nonFinite {
				t.Errorf("%v: overflow at %d, not finite at %d (want %d, %d)", tc.values, o, f, tc.overflow, tc.nonFinite)
			}
		})
	}
	// Rounding to bfloat16 overflows too, at the very end of float32's range.
	src := binary.LittleEndian.AppendUint32(nil, math.Float32bits(math.MaxFloat32))
	if o, f := Convert(make([]byte, 2), BF16, src, F32, 1); o != 0 || f != -1 {
		t.Errorf("largest float32 to bfloat16: overflow at %d, not finite at %d (want 0, -1)", o, f)
	}
}

func TestFirstNonFinite(t *testing.T) {
	implementations(t, func() {
		for e := F32; e <= F8E5M2; e++ {
			for n := range 140 {
				src := make([]byte, n*e.Size())
				for i := range src {
					src[i] = [2]byte{0x33, 0x7b}[n%2] // 0x7b: of the largest exponents that are finite
				}
				if got := FirstNonFinite(e, src, n); got != -1 {
					t.Fatalf("%v: found one at %d of %d where there is none", e, got, n)
				}
				for at := range n {
					dirty := slices.Clone(src)
					for i := range e.Size() {
						dirty[at*e.Size()+i] = 0xff
					}
					if got := FirstNonFinite(e, dirty, n); got != at {
						t.Fatalf("%v: found one at %d of %d (want %d)", e, got, n, at)
					}
				}
			}
		}
	})
}
