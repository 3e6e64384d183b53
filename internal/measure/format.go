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

// traits are what the code below branches on.
var traits = [numKinds]struct {
	name   string
	blocks bool // takes any block size
	double bool // takes double quantization
	fixed  int  // block size of the others; 0 for none
}{
	NF4:      {name: "nf4", blocks: true, double: true},
	FP4:      {name: "fp4", blocks: true, double: true},
	AF4:      {name: "af4", blocks: true, double: true},
	Int4:     {name: "int4", blocks: true, double: true},
	Int4Asym: {name: "int4-asym", blocks: true},
	MXFP4:    {name: "mxfp4", fixed: 32},
	NVFP4:    {name: "nvfp4", fixed: 16},
	Int8:     {name: "int8"},
	FP8:      {name: "fp8"},
	Dynamic8: {name: "dynamic8", fixed: 256},
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

// bits of a code.
func (f Format) codeBits() int64 {
	if f.Kind >= Int8 {
		return 8
	}
	return 4
}

const (
	tableBytes    = 4 * bnb.CodeCount       // of a 4-bit code table in float32
	dynamicBytes  = 4 * bnb.NestedCodeCount // of the dynamic map
	rowScaleBytes = 4
)

// Bytes is the storage of a tensor of that shape, exactly: codes and constants, and in all, with the tables and records
// that a file needs for each tensor. nf4 and fp4 are counted as bitsandbytes files store them.
func (f Format) Bytes(shape []int64) (codes, all int64) {
	size, err := f.fourBit().Size(shape...)
	if err != nil {
		return 0, 0 // no elements: headers hold no other shape that Size refuses
	}
	n := size.Elems
	blocks := int64(1)
	if f.BlockSize > 0 {
		blocks = (n + int64(f.BlockSize) - 1) / int64(f.BlockSize)
	}
	codes = (n*f.codeBits() + 7) / 8
	switch f.Kind {
	case NF4, FP4:
		return size.Data, size.Total
	case AF4:
		return size.Data, size.Total - bnb.StateSize
	case Int4: // its values need no table
		return size.Data, size.Total - bnb.StateSize - tableBytes
	case Int4Asym:
		codes += 4*blocks + (blocks+1)/2
	case MXFP4:
		codes += blocks
	case NVFP4:
		codes += blocks + 4
	case Int8:
		codes += rowScaleBytes * (n / shape[len(shape)-1])
	case FP8:
		codes += 4
	case Dynamic8:
		codes += 4 * blocks
		return codes, codes + dynamicBytes
	}
	return codes, codes
}

// ParseFormat is the inverse of String.
func ParseFormat(s string) (Format, error) {
	name, rest, _ := strings.Cut(s, ",")
	k, err := ParseKind(name)
	if err != nil {
		return Format{}, err
	}
	f := Format{Kind: k, BlockSize: traits[k].fixed}
	if rest == "" {
		return f, f.Validate()
	}
	c, err := bnb.ParseChange(rest)
	if err != nil || c.Type != nil || c.Scale != nil {
		return Format{}, fmt.Errorf("format %q: %q: want a list of block=N, dq, nodq", s, rest)
	}
	if c.BlockSize != nil {
		f.BlockSize = *c.BlockSize
	}
	f.DoubleQuant = c.DoubleQuant != nil && *c.DoubleQuant
	return f, f.Validate()
}

// Points are the values of a 4-bit code over the largest magnitude of a block, ascending; nil for other codes and for
// those whose points move with the block.
func Points(k Kind) []float64 {
	t, ok := k.kernel()
	if !ok {
		return nil
	}
	var v []float64
	table := kernel.Values(t)
	for _, c := range kernel.Order(t) {
		if x := float64(table[c]); x <= 1 { // int4 has 15 values
			v = append(v, x)
		}
	}
	return slices.Compact(v)
}

// kernel is the type of the kernels that code k, if there is one.
func (k Kind) kernel() (t kernel.Type, ok bool) {
	switch k {
	case NF4:
		return kernel.NF4, true
	case FP4:
		return kernel.FP4, true
	case AF4:
		return kernel.AF4, true
	case Int4:
		return kernel.Int4, true
	}
	return 0, false
}
