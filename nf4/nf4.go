package nf4

import (
	"fmt"
	"math"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// Type is a 4-bit data type.
type Type uint8

// NF4 is the type to use; FP4 is there to read and to compare with.
const (
	NF4 Type = iota
	FP4
)

// String returns bitsandbytes' name of the type, "nf4" or "fp4".
func (t Type) String() string {
	switch t {
	case NF4:
		return "nf4"
	case FP4:
		return "fp4"
	}
	return fmt.Sprintf("nf4.Type(%d)", uint8(t))
}

// ParseType is the inverse of String.
func ParseType(s string) (Type, error) {
	switch s {
	case "nf4":
		return NF4, nil
	case "fp4":
		return FP4, nil
	}
	return 0, fmt.Errorf("nf4: unknown 4-bit type %q (want nf4 or fp4)", s)
}

// DType is the element type of a full-precision buffer.
type DType uint8

// The element types that bitsandbytes quantizes from and decodes to.
const (
	Float32 DType = iota
	BFloat16
	Float16
)

// String returns torch's name of the element type.
func (d DType) String() string {
	switch d {
	case Float32:
		return "float32"
	case BFloat16:
		return "bfloat16"
	case Float16:
		return "float16"
	}
	return fmt.Sprintf("nf4.DType(%d)", uint8(d))
}

// ParseDType is the inverse of String.
func ParseDType(s string) (DType, error) {
	for d := Float32; d <= Float16; d++ {
		if d.String() == s {
			return d, nil
		}
	}
	return 0, fmt.Errorf("nf4: element type %q (want float32, bfloat16 or float16)", s)
}

// Size returns the bytes an element takes, 4 or 2.
func (d DType) Size() int {
	if d == Float32 {
		return 4
	}
	return 2
}

func (d DType) elem() (kernel.Elem, error) {
	switch d {
	case Float32:
		return kernel.F32, nil
	case BFloat16:
		return kernel.BF16, nil
	case Float16:
		return kernel.F16, nil
	}
	return 0, fmt.Errorf("nf4: unknown element type %v", d)
}

// DefaultBlockSize is the block size of the zero Config, and the one that every loader reads.
const DefaultBlockSize = 64

// Config says how a tensor is quantized. The zero value is NF4 in blocks of 64, the usual choice.
type Config struct {
	Type      Type
	BlockSize int // values a block: 32, 64, 128, 256, 512, 1024, 2048 or 4096; 0 means 64
}

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	if c.Type > FP4 {
		return fmt.Errorf("nf4: unknown 4-bit type %v", c.Type)
	}
	switch c.BlockSize {
	case 0, 32, 64, 128, 256, 512, 1024, 2048, 4096:
		return nil
	}
	return fmt.Errorf("nf4: block size %d (want a power of two from 32 to 4096)", c.BlockSize)
}

func (c Config) blockSize() int {
	if c.BlockSize == 0 {
		return DefaultBlockSize
	}
	return c.BlockSize
}

// Blocks returns how many absmax constants n values take: one for every block, the last of which may be short.
func (c Config) Blocks(n int) int {
	b := n / c.blockSize()
	if n%c.blockSize() > 0 {
		b++
	}
	return b
}

// CodesLen returns how many bytes the codes of n values take: half a byte each, rounded up.
func (c Config) CodesLen(n int) int { return n/2 + n%2 }

// BitsPerParameter returns the storage of a value of a large tensor: 4 bits and its share of a float32 absmax; 4.5 in
// blocks of 64. With double quantization it is 4 + doublequant.BitsPerScale/BlockSize instead.
func (c Config) BitsPerParameter() float64 { return 4 + 32/float64(c.blockSize()) }

// Codebook returns the values of the codes 0 to 15, a checkpoint's quant_map.
func Codebook(t Type) [16]float32 { return kernel.Values(kernel.Type(t)) }

// Order returns the codes in ascending order of their values. In NF4 that is 0 to 15. FP4 has two zeros, which are
// neighbours here: code 0 and above it code 8.
func Order(t Type) [16]uint8 { return kernel.Order(kernel.Type(t)) }

// Thresholds returns the 15 values between neighbours in Order, in ascending order. They are the float32 midpoints; a
// scaled value takes the upper neighbour's code only if it is greater than the threshold.
func Thresholds(t Type) [15]float32 { return kernel.Thresholds(kernel.Type(t)) }

