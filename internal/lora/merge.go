package lora

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Options say how adapters are merged. The zero value is PEFT's default.
type Options struct {
	Weights   []float64         // of each adapter; nil: 1 each
	Safe      bool              // a delta is rounded before it is added, as with safe_merge=True
	Joint     bool              // one rounding for all adapters
	Tied      bool              // an output head that is not stored shares the embeddings
	Residual  bool              // the base is the one that the adapter's method changed
	Cast      bool              // weights are held in DType rather than in what they are stored in
	DType     safetensors.DType // of weights that were decoded, and of all with Cast
	Float32   map[string]bool   // but for these, which transformers holds so
	Wide      bool              // merged matrices are read unrounded, in float32: they are quantized
	Subtract  bool              // the tensors are those of a merge, of which updates are taken out
	NoFigures bool
}

// A Merge is adapters held against a base.
type Merge struct {
	Adapters []*Adapter
	Notes    []string // what a user should know

	opt   Options
	edits map[string]*edit
	read  []*merged
	named map[string]*merged // those of read, by tensor
	cache cache
}

// NewMerge finds out what adapters change in a model of these tensors. It reads the adapters for values that are not finite.
func NewMerge(tensors []weights.Tensor, adapters []*Adapter, opt Options) (*Merge, error) {
	m := &Merge{Adapters: adapters, opt: opt, edits: map[string]*edit{}, cache: cache{held: map[*Module]*factors{}}}
	b := newBase(tensors, opt.Tied)
	b.subtract = opt.Subtract
	for i, a := range adapters {
		if a.Config != nil && a.Config.BaseMutated() && !opt.Residual {
			return nil, &Error{Path: a.Path, Key: "init_lora_weights", Expect: "an adapter of the base itself",
				Found: fmt.Sprintf("%q, which changes the base before training", a.Config.Init),
				Hint:  "merge it into the base that was saved with it and say --base-is-residual, or save the adapter with path_initial_model_for_weight_conversion"}
		}
		if err := a.CheckFinite(); err != nil {
			return nil, err
		}
		weight := 1.
		if opt.Weights != nil {
			weight = opt.Weights[i]
		}
		before := map[string]*safetensors.Tensor{}
		for name, e := range m.edits {
			before[name] = e.replace
		}
		if err := b.bind(a, weight, m.edits, &m.Notes); err != nil {
			return nil, err
		}
		for name, e := range m.edits {
			same, err := equalTensors(before[name], e.replace) // PEFT saves the base's embeddings with each adapter that changes them
			if err != nil {
				return nil, err
			}
			if before[name] != nil && !same {
				return nil, &Error{Path: a.Path, Key: e.replace.Name, Expect: "one adapter at most that replaces a tensor", Found: "two, " + before[name].Name + " the other"}
			}
		}
		for _, n := range a.Notes {
			m.Notes = append(m.Notes, a.Path+": "+n)
		}
		if err := b.checkComplete(a, tensors); err != nil {
			return nil, err
		}
	}
	for _, e := range m.edits {
		slices.SortStableFunc(e.updates, func(x, y update) int { return cmp.Compare(x.module.turn(), y.module.turn()) })
	}
	return m, nil
}

// turn is when PEFT comes to a module among those that share a weight: it goes by modules, not by adapters.
func (m *Module) turn() int {
	if isHead(m.Path) {
		return 3
	}
	if in := sharedPath.FindStringSubmatch(m.Path); in != nil {
		n, _ := strconv.Atoi(in[2]) // a few digits, by the expression
		return n
	}
	return sharedIn(m.Path)
}

// equalTensors reports whether two tensors have the same bytes.
func equalTensors(x, y *safetensors.Tensor) (bool, error) {
	if x == nil || y == nil || x == y || x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) {
		return x == y, nil
	}
	return stream.Same(x, y, x.Size())
}

// Changed counts the tensors that are changed.
func (m *Merge) Changed() int { return len(m.edits) }

// Changes reports whether the adapters change a tensor.
func (m *Merge) Changes(tensor string) bool { return m.edits[tensor] != nil }

// Apply returns the tensors with the adapters in the place of what they change. The model is not read.
func (m *Merge) Apply(tensors []weights.Tensor) ([]weights.Tensor, error) {
	out := slices.Clone(tensors)
	m.read, m.named = nil, map[string]*merged{}
	for i := range out {
		t := &out[i]
		e := m.edits[t.Name]
		if e == nil {
			continue
		}
		held := t.DType
		if m.opt.Cast || t.Method != "" {
			if held = m.opt.DType; m.opt.Float32[t.Name] {
				held = safetensors.F32
			}
		}
		elem, ok := weights.ElemOf(held)
		if !ok || elem == kernel.F64 {
			return nil, &Error{Path: t.File, Key: t.Name, Expect: "a weight in bfloat16, float16 or float32", Found: held.String(),
				Hint: "give --dtype to hold it in another"}
		}
		if len(t.Parts) > 0 {
			return nil, &Error{Path: t.File, Key: t.Name, Expect: "a weight that is stored whole", Found: "experts one by one", Hint: "nf4kit dequantize BASE DIR puts them together; merge into DIR"}
		}
		v := &merged{Merge: m, edit: e, t: *t, src: t.Values, dtype: held, held: elem, out: elem, end: t.Elems(), sums: map[int64]sums{}}
		if m.opt.Wide && t.Method != "" && len(t.Shape) == 2 && len(e.updates) > 0 {
			v.out = kernel.F32
			t.DType, t.Unrounded = safetensors.F32, true
		} else {
			t.DType = held
		}
		t.Values = v
		m.read, m.named[t.Name] = append(m.read, v), v
	}
	return out, nil
}

// Unties reports whether an adapter replaces the embeddings of a model or the output head that shares them, but not both as one:
// modules_to_save are copies of PEFT's, and the other of the two stays what it was.
func Unties(m *weights.Model, a *Adapter) bool {
	tied := m.TiedHead()
	if tied == nil || a.Config != nil && a.Config.Tying {
		return false
	}
	b := newBase(m.Tensors, true)
	return slices.ContainsFunc(a.Saved, func(s Saved) bool {
		return b.tensor(s.Name) == b.byName[tied.Name] && (a.Config == nil || toSave(a.Config.Saved, s.Name))
	})
}

// toSave reports whether modules_to_save has the module of a tensor. PEFT also saves embeddings that LoRA changes
// (save_embedding_layers), as the base has them.
func toSave(modules []string, tensor string) bool {
	for path := strings.TrimSuffix(tensor, ".weight"); ; path = path[:strings.LastIndexByte(path, '.')] { // a module is saved with those in it
		if endsIn(path, modules) {
			return true
		}
		if !strings.Contains(path, ".") {
			return false
		}
	}
}
