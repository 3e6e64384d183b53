package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/nf4kit/nf4kit/testdata/golden"
)

// pattern fills src, a row of elements in blocks of blockSize, with one kind of data.
type pattern struct {
	name   string
	finite bool
	fill   func(r *rand.Rand, v []float32, e Elem, blockSize int)
}

// special holds what arithmetic treats apart, NaNs of the largest payload included: rounding must not carry out of them.
var special = []float32{
	float32(math.NaN()), math.Float32frombits(0x7fffffff), math.Float32frombits(0xffffffff),
	float32(math.Inf(1)), float32(math.Inf(-1)), 0, 1, math.SmallestNonzeroFloat32,
}

var patterns = []pattern{
	{"normal", true, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		for i := range v {
			v[i] = float32(r.NormFloat64() * 0.03)
		}
	}},
	// Scaled values on, just below and just above every threshold, with a different absmax in every block.
	{"ties", true, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		for lo := 0; lo < len(v); lo += blockSize {
			block := v[lo:min(lo+blockSize, len(v))]
			a := float32(1 + r.Float64())
			if r.IntN(2) == 0 {
				a = float32(math.Ldexp(1, r.IntN(8)-6))
			}
			for i := range block {
				x := books[r.IntN(int(numTypes))].threshold[r.IntN(15)] * a
				if x == 0 || x > math.MaxFloat32 {
					x = float32(r.IntN(5)-2) * math.SmallestNonzeroFloat32
				} else if e == F32 {
					x = math.Float32frombits(math.Float32bits(x) + uint32(r.IntN(5)) - 2)
				}
				block[i] = x
			}
			block[r.IntN(len(block))] = -a
		}
	}},
	// Blocks of zeros of both signs, and of zeros with one value.
	{"zero", true, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		for i := range v {
			v[i] = float32(math.Copysign(0, r.Float64()-0.5))
			if r.IntN(3*blockSize) == 0 {
				v[i] = float32(r.NormFloat64())
			}
		}
	}},
	{"subnormal", true, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		low := -149
		if e == F16 {
			low = -25
		}
		for i := range v {
			v[i] = float32(math.Ldexp(r.NormFloat64(), low+r.IntN(18)))
		}
	}},
	{"huge", true, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		top := 3.38e38
		if e == F16 {
			top = 65504
		}
		for i := range v {
			v[i] = float32(top * (1 - r.ExpFloat64()/4))
			v[i] = float32(min(max(float64(v[i]), -top), top))
		}
	}},
	// Any bits at all, rounded to the element type.
	{"bits", false, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		for i := range v {
			v[i] = math.Float32frombits(r.Uint32())
		}
	}},
	{"special", false, func(r *rand.Rand, v []float32, e Elem, blockSize int) {
		for i := range v {
			v[i] = float32(r.NormFloat64())
			if r.IntN(blockSize) == 0 {
				v[i] = special[r.IntN(len(special))]
			}
		}
	}},
}

// elements returns n elements of a pattern.
func (p *pattern) elements(seed uint64, e Elem, n, blockSize int) []byte {
	v := make([]float32, n)
	p.fill(rand.New(rand.NewPCG(seed, 7)), v, e, blockSize)
	b := make([]byte, n*e.Size())
	Narrow(b, e, v)
	return b
}

var allTypes = []Type{NF4, FP4, AF4, Int4}

var runElems = []Elem{F32, BF16, F16}

// buffers hands out slices of guarded memory that end where the accessible page does, or begin where it begins. As
// lengths change, slices at the end have every alignment.
type buffers struct {
	t     testing.TB
	pages [][]byte
	used  int
	front bool
}

const bufferSize = 1 << 16

func (b *buffers) reset(front bool) { b.used, b.front = 0, front }

func (b *buffers) bytes(n int) []byte {
	if b.used == len(b.pages) {
		b.pages = append(b.pages, guarded(b.t, bufferSize))
	}
	p := b.pages[b.used]
	b.used++
	if b.front {
		return p[:n:n]
	}
	return p[len(p)-n:]
}

