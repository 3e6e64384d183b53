// Package bnb is the on-disk convention of bitsandbytes for 4-bit weights: the names, shapes and dtypes of the
// tensors that stand for one quantized weight, the quant_state record beside them, and the quantization_config
// object in config.json. It decides nothing about numbers (packages nf4 and doublequant do that) and touches no
// directory (package checkpoint does).
//
// A weight W of logical shape [out, in] with n = out*in elements, block size B and nb = ceil(n/B) blocks is stored as
//
//	W                                      U8   [(n+1)/2, 1]     two codes a byte, first element in the high nibble
//	W.absmax                               U8   [nb]             double quantization; F32 [nb] without
//	W.quant_map                            F32  [16]             the code table
//	W.nested_absmax                        F32  [ceil(nb/256)]   double quantization only
//	W.nested_quant_map                     F32  [256]            double quantization only
//	W.quant_state.bitsandbytes__nf4|fp4    U8   [256]            JSON padded with spaces
//
// Source: bitsandbytes/functional.py (QuantState.as_dict, from_dict) and bitsandbytes/utils.py
// (pack_dict_to_tensor), version 0.50.2. bitsandbytes itself does not pad the record; a reader must take any length.
package bnb

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// The spellings of the two 4-bit types, in quant_type, in bnb_4bit_quant_type and after "bitsandbytes__".
const (
	NF4 = "nf4"
	FP4 = "fp4"
)

const (
	// DefaultBlockSize is the one block size every loader takes.
	DefaultBlockSize = 64
	// NestedBlockSize is the only block size of the second level that bitsandbytes 0.50 multiplies with
	// (bitsandbytes/autograd/_functions.py, matmul_4bit).
	NestedBlockSize = 256
	// CodeCount and NestedCodeCount are the lengths of the two stored tables.
	CodeCount       = 16
	NestedCodeCount = 256
	// StateSize is the length of every quant_state record this package writes. A fixed length is what lets a
	// writer know each byte's place before it has computed a single scale.
	StateSize = 256
)

// Config says how a weight is stored. The zero value is NF4, block size 64, no double quantization, bfloat16, U8.
type Config struct {
	Type        string            // NF4 or FP4; "" is NF4
	BlockSize   int               // elements per scale; 0 is DefaultBlockSize
	DoubleQuant bool              // scales as 8-bit codes of blocks of 256
	DType       string            // dtype the weight decodes to: "bfloat16", "float16" or "float32"; "" is "bfloat16"
	Storage     safetensors.DType // dtype the packed bytes are labelled with: U8, BF16, F16 or F32; zero is U8
}

