package quantize

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

var nanWeights = flag.Int("nanfree.weights", 1<<18, "random weights of TestNaNFree; docs/storage.md has those of more")

// isNaN is what a framework sees in a word of the dtype.
func isNaN(s bnb.Storage, word []byte) bool {
	var x [1]float32
	switch s {
	case bnb.BFloat16:
		x[0] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(word)) << 16)
	case bnb.Float16:
		kernel.Widen(x[:], word, kernel.F16)
	case bnb.Float32:
		x[0] = math.Float32frombits(binary.LittleEndian.Uint32(word))
	}
	return math.IsNaN(float64(x[0]))
}

// patterns are words of the storage: all of 16 bits, and of 32 all upper halves.
func patterns(s bnb.Storage, yield func(word []byte)) {
	for v := range 1 << 16 {
		if s != bnb.Float32 {
			yield(binary.LittleEndian.AppendUint16(nil, uint16(v)))
			continue
		}
		for _, low := range []uint32{0, 0xffff} {
			yield(binary.LittleEndian.AppendUint32(nil, uint32(v)<<16|low))
		}
	}
}

// Of every pattern, a NaN and no other word is changed, in one code, and no other change costs less.
func TestFreeEveryWord(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range []bnb.Storage{bnb.BFloat16, bnb.Float16, bnb.Float32} {
		w, nans := WordsOf(s), 0
		patterns(s, func(word []byte) {
			n := 2 * len(word)
			p := &Panel{N: n, Elem: kernel.F32, Type: []kernel.Type{kernel.NF4, kernel.FP4}[r.IntN(2)], BlockSize: 64, Cols: int64(n)}
			x, scale := make([]float32, n), []float32{float32(r.NormFloat64())}
			p.Values = make([]byte, 4*n)
			if isNaN(s, word) {
				for i := range x {
					x[i] = float32(r.NormFloat64())
				}
				kernel.Narrow(p.Values, kernel.F32, x)
			}
			got := bytes.Clone(word)
			f := w.Free(p, scale, got, nil)
			if !isNaN(s, word) {
				if !bytes.Equal(got, word) || f != (Freed{}) || w.Count(word) != 0 {
					t.Fatalf("%v: %x is no NaN, and became %x", s, word, got)
				}
				return
			}
			nans++
			changed, at := 0, 0
			for i := range 2 * len(word) {
				if d := (got[i/2] ^ word[i/2]) >> (4 * (1 - i%2)) & 15; d != 0 {
					changed, at = changed+1, i
				}
			}
			if isNaN(s, got) || changed != 1 || w.Count(word) != 1 {
				t.Fatalf("%v: %x became %x, %d codes changed", s, word, got, changed)
			}
			cost, least := costOf(p.Type, scale[0], x[at], word, got, at), math.Inf(1)
			for i := range n {
				for d := 1; d < 16; d++ {
					other := bytes.Clone(word)
					other[i/2] ^= byte(d << (4 * (1 - i%2)))
					if !isNaN(s, other) {
						least = min(least, costOf(p.Type, scale[0], x[i], word, other, i))
					}
				}
			}
			if cost != least || f != (Freed{1, cost}) {
				t.Fatalf("%v: %x became %x at a cost of %v, told as %v; %v would do", s, word, got, cost, f, least)
			}
			if same := bytes.Clone(word); w.Free(p, scale, same, word).Codes != 0 || !bytes.Equal(same, word) {
				t.Fatalf("%v: %x became %x though it is a NaN in the file", s, word, same)
			}
		})
		want := map[bnb.Storage]int{bnb.BFloat16: 2 * 127, bnb.Float16: 2 * 1023, bnb.Float32: 2*2*127 + 2}[s]
		if nans != want {
			t.Errorf("%v: %d NaNs, want %d", s, nans, want)
		}
	}
}

// costOf is what code i of a word adds to the squared error of x, changed as from was to is.
func costOf(typ kernel.Type, a, x float32, was, is []byte, i int) float64 {
	squared := func(word []byte) float64 {
		e := float64(kernel.Values(typ)[word[i/2]>>(4*(1-i%2))&15]*a) - float64(x)
		return float64(e * e)
	}
	return squared(is) - squared(was)
}

// The code that an odd count lacks stays what bitsandbytes makes it.
func TestFreePadding(t *testing.T) {
	for n := 1; n <= 16; n++ {
		size := (n + 1) / 2
		for _, s := range []bnb.Storage{bnb.BFloat16, bnb.Float16, bnb.Float32} {
			codes := bytes.Repeat([]byte{0xff}, size)
			if n%2 != 0 {
				codes[size-1] = 0xf7
			}
			p := &Panel{N: n, Elem: kernel.F32, Values: make([]byte, 4*n), BlockSize: 64}
			want := codes[size-1] & 15
			WordsOf(s).Free(p, []float32{1}, codes, nil)
			if n%2 != 0 && codes[size-1]&15 != want {
				t.Errorf("%v, %d elements: %x", s, n, codes)
			}
			if w := WordsOf(s); w.Count(codes) != 0 && n%2 == 0 {
				t.Errorf("%v, %d elements: a NaN is left in %x", s, n, codes)
			}
		}
	}
	if WordsOf(bnb.UInt8) != nil {
		t.Error("bytes are no floats")
	}
}

// Random weights: how many words are NaNs, and what it adds to the error that they are not.
func TestNaNFree(t *testing.T) {
	const chunk = 1 << 18
	for _, s := range []bnb.Storage{bnb.BFloat16, bnb.Float16, bnb.Float32} {
		for _, typ := range []kernel.Type{kernel.NF4, kernel.FP4} {
			r := rand.New(rand.NewPCG(1, 2))
			w := WordsOf(s)
			var f Freed
			var sums kernel.Sums
			var words int64
			x, v := make([]float32, chunk), make([]float32, chunk)
			values, codes, scale := make([]byte, 2*chunk), make([]byte, chunk/2), make([]float32, chunk/64)
			for done := 0; done < *nanWeights; done += chunk {
				for i := range x {
					x[i] = float32(0.02 * r.NormFloat64())
				}
				kernel.Narrow(values, kernel.BF16, x)
				kernel.Quantize(typ, kernel.BF16, codes, scale, values, 64)
				p := &Panel{N: chunk, Elem: kernel.BF16, Values: values, Type: typ, BlockSize: 64, Cols: 1024}
				words += w.Of(chunk / 2)
				f.add(w.Free(p, scale, codes, nil))
				if n := w.Count(codes); n != 0 {
					t.Fatalf("%v: %d NaNs are left", s, n)
				}
				kernel.Widen(x, values, kernel.BF16)
				kernel.DequantizeF32(typ, v, codes, scale, 64)
				sums.E2 += kernel.WeightedSquares(x, v, []float32{1}, 0)
				sums.X2 += kernel.WeightedSquares(x, nil, []float32{1}, 0)
			}
			share := float64(f.Codes) / float64(words)
			if share == 0 || share > 0.05 || f.Added <= 0 || f.Added > 0.03*sums.E2 {
				t.Errorf("%v: %d of %d words changed, %.3g added to %.3g", s, f.Codes, words, f.Added, sums.E2)
			}
			rel, before := math.Sqrt(sums.E2/sums.X2), math.Sqrt((sums.E2-f.Added)/sums.X2)
			t.Logf("%v, type %v: %.4f %% of the words; relative RMSE %.6f, %.6f before (+%.4f %%)", s, typ, 100*share, rel, before, 100*(rel/before-1))
		}
	}
}