// NonFiniteError says that a tensor holds a NaN or an infinity. bitsandbytes does not look, and such a value takes its
// whole block with it.
type NonFiniteError struct {
	Index int     // of the first such value in src
	Value float32 // NaN, +Inf or -Inf
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("nf4: value %d is %v, which cannot be quantized", e.Index, e.Value)
}

// Quantize quantizes src into buffers of the caller's. codes must have CodesLen(len(src)) bytes and absmax
// Blocks(len(src)) values. After a *NonFiniteError both hold what is of no use. A tensor may be done in parts, all but
// the last multiples of the block size.
//
// To have what bitsandbytes makes of a 16-bit tensor, give it 16-bit values: see QuantizeBytes.
func (c Config) Quantize(codes []byte, absmax []float32, src []float32) error {
	if err := c.check(codes, absmax, len(src)); err != nil {
		return err
	}
	kernel.QuantizeF32(kernel.Type(c.Type), codes, absmax, src, c.blockSize())
	for b, a := range absmax {
		if finite(a) {
			continue
		}
		for i, x := range src[b*c.blockSize():] {
			if !finite(x) {
				return &NonFiniteError{Index: b*c.blockSize() + i, Value: x}
			}
		}
	}
	return nil
}

// QuantizeBytes quantizes the little-endian values of type d in src, as they lie in a safetensors file. codes must have
// CodesLen(n) bytes and absmax Blocks(n) values for the n values of src. After a *NonFiniteError both hold what is of
// no use. A tensor may be done in parts, all but the last multiples of the block size.
func (c Config) QuantizeBytes(codes []byte, absmax []float32, src []byte, d DType) error {
	e, err := d.elem()
	if err != nil {
		return err
	}
	if len(src)%d.Size() != 0 {
		return fmt.Errorf("nf4: %d bytes hold no whole number of %v values", len(src), d)
	}
	n := len(src) / d.Size()
	if err := c.check(codes, absmax, n); err != nil {
		return err
	}
	kernel.Quantize(kernel.Type(c.Type), e, codes, absmax, src, c.blockSize())
	for b, a := range absmax {
		if finite(a) {
			continue
		}
		lo := b * c.blockSize()
		i := lo + kernel.FirstNonFinite(e, src[lo*d.Size():], n-lo)
		var v [1]float32
		kernel.Widen(v[:], src[i*d.Size():], e)
		return &NonFiniteError{Index: i, Value: v[0]}
	}
	return nil
}

// Dequantize decodes len(dst) values: the code's value times the absmax of its block. absmax may as well hold scales
// that went through double quantization, of either sign. codes and absmax must have the lengths that Quantize asks for.
func (c Config) Dequantize(dst []float32, codes []byte, absmax []float32) error {
	if err := c.check(codes, absmax, len(dst)); err != nil {
		return err
	}
	kernel.DequantizeF32(kernel.Type(c.Type), dst, codes, absmax, c.blockSize())
	return nil
}

// DequantizeBytes decodes n values and rounds them to d, to nearest even, into the n*d.Size() bytes of dst.
func (c Config) DequantizeBytes(dst []byte, d DType, codes []byte, absmax []float32, n int) error {
	e, err := d.elem()
	if err != nil {
		return err
	}
	if n < 0 || n > math.MaxInt/4 || len(dst) != n*d.Size() {
		return fmt.Errorf("nf4: destination has %d bytes (want %d values of %v)", len(dst), n, d)
	}
	if err := c.check(codes, absmax, n); err != nil {
		return err
	}
	kernel.Dequantize(kernel.Type(c.Type), e, dst, codes, absmax, n, c.blockSize())
	return nil
}

// check validates the configuration and the lengths for n values.
func (c Config) check(codes []byte, absmax []float32, n int) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if want := c.CodesLen(n); len(codes) != want {
		return fmt.Errorf("nf4: codes have %d bytes (want %d for %d values)", len(codes), want, n)
	}
	if want := c.Blocks(n); len(absmax) != want {
		return fmt.Errorf("nf4: absmax has %d values (want %d for %d values in blocks of %d)", len(absmax), want, n, c.blockSize())
	}
	return nil
}

func finite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }
