package bnb

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Storage is the dtype that packed codes are labelled with, bnb_4bit_quant_storage. The bytes are the same for each.
type Storage uint8

// The storages that bitsandbytes takes. UInt8 is the one that every loader reads; FSDP shards only what has the dtype
// of the other weights.
const (
	UInt8 Storage = iota
	BFloat16
	Float16
	Float32
	numStorages
)

var storages = [numStorages]struct {
	name  string
	dtype safetensors.DType
}{
	UInt8:    {"uint8", safetensors.U8},
	BFloat16: {"bfloat16", safetensors.BF16},
	Float16:  {"float16", safetensors.F16},
	Float32:  {"float32", safetensors.F32},
}

// String returns torch's name of the dtype, as quantization_config spells it.
func (s Storage) String() string {
	if s < numStorages {
		return storages[s].name
	}
	return fmt.Sprintf("bnb.Storage(%d)", uint8(s))
}

// DType returns the dtype in a safetensors header.
func (s Storage) DType() safetensors.DType {
	if s < numStorages {
		return storages[s].dtype
	}
	return safetensors.U8
}

// ParseStorage is the inverse of String.
func ParseStorage(name string) (Storage, error) {
	for s := range numStorages {
		if storages[s].name == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("bnb: quant storage %q: want uint8, bfloat16, float16 or float32", name)
}

// StorageOf returns the storage of packed codes that have this dtype in a file. ok is false for a dtype that
// bitsandbytes does not pack into.
func StorageOf(d safetensors.DType) (s Storage, ok bool) {
	for s := range numStorages {
		if storages[s].dtype == d {
			return s, true
		}
	}
	return 0, false
}

// Scale is the way in which the scale of a block was chosen. It changes what the numbers are, and nothing about where
// they lie or how they are decoded.
type Scale uint8

// AbsMax is the largest magnitude of the block, as bitsandbytes itself chooses. The others choose by the error that is
// left, and the codes by the scale as it is decoded: MSE a positive scale, MSESigned one of either sign. MSEColumns is MSESigned with errors
// weighted by the energy of the weight's own columns where the inputs are not known. Feedback is MSESigned with codes that make up for what the codes before in a row did to the layer's output.
const (
	AbsMax Scale = iota
	MSE
	MSESigned
	MSEColumns
	Feedback
	numScales
)

var scaleNames = [numScales]string{AbsMax: "absmax", MSE: "mse", MSESigned: "mse-signed", MSEColumns: "mse-columns", Feedback: "feedback"}

// String returns the name of the method, such as "absmax".
func (s Scale) String() string {
	if s < numScales {
		return scaleNames[s]
	}
	return fmt.Sprintf("bnb.Scale(%d)", uint8(s))
}

// ParseScale is the inverse of String.
func ParseScale(name string) (Scale, error) {
	if i := slices.Index(scaleNames[:], name); i >= 0 {
		return Scale(i), nil
	}
	return 0, fmt.Errorf("bnb: scale %q: want %s", name, strings.Join(scaleNames[:], " or "))
}

// A Format says how one weight is stored in 4 bits. The zero value is what QLoRA trains on (arXiv 2305.14314): NF4 in
// blocks of 64, with double quantization.
type Format struct {
	Type          nf4.Type
	BlockSize     int // weights that share a scale, see nf4.Config; 0 is nf4.DefaultBlockSize
	NoDoubleQuant bool
	Storage       Storage
	Scale         Scale
}

// Validate reports the first field that bitsandbytes would not take.
func (f Format) Validate() error {
	if err := f.Config().Validate(); err != nil {
		return err
	}
	if f.Storage >= numStorages {
		return fmt.Errorf("bnb: unknown quant storage %v", f.Storage)
	}
	if f.Scale >= numScales {
		return fmt.Errorf("bnb: unknown scale %v", f.Scale)
	}
	return nil
}

// Config is the part of the format that package nf4 deals with. Its BlockSize is never 0.
func (f Format) Config() nf4.Config { return nf4.Config{Type: f.Type, BlockSize: f.Block()} }

// Block is BlockSize with 0 replaced by the default.
func (f Format) Block() int {
	if f.BlockSize == 0 {
		return nf4.DefaultBlockSize
	}
	return f.BlockSize
}

// String returns the format as [ParseFormat] takes it: "nf4,block=64,dq". Scales by absmax, which is what everyone has,
// go without saying, and so does Storage: it changes no number, and is one for all weights of a checkpoint.
func (f Format) String() string {
	var b strings.Builder
	dq := "dq"
	if f.NoDoubleQuant {
		dq = "nodq"
	}
	fmt.Fprintf(&b, "%v,block=%d,%s", f.Type, f.Block(), dq)
	if f.Scale != AbsMax {
		fmt.Fprintf(&b, ",scale=%v", f.Scale)
	}
	return b.String()
}

// ParseFormat reads a comma-separated list of nf4 or fp4, block=N, dq or nodq, and scale=METHOD, in any order. What is
// not said is as in the zero Format.
func ParseFormat(s string) (Format, error) {
	c, err := ParseChange(s)
	if err != nil {
		return Format{}, err
	}
	return c.Apply(Format{}), nil
}

// A Change is a part of a Format: the fields that are not nil.
type Change struct {
	Type        *nf4.Type
	BlockSize   *int
	DoubleQuant *bool
	Scale       *Scale
}

// ParseChange reads what [ParseFormat] reads. Fields that are not said stay nil; of those said twice the last counts.
func ParseChange(s string) (Change, error) {
	var c Change
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch {
		case key == "block":
			c.BlockSize, err = set(parseBlockSize(value))
		case key == "scale":
			c.Scale, err = set(ParseScale(value))
		case part == "dq" || part == "nodq":
			c.DoubleQuant, err = set(part == "dq", nil)
		default:
			c.Type, err = set(nf4.ParseType(part))
			if err != nil {
				err = fmt.Errorf("%q is none of nf4, fp4, block=N, dq, nodq, scale=METHOD", part)
			}
		}
		if err != nil {
			return Change{}, err
		}
	}
	return c, nil
}

