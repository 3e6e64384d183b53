package lora

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A base is the tensors that adapters are held against.
type base struct {
	byName   map[string]*weights.Tensor
	byPath   map[string]*weights.Tensor // modules, under every path that a version of transformers has for them
	experts  map[string]*stack          // by the path of the experts' module
	tied     *weights.Tensor            // the embeddings that an output head which is not stored shares; nil if there are none
	moved    map[string][]string        // what beginnings of paths in memory are called in the checkpoint, by its Linears
	subtract bool                       // see Options
}

// newBase indexes tensors. tied reports that the model's output head shares the embeddings where it is not stored.
func newBase(tensors []weights.Tensor, tied bool) *base {
	b := &base{byName: map[string]*weights.Tensor{}, byPath: map[string]*weights.Tensor{}, experts: map[string]*stack{}, moved: map[string][]string{}}
	for i := range tensors {
		t := &tensors[i]
		b.byName[t.Name] = t
		if path, ok := strings.CutSuffix(t.Name, ".weight"); ok {
			b.byPath[path] = t
		}
		b.addExpert(t)
	}
	if tied {
		b.tied = weights.Embeddings(tensors)
	}
	for i := range tensors {
		t := &tensors[i]
		b.learn(t)
		for _, p := range t.Class.AllPaths {
			if _, taken := b.byPath[p]; !taken && len(t.Class.Paths[arch.V5]) <= 2 && len(t.Class.Paths[arch.V4]) <= 2 {
				b.byPath[p] = t
			}
		}
	}
	return b
}

// module finds the weight of a module.
func (b *base) module(path string) *weights.Tensor {
	for _, p := range b.spellings(path) {
		if t := b.byPath[p]; t != nil {
			return t
		}
	}
	if b.tied != nil && (isHead(path) || sharedIn(path) > 0 && strings.HasSuffix(b.tied.Name, "shared.weight")) {
		return b.tied
	}
	return b.shared(path)
}

// checkShared refuses a tensor of modules_to_save for one of several modules that share their weight: PEFT's is a copy, which
// the others do not get. Where the head alone is another, the base has been given one of its own (see Unties).
func (b *base) checkShared(a *Adapter, s *Saved, t *weights.Tensor) error {
	if sharedPath.MatchString(s.Name) && (a.Config == nil || toSave(a.Config.Saved, s.Name)) {
		return sharedError(a, s, "a part of a block, "+t.Name)
	}
	if t != b.tied || a.Config != nil && (a.Config.Tying || !toSave(a.Config.Saved, s.Name)) {
		return nil
	}
	path := strings.TrimSuffix(s.Name, ".weight")
	if !isHead(path) && sharedIn(path) == 0 && !strings.HasSuffix(t.Name, "shared.weight") {
		return nil
	}
	return sharedError(a, s, "the embeddings "+t.Name)
}

func sharedError(a *Adapter, s *Saved, found string) error {
	return &Error{Path: a.file.Name(), Key: s.Tensor.Name, Expect: "a tensor of the base that this module alone has", Found: found + ", which others share",
		Hint: "load base and adapter with PEFT and merge them there: the result has tensors that this base does not"}
}

// tensor finds a tensor by its whole name.
func (b *base) tensor(name string) *weights.Tensor {
	for _, n := range b.spellings(name) {
		if t := b.byName[n]; t != nil {
			return t
		}
	}
	if path, ok := strings.CutSuffix(name, ".weight"); ok {
		return b.module(path)
	}
	if path, ok := strings.CutSuffix(name, ".bias"); ok {
		if t := b.module(path); t != nil {
			return b.bias(path, t)
		}
	}
	return nil
}

// bias is that of the module of a path whose weight is t: it stands beside the weight, but that of a head which shares the
// embeddings beside the head, if it does not stand for it.
func (b *base) bias(path string, t *weights.Tensor) *weights.Tensor {
	if t != b.tied || !isHead(path) {
		return b.byName[strings.TrimSuffix(t.Name, ".weight")+".bias"]
	}
	for _, p := range b.spellings(path) {
		for _, name := range []string{p + ".bias", strings.TrimSuffix(p, "decoder") + "bias"} {
			if t := b.byName[name]; t != nil {
				return t
			}
		}
	}
	return nil
}

// A part is where in a tensor of the base an update goes: rows by cols elements from first on, which lie together, get
// scale * B[row0:row0+rows of the module's out, expert] @ A[expert], or its transpose.
type part struct {
	first      int64
	rows, cols int64
	expert     int64
	experts    int64 // 1 for what is no stack
	row0       int64 // of B, where the tensor is a part of what it updates
	turned     bool  // rows are inputs: a Conv1D's, an embedding's, [experts, in, out]
	woven      bool  // rows are those of the first half of B and of the second by turns
}

// An update is one adapter's on one tensor.
type update struct {
	adapter *Adapter
	module  *Module
	weight  float64 // of the adapter among several
	scale   float32
	rank    int64 // of one expert
	parts   []part
	rounds  bool // the delta is rounded to the dtype of the weight before it is added, whatever the option says
}

