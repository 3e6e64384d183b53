package nf4

import (
	"slices"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// AppendQuantize quantizes src, appends its codes and absmax constants to the two slices and returns these; nil slices
// are as good as any. A tensor too large for memory may be appended in parts, of which all but the last must be
// multiples of the block size: a part's own last block would be taken for the short one that ends the tensor, which
// follows a rule of its own.
//
// After an error the slices are returned as they were.
func (c Config) AppendQuantize(codes []byte, absmax []float32, src []float32) ([]byte, []float32, error) {
	moreCodes, moreAbsmax := c.grow(codes, absmax, len(src))
	if err := c.Quantize(moreCodes[len(codes):], moreAbsmax[len(absmax):], src); err != nil {
		return codes, absmax, err
	}
	return moreCodes, moreAbsmax, nil
}

// AppendQuantizeBytes is AppendQuantize for the little-endian values of type d in src, as they lie in a safetensors
// file.
func (c Config) AppendQuantizeBytes(codes []byte, absmax []float32, src []byte, d DType) ([]byte, []float32, error) {
	moreCodes, moreAbsmax := c.grow(codes, absmax, len(src)/d.Size())
	if err := c.QuantizeBytes(moreCodes[len(codes):], moreAbsmax[len(absmax):], src, d); err != nil {
		return codes, absmax, err
	}
	return moreCodes, moreAbsmax, nil
}

// AppendDequantize appends n decoded values to dst and returns it. See Dequantize; a part of a tensor must be a multiple
// of the block size, unless it ends the tensor.
func (c Config) AppendDequantize(dst []float32, codes []byte, absmax []float32, n int) ([]float32, error) {
	if err := c.check(codes, absmax, n); err != nil { // before memory is taken for n
		return dst, err
	}
	more := slices.Grow(dst, n)[:len(dst)+n]
	if err := c.Dequantize(more[len(dst):], codes, absmax); err != nil {
		return dst, err
	}
	return more, nil
}

// AppendBytes appends the little-endian bytes of the values of src, rounded to d to nearest even, and returns the slice.
// bitsandbytes quantizes what a model holds, which is 16-bit values as a rule: round first, then quantize the bytes. A
// value beyond the range of d becomes an infinity, which quantizing refuses.
func AppendBytes(dst []byte, src []float32, d DType) ([]byte, error) {
	e, err := d.elem()
	if err != nil {
		return dst, err
	}
	n := len(src) * d.Size()
	more := slices.Grow(dst, n)[:len(dst)+n]
	kernel.Narrow(more[len(dst):], e, src)
	return more, nil
}

// grow makes room for n values. What is wrong with the configuration is found by what then uses the room.
func (c Config) grow(codes []byte, absmax []float32, n int) ([]byte, []float32) {
	if c.Validate() != nil {
		return codes, absmax
	}
	k, b := c.CodesLen(n), c.Blocks(n)
	return slices.Grow(codes, k)[:len(codes)+k], slices.Grow(absmax, b)[:len(absmax)+b]
}
