package convert

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// What unsloth_zoo 2026.10.9 does with routed experts in 4 bits (temporary_patches/moe_utils_bnb4bit.py): under transformers 5
// it reads stacks of three dimensions, and experts one by one, which it joins to stacks. Both must lie as the model of
// transformers 5 has them: gate_up_proj [experts, 2*inner, hidden] and down_proj [experts, hidden, inner].

// unslothTypes are the model types whose experts' forward it replaces (a file of temporary_patches each) and whose
// checkpoints have that layout, see the interop test.
var unslothTypes = []string{"mixtral", "qwen3_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text", "deepseek_v3", "glm4_moe",
	"lfm2_moe", "ernie4_5_moe", "gemma4", "gemma4_text"}

const unslothStays = "; it stays in 16 bits"

// unslothExpert says why an expert that is stored by itself is kept, "" if it is packed.
func unslothExpert(m *arch.Model) string {
	if slices.Contains(unslothTypes, m.Type) {
		return ""
	}
	return fmt.Sprintf("a routed expert, and Unsloth is not known to run those of %s in 4 bits%s", m.Type, unslothStays)
}

// UnslothPacks reports whether --target unsloth packs the routed experts of the plan's model.
func (p *Plan) UnslothPacks() bool {
	return p.model != nil && p.stats.ExpertParams > 0 && unslothExpert(p.model) == ""
}

// unslothStack is the same for a stack of experts.
func unslothStack(m *arch.Model, name string, shape []int64) string {
	leaf := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case m.Type == "gpt_oss":
		return "a stack of routed experts, and Unsloth reads gpt-oss in 4 bits only as Linears of other names (gate_up_projs.0, router.linear)" + unslothStays
	case m.Type == "qwen3_vl_moe":
		return "a stack of routed experts that lies transposed in the checkpoint, which Unsloth cannot turn in 4 bits" + unslothStays
	case leaf != "gate_up_proj" && leaf != "down_proj":
		return "a stack of experts, and Unsloth packs gate_up_proj and down_proj alone"
	case slices.Contains(shape, 0):
		return "it has no elements"
	}
	return unslothExpert(m)
}

var expertName = regexp.MustCompile(`^((?:.*\.)?experts)\.(?:(\d+)\.)?(gate_up_proj|gate_proj|up_proj|down_proj|w1|w2|w3)(?:\.weight)?$`)

// ExpertStack names the stack that Unsloth makes of an expert's weight, "" if it makes none. It reads type, block size and
// dtype of the first part alone and takes them for all.
func ExpertStack(name string) string {
	m := expertName.FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	if m[3] == "down_proj" || m[3] == "w2" {
		return m[1] + ".down_proj"
	}
	return m[1] + ".gate_up_proj"
}

// Alone returns of names of experts the first that is the only one of its layer and lies by itself, "" if there is none. What Unsloth
// joins of one is [1, n, 1], which bitsandbytes takes for a transposed matrix, and fails as it decodes it; a stack of one it decodes.
func Alone(names []string) string {
	type layer struct {
		name, number string // of the first
		several      bool
	}
	byPath := map[string]*layer{}
	var layers []*layer
	for _, name := range names {
		m := expertName.FindStringSubmatch(name)
		if m == nil || m[2] == "" {
			continue
		}
		l := byPath[m[1]]
		if l == nil {
			l = &layer{name: name, number: m[2]}
			byPath[m[1]] = l
			layers = append(layers, l)
		}
		l.several = l.several || l.number != m[2]
	}
	for _, l := range layers {
		if !l.several {
			return l.name
		}
	}
	return ""
}

// checkUnsloth holds the plan to what Unsloth takes: all routed experts packed or none, and all parts of a stack alike.
func (p *Plan) checkUnsloth(opt *Options) error {
	if opt.targets()&arch.Unsloth == 0 {
		return nil
	}
	refuse := func(format string, args ...any) error { return &OptionError{"unsloth " + fmt.Sprintf(format, args...)} }
	first := map[string]*Item{}
	var packed, kept *Item
	for i := range p.items {
		it := &p.items[i]
		stack := ExpertStack(it.Name)
		if stack == "" || !it.Class.Expert && len(it.Shape) != 3 && it.Stack == 0 {
			continue
		}
		if !it.Quantize {
			kept = it
			continue
		}
		packed = it
		f := first[stack]
		if f == nil {
			first[stack], f = it, it
		}
		if f.Spec != it.Spec {
			return refuse("reads all experts of %s as the first, and %s would be %s where %s is %s", stack, it.Name, it.Spec, f.Name, f.Spec)
		}
	}
	switch {
	case packed != nil && kept != nil:
		return refuse("loads the routed experts of all layers in 4 bits or none, and %s would be kept (%s) where %s is packed", kept.Name, kept.Reason, packed.Name)
	case packed == nil && p.stats.ExpertParams > 0:
		p.warnings = append(p.warnings, "--target unsloth packs no experts of this model: "+kept0(p))
	}
	return nil
}

