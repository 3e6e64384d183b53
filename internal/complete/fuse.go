package complete

import (
	"maps"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// stacks are the parts of a fused stack of experts, by its leaf name.
var stacks = map[string]struct {
	stack string
	parts int64
}{
	"gate_proj": {"gate_up_proj", 2}, "up_proj": {"gate_up_proj", 2}, "down_proj": {"down_proj", 1},
}

// fuse puts the experts of Llama-4 together again, which a quantized checkpoint holds one by one and transposed (convert's split).
// An incomplete or uneven stack stays as it is.
//
//	experts.e.gate_proj.weight, up_proj.weight [inner, hidden] -> experts.gate_up_proj [E, hidden, 2*inner]
//	experts.e.down_proj.weight [hidden, inner] -> experts.down_proj [E, inner, hidden]
func fuse(m *arch.Model, tensors []Tensor) []Tensor {
	type stack struct {
		members []int
		parts   int64
		last    int32
	}
	found := map[string]*stack{} // nil for one that the class does not have
	for i := range tensors {
		name, layer, ok := strings.Cut(tensors[i].Name, ".experts.")
		number, leaf, ok2 := strings.Cut(strings.TrimSuffix(layer, ".weight"), ".")
		e, ok3 := index(number)
		s, ok4 := stacks[leaf]
		if !ok || !ok2 || !ok3 || !ok4 || len(tensors[i].Shape) != 2 {
			continue
		}
		whole := name + ".experts." + s.stack
		f, asked := found[whole]
		if !asked {
			if m.Classify(whole).Split {
				f = &stack{parts: s.parts}
			}
			found[whole] = f
		}
		if f == nil {
			continue
		}
		f.members = append(f.members, i)
		f.last = max(f.last, e)
	}
	maps.DeleteFunc(found, func(_ string, s *stack) bool { return s == nil })
	if len(found) == 0 {
		return tensors
	}
	gone := map[int]bool{}
	var out []Tensor
	for whole, s := range found {
		first := tensors[s.members[0]]
		experts := int64(s.last) + 1
		even := !slices.ContainsFunc(s.members, func(i int) bool {
			return !slices.Equal(tensors[i].Shape, first.Shape) || !isFloat(tensors[i].DType)
		})
		if !even || int64(len(s.members)) != experts*s.parts {
			continue
		}
		for _, i := range s.members {
			gone[i] = true
		}
		out = append(out, Tensor{Name: whole, DType: first.DType, Shape: []int64{experts, first.Shape[1], s.parts * first.Shape[0]}})
	}
	for i := range tensors {
		if !gone[i] {
			out = append(out, tensors[i])
		}
	}
	return out
}