// An edit is all that happens to one tensor of the base.
type edit struct {
	base    *weights.Tensor
	replace *safetensors.Tensor // takes the place of the base's values; nil: they stay
	updates []update
	biases  []bias
	tokens  []update // trained rows, last
}

type bias struct {
	adapter *Adapter
	module  *Module
	scale   float32
}

// bind finds what an adapter changes. Every tensor of it must.
func (b *base) bind(a *Adapter, weight float64, edits map[string]*edit, notes *[]string) error {
	at := func(t *weights.Tensor) *edit {
		e := edits[t.Name]
		if e == nil {
			e = &edit{base: t}
			edits[t.Name] = e
		}
		return e
	}
	for _, s := range a.Saved {
		t := b.tensor(s.Name)
		if t == nil {
			return b.unmatched(a, s.Tensor.Name, s.Name)
		}
		if err := b.checkShared(a, &s, t); err != nil {
			return err
		}
		if !slices.Equal(t.Shape, s.Tensor.Shape) {
			e := &Error{Path: a.file.Name(), Key: s.Tensor.Name, Expect: fmt.Sprintf("shape %v, as the base's %s has", t.Shape, t.Name), Found: fmt.Sprint(s.Tensor.Shape)}
			e.Hint = resized(t)
			return e
		}
		copied := a.Config != nil && !toSave(a.Config.Saved, s.Name) && (t == b.tied || t.Class.Embedding || t.Class.Head)
		if copied && b.subtract {
			continue // it is what the base has
		}
		if weight != 1 && !copied {
			return &Error{Path: a.file.Name(), Key: s.Tensor.Name, Expect: "an adapter of low-rank updates alone, to be weighted or subtracted", Found: "a tensor that replaces the base's"}
		}
		at(t).replace = s.Tensor
	}
	grouped := map[string][]*Module{} // by the path of the module whose parameters they update
	var order []string
	for _, m := range a.Modules {
		if err := a.checkLoaded(m); err != nil {
			return err
		}
		path := bare(m.Path)
		if _, ok := grouped[path]; !ok {
			order = append(order, path)
		}
		grouped[path] = append(grouped[path], m)
	}
	noted := false
	for _, path := range order {
		list := grouped[path]
		t := b.module(path)
		if t == nil || len(list) > 1 || isStack(t, list[0]) {
			if err := b.bindExperts(a, path, list, weight, at); err != nil {
				return err
			}
			continue
		}
		if err := b.bindModule(a, list[0], t, weight, at(t), at); err != nil {
			return err
		}
		switch {
		case notes == nil || t.Name == path+".weight":
		case t == b.tied && isHead(path):
			*notes = append(*notes, fmt.Sprintf("%s shares its weight with %s: the update goes into both, as PEFT's merge does", path, t.Name))
		case !noted && b.shared(path) == t:
			noted = true
			*notes = append(*notes, fmt.Sprintf("layers share blocks, as %s and %s: updates of all of them go into one, as PEFT's merge does", path, t.Name))
		}
	}
	return nil
}

// resized is what to do where a tensor of another shape was trained.
func resized(t *weights.Tensor) string {
	if t.Class.Embedding || t.Class.Head {
		return "the vocabulary was resized before training: resize the base's with resize_token_embeddings, save it, and merge into that"
	}
	return ""
}

// bare is the path of the module that a wrapper, or a nest of them, stands in the place of.
func bare(path string) string {
	for strings.HasSuffix(path, ".base_layer") {
		path = strings.TrimSuffix(path, ".base_layer")
	}
	return path
}

// unmatched is the error for a tensor of the adapter that the base has no place for.
func (b *base) unmatched(a *Adapter, name, path string) error {
	e := &Error{Path: a.file.Name(), Key: name, Expect: "a module of the base", Found: "none of that name in it", Hint: "is this the adapter's base?"}
	switch {
	case a.Config != nil && a.Config.Base != "":
		e.Hint = "the adapter was trained on " + clip(a.Config.Base) + ": give that model as the base; if it is, it does not store this module"
	case strings.HasPrefix(path, "lora_unet_") || strings.HasPrefix(path, "lora_te"):
		e.Hint = "kohya's names do not tell where a component ends: convert them with diffusers' load_lora_weights and save_lora_weights"
	}
	leaf := path[strings.LastIndexByte(path, '.')+1:]
	if leaf == "weight" || leaf == "bias" {
		for _, s := range []string{"score", "classifier", "qa_outputs", "v_head"} {
			if strings.Contains(path, s) {
				e.Hint = "the base lacks the task's head: give a checkpoint of the class that was trained, saved before the training"
			}
		}
	}
	return e
}

