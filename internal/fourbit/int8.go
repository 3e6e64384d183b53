package fourbit

import (
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// Int8 is a weight of LLM.int8 (arXiv 2208.07339; bitsandbytes nn/modules.py, Linear8bitLt): a code of row r stands for
// code * SCB[r] / 127.
//
//	M.weight          I8   [out, in]
//	M.SCB             F32  [out]
//	M.weight_format   U8   []          0 for row-major; files of older versions may lack it
type Int8 struct {
	Weight, Scales Tensor
	Format         Tensor // its embedded pointer is nil where there is none
}

// Int8Weights returns the LLM.int8 weights among the tensors of a checkpoint, by name.
func Int8Weights(tensors []Tensor) []Int8 {
	scales, formats := make(map[string]Tensor), make(map[string]Tensor)
	for _, t := range tensors {
		if module, ok := strings.CutSuffix(t.Name, ".SCB"); ok && t.DType == safetensors.F32 {
			scales[module] = t
		}
		if module, ok := strings.CutSuffix(t.Name, ".weight_format"); ok && t.DType == safetensors.U8 && t.Elems() == 1 {
			formats[module] = t
		}
	}
	if len(scales) == 0 {
		return nil
	}
	var out []Int8
	for _, t := range tensors {
		module, ok := strings.CutSuffix(t.Name, ".weight")
		s, have := scales[module]
		if ok && have && t.DType == safetensors.I8 && len(t.Shape) == 2 && slices.Equal(s.Shape, t.Shape[:1]) {
			out = append(out, Int8{t, s, formats[module]})
		}
	}
	slices.SortFunc(out, func(a, b Int8) int { return strings.Compare(a.Weight.Name, b.Weight.Name) })
	return out
}
