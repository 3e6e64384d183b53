package complete

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A series is the members of one numbered list of modules: model.layers.0, model.layers.1, ...
type series struct {
	path    string
	members map[int32]map[string]int32 // number, rest of the name, tensor
}

// minAlike is how many layers have to agree before one that differs is the odd one.
const minAlike = 3

// depthNames are the config values that count layers, in the spellings of the field.
var depthNames = []string{"num_hidden_layers", "num_layers", "n_layer", "n_layers"}

// alike holds a checkpoint without facts to itself.
func alike(v *values, tensors []Tensor) *Report {
	r := &Report{}
	lists := map[string]*series{}
	for i := range tensors {
		t := &tensors[i]
		switch {
		case adapted(t.Name):
			r.add(Problem{Foreign, t.Name, "a model's own tensors", "one of a PEFT model with its adapter"})
		case slices.Contains(t.Shape, 0) && strings.HasSuffix(t.Name, ".weight"):
			r.add(Problem{Empty, t.Name, "weights", "shape " + spell(t.Shape)})
		case !isFloat(t.DType) && len(t.Shape) == 2 && weights(t.Name):
			r.add(Problem{DType, t.Name, "floating-point weights", t.DType.String()})
		}
		file(lists, t.Name, int32(i))
	}
	for _, path := range slices.Sorted(maps.Keys(lists)) {
		s := lists[path]
		if len(s.members) <= minAlike {
			continue
		}
		s.gaps(r)
		s.odd(r, tensors)
	}
	depth(v, lists, r)
	return r
}

// weights reports whether the name is one that schemes of quantization give the weights of a Linear.
func weights(name string) bool {
	leaf := name[strings.LastIndexByte(name, '.')+1:]
	return strings.HasPrefix(leaf, "weight") || leaf == "qweight"
}

// file puts a tensor into the outermost list that its name tells of.
func file(lists map[string]*series, name string, i int32) {
	for at := 0; at < len(name); {
		end := strings.IndexByte(name[at:], '.')
		if end < 0 {
			return
		}
		end += at
		if n, ok := index(name[at:end]); ok && at > 0 {
			s := lists[name[:at-1]]
			if s == nil {
				s = &series{name[:at-1], map[int32]map[string]int32{}}
				lists[name[:at-1]] = s
			}
			if s.members[n] == nil {
				s.members[n] = map[string]int32{}
			}
			s.members[n][name[end+1:]] = i
			return
		}
		at = end + 1
	}
}

// gaps reports numbers that are lacking between others. A list of single modules is no list of layers: numbers are lacking where a
// function without weights stands. So are those of a list that skips half as many numbers as it has, and of one whose members have
// no tensor in common, such as the convolutions, blocks and LSTMs of EnCodec.
func (s *series) gaps(r *Report) {
	last := slices.Max(slices.Collect(maps.Keys(s.members)))
	if missing := int(last) + 1 - len(s.members); missing > len(s.members)/2 {
		return
	}
	for _, m := range s.members {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(m)), func(name string) bool { return strings.Contains(name, ".") }) {
			return
		}
	}
	if !slices.Contains(slices.Collect(maps.Values(s.counts())), len(s.members)) {
		return
	}
	for n := range last {
		if s.members[n] == nil {
			r.add(Problem{Missing, fmt.Sprintf("%s.%d", s.path, n), fmt.Sprintf("it, since there is %s.%d", s.path, last), "no such tensor"})
		}
	}
}

// counts says in how many members each name is.
func (s *series) counts() map[string]int {
	have := map[string]int{}
	for _, m := range s.members {
		for name := range m {
			have[name]++
		}
	}
	return have
}

// odd reports a member that lacks one or two tensors that all others have, or has one in another shape. The first and the last
// member of some models are different by design: a stage that scales nothing down, a layer that takes pixels. Where those that have
// a tensor have it in several shapes, they are not alike, and one may do without: DPT's stages scale by 4, 2, 1 and 1/2.
func (s *series) odd(r *Report, tensors []Tensor) {
	have := s.counts()
	numbers := slices.Sorted(maps.Keys(s.members))
	first, last := numbers[0], numbers[len(numbers)-1]
	for _, n := range numbers[1 : len(numbers)-1] {
		var lacks []string
		for name, count := range have {
			if _, ok := s.members[n][name]; !ok && count == len(s.members)-1 {
				lacks = append(lacks, name)
			}
		}
		unlike := func(name string) bool { return !s.alike(name, tensors) }
		if len(lacks) <= 2 && !slices.ContainsFunc(lacks, unlike) {
			for _, name := range lacks {
				r.add(Problem{Missing, fmt.Sprintf("%s.%d.%s", s.path, n, name), fmt.Sprintf("it, as in all other members of %s", s.path), "no such tensor"})
			}
		}
	}
	for name, count := range have {
		if count != len(s.members) {
			continue
		}
		shapes := map[string][]int32{}
		for _, m := range s.members {
			text := spell(tensors[m[name]].Shape)
			shapes[text] = append(shapes[text], m[name])
		}
		if len(shapes) != 2 {
			continue
		}
		for text, of := range shapes {
			atEnd := of[0] == s.members[first][name] || of[0] == s.members[last][name]
			if t := tensors[of[0]]; len(of) == 1 && !atEnd && !slices.Contains(t.Shape, 0) {
				r.add(Problem{Shape, t.Name, "the shape that it has in all other members of " + s.path, text})
			}
		}
	}
}

// alike reports whether all members that have the tensor have it in one shape.
func (s *series) alike(name string, tensors []Tensor) bool {
	var shape []int64
	for _, m := range s.members {
		i, ok := m[name]
		if ok && shape != nil && !slices.Equal(shape, tensors[i].Shape) {
			return false
		}
		if ok {
			shape = tensors[i].Shape
		}
	}
	return true
}

// depth compares the longest list of layers with config.json.
func depth(v *values, lists map[string]*series, r *Report) {
	var layers []*series
	for _, s := range lists {
		leaf := s.path[strings.LastIndexByte(s.path, '.')+1:]
		if leaf == "layers" || leaf == "h" || leaf == "blocks" || leaf == "layer" {
			layers = append(layers, s)
		}
	}
	if len(layers) != 1 {
		return
	}
	for _, name := range depthNames {
		n, ok := v.root[name].(float64)
		if !ok {
			continue
		}
		switch have := len(layers[0].members); {
		case float64(have) < n:
			r.add(Problem{Missing, layers[0].path, fmt.Sprintf("%.0f %s (%s)", n, layers[0].path[strings.LastIndexByte(layers[0].path, '.')+1:], name), fmt.Sprint(have)})
		case float64(have) > n:
			r.Notices = append(r.Notices, fmt.Sprintf("%s has %d layers, config.json says %.0f (%s)", layers[0].path, have, n, name))
		}
		return
	}
}
