package nf4

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func normal(n int) []float32 {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// Parts that are multiples of the block size give what the whole gives, whatever their sizes and whatever the slices held.
func TestAppendParts(t *testing.T) {
	for _, n := range []int{1, 63, 64, 65, 129, 1000, 4096} {
		for _, block := range []int{32, 64, 128} {
			c := Config{Type: FP4, BlockSize: block}
			src := normal(n)
			codes, absmax := quantize(t, c, src)
			raw, err := AppendBytes(nil, src, Float32)
			if err != nil {
				t.Fatal(err)
			}
			for part := block; part < n+block; part += 3 * block {
				gotCodes, gotAbsmax := []byte{9}, []float32{9}
				byteCodes, byteAbsmax := []byte(nil), []float32(nil)
				for lo := 0; lo < n; lo += part {
					hi := min(lo+part, n)
					if gotCodes, gotAbsmax, err = c.AppendQuantize(gotCodes, gotAbsmax, src[lo:hi]); err != nil {
						t.Fatal(err)
					}
					if byteCodes, byteAbsmax, err = c.AppendQuantizeBytes(byteCodes, byteAbsmax, raw[4*lo:4*hi], Float32); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(codes, gotCodes[1:]) + cmp.Diff(absmax, gotAbsmax[1:]) + cmp.Diff(codes, byteCodes) + cmp.Diff(absmax, byteAbsmax); diff != "" || gotCodes[0] != 9 || gotAbsmax[0] != 9 {
					t.Errorf("n=%d block=%d parts of %d:\n%s", n, block, part, diff)
				}
			}
			want := make([]float32, n)
			if err := c.Dequantize(want, codes, absmax); err != nil {
				t.Fatal(err)
			}
			got, err := c.AppendDequantize([]float32{5}, codes, absmax, n)
			if err != nil || got[0] != 5 {
				t.Fatal(got[0], err)
			}
			if diff := cmp.Diff(want, got[1:]); diff != "" {
				t.Errorf("n=%d block=%d decoded (-want +got):\n%s", n, block, diff)
			}
		}
	}
}

func TestAppendErrors(t *testing.T) {
	codes, absmax := []byte{1}, []float32{2}
	bad := normal(80)
	bad[70] = float32(math.NaN())
	var nf *NonFiniteError
	c, a, err := Config{}.AppendQuantize(codes, absmax, bad)
	if !errors.As(err, &nf) || nf.Index != 70 || len(c) != 1 || len(a) != 1 {
		t.Errorf("NaN: %d bytes, %d scales, %v", len(c), len(a), err)
	}
	if c, a, err = (Config{BlockSize: 3}).AppendQuantize(codes, absmax, bad); err == nil || len(c) != 1 || len(a) != 1 {
		t.Errorf("block size 3: %d bytes, %d scales, %v", len(c), len(a), err)
	}
	if _, _, err = (Config{}).AppendQuantizeBytes(nil, nil, make([]byte, 3), BFloat16); err == nil {
		t.Error("half a value is taken")
	}
	if _, _, err = (Config{}).AppendQuantizeBytes(nil, nil, make([]byte, 4), DType(9)); err == nil {
		t.Error("an unknown dtype is taken")
	}
	if _, err = AppendBytes(nil, bad, DType(9)); err == nil {
		t.Error("an unknown dtype is taken")
	}
	if got, err := (Config{}).AppendDequantize(nil, nil, nil, 1<<62); err == nil || got != nil {
		t.Errorf("2^62 values of no codes: %v", err)
	}
}

func TestAppendBytes(t *testing.T) {
	for d, want := range map[DType][]uint16{
		BFloat16: {0x3f80, 0xbf80, 0x3f80, 0x3f82, 0x7f80}, // 1+2^-8 is halfway and goes to the even 1, 1+3*2^-8 to 1+2^-6
		Float16:  {0x3c00, 0xbc00, 0x3c04, 0x3c0c, 0x7c00},
	} {
		raw, err := AppendBytes(nil, []float32{1, -1, 1 + 1./256, 1 + 3./256, math.MaxFloat32}, d)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint16
		for i := 0; i < len(raw); i += 2 {
			got = append(got, binary.LittleEndian.Uint16(raw[i:]))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", d, diff)
		}
	}
}

// Against its own absmax constants a tensor has the codes that quantizing gives it, where no value is near a threshold;
// against the negated ones it decodes to the same values wherever the table is symmetric.
func TestEncodeOwnScales(t *testing.T) {
	src := normal(1000)
	for _, typ := range []Type{NF4, FP4} {
		c := Config{Type: typ}
		codes, absmax := quantize(t, c, src)
		again := make([]byte, len(codes))
		if err := c.Encode(again, absmax, src); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(codes, again); diff != "" {
			t.Errorf("%v (-quantized +encoded):\n%s", typ, diff)
		}
	}
	negated := make([]float32, 16)
	c := Config{Type: FP4}
	codes, absmax := quantize(t, c, src)
	for b, a := range absmax {
		negated[b] = -a
	}
	flipped := make([]byte, len(codes))
	if err := c.Encode(flipped, negated, src); err != nil {
		t.Fatal(err)
	}
	want, got := make([]float32, len(src)), make([]float32, len(src))
	if err := errors.Join(c.Dequantize(want, codes, absmax), c.Dequantize(got, flipped, negated)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded under negated scales (-want +got):\n%s", diff)
	}
}

func TestEncodeErrors(t *testing.T) {
	inf := float32(math.Inf(1))
	var se *ScaleError
	if err := (Config{}).Encode(make([]byte, 40), []float32{1, inf}, make([]float32, 80)); !errors.As(err, &se) || se.Block != 1 || se.Scale != inf {
		t.Errorf("infinite scale: %v", err)
	}
	var nf *NonFiniteError
	if err := (Config{}).Encode(make([]byte, 1), []float32{1}, []float32{0, -inf}); !errors.As(err, &nf) || nf.Index != 1 {
		t.Errorf("infinite value: %v", err)
	}
	if err := (Config{}).Encode(make([]byte, 1), nil, make([]float32, 2)); err == nil {
		t.Error("too few scales are taken")
	}
}