// bindModule places an update on the weight of a Linear, a Conv1D, a convolution or an embedding.
func (b *base) bindModule(a *Adapter, m *Module, t *weights.Tensor, weight float64, e *edit, at func(*weights.Tensor) *edit) error {
	if m.Tokens != nil {
		return e.addTokens(a, m, t, weight)
	}
	u := update{adapter: a, module: m, weight: weight, rank: m.Rank(), rounds: (m.Embedding || a.Config != nil && strings.EqualFold(a.Config.Init, "mica")) && m.Magnitude == nil}
	name := m.Path
	if a.Config != nil && slices.ContainsFunc(a.Config.Parameters, func(p string) bool {
		return m.Path+".weight" == p || strings.HasSuffix(m.Path+".weight", "."+p)
	}) {
		u.rounds, name = true, m.Path+".weight"
	}
	if err := a.checkRank(m, name, 1); err != nil {
		return err
	}
	in, out := m.A.Elems()/m.Rank(), m.B.Shape[0]
	p := part{experts: 1, expert: 0}
	shape := t.Shape
	switch {
	case len(shape) >= 2 && m.Embedding: // [V, D]
		p.turned = true
	case len(shape) == 2 && shape[0] == in && shape[1] == out && (in != out || a.turns(t)):
		p.turned = true
	}
	p.rows, p.cols = out, in
	if p.turned {
		p.rows, p.cols = in, out
	}
	if len(shape) < 2 || shape[0] != p.rows || t.Elems() != p.rows*p.cols || len(m.A.Shape) > 2 && !slices.Equal(m.A.Shape[1:], shape[1:]) {
		return &Error{Path: a.file.Name(), Key: m.A.Name, Expect: fmt.Sprintf("factors of an update of shape %v, as the base's %s has", shape, t.Name),
			Found: fmt.Sprintf("%v and %v, an update of [%d, %d]", m.A.Shape, m.B.Shape, out, in), Hint: resized(t)}
	}
	u.parts = []part{p}
	u.scale = a.scaled(m, name, u.rank, weight)
	e.updates = append(e.updates, u)
	if m.Bias == nil {
		return nil
	}
	bt := b.bias(m.Path, t)
	if bt == nil || bt.Elems() != m.Bias.Elems() {
		return &Error{Path: a.file.Name(), Key: m.Bias.Name, Expect: fmt.Sprintf("a bias of %d beside the base's %s", m.Bias.Elems(), t.Name), Found: "none",
			Hint: "PEFT refuses too to merge lora_bias into a module without a bias"}
	}
	be := at(bt)
	be.biases = append(be.biases, bias{a, m, u.scale})
	return nil
}

// turns reports whether a square weight is [in, out].
func (a *Adapter) turns(t *weights.Tensor) bool {
	if t.Class.Known {
		return t.Class.Conv1D && !t.Turned
	}
	return a.Config != nil && a.Config.FanInOut
}

// scaled is the scaling of a module, times the weight of its adapter.
func (a *Adapter) scaled(m *Module, name string, r int64, weight float64) float32 {
	if weight == 1 {
		return a.Scaling(m, name, r)
	}
	return float32(a.scaling(m, name, r) * weight)
}

// checkRank holds the rank that a config gives a module to the shape of its factors.
func (a *Adapter) checkRank(m *Module, name string, experts int64) error {
	r := m.Rank() / experts
	if m.Rank()%experts != 0 || r > MaxRank {
		return &Error{Path: a.file.Name(), Key: m.A.Name, Expect: fmt.Sprintf("a rank of at most %d for each of %d experts", MaxRank, experts), Found: fmt.Sprintf("shape %v", m.A.Shape)}
	}
	if a.Config == nil || m.alpha != nil {
		return nil
	}
	want := a.Config.Rank
	if v, ok := a.Config.Ranks.Lookup(name); ok {
		want = int64(v)
	}
	if want != r {
		return &Error{Path: a.file.Name(), Key: m.A.Name, Expect: fmt.Sprintf("rank %d, as %s has it for this module", want, ConfigName), Found: fmt.Sprintf("rank %d", r)}
	}
	return nil
}

func (e *edit) addTokens(a *Adapter, m *Module, t *weights.Tensor, weight float64) error {
	if len(t.Shape) != 2 || m.Tokens.Shape[1] != t.Shape[1] {
		return &Error{Path: a.file.Name(), Key: m.Tokens.Name, Expect: fmt.Sprintf("rows as wide as those of the base's %s, %v", t.Name, t.Shape), Found: fmt.Sprint(m.Tokens.Shape)}
	}
	if id := slices.Max(m.IDs); id >= t.Shape[0] {
		return &Error{Path: a.file.Name(), Key: m.Tokens.Name, Expect: fmt.Sprintf("token ids below %d, the rows of %s", t.Shape[0], t.Name), Found: fmt.Sprint(id)}
	}
	if weight != 1 {
		return &Error{Path: a.file.Name(), Key: m.Tokens.Name, Expect: "an adapter of low-rank updates alone, to be weighted or subtracted", Found: "rows that replace the base's"}
	}
	e.tokens = append(e.tokens, update{adapter: a, module: m})
	return nil
}