func set[T any](v T, err error) (*T, error) { return &v, err }

func parseBlockSize(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("block size %q is not a number", s)
	}
	if n == 0 || (nf4.Config{BlockSize: n}).Validate() != nil {
		return 0, fmt.Errorf("block size %d: want a power of two from 32 to 4096", n)
	}
	return n, nil
}

// Apply returns f with the fields of c that are not nil.
func (c Change) Apply(f Format) Format {
	if c.Type != nil {
		f.Type = *c.Type
	}
	if c.BlockSize != nil {
		f.BlockSize = *c.BlockSize
	}
	if c.DoubleQuant != nil {
		f.NoDoubleQuant = !*c.DoubleQuant
	}
	if c.Scale != nil {
		f.Scale = *c.Scale
	}
	return f
}

// Size is what the tensors of one quantized weight take.
type Size struct {
	Elems  int64 // logical elements n
	Packed int64 // bytes of codes, (n+1)/2
	Blocks int64 // scales, ceil(n/B)
	Nested int64 // second-level scales, ceil(Blocks/256); 0 without double quantization

	Data  int64 // bytes of codes and constants: what the bits per parameter of a format are about
	Total int64 // bytes of all tensors: Data, the tables and the quant_state record
}

// Size computes what a weight of the given shape takes. It is an error if the shape is negative, empty or overflows.
func (f Format) Size(shape ...int64) (Size, error) { return f.size(shape, NestedBlockSize) }

func (f Format) size(shape []int64, nestedBlock int64) (Size, error) {
	n, err := product(shape)
	if err != nil {
		return Size{}, err
	}
	if n == 0 {
		return Size{}, fmt.Errorf("bnb: shape %v has no elements", shape)
	}
	s := Size{Elems: n, Packed: n/2 + n%2, Blocks: ceilDiv(n, int64(f.Block()))}
	tables := int64(4 * CodeCount)
	if f.NoDoubleQuant {
		s.Data = s.Packed + 4*s.Blocks
	} else {
		s.Nested = ceilDiv(s.Blocks, nestedBlock)
		s.Data = s.Packed + s.Blocks + 4*s.Nested
		tables += 4 * NestedCodeCount
	}
	s.Total = s.Data + tables + StateSize
	return s, nil
}

// BitsPerParameter is what a parameter of a large weight takes, tables and record aside: 4 bits and the share of a
// float32 scale, 4.5 in blocks of 64; with double quantization, of an 8-bit scale and its share of a float32, 4.127.
func (f Format) BitsPerParameter() float64 { return f.bits(NestedBlockSize) }

func (f Format) bits(nestedBlock int) float64 {
	b := float64(f.Block())
	if f.NoDoubleQuant {
		return 4 + 32/b
	}
	return 4 + 8/b + 32/(b*float64(nestedBlock))
}

// Entries lists the tensors that store a weight of logical shape [out, in], the weight first and the quant_state
// record last. It fails on a Format that Validate refuses, on a shape that Size refuses, and on a packed length that
// the storage's width does not divide (bitsandbytes raises there too).
func (f Format) Entries(weight string, shape [2]int64) ([]safetensors.Entry, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	s, err := f.Size(shape[:]...)
	if err != nil {
		return nil, fmt.Errorf("lay out %s: %w", weight, err)
	}
	width := int64(f.Storage.DType().Bits() / 8)
	if s.Packed%width != 0 {
		return nil, fmt.Errorf("lay out %s: bnb: %d packed bytes do not divide into %v elements of %d bytes",
			weight, s.Packed, f.Storage, width)
	}
	names := f.Names(weight)
	entries := []safetensors.Entry{
		{Name: names.Weight, DType: f.Storage.DType(), Shape: []int64{s.Packed / width, 1}},
		{Name: names.Absmax, DType: safetensors.U8, Shape: []int64{s.Blocks}},
		{Name: names.QuantMap, DType: safetensors.F32, Shape: []int64{CodeCount}},
	}
	if f.NoDoubleQuant {
		entries[1].DType = safetensors.F32
	} else {
		entries = append(entries,
			safetensors.Entry{Name: names.NestedAbsmax, DType: safetensors.F32, Shape: []int64{s.Nested}},
			safetensors.Entry{Name: names.NestedQuantMap, DType: safetensors.F32, Shape: []int64{NestedCodeCount}})
	}
	return append(entries,
		safetensors.Entry{Name: names.QuantState, DType: safetensors.U8, Shape: []int64{StateSize}}), nil
}

func ceilDiv(a, b int64) int64 { return a/b + min(a%b, 1) }

// product multiplies dimensions, refusing negative ones and results over 2^63-1.
func product(shape []int64) (int64, error) {
	if slices.Contains(shape, 0) && !slices.ContainsFunc(shape, func(d int64) bool { return d < 0 }) {
		return 0, nil
	}
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > math.MaxInt64/n {
			return 0, fmt.Errorf("bnb: shape %v: expected a product of non-negative sizes below 2^63", shape)
		}
		n *= d
	}
	return n, nil
}