func (b *buffers) copy(src []byte) []byte {
	dst := b.bytes(len(src))
	copy(dst, src)
	return dst
}

// lengths are those tested for blocks of a size: all around the block boundaries and the steps of the assembly for small
// blocks, fewer for large ones.
func lengths(blockSize int) []int {
	if blockSize > 64 {
		return []int{0, 1, 32, 33, blockSize / 2, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, 3*blockSize - 31, 3*blockSize + 33}
	}
	all := make([]int, 1026)
	for n := range all {
		all[n] = n
	}
	return all
}

// row is one input: n elements of a pattern.
type row struct {
	*pattern
	src  []byte
	n    int
	seed uint64
}

// rows calls f for every pattern and length.
func rows(t *testing.T, e Elem, blockSize int, f func(r row)) {
	l := lengths(blockSize)
	longest := l[len(l)-1]
	for i := range patterns {
		p := &patterns[i]
		data := [2][]byte{p.elements(1, e, longest, blockSize), p.elements(2, e, longest, blockSize)}
		for _, n := range l {
			f(row{p, data[n%2][:n*e.Size()], n, uint64(n)})
			if t.Failed() {
				t.Fatalf("pattern %s, %d elements in blocks of %d", p.name, n, blockSize)
			}
		}
	}
}

var blockSizes = []int{32, 64, 128, 512, 4096}

func TestQuantize(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	b := &buffers{t: t}
	for _, e := range runElems {
		for _, blockSize := range blockSizes {
			t.Run(fmt.Sprintf("%v/%d", e, blockSize), func(t *testing.T) {
				rows(t, e, blockSize, func(r row) {
					blocks, bytes := (r.n+blockSize-1)/blockSize, (r.n+1)/2
					wantAbsmax, want := make([]float32, blocks), make([]byte, bytes)
					absmaxGeneric(e, wantAbsmax, r.src, blockSize)
					for _, typ := range allTypes {
						codesGeneric(typ, e, want, wantAbsmax, r.src, blockSize)
						assembly(t, func() {
							b.reset(r.n%5 == 4)
							src, got, absmax := b.copy(r.src), b.bytes(bytes), make([]float32, blocks)
							clear(got)
							Quantize(typ, e, got, absmax, src, blockSize)
							sameFloats(t, "absmax", wantAbsmax, absmax)
							forgetNonFinite(want, got, absmax, blockSize)
							sameBytes(t, fmt.Sprintf("%v codes", typ), want, got)
						})
					}
				})
			})
		}
	}
}

// Scales that are not the absmax of their block, too small ones included, where the clamp matters.
func TestCodesOfAnyScale(t *testing.T) {
	for _, e := range runElems {
		assembly(t, func() {
			r := rand.New(rand.NewPCG(11, 12))
			for _, n := range []int{64, 100, 1024} {
				for i := range patterns {
					p := &patterns[i]
					if !p.finite {
						continue
					}
					src := p.elements(5, e, n, 64)
					absmax := make([]float32, (n+63)/64)
					absmaxGeneric(e, absmax, src, 64)
					for i := range absmax {
						absmax[i] *= []float32{0, 1e-30, 0.3, 0.9, 1.1, 100, -1, -0.8, -1.3}[r.IntN(9)]
						if absmax[i] > -1e-37 && absmax[i] <= 0 {
							absmax[i] = 0 // and not -0
						}
						absmax[i] = min(absmax[i], math.MaxFloat32)
					}
					for _, typ := range allTypes {
						want, got := make([]byte, n/2), make([]byte, n/2)
						codesGeneric(typ, e, want, absmax, src, 64)
						Codes(typ, e, got, absmax, src, 64)
						sameBytes(t, fmt.Sprintf("%v of %s %v", typ, p.name, e), want, got)
					}
				}
			}
		})
	}
}

