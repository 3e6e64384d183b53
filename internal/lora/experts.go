package lora

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A stack is the experts of one layer that the checkpoint stores one by one.
type stack struct {
	leaves  map[string][]*weights.Tensor // gate_proj, up_proj, down_proj: by expert
	experts int
}

// expertLeaves are the names of an expert's matrices in checkpoints, and of those that transformers makes of them.
var expertLeaves = map[string]string{
	"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj", "w1": "gate_proj", "w3": "up_proj", "w2": "down_proj",
}

var expertName = regexp.MustCompile(`^(.*\.experts)\.(\d{1,4})\.([a-z0-9_]+)\.weight$`)

func (b *base) addExpert(t *weights.Tensor) {
	m := expertName.FindStringSubmatch(t.Name)
	if m == nil || len(t.Shape) != 2 {
		return
	}
	leaf, ok := expertLeaves[m[3]]
	if !ok {
		return
	}
	s := b.experts[m[1]]
	if s == nil {
		s = &stack{leaves: map[string][]*weights.Tensor{}}
		b.experts[m[1]] = s
	}
	if at := strings.LastIndexByte(t.Class.Stack, '.'); at > 0 {
		b.experts[t.Class.Stack[:at]] = s // as transformers 5 calls it
	}
	n, _ := strconv.Atoi(m[2]) // a few digits, by the expression
	list := s.leaves[leaf]
	for len(list) <= n {
		list = append(list, nil)
	}
	list[n] = t
	s.leaves[leaf] = list
	s.experts = max(s.experts, len(list))
}

// bindExperts places the updates of a module's parameters (target_parameters), of which the first registered is innermost:
// it has the most base_layer in its path (tuners/lora/layer.py, ParamWrapper).
func (b *base) bindExperts(a *Adapter, path string, list []*Module, weight float64, at func(*weights.Tensor) *edit) error {
	slices.SortFunc(list, func(x, y *Module) int { return cmp.Compare(len(y.Path), len(x.Path)) })
	params := b.params(a, path)
	if len(params) == 0 {
		return b.unmatched(a, list[0].A0().Name, list[0].Path)
	}
	for _, m := range list {
		if m.A == nil || m.Bias != nil || m.Magnitude != nil || m.Embedding {
			return &Error{Path: a.file.Name(), Key: m.Path, Expect: "lora_A and lora_B alone for a parameter", Found: "more"}
		}
	}
	if len(params) < len(list) {
		return &Error{Path: a.file.Name(), Key: list[0].A.Name, Expect: fmt.Sprintf("updates of at most the %d parameters that the base has in %s", len(params), path), Found: fmt.Sprint(len(list))}
	}
	// In order, unless shapes say otherwise.
	for _, m := range list {
		i := slices.IndexFunc(params, func(p param) bool { return p.fits(m) })
		if i < 0 {
			return &Error{Path: a.file.Name(), Key: m.A.Name, Expect: "factors of a parameter of the base: " + paramNames(params), Found: fmt.Sprintf("%v and %v", m.A.Shape, m.B.Shape)}
		}
		p := params[i]
		params = slices.Delete(params, i, i+1)
		if err := a.checkRank(m, path+"."+p.name, p.experts); err != nil {
			return err
		}
		r := m.Rank() / p.experts
		for _, piece := range p.pieces(m) {
			e := at(piece.t)
			e.updates = append(e.updates, update{adapter: a, module: m, weight: weight, rank: r, rounds: true, parts: piece.parts,
				scale: a.scaled(m, path+"."+p.name, r, weight)})
		}
	}
	return nil
}

// A0 is a tensor of the module, for errors.
func (m *Module) A0() *safetensors.Tensor {
	for _, t := range []*safetensors.Tensor{m.A, m.B, m.Tokens, m.Magnitude, m.Bias, m.alpha} {
		if t != nil {
			return t
		}
	}
	return &safetensors.Tensor{}
}

// A param is a stacked parameter of a module, stored as it is or expert by expert.
type param struct {
	name    string
	experts int64
	d1, d2  int64               // of an expert, as transformers 5 has them
	stacks  []weightStack       // in the order in which their rows are below each other in one expert's matrix
	one     [][]*weights.Tensor // the matrices of which one expert's is put together, by matrix and expert
}

// A weightStack is the matrices of all experts in one tensor.
type weightStack struct {
	*weights.Tensor
	woven bool // rows of the first half of a matrix and of the second by turns
}

// stackedParam is the parameter that stacks are the parts of, one below the other.
func stackedParam(name string, stacks ...weightStack) param {
	p := param{name: name, experts: stacks[0].Shape[0], d2: stacks[0].Shape[2], stacks: stacks}
	for _, s := range stacks {
		p.d1 += s.Shape[1]
	}
	return p
}

func paramNames(list []param) string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s [%d, %d, %d]", p.name, p.experts, p.d1, p.d2))
	}
	return strings.Join(out, ", ")
}

