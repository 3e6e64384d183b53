package measure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Kind is a way to store a weight in 4 or 8 bits. See the package comment for the definitions.
type Kind uint8

// The kinds.
const (
	NF4 Kind = iota
	FP4
	AF4
	Int4
	Int4Asym
	MXFP4
	NVFP4
	Int8
	FP8
	Dynamic8
	numKinds
)

// A scope is what one scale is of.
type scope uint8

const (
	perBlock scope = iota
	perRow
	perTensor
)

// traits are all that the code below knows of a kind: a further one is a row here and, where no other's does, a codec.
var traits = [numKinds]struct {
	name   string
	bits   int64 // of a code
	blocks bool  // takes any block size
	double bool  // takes double quantization
	fixed  int   // block size of the others; 0 for none
	scope  scope
	kept   bool  // the largest magnitudes of the blocks are kept from the first pass to the second
	zeros  []int // codes of the value 0; nil where values have to be asked
	codec
}{
	NF4:      {name: "nf4", bits: 4, blocks: true, double: true, kept: true, zeros: []int{7}, codec: scaled{kernel.NF4, 0}},
	FP4:      {name: "fp4", bits: 4, blocks: true, double: true, kept: true, zeros: []int{0, 8}, codec: scaled{kernel.FP4, 0}},
	AF4:      {name: "af4", bits: 4, blocks: true, double: true, kept: true, zeros: []int{7}, codec: scaled{kernel.AF4, bnb.StateSize}},
	Int4:     {name: "int4", bits: 4, blocks: true, double: true, kept: true, zeros: []int{7}, codec: scaled{kernel.Int4, bnb.StateSize + tableBytes}},
	Int4Asym: {name: "int4-asym", bits: 4, blocks: true, codec: plain{asymmetricBlocks, 4, 4, 0}},
	MXFP4:    {name: "mxfp4", bits: 4, fixed: 32, kept: true, zeros: []int{0, 8}, codec: e2m1{exponents, 0}},
	NVFP4:    {name: "nvfp4", bits: 4, fixed: 16, scope: perTensor, zeros: []int{0, 8}, codec: e2m1{smallFloats, 4}},
	Int8:     {name: "int8", bits: 8, scope: perRow, zeros: []int{0}, codec: plain{int8Rows, 4, 0, 0}},
	FP8:      {name: "fp8", bits: 8, scope: perTensor, zeros: []int{0, 0x80}, codec: plain{fp8Tensor, 4, 0, 0}},
	Dynamic8: {name: "dynamic8", bits: 8, fixed: 256, codec: plain{dynamicBlocks, 4, 0, dynamicBytes}},
}

// A codec is a way to code and decode.
type codec interface {
	// bytes is the storage of n elements under so many scales: of the constants, and of tables and records. size is what
	// bitsandbytes takes for as many.
	bytes(size bnb.Size, scales int64) (constants, tables int64)
	// measure codes a chunk in format i, which is f, and sums the errors.
	measure(c *chunk, i int, f Format)
}

// String is the name that flags and reports use.
func (k Kind) String() string {
	if k < numKinds {
		return traits[k].name
	}
	return fmt.Sprintf("measure.Kind(%d)", uint8(k))
}

// KindNames lists every kind.
func KindNames() []string {
	names := make([]string, numKinds)
	for k := range names {
		names[k] = traits[k].name
	}
	return names
}