// joinsExperts reports whether experts that lie one by one are written as the stacks that Unsloth makes of them. It reads these
// exactly, where it rounds the tables of others, and they have one table and one record in place of hundreds. They lie by themselves
// where the user wants them so, where their inputs are known, which are those of each expert, and where a checkpoint in 4 bits had them so.
func (o *Options) joinsExperts() bool {
	return o.targets()&arch.Unsloth != 0 && !o.PerExpert && o.Inputs == nil && o.Formats == nil
}

// joinExperts makes one item of all that are parts of a stack.
func (p *Plan) joinExperts(m *weights.Model) {
	var parts []*weights.Tensor
	for i := range p.items {
		if it := &p.items[i]; it.Quantize && it.Class.Stack != "" {
			parts = append(parts, it.Tensor)
		}
	}
	stackOf := map[*weights.Tensor]*weights.Tensor{}
	for _, t := range m.Join(parts) {
		for _, part := range t.Of {
			stackOf[part] = t
		}
	}
	if len(stackOf) == 0 {
		return
	}
	var items []Item
	joined := map[*weights.Tensor]bool{}
	for i := range p.items {
		it := p.items[i]
		if t := stackOf[it.Tensor]; t != nil {
			if joined[t] {
				p.stats.QuantCount--
				continue
			}
			joined[t] = true
			it.Tensor, it.Stack = t.Stacked(), t.Shape[0]
			it.Shape = it.Tensor.Shape
		}
		it.index = len(items)
		items = append(items, it)
	}
	p.items = items
	p.kinds()
}

// checkAlone refuses experts that Unsloth cannot decode where they lie by themselves.
func (p *Plan) checkAlone() error {
	var names []string
	for i := range p.items {
		if it := &p.items[i]; it.Class.Expert && it.Quantize && it.Stack == 0 {
			names = append(names, it.Name)
		}
	}
	if name := Alone(names); name != "" {
		return &OptionError{fmt.Sprintf("unsloth cannot decode the only expert of a layer where it lies by itself, as %s would: "+
			"as a stack, without --moe per-expert, an importance matrix or activations, it can", name)}
	}
	return nil
}

// noteRagged says which experts that stay by themselves Unsloth packs again.
func (p *Plan) noteRagged(opt *Options) {
	var ragged, fitted *Item
	for i := range p.items {
		it := &p.items[i]
		if ExpertStack(it.Name) == "" || !it.Class.Expert || !it.Quantize || it.Stack > 0 {
			continue
		}
		if it.Elems()%int64(it.Spec.Block()) != 0 {
			ragged = it
		}
		if opt.FitExperts && it.Spec.Block() < opt.Spec.Block() && it.Elems()%int64(opt.Spec.Block()) != 0 {
			fitted = it
		}
	}
	if fitted != nil {
		p.notices = append(p.notices, fmt.Sprintf("%s has %d weights, no whole blocks of %d: experts of that size are in blocks of %d, "+
			"since Unsloth packs others again as it loads them, which adds noise (--block-size keeps to one size)",
			fitted.Name, fitted.Elems(), opt.Spec.Block(), fitted.Spec.Block()))
	}
	if ragged != nil {
		note := fmt.Sprintf("%s has %d weights, no whole blocks of %d: Unsloth packs such experts again as it loads them, which adds noise",
			ragged.Name, ragged.Elems(), ragged.Spec.Block())
		if b := fitting(ragged.Elems(), opt.Spec); b > 0 {
			note += fmt.Sprintf("; --block-size %d fits", b)
		}
		p.notices = append(p.notices, note)
	}
}

// kept0 is the reason of the first routed expert that is kept.
func kept0(p *Plan) string {
	for i := range p.items {
		if it := &p.items[i]; it.Class.Expert && !it.Class.Router && !it.Quantize {
			return it.Name + " is " + it.Reason
		}
	}
	return ""
}

// fitting is the largest block size below the format's that divides n, 0 if there is none.
func fitting(n int64, f bnb.Format) int {
	for b := f.Block() / 2; b >= 32; b /= 2 {
		if n%int64(b) == 0 {
			return b
		}
	}
	return 0
}