func TestDequantize(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	b := &buffers{t: t}
	for _, e := range runElems {
		for _, blockSize := range blockSizes {
			t.Run(fmt.Sprintf("%v/%d", e, blockSize), func(t *testing.T) {
				rows(t, F32, blockSize, func(r row) {
					// The row's first values are the scales; its bytes are codes as good as any.
					scales := floats(r.src[:(r.n+blockSize-1)/blockSize*4])
					codes, want := r.src[:(r.n+1)/2], make([]byte, r.n*e.Size())
					for i := range scales {
						if !r.finite {
							scales[i] = special[(r.n+i)%len(special)]
						}
					}
					for _, typ := range allTypes {
						dequantizeGeneric(typ, e, want, codes, scales, r.n, blockSize)
						assembly(t, func() {
							b.reset(r.n%5 == 4)
							codes, got := b.copy(codes), b.bytes(len(want))
							clear(got)
							Dequantize(typ, e, got, codes, scales, r.n, blockSize)
							sameElements(t, fmt.Sprintf("%v decoded", typ), e, want, got)
						})
					}
				})
			})
		}
	}
}

// The float32 slices take the same path as bytes, or their own in generic code.
func TestFloat32Slices(t *testing.T) {
	implementations(t, func() {
		for _, n := range []int{0, 1, 63, 64, 65, 1000, 5000} {
			src := patterns[0].elements(uint64(n), F32, n, 64)
			want, got := make([]byte, (n+1)/2), make([]byte, (n+1)/2)
			wantAbsmax, absmax := make([]float32, (n+63)/64), make([]float32, (n+63)/64)
			absmaxGeneric(F32, wantAbsmax, src, 64)
			codesGeneric(FP4, F32, want, wantAbsmax, src, 64)
			QuantizeF32(FP4, got, absmax, floats(src), 64)
			sameBytes(t, "codes", want, got)
			sameFloats(t, "absmax", wantAbsmax, absmax)
			decoded, wantDecoded := make([]float32, n), make([]byte, 4*n)
			DequantizeF32(FP4, decoded, got, absmax, 64)
			dequantizeGeneric(FP4, F32, wantDecoded, want, wantAbsmax, n, 64)
			sameFloats(t, "decoded", floats(wantDecoded), decoded)
		}
	})
}

func TestErrorSums(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	b := &buffers{t: t}
	for _, e := range runElems {
		for _, blockSize := range blockSizes {
			t.Run(fmt.Sprintf("%v/%d", e, blockSize), func(t *testing.T) {
				rows(t, e, blockSize, func(r row) {
					typ := allTypes[r.n>>1&3]
					absmax, codes := make([]float32, (r.n+blockSize-1)/blockSize), make([]byte, (r.n+1)/2)
					absmaxGeneric(e, absmax, r.src, blockSize)
					codesGeneric(typ, e, codes, absmax, r.src, blockSize)
					scale := slices.Clone(absmax)
					for i := range scale {
						scale[i] *= 1 - 0.01*float32(i%3)
					}
					var l lanes
					errorSumsGeneric(&l, typ, e, r.src, codes, scale, blockSize)
					want := l.sum(r.n)
					assembly(t, func() {
						b.reset(r.n%5 == 4)
						src, codes := b.copy(r.src), b.copy(codes)
						var got Sums
						ErrorSums(&got, typ, e, src, codes, scale, blockSize)
						sameSums(t, "sums", &want, &got)
						if !r.finite {
							return
						}
						got = Sums{}
						ErrorSumsOf(&got, typ, e, src, e, src, absmax, scale, blockSize)
						sameSums(t, "sums of searched codes", &want, &got)
					})
				})
			})
		}
	}
}

// The values searched may be in another encoding than the source.
func TestErrorSumsOfRounded(t *testing.T) {
	const n = 5000
	src := patterns[0].elements(3, F32, n, 64)
	q := make([]byte, 2*n)
	Convert(q, BF16, src, F32, n)
	absmax, codes := make([]float32, (n+63)/64), make([]byte, n/2)
	Quantize(FP4, BF16, codes, absmax, q, 64)
	var want, got Sums
	ErrorSums(&want, FP4, F32, src, codes, absmax, 64)
	ErrorSumsOf(&got, FP4, BF16, q, F32, src, absmax, absmax, 64)
	sameSums(t, "sums", &want, &got)
}

