package bnb

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

func TestEntries(t *testing.T) {
	u8, f32, bf16 := safetensors.U8, safetensors.F32, safetensors.BF16
	for _, c := range []struct {
		name  string
		shape [2]int64
		cfg   Config
		want  []safetensors.Entry
	}{
		{"double quantization", [2]int64{128, 192}, Config{DoubleQuant: true}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{12288, 1}},
			{Name: "w.absmax", DType: u8, Shape: []int64{384}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.nested_absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.nested_quant_map", DType: f32, Shape: []int64{256}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"zero value", [2]int64{128, 192}, Config{}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{12288, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{384}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"odd count", [2]int64{3, 5}, Config{Type: FP4}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{8, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{1}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__fp4", DType: u8, Shape: []int64{256}}}},
		{"one more than a block of scales", [2]int64{1, 64*256 + 1}, Config{DoubleQuant: true, Storage: u8}, []safetensors.Entry{
			{Name: "w", DType: u8, Shape: []int64{8193, 1}},
			{Name: "w.absmax", DType: u8, Shape: []int64{257}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.nested_absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.nested_quant_map", DType: f32, Shape: []int64{256}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
		{"storage", [2]int64{8, 32}, Config{Storage: bf16, BlockSize: 128}, []safetensors.Entry{
			{Name: "w", DType: bf16, Shape: []int64{64, 1}},
			{Name: "w.absmax", DType: f32, Shape: []int64{2}},
			{Name: "w.quant_map", DType: f32, Shape: []int64{16}},
			{Name: "w.quant_state.bitsandbytes__nf4", DType: u8, Shape: []int64{256}}}},
	} {
		got, err := Entries("w", c.shape, c.cfg)
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
		name  string
		shape [2]int64
		cfg   Config
		want  string
	}{
		{"type", [2]int64{8, 8}, Config{Type: "int4"}, `bnb: quant type: expected nf4 or fp4, found "int4"`},
		{"block size", [2]int64{8, 8}, Config{BlockSize: 16}, "bnb: block size: expected a power of two from 32 to 4096, found 16"},
		{"block size", [2]int64{8, 8}, Config{BlockSize: -64}, "found -64"},
		{"block size", [2]int64{8, 8}, Config{BlockSize: 8192}, "found 8192"},
		{"dtype", [2]int64{8, 8}, Config{DType: "torch.float16"}, `bnb: dtype: expected bfloat16, float16 or float32, found "torch.float16"`},
		{"storage dtype", [2]int64{8, 8}, Config{Storage: safetensors.I8}, "bnb: storage: expected U8, BF16, F16 or F32, found I8"},
		{"storage width", [2]int64{3, 5}, Config{Storage: safetensors.F32}, "ok"},
		{"storage width", [2]int64{3, 3}, Config{Storage: safetensors.F32}, "lay out w: bnb: 5 packed bytes do not divide into F32 elements of 4 bytes"},
		{"empty", [2]int64{0, 8}, Config{}, "lay out w: bnb: shape [0 8] has no elements"},
		{"negative", [2]int64{-1, 8}, Config{}, "lay out w: bnb: shape [-1 8]: expected a product of non-negative sizes below 2^63"},
		{"negative beside zero", [2]int64{-1, 0}, Config{}, "expected a product of non-negative sizes"},
		{"overflow", [2]int64{math.MaxInt64, 2}, Config{}, "expected a product of non-negative sizes below 2^63"},
	} {
		_, err := Entries("w", c.shape, c.cfg)
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
			s, err := SizesOf([2]int64{1, n}, Config{BlockSize: b, DoubleQuant: true})
			if err != nil {
				t.Fatal(err)
			}
			if s.Elems != n || 2*(s.Packed-1) >= n || s.Packed < n/2 || (s.Blocks-1)*int64(b) >= n || s.Blocks < n/int64(b) ||
				(s.Nested-1)*256 >= s.Blocks || s.Nested < s.Blocks/256 {
				t.Errorf("n=%d b=%d: %+v", n, b, s)
			}
		}
	}
	s, err := SizesOf([2]int64{16384, 16384}, Config{DoubleQuant: true})
	if err != nil {
		t.Fatal(err)
	}
	if bits := float64(8*(s.Packed+s.Blocks+4*s.Nested)) / float64(s.Elems); bits != 4.126953125 {
		t.Errorf("%v bits per parameter, want 4.126953125", bits)
	}
}