// params lists the parameters of a module in the order in which transformers registers them.
func (b *base) params(a *Adapter, path string) []param {
	targeted := func(name string) bool {
		return a.Config == nil || len(a.Config.Parameters) == 0 || slices.ContainsFunc(a.Config.Parameters, func(p string) bool {
			full := path + "." + name
			return full == p || strings.HasSuffix(full, "."+p)
		})
	}
	var out []param
	for _, p := range b.spellings(path) {
		for _, leaf := range stackLeaves {
			if s := b.stacked(p, leaf.name, leaf.others); len(s) > 0 && targeted(leaf.name) {
				out = append(out, stackedParam(leaf.name, s...))
			}
		}
		for _, o := range b.otherParams(a, path, p) {
			if !slices.ContainsFunc(out, func(x param) bool { return x.name == o.name }) {
				out = append(out, o)
			}
		}
		if s := b.experts[p]; s != nil && len(out) == 0 {
			out = s.params(targeted)
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// stackLeaves are the parameters that transformers 5 has of a layer's experts, in the order in which it registers them, with their
// other names in checkpoints (its conversion_mapping.py): beside the experts' module in GraniteMoE and Step 3.5, where gate and up are two,
// in modules of it in Aria, as parameters of it in Inkling, where rows of gate and up lie by turns.
var stackLeaves = []struct{ name, others string }{
	{"gate_up_proj", "../input_linear.weight fc1.weight w13_weight ../../moe.gate_proj.weight+../../moe.up_proj.weight"}, {"gate_proj", ""}, {"up_proj", ""},
	{"down_proj", "../output_linear.weight fc2.weight w2_weight ../../moe.down_proj.weight"},
}

// stacked finds experts that are stored in one tensor, or in one for each of the matrices that an expert's is put together of.
func (b *base) stacked(path, name, others string) []weightStack {
next:
	for _, names := range append([]string{name}, strings.Fields(others)...) {
		var out []weightStack
		for n := range strings.SplitSeq(names, "+") {
			at := path
			for up := true; up; {
				if n, up = strings.CutPrefix(n, "../"); up {
					at = at[:max(0, strings.LastIndexByte(at, '.'))]
				}
			}
			t := b.byName[strings.TrimPrefix(at+"."+n, ".")]
			if t == nil || len(t.Shape) != 3 || len(out) > 0 && (t.Shape[0] != out[0].Shape[0] || t.Shape[2] != out[0].Shape[2]) {
				continue next
			}
			out = append(out, weightStack{t, n == "w13_weight"})
		}
		return out
	}
	return nil
}

// isStack reports whether a module is updated as a stack of matrices, one for each index of its weight: as a parameter. The lora_A
// of a convolution has as many dimensions as its weight.
func isStack(t *weights.Tensor, m *Module) bool {
	return len(t.Shape) == 3 && m.A != nil && len(m.A.Shape) == 2 && !m.Embedding
}

// otherParams are the matrices and stacks of a module that target_parameters has under another name than experts' ones, such as
// A_log or the weight of JetMoE's input_linear. The module is stored as at.
func (b *base) otherParams(a *Adapter, path, at string) (out []param) {
	list := []string{path + ".weight"}
	if a.Config != nil && len(a.Config.Parameters) > 0 {
		list = a.Config.Parameters
	}
	for _, p := range list {
		leaf := p[strings.LastIndexByte(p, '.')+1:]
		t := b.byName[at+"."+leaf]
		switch {
		case t == nil || !endsIn(path+"."+leaf, []string{p}) && !endsIn(t.Name, []string{p}):
		case len(t.Shape) == 2 && leaf != "weight":
			out = append(out, param{name: leaf, experts: 1, d1: t.Shape[0], d2: t.Shape[1], stacks: []weightStack{{t, false}}})
		case len(t.Shape) == 3:
			out = append(out, stackedParam(leaf, weightStack{t, false}))
		}
	}
	return out
}

// params puts experts that are stored one by one together as transformers 5 does: gate above up, or up alone, and down.
func (s *stack) params(targeted func(string) bool) []param {
	var out []param
	for _, c := range []struct {
		name   string
		leaves []string
	}{{"gate_up_proj", []string{"gate_proj", "up_proj"}}, {"up_proj", []string{"up_proj"}}, {"down_proj", []string{"down_proj"}}} {
		if c.name == "up_proj" && s.leaves["gate_proj"] != nil { // else the experts have no gate, as Nemotron-H's
			continue
		}
		p := param{name: c.name, experts: int64(s.experts)}
		for _, leaf := range c.leaves {
			list := s.leaves[leaf]
			if len(list) != s.experts || slices.Contains(list, nil) || p.d2 > 0 && list[0].Shape[1] != p.d2 {
				p.experts = 0
				break
			}
			p.d1 += list[0].Shape[0]
			p.d2 = list[0].Shape[1]
			p.one = append(p.one, list)
		}
		if p.experts > 0 && targeted(c.name) {
			out = append(out, p)
		}
	}
	return out
}

// fits reports whether a module's factors are of this shape, in either orientation.
func (p *param) fits(m *Module) bool {
	in, out := m.A.Elems()/m.Rank(), m.B.Shape[0]
	return len(m.A.Shape) == 2 && m.Rank()%p.experts == 0 && (in == p.d2 && out == p.d1 || in == p.d1 && out == p.d2 && len(p.stacks) == 1 && !p.stacks[0].woven)
}

type placed struct {
	t     *weights.Tensor
	parts []part
}

// pieces says what of a module's update goes where.
func (p *param) pieces(m *Module) []placed {
	in, out := m.A.Shape[1], m.B.Shape[0]
	var all []placed
	row0 := int64(0)
	for _, s := range p.stacks {
		turned := in == p.d1 && out == p.d2 && p.d1 != p.d2 // no released model has square experts
		rows, place := p.d1, placed{t: s.Tensor}
		if len(p.stacks) > 1 {
			rows = s.Shape[1]
		}
		for e := range p.experts {
			place.parts = append(place.parts, part{first: e * rows * p.d2, rows: rows, cols: p.d2, expert: e, experts: p.experts, row0: row0, turned: turned, woven: s.woven})
		}
		all = append(all, place)
		row0 += rows
	}
	for _, list := range p.one {
		for e, t := range list {
			all = append(all, placed{t, []part{{rows: t.Shape[0], cols: t.Shape[1], expert: int64(e), experts: p.experts, row0: row0}}})
		}
		row0 += list[0].Shape[0]
	}
	return all
}