// The sums against a plain loop in the order of the elements, which differs by rounding alone.
func TestErrorSumsMeaning(t *testing.T) {
	const n = 1000
	src := patterns[0].elements(3, BF16, n, 64)
	absmax, codes := make([]float32, (n+63)/64), make([]byte, n/2)
	Quantize(NF4, BF16, codes, absmax, src, 64)
	x, w := make([]float32, n), make([]float32, n)
	Widen(x, src, BF16)
	DequantizeF32(NF4, w, codes, absmax, 64)
	want := Sums{N: n}
	for i := range x {
		x, w := float64(x[i]), float64(w[i])
		want.X2 += x * x
		want.W2 += w * w
		want.XW += x * w
		want.E2 += (x - w) * (x - w)
		want.AbsE += math.Abs(x - w)
		want.Max = max(want.Max, math.Abs(x-w))
	}
	var got Sums
	ErrorSums(&got, NF4, BF16, src, codes, absmax, 64)
	g, v := sumValues(&got), sumValues(&want)
	for i := range g {
		if got.N != want.N || math.Abs(g[i]-v[i]) > 1e-13*v[i] {
			t.Fatalf("sums %+v (want %+v)", got, want)
		}
	}
}

// The sums of a fixed input, to the bit: they are the same on every architecture and under every implementation.
func TestErrorSumsValue(t *testing.T) {
	src := golden.Load(t).Bytes(t, "src/normal/bfloat16")
	n := len(src) / 2
	absmax, codes := make([]float32, (n+63)/64), make([]byte, (n+1)/2)
	implementations(t, func() {
		Quantize(NF4, BF16, codes, absmax, src, 64)
		var got Sums
		ErrorSums(&got, NF4, BF16, src, codes, absmax, 64)
		want := Sums{N: 4707, X2: 1.8651376283342833, W2: 1.8669412584764133, XW: 1.8581154832577962,
			E2: 0.015847920295107246, AbsE: 6.864704805891961, Max: 0.009033203125}
		sameSums(t, "sums", &want, &got)
	})
}

// floats returns guarded memory as a copy of src.
func (b *buffers) floats(src []float32) []float32 {
	dst := b.bytes(4 * len(src))
	if len(src) == 0 {
		return nil
	}
	f := unsafe.Slice((*float32)(unsafe.Pointer(&dst[0])), len(src))
	copy(f, src)
	return f
}

func TestDynamic(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	b := &buffers{t: t}
	rows(t, F32, 64, func(r row) {
		scales, offset := floats(r.src), []float32{0, 0.01, -3, 1e30}[r.n%4]
		blocks := (r.n + DynamicBlock - 1) / DynamicBlock
		want, wantNested, wantScales := make([]byte, r.n), make([]float32, blocks), make([]float32, r.n)
		dynamicQuantizeGeneric(want, wantNested, scales, offset)
		for i, m := range wantNested {
			if math.Float32bits(m)&infBits == infBits {
				clear(want[i*DynamicBlock : min((i+1)*DynamicBlock, r.n)])
			}
		}
		dynamicDequantizeGeneric(wantScales, want, wantNested, offset)
		assembly(t, func() {
			b.reset(r.n%5 == 4)
			got, nested, gotScales := b.bytes(r.n), make([]float32, blocks), make([]float32, r.n)
			clear(got)
			DynamicQuantize(got, nested, scales, offset)
			sameFloats(t, "nested", wantNested, nested)
			for i, m := range nested {
				if math.Float32bits(m)&infBits == infBits {
					clear(got[i*DynamicBlock : min((i+1)*DynamicBlock, r.n)])
				}
			}
			sameBytes(t, "codes", want, got)
			DynamicDequantize(gotScales, got, wantNested, offset)
			sameFloats(t, "scales", wantScales, gotScales)
		})
	})
}