// Validate reports the first field that bitsandbytes would not take.
func (c Config) Validate() error {
	c = c.withDefaults()
	if !validType(c.Type) {
		return fmt.Errorf("bnb: quant type: expected nf4 or fp4, found %q", c.Type)
	}
	if !validBlockSize(int64(c.BlockSize)) {
		return fmt.Errorf("bnb: block size: expected a power of two from 32 to 4096, found %d", c.BlockSize)
	}
	if !validDType(c.DType) {
		return fmt.Errorf("bnb: dtype: expected bfloat16, float16 or float32, found %q", c.DType)
	}
	if StorageWidth(c.Storage) == 0 {
		return fmt.Errorf("bnb: storage: expected U8, BF16, F16 or F32, found %v", c.Storage)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Type == "" {
		c.Type = NF4
	}
	if c.BlockSize == 0 {
		c.BlockSize = DefaultBlockSize
	}
	if c.DType == "" {
		c.DType = "bfloat16"
	}
	if c.Storage == noDType {
		c.Storage = safetensors.U8
	}
	return c
}

func validType(t string) bool { return t == NF4 || t == FP4 }

// validBlockSize: bitsandbytes/functional.py, dequantize_4bit.
func validBlockSize(b int64) bool { return b >= 32 && b <= 4096 && b&(b-1) == 0 }

func validDType(d string) bool { return d == "bfloat16" || d == "float16" || d == "float32" }

// StorageWidth is the width of a quant_storage dtype in bytes, 0 for one that is not allowed.
func StorageWidth(d safetensors.DType) int64 {
	switch d {
	case safetensors.U8:
		return 1
	case safetensors.BF16, safetensors.F16:
		return 2
	case safetensors.F32:
		return 4
	}
	return 0
}

// StorageName is the spelling of a storage dtype in bnb_4bit_quant_storage, "" for one that is not allowed there.
func StorageName(d safetensors.DType) string {
	switch d {
	case noDType, safetensors.U8:
		return "uint8"
	case safetensors.BF16:
		return "bfloat16"
	case safetensors.F16:
		return "float16"
	case safetensors.F32:
		return "float32"
	}
	return ""
}

// Names are the tensor names of one quantized weight.
type Names struct {
	Weight, Absmax, QuantMap, NestedAbsmax, NestedQuantMap, QuantState string
}

// NamesOf returns the names that belong to weight (a full tensor name, usually ending in ".weight").
func NamesOf(weight, quantType string) Names {
	return Names{
		Weight:         weight,
		Absmax:         weight + suffixAbsmax,
		QuantMap:       weight + suffixQuantMap,
		NestedAbsmax:   weight + suffixNestedAbsmax,
		NestedQuantMap: weight + suffixNestedQuantMap,
		QuantState:     weight + suffixQuantState + StatePrefix + quantType,
	}
}

const (
	suffixAbsmax         = ".absmax"
	suffixQuantMap       = ".quant_map"
	suffixNestedAbsmax   = ".nested_absmax"
	suffixNestedQuantMap = ".nested_quant_map"
	suffixQuantState     = ".quant_state."

	// StatePrefix is what stands before the 4-bit type in the name of a quant_state record.
	StatePrefix = "bitsandbytes__"
)

// SidecarOf splits the name of a sidecar from that of its weight. ok is false for any other name.
func SidecarOf(name string) (weight string, ok bool) {
	if i := strings.LastIndex(name, suffixQuantState); i > 0 && !strings.Contains(name[i+len(suffixQuantState):], ".") {
		return name[:i], true
	}
	for _, s := range []string{suffixAbsmax, suffixQuantMap, suffixNestedAbsmax, suffixNestedQuantMap} {
		if base, ok := strings.CutSuffix(name, s); ok && base != "" {
			return base, true
		}
	}
	return "", false
}

// Sizes are the element counts of the tensors of one quantized weight.
type Sizes struct {
	Elems  int64 // logical elements n
	Packed int64 // bytes of codes, (n+1)/2
	Blocks int64 // scales, ceil(n/B)
	Nested int64 // second-level scales, ceil(Blocks/256); 0 without double quantization
}

// SizesOf computes the counts for a weight of the given logical shape.
func SizesOf(shape [2]int64, cfg Config) (Sizes, error) {
	cfg = cfg.withDefaults()
	n, err := product(shape[:])
	if err != nil {
		return Sizes{}, err
	}
	if n == 0 {
		return Sizes{}, fmt.Errorf("bnb: shape %v has no elements", shape)
	}
	s := Sizes{Elems: n, Packed: n/2 + n%2, Blocks: ceilDiv(n, int64(cfg.BlockSize))}
	if cfg.DoubleQuant {
		s.Nested = ceilDiv(s.Blocks, NestedBlockSize)
	}
	return s, nil
}

// Entries lists the tensors that store a weight of logical shape [out, in], the weight first and the quant_state
// record last. It fails on a Config that Validate refuses, on a shape that is empty or overflows, and on a packed
// length that Storage's width does not divide (bitsandbytes raises there too).
func Entries(weight string, shape [2]int64, cfg Config) ([]safetensors.Entry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s, err := SizesOf(shape, cfg)
	if err != nil {
		return nil, fmt.Errorf("lay out %s: %w", weight, err)
	}
	width := StorageWidth(cfg.Storage)
	if s.Packed%width != 0 {
		return nil, fmt.Errorf("lay out %s: bnb: %d packed bytes do not divide into %v elements of %d bytes",
			weight, s.Packed, cfg.Storage, width)
	}
	names := NamesOf(weight, cfg.Type)
	absmax := safetensors.F32
	if cfg.DoubleQuant {
		absmax = safetensors.U8
	}
	entries := []safetensors.Entry{
		{Name: names.Weight, DType: cfg.Storage, Shape: []int64{s.Packed / width, 1}},
		{Name: names.Absmax, DType: absmax, Shape: []int64{s.Blocks}},
		{Name: names.QuantMap, DType: safetensors.F32, Shape: []int64{CodeCount}},
	}
	if cfg.DoubleQuant {
		entries = append(entries,
			safetensors.Entry{Name: names.NestedAbsmax, DType: safetensors.F32, Shape: []int64{s.Nested}},
			safetensors.Entry{Name: names.NestedQuantMap, DType: safetensors.F32, Shape: []int64{NestedCodeCount}})
	}
	return append(entries,
		safetensors.Entry{Name: names.QuantState, DType: safetensors.U8, Shape: []int64{StateSize}}), nil
}

// noDType is the zero value of safetensors.DType, which stands for "not set" in Config: nobody packs codes as BOOL.
const noDType = safetensors.BOOL

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
