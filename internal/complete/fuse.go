package complete

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// stacks are the leaf names of the stacks of experts, and those of their parts.
var stacks = map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}}

// stackOf is the leaf name of the stack that a part belongs to, or "".
func stackOf(part string) string {
	for whole, parts := range stacks {
		if slices.Contains(parts, part) {
			return whole
		}
	}
	return ""
}

// A stack is the tensors of a layer's experts that the class has as one.
type stack struct {
	path    string // of the experts
	leaves  []string
	members map[string]member // by their names
	last    int32             // the highest expert
}

type member struct {
	expert int32
	tensor int
}

// bound finds the highest expert, and leaves out numbers that no list with so many members goes up to.
func (s *stack) bound() {
	most := int32(4*len(s.members) + 64)
	maps.DeleteFunc(s.members, func(_ string, m member) bool { return m.expert > most })
	for _, m := range s.members {
		s.last = max(s.last, m.expert)
	}
}

// fuse puts the experts of Llama-4 together again, which a quantized checkpoint holds one by one and transposed (convert's split). What
// lacks between them, or is not as most are, is reported, and the stack is taken for whole.
//
//	experts.e.gate_proj.weight, up_proj.weight [inner, hidden] -> experts.gate_up_proj [E, hidden, 2*inner]
//	experts.e.down_proj.weight [hidden, inner] -> experts.down_proj [E, inner, hidden]
func fuse(m *arch.Model, tensors []Tensor) ([]Tensor, []Problem) {
	found := stacked(m, tensors)
	if len(found) == 0 {
		return tensors, nil
	}
	last := map[string]int32{}
	for _, s := range found {
		s.bound()
		last[s.path] = max(last[s.path], s.last)
	}
	gone := map[int]bool{}
	var out []Tensor
	var problems []Problem
	for _, whole := range slices.Sorted(maps.Keys(found)) {
		s := found[whole]
		if len(s.members) == 0 {
			continue
		}
		s.last = last[s.path]
		t, odd := s.fused(tensors)
		t.Name = whole
		for _, m := range s.members {
			gone[m.tensor] = true
		}
		out, problems = append(out, t), append(problems, odd...)
	}
	for i := range tensors {
		if !gone[i] {
			out = append(out, tensors[i])
		}
	}
	return out, problems
}

// stacked finds the stacks that lie in parts, by the names that they have whole.
func stacked(m *arch.Model, tensors []Tensor) map[string]*stack {
	found := map[string]*stack{} // nil for one that the class does not have
	for i := range tensors {
		name, layer, ok := strings.Cut(tensors[i].Name, ".experts.")
		number, leaf, ok2 := strings.Cut(strings.TrimSuffix(layer, ".weight"), ".")
		e, ok3 := index(number)
		of := stackOf(leaf)
		if !ok || !ok2 || !ok3 || of == "" || len(tensors[i].Shape) != 2 {
			continue
		}
		whole := name + ".experts." + of
		s, asked := found[whole]
		if !asked {
			if m.Classify(whole).Split {
				s = &stack{path: name + ".experts.", leaves: stacks[of], members: map[string]member{}}
			}
			found[whole] = s
		}
		if s != nil {
			s.members[tensors[i].Name] = member{e, i}
		}
	}
	maps.DeleteFunc(found, func(_ string, s *stack) bool { return s == nil })
	return found
}

// fused is the stack of the shape that most of its members have, and what is wrong with the others.
func (s *stack) fused(tensors []Tensor) (Tensor, []Problem) {
	usual := s.usual(tensors)
	var problems []Problem
	for e := range s.last + 1 {
		for _, leaf := range s.leaves {
			name := fmt.Sprintf("%s%d.%s.weight", s.path, e, leaf)
			m, ok := s.members[name]
			t := tensors[m.tensor]
			switch {
			case !ok:
				problems = append(problems, Problem{Missing, name, "it, of shape " + spell(usual.Shape) + " as of the other experts", "no such tensor"})
			case slices.Contains(t.Shape, 0):
				problems = append(problems, Problem{Empty, name, "shape " + spell(usual.Shape), spell(t.Shape)})
			case !slices.Equal(t.Shape, usual.Shape):
				problems = append(problems, Problem{Shape, name, "shape " + spell(usual.Shape) + " as of the other experts", spell(t.Shape)})
			case !isFloat(t.DType):
				problems = append(problems, Problem{DType, name, "floating-point weights", t.DType.String()})
			}
		}
	}
	return Tensor{DType: usual.DType, Shape: []int64{int64(s.last) + 1, usual.Shape[1], int64(len(s.leaves)) * usual.Shape[0]}}, problems
}

// usual is the first of the members that have the shape that most have, of floating-point weights if there is one.
func (s *stack) usual(tensors []Tensor) Tensor {
	votes := map[string]int{}
	var best Tensor
	for _, name := range slices.SortedFunc(maps.Keys(s.members), naturally) {
		votes[spell(tensors[s.members[name].tensor].Shape)]++
	}
	most := 0
	for _, name := range slices.SortedFunc(maps.Keys(s.members), naturally) {
		t := tensors[s.members[name].tensor]
		n := 2 * votes[spell(t.Shape)]
		if isFloat(t.DType) {
			n++
		}
		if n > most {
			most, best = n, t
		}
	}
	return best
}
