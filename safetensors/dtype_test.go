package safetensors

import (
	"errors"
	"strings"
	"testing"
)

func TestDType(t *testing.T) {
	// The names in the order of the reference's enum Dtype, with its bitsize.
	want := "BOOL 8,F4 4,F6_E2M3 6,F6_E3M2 6,U8 8,I8 8,F8_E5M2 8,F8_E4M3 8,F8_E8M0 8,F8_E4M3FNUZ 8,F8_E5M2FNUZ 8," +
		"I16 16,U16 16,F16 16,BF16 16,I32 32,U32 32,F32 32,C64 64,F64 64,I64 64,U64 64"
	widths := map[string]int{"4": 4, "6": 6, "8": 8, "16": 16, "32": 32, "64": 64}
	rows := strings.Split(want, ",")
	if len(rows) != numDTypes {
		t.Fatalf("%d types, want %d", numDTypes, len(rows))
	}
	for i, row := range rows {
		name, width, _ := strings.Cut(row, " ")
		d := DType(i)
		if d.String() != name || d.Bits() != widths[width] {
			t.Errorf("DType %d is %v of %d bits, want %s", i, d, d.Bits(), row)
		}
		if got, err := ParseDType(name); got != d || err != nil {
			t.Errorf("ParseDType(%q) = %v, %v", name, got, err)
		}
	}
}

func TestDTypeUnknown(t *testing.T) {
	for _, s := range []string{"", "f32", "F32 ", "F128", "float32", "DType(3)"} {
		_, err := ParseDType(s)
		ue, ok := errors.AsType[*UnsupportedError](err)
		if !ok || ue.DType != s || ue.Tensor != "" {
			t.Errorf("ParseDType(%q) gives error %#v", s, err)
		}
	}
	if d := DType(numDTypes); d.Bits() != 0 || d.String() != "DType(22)" {
		t.Errorf("type beyond the last is %v of %d bits", d, d.Bits())
	}
}
