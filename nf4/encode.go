package nf4

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// ScaleError says that a scale is a NaN or an infinity.
type ScaleError struct {
	Block int // the first such block
	Scale float32
}

func (e *ScaleError) Error() string {
	return fmt.Sprintf("nf4: the scale of block %d is %v, against which nothing can be encoded", e.Block, e.Scale)
}

// Encode writes the codes of src against scales that are given, such as scales that went through double quantization
// or were chosen to lower some error. They may be of either sign and of any size: each value takes the code that
// Dequantize, given the same scales, decodes to the float32 nearest to it. Halfway between two it takes the one that
// comes first in [Order]; under a scale of zero, the code of zero.
//
// codes must have CodesLen(len(src)) bytes and scales Blocks(len(src)) values. A scale that is not finite is a
// *ScaleError, a value that is not a *NonFiniteError; codes then hold what is of no use.
//
// With the absmax of a block as its scale, the codes are those of Quantize but for values within a rounding of a
// threshold: Quantize rounds the scaled value as bitsandbytes does, Encode goes by the decoded value alone.
func (c Config) Encode(codes []byte, scales []float32, src []float32) error {
	if err := c.check(codes, scales, len(src)); err != nil {
		return err
	}
	for b, s := range scales {
		if !finite(s) {
			return &ScaleError{Block: b, Scale: s}
		}
	}
	for i, x := range src {
		if !finite(x) {
			return &NonFiniteError{Index: i, Value: x}
		}
	}
	kernel.EncodeF32(kernel.Type(c.Type), codes, scales, src, c.blockSize())
	return nil
}