// Every dynamic threshold and its neighbours, and what is beyond the map's lowest value.
func TestDynamicThresholds(t *testing.T) {
	scales := []float32{1, -1, -0.9999, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32}
	for _, v := range dynamicThreshold[:255] {
		scales = append(scales, v, math.Nextafter32(v, -2), math.Nextafter32(v, 2))
	}
	for len(scales)%DynamicBlock != 0 {
		scales = append(scales, 1)
	}
	for i := 0; i < len(scales); i += DynamicBlock {
		scales[i] = 1
	}
	want, nested := make([]byte, len(scales)), make([]float32, len(scales)/DynamicBlock)
	for i, s := range scales {
		for want[i] < 255 && s > dynamicThreshold[want[i]] {
			want[i]++
		}
	}
	implementations(t, func() {
		got := make([]byte, len(scales))
		DynamicQuantize(got, nested, scales, 0)
		sameBytes(t, "codes", want, got)
	})
}

// The search against a count of the thresholds below, over all float32 values near the interval, sampled.
func TestSearch(t *testing.T) {
	for _, typ := range allTypes {
		b := &books[typ]
		check := func(v float32) {
			rank := 0
			for rank < 15 && v > b.threshold[rank] {
				rank++
			}
			if got := b.search(v); got != b.order[rank] {
				t.Fatalf("%v: code of %v is %d (want %d)", typ, v, got, b.order[rank])
			}
		}
		for _, v := range b.threshold[:15] {
			for d := range 21 {
				if v > 1 {
					break
				}
				check(math.Float32frombits(math.Float32bits(v) + uint32(d) - 10))
			}
		}
		for u := uint32(0); u <= 0x3f800000; u += 4099 {
			check(math.Float32frombits(u))
			check(-math.Float32frombits(u))
		}
	}
}

// The assembly is not given a slice that is too short, though its capacity would do.
func TestShortSlices(t *testing.T) {
	src, codes, scales := make([]byte, 2*256), make([]byte, 128), make([]float32, 256)
	for name, f := range map[string]func(){
		"absmax":     func() { Absmax(BF16, scales[:3], src, 64) },
		"codes":      func() { Codes(NF4, BF16, codes[:127], scales[:4], src, 64) },
		"dequantize": func() { Dequantize(NF4, BF16, src, codes[:127], scales[:4], 256, 64) },
		"sums":       func() { ErrorSums(new(Sums), NF4, BF16, src, codes[:127], scales[:4], 64) },
		"pairs":      func() { PairSums(new(Sums), scales[:33], make([]float32, 32, 64)) },
		"e2m1":       func() { E2M1(codes[:15], scales[:32], scales[32:64], scales[64:], 32) },
		"fit":        func() { GridFit(NF4, scales[:1], scales[:1], scales[:64], scales[:63:63], scales[:64], scales[:1]) },
		"nearest":    func() { Nearest(NF4, codes[:16], scales[:16], scales[:16], scales[:15:15]) },
		"dynamic":    func() { DynamicQuantize(make([]byte, 255, 256), make([]float32, 1), scales, 0) },
		"decode":     func() { DynamicDequantize(scales[:255], make([]byte, 256), make([]float32, 1), 0) },
	} {
		assembly(t, func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			f()
		})
	}
}

func sameBytes(t *testing.T, what string, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		for i := range want {
			if want[i] != got[i] {
				t.Errorf("%s: byte %d of %d is %#02x (want %#02x)", what, i, len(want), got[i], want[i])
				return
			}
		}
	}
}

func sameFloats(t *testing.T, what string, want, got []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) && (want[i] == want[i] || got[i] == got[i]) {
			t.Errorf("%s: value %d of %d is %v (want %v)", what, i, len(want), got[i], want[i])
			return
		}
	}
}

