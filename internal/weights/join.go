package weights

import (
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
)

// oneExpert is how the name of an expert's matrix ends where experts lie one by one: w1, w3 and w2 are Mixtral's for gate, up and down.
var oneExpert = regexp.MustCompile(`\.(\d{1,6})\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$`)

// Join puts experts that lie one by one into the stacks that transformers 5 makes of them, in its layout and under its names,
// [arch.Class.Stack]:
//
//	experts.e.gate_proj.weight, up_proj.weight [inner, hidden] -> experts.gate_up_proj [E, 2*inner, hidden], gate above up
//	experts.e.down_proj.weight [hidden, inner]                 -> experts.down_proj    [E, hidden, inner]
//
// It returns the stacks of which every matrix is among the tensors, in the order of their first ones. Where a layer lacks a matrix, or one
// has another shape or dtype, all of its experts stay by themselves.
func (m *Model) Join(tensors []*Tensor) []*Tensor {
	var order []string
	parts := map[string][]*Tensor{}
	for _, t := range tensors {
		stack := t.Class.Stack
		if stack == "" || !oneExpert.MatchString(t.Name) {
			continue
		}
		if parts[stack] == nil {
			order = append(order, stack)
		}
		parts[stack] = append(parts[stack], t)
	}
	layer := func(stack string) string { return stack[:strings.LastIndexByte(stack, '.')+1] }
	stacks, experts := make([]*Tensor, len(order)), map[string]int64{}
	for i, name := range order {
		t, n := m.joined(name, parts[name]), int64(-1)
		if t != nil {
			n = t.Shape[0]
		}
		if other, ok := experts[layer(name)]; ok && other != n {
			n = -1
		}
		stacks[i], experts[layer(name)] = t, n
	}
	return slices.DeleteFunc(stacks, func(t *Tensor) bool { return t == nil || experts[layer(t.Name)] < 0 })
}

// place is where a matrix stands in its stack: of which expert it is, and which of the expert's.
func place(name string) (expert, matrix, matrices int) {
	found := oneExpert.FindStringSubmatch(name)
	expert, _ = strconv.Atoi(found[1]) // six digits
	switch found[2] {
	case "down_proj", "w2":
		return expert, 0, 1
	case "up_proj", "w3":
		return expert, 1, 2
	}
	return expert, 0, 2
}

// joined is one stack, nil if its parts do not make one.
func (m *Model) joined(name string, parts []*Tensor) *Tensor {
	first := parts[0]
	_, _, n := place(first.Name)
	of := make([]*Tensor, len(parts))
	if len(parts)%n != 0 || len(first.Shape) != 2 || !IsFloat(first.DType) {
		return nil
	}
	values := &joined{parts: make([]Values, len(parts)), elem: int64(first.DType.Bits() / 8), elems: first.Elems()}
	t := &Tensor{Name: name, File: first.File, Class: m.Arch.ClassifyTensor(name, 3), DType: first.DType, Method: first.Method, Unrounded: first.Unrounded,
		Shape: []int64{int64(len(parts) / n), int64(n) * first.Shape[0], first.Shape[1]}}
	rounders := 0
	for _, p := range parts {
		expert, matrix, of1 := place(p.Name)
		at := expert*n + matrix
		if of1 != n || at >= len(of) || of[at] != nil || p.Values == nil || p.DType != first.DType || p.Unrounded != first.Unrounded ||
			len(p.Shape) != 2 || p.Shape[0] != first.Shape[0] || p.Shape[1] != first.Shape[1] {
			return nil
		}
		of[at], values.parts[at] = p, p.Values
		t.Bytes += p.Bytes
		if _, ok := rounder(p.Values); ok {
			rounders++
		}
	}
	t.Of, t.Values = of, values
	switch rounders {
	case 0:
	case len(parts):
		t.Values = joinedRounder{values}
	default:
		return nil
	}
	return t
}

// Part is the matrix of a joined stack that has element index, and its index there; of any other tensor it is the tensor.
func (t *Tensor) Part(index int64) (*Tensor, int64) {
	if len(t.Of) == 0 {
		return t, index
	}
	n := t.Of[0].Elems()
	return t.Of[index/n], index % n
}

// joined are the values of matrices of one size, one after the other.
type joined struct {
	parts []Values
	elem  int64 // bytes of an element
	elems int64 // of a matrix
}

// each calls f for the ranges of the matrices that a range of bytes has, until one fails.
func (j *joined) each(off, n int64, f func(part Values, off, n int64) error) error {
	size := j.elems * j.elem
	for end := min(off+n, size*int64(len(j.parts))); off < end; {
		at := off % size
		k := min(end-off, size-at)
		if err := f(j.parts[off/size], at, k); err != nil {
			return err
		}
		off += k
	}
	return nil
}

func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	err := j.each(off, int64(len(p)), func(part Values, at, n int64) error {
		k, err := part.ReadAt(p[done:done+int(n)], at)
		done += k
		if k == int(n) { // io.EOF is allowed at the end of a matrix
			return nil
		}
		return err
	})
	if err == nil && done < len(p) {
		err = io.EOF
	}
	return done, err
}

func (j *joined) Prefetch(off, n int64) {
	_ = j.each(off, n, func(part Values, at, n int64) error { part.Prefetch(at, n); return nil })
}

func (j *joined) Drop(off, n int64) {
	_ = j.each(off, n, func(part Values, at, n int64) error { part.Drop(at, n); return nil })
}

// Cached reports whether all of it lies in the page cache.
func (j *joined) Cached() bool {
	for _, p := range j.parts {
		if c, ok := p.(interface{ Cached() bool }); !ok || !c.Cached() {
			return false
		}
	}
	return true
}

// joinedRounder is joined of parts that round themselves.
type joinedRounder struct{ *joined }

// ReadAs implements [Rounder].
func (j joinedRounder) ReadAs(dst []byte, e kernel.Elem, first int64, n int) error {
	done := 0
	return j.each(first*j.elem, int64(n)*j.elem, func(part Values, at, size int64) error {
		k := int(size / j.elem)
		r, _ := rounder(part)
		err := r.ReadAs(dst[done*e.Size():], e, at/j.elem, k)
		done += k
		return err
	})
}
