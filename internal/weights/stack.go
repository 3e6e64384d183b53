package weights

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var splitExpert = regexp.MustCompile(`^(.*\.)(\d{1,6})\.(gate_proj|up_proj|down_proj)\.weight$`)

// A stack collects what [Model.Experts] takes apart.
type stack struct {
	name     string
	at       int               // index of its first part among the tensors
	matrices []string          // of an expert, side by side in the stack
	parts    map[[2]int]Tensor // by expert and matrix
}

// fuse puts Llama-4's experts back together, which a quantized checkpoint holds one by one: the inverse of [Model.Experts],
// for anyone's checkpoint.
func (m *Model) fuse() error {
	stacks := map[string]*stack{}
	var tensors []Tensor
	for _, t := range m.Tensors {
		s, expert, matrix := m.stackOf(stacks, t.Name)
		if s == nil {
			tensors = append(tensors, t)
			continue
		}
		if len(s.parts) == 0 {
			s.at = len(tensors)
			tensors = append(tensors, Tensor{Name: s.name})
		}
		key := [2]int{expert, matrix}
		if _, twice := s.parts[key]; twice {
			return &SourceError{Path: m.Source.Path, Tensor: t.Name, Msg: fmt.Sprintf("expert %d has this matrix twice, under numbers spelled in two ways", expert)}
		}
		s.parts[key] = t
	}
	for _, name := range slices.Sorted(maps.Keys(stacks)) {
		s := stacks[name]
		t, err := m.fused(s)
		if err != nil {
			return err
		}
		tensors[s.at] = t
	}
	m.Tensors = tensors
	return nil
}

// stackOf finds the stack that a tensor is a part of, nil for any other.
func (m *Model) stackOf(stacks map[string]*stack, name string) (s *stack, expert, matrix int) {
	found := splitExpert.FindStringSubmatch(name)
	if found == nil {
		return nil, 0, 0
	}
	leaf := "gate_up_proj"
	if found[3] == "down_proj" {
		leaf = found[3]
	}
	if !m.Arch.Classify(found[1] + leaf).Split {
		return nil, 0, 0
	}
	if s = stacks[found[1]+leaf]; s == nil {
		s = &stack{name: found[1] + leaf, parts: map[[2]int]Tensor{}}
		_, s.matrices = matricesOf(s.name)
		stacks[s.name] = s
	}
	expert, _ = strconv.Atoi(found[2]) // six digits
	if found[3] == "up_proj" {
		matrix = 1
	}
	return s, expert, matrix
}

// fused is the stack [experts, in, matrices*out] of its parts [out, in].
func (m *Model) fused(s *stack) (Tensor, error) {
	n := len(s.matrices)
	bad := func(format string, args ...any) (Tensor, error) {
		return Tensor{}, &SourceError{Path: m.Source.Path, Tensor: s.name, Msg: fmt.Sprintf(format, args...),
			Hint: "experts go back into one tensor only where all are there, --allow-incomplete or not: fetch or save the checkpoint again"}
	}
	if len(s.parts)%n != 0 {
		return bad("its experts have %d matrices; want %v of each expert", len(s.parts), s.matrices)
	}
	experts := len(s.parts) / n
	var t Tensor
	for e := range experts {
		for i, name := range s.matrices {
			part, ok := s.parts[[2]int{e, i}]
			if !ok {
				return bad("expert %d of %d has no %s.weight", e, experts, name)
			}
			if e+i == 0 {
				if len(part.Shape) != 2 {
					return bad("%s has shape %v; want a matrix", part.Name, part.Shape)
				}
				out, in := part.Shape[0], part.Shape[1]
				t = Tensor{Name: s.name, File: part.File, DType: part.DType, Class: m.Arch.Classify(s.name), Method: part.Method,
					Shape: []int64{int64(experts), in, int64(n) * out}}
			}
			out, in := t.Shape[2]/int64(n), t.Shape[1]
			if len(part.Shape) != 2 || part.Shape[0] != out || part.Shape[1] != in || !IsFloat(part.DType) {
				return bad("%s has shape %v and dtype %s; want floats of shape [%d %d], as expert 0 has them", part.Name, part.Shape, part.DType, out, in)
			}
			part = part.Floats()
			part.Turned, part.Class = true, t.Class.OneOfStack(strings.TrimSuffix(part.Name, ".weight"))
			t.Bytes += part.Bytes
			t.Parts = append(t.Parts, part)
		}
	}
	return t, nil
}
