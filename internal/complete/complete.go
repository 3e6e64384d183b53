// Package complete says whether a checkpoint has what its architecture and config.json call for: every tensor, in its shape, of a
// dtype that a parameter has, and nothing that belongs to no module.
//
// The facts are transformers' own (facts.txt): the tensors of each class with dimensions, layer counts and conditions as
// expressions in the values of config.json. The measure is transformers' report of loading: what it loads without a missing,
// unexpected or mismatched key is complete. Where a fact is not proven, tensors only have to agree with one another, and a
// class without facts is held to that alone: layers alike among themselves and as many as config.json says.
//
// It reads no file and knows no quantization: the tensors are the logical ones.
package complete

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Tensor is one tensor of the model, as it is before quantization.
type Tensor struct {
	Name   string
	DType  safetensors.DType
	Shape  []int64
	Turned bool // the shape is [out, in] even where the class stores [in, out]
}

// Kind sorts problems.
type Kind string

// The kinds of problems.
const (
	Missing Kind = "missing"    // the class has the tensor, the checkpoint has not
	Shape   Kind = "misshapen"  // another shape than config.json and the other tensors call for
	Empty   Kind = "empty"      // no elements at all
	DType   Kind = "wrong type" // integers where the class has floating-point weights
	Foreign Kind = "foreign"    // no module of the class has it
)

// A Problem is one way in which the checkpoint is not what its config says.
type Problem struct {
	Kind            Kind
	Tensor          string
	Expected, Found string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: expected %s, found %s", p.Tensor, p.Expected, p.Found)
}

// maxProblems is how many problems, and how many notices, a Report spells out.
const maxProblems = 40

// maxHeld is how many problems are held before the last ones in their order are only counted.
const maxHeld = 1 << 14

// A Report is what Check found.
type Report struct {
	Problems []Problem // in the order of kinds, then of names; at most maxProblems
	More     int       // problems beyond those
	Notices  []string  // what is odd, and harmless; at most maxProblems
	Class    string    // the class that the checkpoint was held to; "" if there are no facts of it
	Hint     string    // what to do next

	strangers int // tensors whose names the class does not have
}

// Count is the number of problems.
func (r *Report) Count() int { return len(r.Problems) + r.More }

// Lines are the problems in words, one a line.
func (r *Report) Lines() []string {
	var out []string
	for _, p := range r.Problems {
		out = append(out, p.String())
	}
	if r.More > 0 {
		out = append(out, fmt.Sprintf("and %d more", r.More))
	}
	return out
}

// Summary is the first problem and the number of others.
func (r *Report) Summary() string {
	if r.Count() == 0 {
		return ""
	}
	s := r.Problems[0].String()
	if n := r.Count() - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// worse is how far the checkpoint is from the layout: the names that it does not have count where something is wrong at all, or experts
// one by one that lack a layer were held to those that are stacked.
func (r *Report) worse() int {
	if r.Count() == 0 {
		return 0
	}
	return r.Count() + len(r.Notices)
}

func (r *Report) add(p Problem) {
	r.Problems = append(r.Problems, p)
	if len(r.Problems) >= maxHeld {
		r.order()
		r.Problems, r.More = r.Problems[:maxHeld/2], r.More+maxHeld/2
	}
}

// notice adds a notice, of the first maxProblems.
func (r *Report) notice(format string, args ...any) {
	if len(r.Notices) < maxProblems {
		r.Notices = append(r.Notices, fmt.Sprintf(format, args...))
	}
}

// order sorts the problems by kinds, then by names.
func (r *Report) order() {
	kinds := []Kind{Missing, Empty, Shape, DType, Foreign}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		if d := slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind); d != 0 {
			return d
		}
		return naturally(a.Tensor, b.Tensor)
	})
}

// seal orders the problems and drops those beyond the limit.
func (r *Report) seal() {
	// A PEFT model's own state dict has other names throughout: the reason is enough.
	if slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Kind == Foreign && adapted(p.Tensor) }) {
		all := len(r.Problems)
		r.Problems = slices.DeleteFunc(r.Problems, func(p Problem) bool { return !adapted(p.Tensor) })
		r.More += all - len(r.Problems)
	}
	r.order()
	if n := len(r.Problems) - maxProblems; n > 0 {
		r.Problems, r.More = r.Problems[:maxProblems:maxProblems], r.More+n
	}
	r.Hint = r.hint()
}

func (r *Report) hint() string {
	for _, p := range r.Problems {
		if p.Kind == Foreign && adapted(p.Tensor) {
			return "merge the adapter into its model first (PEFT's merge_and_unload), and convert the result"
		}
	}
	return "fetch or save the model again; --allow-incomplete goes on without what is missing"
}

// adapted reports whether the name is one of a PEFT model's own state dict.
func adapted(name string) bool {
	return strings.Contains(name, ".base_layer.") || strings.Contains(name, ".lora_") || strings.HasPrefix(name, "base_model.model.")
}

// naturally compares names with numbers by value.
func naturally(a, b string) int {
	for a != "" && b != "" {
		i, j := digits(a), digits(b)
		if i > 0 && j > 0 {
			x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:j], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// Check holds the tensors to the model's class. config is config.json as strict JSON. The error is of a config that is no JSON object.
func Check(m *arch.Model, q arch.Query, config []byte, tensors []Tensor) (*Report, error) {
	v, err := newValues(config)
	if err != nil {
		return nil, err
	}
	var best *Report
	tensors, odd := fuse(m, tensors)
	for _, f := range candidates(m, q, v) {
		of := v.of(f)
		if of.uneven() || of.beyond() {
			continue
		}
		for _, l := range f.layouts {
			r := l.check(f, of, tensors, len(q.Architectures) == 0 || f.loose)
			if best == nil || r.worse() < best.worse() {
				best = r
			}
			if r.Count() == 0 {
				break
			}
		}
	}
	// Names of another making, which the facts have not seen, are held to one another.
	if best == nil || best.strangers > len(tensors)/3 {
		best = alike(v, tensors)
	}
	for _, p := range odd {
		best.add(p)
	}
	best.seal()
	return best, nil
}

// candidates are the facts of the class that config.json names, as the versions of transformers have it; of all classes if it names
// none. A class without facts, one of the author's own above all, is held to those of the base model of its type.
func candidates(m *arch.Model, q arch.Query, v *values) []*facts {
	if m.Diffusers {
		return nil
	}
	all := factsOf(m.Type)
	if f := pair(m.Type, v); f != nil {
		return []*facts{f}
	}
	class := ""
	if len(q.Architectures) > 0 {
		class = q.Architectures[0]
	}
	out := ofClass(all, class, v)
	if class == "" || len(out) == 0 {
		out = append(out, loosely(all, v)...)
	}
	if len(out) == 0 {
		out = ofClass(all, m.Class, v)
	}
	return out
}

// ofClass returns the facts of the class, of all if it is "".
func ofClass(all []*facts, class string, v *values) []*facts {
	var out []*facts
	for _, f := range all {
		if f.class != class && class != "" {
			continue
		}
		if f = f.in(v); f != nil {
			out = append(out, f)
		}
	}
	return out
}