// sameElements compares elements of a run dtype, any NaN with any NaN.
func sameElements(t *testing.T, what string, e Elem, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	w, g := make([]float32, len(want)/e.Size()), make([]float32, len(want)/e.Size())
	Widen(w, want, e)
	Widen(g, got, e)
	sameFloats(t, what, w, g)
}

func sumValues(s *Sums) [6]float64 { return [6]float64{s.X2, s.W2, s.XW, s.E2, s.AbsE, s.Max} }

func sameSums(t *testing.T, what string, want, got *Sums) {
	t.Helper()
	w, g := sumValues(want), sumValues(got)
	for i := range w {
		if math.Float64bits(w[i]) != math.Float64bits(g[i]) && (w[i] == w[i] || g[i] == g[i]) {
			t.Errorf("%s: %+v (want %+v)", what, *got, *want)
			return
		}
	}
	if want.N != got.N {
		t.Errorf("%s: %d elements (want %d)", what, got.N, want.N)
	}
}

// forgetNonFinite clears the codes of blocks that hold a NaN or an infinity.
func forgetNonFinite(want, got []byte, absmax []float32, blockSize int) {
	for i, a := range absmax {
		if math.Float32bits(a) >= infBits {
			lo, hi := i*blockSize/2, min((i+1)*blockSize/2, len(want))
			clear(want[lo:hi])
			clear(got[lo:hi])
		}
	}
}

func floats(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// The dynamic map gives what DynamicQuantize and DynamicDequantize do, and another map the nearest of its values.
func TestMaps(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	scales := make([]float32, 700)
	for i := range scales {
		scales[i] = float32(r.NormFloat64())
	}
	const offset = 0.25
	same := DynamicMap()
	var steps [256]float32
	for i := range steps {
		steps[i] = float32(i)/127.5 - 1
	}
	for name, m := range map[string]*[256]float32{"dynamic": &same, "steps": &steps} {
		codes, nested, got := make([]byte, len(scales)), make([]float32, 3), make([]float32, len(scales))
		MapQuantize(m, codes, nested, scales, offset)
		MapDequantize(m, got, codes, nested, offset)
		wantCodes, wantNested := make([]byte, len(scales)), make([]float32, 3)
		DynamicQuantize(wantCodes, wantNested, scales, offset)
		if !slices.Equal(nested, wantNested) || name == "dynamic" && !slices.Equal(codes, wantCodes) {
			t.Errorf("%s: constants or codes differ from those of DynamicQuantize", name)
		}
		for i, s := range scales {
			a := float64(nested[i/256])
			y := float64(s-offset) / a
			for _, v := range m {
				if math.Abs(float64(v)-y) < math.Abs(float64(m[codes[i]])-y)-1e-6 {
					t.Fatalf("%s: scale %v has the code %d of %v, %v is nearer to %v", name, s, codes[i], m[codes[i]], v, y)
				}
			}
			if want := float32(m[codes[i]]*nested[i/256]) + offset; got[i] != want {
				t.Errorf("%s: scale %d is %v, want %v", name, i, got[i], want)
			}
		}
	}
}

// Lengths lie around that of a register and of 32 elements, and the largest magnitude is at any place and of either sign.
func TestDeltaLargest(t *testing.T) {
	largest := func(f []float32) float32 {
		var s Deltas
		DeltaSums(&s, f, f, 1, f)
		return s.Max
	}
	implementations(t, func() {
		for _, n := range []int{0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 1000, 4096} {
			f := floats(patterns[0].elements(uint64(n), F32, n, 64))
			for at := range f {
				f[at] = min(max(f[at], -100), 100)
			}
			for at := 0; at < n; at += 1 + n/40 {
				for _, want := range []float32{101, -103, math.MaxFloat32, -math.MaxFloat32} {
					before := f[at]
					f[at] = want
					if got := largest(f); got != max(want, -want) {
						t.Fatalf("%d elements, %g at %d: %g", n, want, at, got)
					}
					f[at] = before
				}
			}
			clear(f)
			if got := largest(f); got != 0 {
				t.Fatalf("%d zeros: %g", n, got)
			}
		}
	})
}
