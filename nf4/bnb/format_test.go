package bnb

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

func TestEntries(t *testing.T) {
	u8, f32, bf16 := safetensors.U8, safetensors.F32, safetensors.BF16
	for _, c := range []struct {
		name   string
		shape  [2]int64
		format Format
		want   []safetensors.Entry
	}{
		{"double quantization", [2]int64{128, 192}, Format{}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{12288, 1}},
			{Name: "w.absmax", DType: u8, Shape: []int64{384}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.nested_absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.nested_quant_map", DType: f32, Shape: []int64{256}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"no double quantization", [2]int64{128, 192}, Format{NoDoubleQuant: true}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{12288, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{384}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"odd count", [2]int64{3, 5}, Format{Type: nf4.FP4, NoDoubleQuant: true}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{8, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{1}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__fp4", DType: u8, Shape: []int64{256}}}},
		{"one more than a block of scales", [2]int64{1, 64*256 + 1}, Format{}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{8193, 1}},
			{Name: "w.absmax", DType: u8, Shape: []int64{257}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.nested_absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.nested_quant_map", DType: f32, Shape: []int64{256}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"storage", [2]int64{8, 32}, Format{Storage: BFloat16, BlockSize: 128, NoDoubleQuant: true}, []safetensors.Entry{
			{Name: "w", DType: bf16, Shape: []int64{64, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
	} {
		got, err := c.format.Entries("w", c.shape)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestEntriesErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		shape  [2]int64
		format Format
		want   string
	}{
		{"type", [2]int64{8, 8}, Format{Type: 2}, "nf4: unknown 4-bit type nf4.Type(2)"},
		{"block size", [2]int64{8, 8}, Format{BlockSize: 16}, "nf4: block size 16 (want a power of two from 32 to 4096)"},
		{"block size", [2]int64{8, 8}, Format{BlockSize: -64}, "block size -64"},
		{"block size", [2]int64{8, 8}, Format{BlockSize: 8192}, "block size 8192"},
		{"storage dtype", [2]int64{8, 8}, Format{Storage: 4}, "bnb: unknown quant storage bnb.Storage(4)"},
		{"storage width", [2]int64{3, 5}, Format{Storage: Float32}, "ok"},
		{"storage width", [2]int64{3, 3}, Format{Storage: Float32}, "lay out w: bnb: 5 packed bytes do not divide into float32 elements of 4 bytes"},
		{"empty", [2]int64{0, 8}, Format{}, "lay out w: bnb: shape [0 8] has no elements"},
		{"negative", [2]int64{-1, 8}, Format{}, "lay out w: bnb: shape [-1 8]: expected a product of non-negative sizes below 2^63"},
		{"negative beside zero", [2]int64{-1, 0}, Format{}, "expected a product of non-negative sizes"},
		{"overflow", [2]int64{math.MaxInt64, 2}, Format{}, "expected a product of non-negative sizes below 2^63"},
	} {
		_, err := c.format.Entries("w", c.shape)
		if c.want == "ok" {
			if err != nil {
				t.Errorf("%s %v: %v", c.name, c.shape, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
}

// TestSizes walks around every cutoff and checks the bits per parameter of a large tensor (QLoRA, section 3).
func TestSizes(t *testing.T) {
	for _, b := range []int{32, 64, 4096} {
		for _, n := range []int64{1, 2, int64(b) - 1, int64(b), int64(b) + 1, int64(b)*256 - 1, int64(b) * 256, int64(b)*256 + 1, math.MaxInt64} {
			s, err := Format{BlockSize: b}.Size(1, n)
			if err != nil {
				t.Fatal(err)
			}
			if s.Elems != n || 2*(s.Packed-1) >= n || s.Packed < n/2 || (s.Blocks-1)*int64(b) >= n || s.Blocks < n/int64(b) ||
				(s.Nested-1)*256 >= s.Blocks || s.Nested < s.Blocks/256 {
				t.Errorf("n=%d b=%d: %+v", n, b, s)
			}
		}
	}
	s, err := Format{}.Size(16384, 16384)
	if err != nil {
		t.Fatal(err)
	}
	if bits := float64(8*s.Data) / float64(s.Elems); bits != 4.126953125 || bits != (Format{}).BitsPerParameter() {
		t.Errorf("%v bits per parameter, want 4.126953125", bits)
	}
}

// TestFormatString: what String writes ParseFormat reads, for every format there is.
func TestFormatString(t *testing.T) {
	for _, typ := range []nf4.Type{nf4.NF4, nf4.FP4} {
		for block := 32; block <= 4096; block *= 2 {
			for _, no := range []bool{false, true} {
				want := Format{Type: typ, BlockSize: block, NoDoubleQuant: no}
				got, err := ParseFormat(want.String())
				if err != nil || got != want {
					t.Errorf("%s: read as %+v, %v", want, got, err)
				}
			}
		}
	}
	for text, want := range map[string]string{
		"nf4": "nf4,block=64,dq", "fp4, nodq": "fp4,block=64,nodq", "block=128,block=32": "nf4,block=32,dq", "scale=absmax": "nf4,block=64,dq",
	} {
		if got, err := ParseFormat(text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v (want %s)", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": `"" is none of nf4, fp4, block=N, dq, nodq, scale=METHOD`, "nf5": `"nf5" is none of`, "keep": `"keep" is none of`,
		"block=": `block size "" is not a number`, "block=0": "block size 0: want a power of two from 32 to 4096", "block=48": "block size 48",
		"storage=uint8": `"storage=uint8" is none of`, "scale=median": `scale "median": want absmax`, "dq,": `"" is none of`, "dq=1": `"dq=1" is none of`,
	} {
		if got, err := ParseFormat(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, error %v (want %q in it)", text, got, err, want)
		}
	}
}

// FuzzParseFormat: what is read survives being written and read again.
func FuzzParseFormat(f *testing.F) {
	for _, s := range []string{"nf4,block=32,nodq", "fp4,scale=absmax", "block=4096", " dq , fp4", "block=-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFormat(s)
		if err != nil {
			return
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("%q is read as %+v: %v", s, got, err)
		}
		again, err := ParseFormat(got.String())
		if err != nil || again.String() != got.String() {
			t.Fatalf("%q is %s, which is read as %s (%v)", s, got, again, err)
		}
	})
}
