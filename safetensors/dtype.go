package safetensors

import (
	"fmt"
	"strings"
)

// DType is the element type of a tensor.
//
// The values are in the order of the reference implementation's enum
// (huggingface/safetensors, safetensors/src/tensor.rs, enum Dtype), because
// that order, descending, is the primary order of tensors in a file.
type DType uint8

// The element types of the format. All are little-endian. F4 and the two F6
// types pack elements without padding; F4 counts single elements, not pairs.
const (
	BOOL        DType = iota // one byte, 0 or 1
	F4                       // OCP MX float, 4 bits (E2M1)
	F6_E2M3                  // OCP MX float, 6 bits
	F6_E3M2                  // OCP MX float, 6 bits
	U8                       // unsigned integer
	I8                       // signed integer
	F8_E5M2                  // FP8, arXiv 2209.05433
	F8_E4M3                  // FP8, arXiv 2209.05433
	F8_E8M0                  // OCP MX scale, an exponent alone
	F8_E4M3FNUZ              // FP8, arXiv 2206.02915
	F8_E5M2FNUZ              // FP8, arXiv 2206.02915
	I16                      // signed integer
	U16                      // unsigned integer
	F16                      // IEEE 754 binary16
	BF16                     // the upper half of an IEEE 754 binary32
	I32                      // signed integer
	U32                      // unsigned integer
	F32                      // IEEE 754 binary32
	C64                      // complex, two F32
	F64                      // IEEE 754 binary64
	I64                      // signed integer
	U64                      // unsigned integer

	numDTypes = iota
)

// dtypes holds, by DType, the name in a header and the width in bits.
var dtypes = [numDTypes]struct {
	name string
	bits uint8
}{
	BOOL:        {"BOOL", 8},
	F4:          {"F4", 4},
	F6_E2M3:     {"F6_E2M3", 6},
	F6_E3M2:     {"F6_E3M2", 6},
	U8:          {"U8", 8},
	I8:          {"I8", 8},
	F8_E5M2:     {"F8_E5M2", 8},
	F8_E4M3:     {"F8_E4M3", 8},
	F8_E8M0:     {"F8_E8M0", 8},
	F8_E4M3FNUZ: {"F8_E4M3FNUZ", 8},
	F8_E5M2FNUZ: {"F8_E5M2FNUZ", 8},
	I16:         {"I16", 16},
	U16:         {"U16", 16},
	F16:         {"F16", 16},
	BF16:        {"BF16", 16},
	I32:         {"I32", 32},
	U32:         {"U32", 32},
	F32:         {"F32", 32},
	C64:         {"C64", 64},
	F64:         {"F64", 64},
	I64:         {"I64", 64},
	U64:         {"U64", 64},
}

var dtypeByName = func() map[string]DType {
	m := make(map[string]DType, numDTypes)
	for d, t := range dtypes {
		m[t.name] = DType(d)
	}
	return m
}()

// knownDTypes lists every name, for error texts.
var knownDTypes = func() string {
	names := make([]string, numDTypes)
	for d, t := range dtypes {
		names[d] = t.name
	}
	return strings.Join(names, " ")
}()

// ParseDType returns the type whose name in a header is s. Case matters, as it
// does to the reference. The error is an [*UnsupportedError].
func ParseDType(s string) (DType, error) {
	d, ok := dtypeByName[s]
	if !ok {
		return 0, &UnsupportedError{DType: s}
	}
	return d, nil
}

// String returns the name of d in a header, such as "BF16".
func (d DType) String() string {
	if !d.valid() {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Bits returns the width of one element in bits, 4 to 64, or 0 if d is none of
// the constants.
func (d DType) Bits() int {
	if !d.valid() {
		return 0
	}
	return int(dtypes[d].bits)
}

func (d DType) valid() bool { return d < numDTypes }