// ParseKind is the inverse of String.
func ParseKind(s string) (Kind, error) {
	for k := range numKinds {
		if traits[k].name == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("format %q: want one of %s", s, strings.Join(KindNames(), ", "))
}

// A Format is a kind with its block size, 0 where it has none, and double quantization.
type Format struct {
	Kind        Kind
	BlockSize   int
	DoubleQuant bool
}

// fourBit is the format as bitsandbytes stores it, for the kinds that it has; for the others that share its scales,
// a format of the same sizes but for the tables.
func (f Format) fourBit() bnb.Format {
	out := bnb.Format{BlockSize: f.BlockSize, NoDoubleQuant: !f.DoubleQuant}
	if f.Kind == FP4 {
		out.Type = nf4.FP4
	}
	return out
}

// String is the format in the syntax of convert's --rule, as far as that goes: "nf4,block=64,dq".
func (f Format) String() string {
	switch {
	case f.Kind >= numKinds || f.BlockSize == 0:
		return f.Kind.String()
	case !traits[f.Kind].double:
		return fmt.Sprintf("%s,block=%d", f.Kind, f.BlockSize)
	}
	s := f.fourBit()
	return f.Kind.String() + strings.TrimPrefix(s.String(), s.Type.String())
}

// Validate reports a format that does not exist.
func (f Format) Validate() error {
	if f.Kind >= numKinds {
		return fmt.Errorf("format: unknown kind %d", f.Kind)
	}
	t := traits[f.Kind]
	switch {
	case t.blocks && (f.BlockSize < 32 || f.BlockSize > 4096 || f.BlockSize&(f.BlockSize-1) != 0):
		return fmt.Errorf("format %s: block size %d: want a power of two from 32 to 4096", f.Kind, f.BlockSize)
	case !t.blocks && f.BlockSize != t.fixed:
		return fmt.Errorf("format %s: block size %d: want %d", f.Kind, f.BlockSize, t.fixed)
	case f.DoubleQuant && !t.double:
		return fmt.Errorf("format %s: has no double quantization", f.Kind)
	}
	return nil
}

// Grid combines kinds, block sizes and double quantization, each format once, in the order of the kinds. Kinds that do
// not take a block size or double quantization appear once.
func Grid(kinds []Kind, blockSizes []int, double []bool) ([]Format, error) {
	var out []Format
	add := func(f Format) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	for _, k := range kinds {
		if k >= numKinds {
			return nil, fmt.Errorf("format: unknown kind %d", k)
		}
		t := traits[k]
		if !t.blocks {
			add(Format{Kind: k, BlockSize: t.fixed})
			continue
		}
		for _, b := range blockSizes {
			for _, dq := range double {
				f := Format{Kind: k, BlockSize: b, DoubleQuant: dq && t.double}
				if err := f.Validate(); err != nil {
					return nil, err
				}
				add(f)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("formats: want at least one")
	}
	return out, nil
}

const (
	tableBytes   = 4 * bnb.CodeCount       // of a 4-bit code table in float32
	dynamicBytes = 4 * bnb.NestedCodeCount // of the dynamic map
)

// Bytes is the storage of a tensor of that shape, exactly: codes and constants, and in all, with the tables and records
// that a file needs for each tensor. nf4 and fp4 are counted as bitsandbytes files store them.
func (f Format) Bytes(shape []int64) (codes, all int64) {
	size, err := f.fourBit().Size(shape...)
	if err != nil {
		return 0, 0 // no elements: headers hold no other shape that Size refuses
	}
	t, scales := traits[f.Kind], int64(1)
	switch {
	case t.scope == perRow:
		scales = size.Elems / shape[len(shape)-1]
	case f.BlockSize > 0:
		scales = (size.Elems + int64(f.BlockSize) - 1) / int64(f.BlockSize)
	}
	constants, tables := t.bytes(size, scales)
	codes = (size.Elems*t.bits+7)/8 + constants
	return codes, codes + tables
}

// Points are the values of a 4-bit code over the largest magnitude of a block, ascending; nil for other codes and for
// those whose points move with the block.
func Points(k Kind) []float64 {
	t, ok := traits[k].codec.(scaled)
	if !ok {
		return nil
	}
	var v []float64
	table := kernel.Values(t.t)
	for _, c := range kernel.Order(t.t) {
		if x := float64(table[c]); x <= 1 { // int4 has 15 values
			v = append(v, x)
		}
	}
	return slices.Compact(v)
}
