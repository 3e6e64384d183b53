package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// benchSizes are elements: one block, a few, what fits the first-level cache, the second, and what fits none.
var benchSizes = []int{64, 512, 4096, 1 << 18, 1 << 24}

// bench runs f under every implementation. bytes is what one element moves.
func bench(b *testing.B, name string, sizes []int, bytes float64, f func(b *testing.B, n int)) {
	for _, n := range sizes {
		for _, impl := range List() {
			b.Run(fmt.Sprintf("%s/impl=%s/n=%d", name, impl, n), func(b *testing.B) {
				restore, err := Select(impl)
				if err != nil {
					b.Fatal(err)
				}
				defer restore()
				b.SetBytes(int64(bytes * float64(n)))
				f(b, n)
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Melem/s")
			})
		}
	}
}

// normal returns n normally distributed elements.
func normal(e Elem, n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, min(n, 1<<16))
	for i := range v {
		v[i] = float32(r.NormFloat64() * 0.02)
	}
	out := make([]byte, n*e.Size())
	for at := 0; at < n; at += len(v) {
		Narrow(out[at*e.Size():], e, v[:min(len(v), n-at)])
	}
	return out
}

func BenchmarkQuantize(b *testing.B) {
	for _, typ := range []Type{NF4, FP4} {
		for _, e := range []Elem{F32, BF16, F16} {
			bench(b, fmt.Sprintf("op=quantize/type=%v/elem=%v", typ, e), benchSizes, float64(e.Size()), func(b *testing.B, n int) {
				src, codes, absmax := normal(e, n), make([]byte, n/2), make([]float32, n/64)
				for b.Loop() {
					Quantize(typ, e, codes, absmax, src, 64)
				}
			})
		}
	}
}

func BenchmarkAbsmax(b *testing.B) {
	for _, e := range []Elem{F32, BF16, F16} {
		bench(b, fmt.Sprintf("op=absmax/elem=%v", e), benchSizes, float64(e.Size()), func(b *testing.B, n int) {
			src, absmax := normal(e, n), make([]float32, n/64)
			for b.Loop() {
				Absmax(e, absmax, src, 64)
			}
		})
	}
}

func BenchmarkDequantize(b *testing.B) {
	for _, typ := range []Type{NF4, FP4} {
		for _, e := range []Elem{F32, BF16, F16} {
			bench(b, fmt.Sprintf("op=dequantize/type=%v/elem=%v", typ, e), benchSizes, float64(e.Size()), func(b *testing.B, n int) {
				src, codes, absmax := normal(e, n), make([]byte, n/2), make([]float32, n/64)
				Quantize(typ, e, codes, absmax, src, 64)
				for b.Loop() {
					Dequantize(typ, e, src, codes, absmax, n, 64)
				}
			})
		}
	}
}

func BenchmarkErrorSums(b *testing.B) {
	sizes := []int{64, 4096, Chunk, 1 << 24}
	for _, e := range []Elem{F32, BF16, F16} {
		bench(b, fmt.Sprintf("op=errorsums/type=%v/elem=%v", NF4, e), sizes, float64(e.Size())+0.5, func(b *testing.B, n int) {
			src, codes, absmax := normal(e, n), make([]byte, n/2), make([]float32, n/64)
			Quantize(NF4, e, codes, absmax, src, 64)
			var s Sums
			for b.Loop() {
				for at := 0; at < n; at += Chunk {
					k := min(Chunk, n-at)
					ErrorSums(&s, NF4, e, src[at*e.Size():][:k*e.Size()], codes[at/2:][:k/2], absmax[at/64:][:k/64], 64)
				}
			}
		})
	}
	bench(b, fmt.Sprintf("op=errorsumsof/type=%v/elem=%v", FP4, BF16), sizes, 2, func(b *testing.B, n int) {
		src, absmax := normal(BF16, n), make([]float32, n/64)
		Absmax(BF16, absmax, src, 64)
		var s Sums
		for b.Loop() {
			for at := 0; at < n; at += Chunk {
				k := min(Chunk, n-at)
				q, a := src[2*at:][:2*k], absmax[at/64:][:k/64]
				ErrorSumsOf(&s, FP4, BF16, q, BF16, q, a, a, 64)
			}
		}
	})
}

func BenchmarkPairSums(b *testing.B) {
	bench(b, "op=pairsums", []int{64, 4096, Chunk}, 8, func(b *testing.B, n int) {
		x, v := floats(normal(F32, n)), make([]float32, n)
		var s Sums
		for b.Loop() {
			PairSums(&s, x, v)
		}
	})
}

func BenchmarkE2M1(b *testing.B) {
	bench(b, "op=e2m1", []int{64, 4096, Chunk}, 8.5, func(b *testing.B, n int) {
		x, v, codes, scale := floats(normal(F32, n)), make([]float32, n), make([]byte, n/2), make([]float32, n/16)
		for i := range scale {
			scale[i] = 0.01
		}
		for b.Loop() {
			E2M1(codes, v, x, scale, 16)
		}
	})
}

func BenchmarkDynamic(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 4))
	sizes := []int{1, 256, 4096, 1 << 20}
	for _, op := range []string{"quantize8", "dequantize8"} {
		bench(b, "op="+op, sizes, 5, func(b *testing.B, n int) {
			scales, codes, nested := make([]float32, n), make([]byte, n), make([]float32, (n+255)/256)
			for i := range scales {
				scales[i] = float32(math.Abs(r.NormFloat64()))
			}
			DynamicQuantize(codes, nested, scales, 0.8)
			for b.Loop() {
				if op == "quantize8" {
					DynamicQuantize(codes, nested, scales, 0.8)
				} else {
					DynamicDequantize(scales, codes, nested, 0.8)
				}
			}
		})
	}
}

func BenchmarkConvert(b *testing.B) {
	sizes := []int{16, 512, 4096, 1 << 24}
	for _, se := range []Elem{F32, BF16, F16, F64, F8E4M3, F8E5M2} {
		for _, de := range []Elem{F32, BF16, F16} {
			bench(b, fmt.Sprintf("op=convert/from=%v/to=%v", se, de), sizes, float64(se.Size()+de.Size()), func(b *testing.B, n int) {
				var src []byte
				switch se {
				case F32, BF16, F16:
					src = normal(se, n)
				default:
					src = make([]byte, n*se.Size())
					for i := range src {
						src[i] = byte(i*37) & 0x3f
					}
				}
				dst := make([]byte, n*de.Size())
				for b.Loop() {
					Convert(dst, de, src, se, n)
				}
			})
		}
	}
}

func BenchmarkFirstNonFinite(b *testing.B) {
	for _, e := range []Elem{F32, BF16, F16} {
		bench(b, fmt.Sprintf("op=firstnonfinite/elem=%v", e), []int{64, 4096, 1 << 24}, float64(e.Size()), func(b *testing.B, n int) {
			src := normal(e, n)
			for b.Loop() {
				FirstNonFinite(e, src, n)
			}
		})
	}
}

func BenchmarkGridFit(b *testing.B) {
	inv := make([]float32, 16)
	for i := range inv {
		inv[i] = 10 + float32(i)
	}
	bench(b, "op=gridfit", []int{32, 64, 256}, float64(4*len(inv)), func(b *testing.B, n int) {
		x := floats(normal(F32, n))
		wq, qq := make([]float32, len(inv)), make([]float32, len(inv))
		for b.Loop() {
			GridFit(NF4, wq, qq, x, x, x, inv)
		}
	})
}
