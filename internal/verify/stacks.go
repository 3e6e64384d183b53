package verify

import (
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
)

// stacks reports experts that Unsloth would decode wrongly: it joins those that lie one by one to a stack, and takes type, block
// size and dtype of the first for all, without a look at the others; one alone it cannot decode. Stacks that are packed whole
// nobody else loads.
func (r *Report) stacks(sub *subject) {
	first := map[string]*fourbit.Weight{}
	told, whole := map[string]bool{}, false
	var single []string
	for _, w := range sub.groups.Weights {
		if w.State.Stack > 0 {
			if !whole && sub.targets&arch.Unsloth == 0 {
				r.find(fourbit.Warning, w.Packed.Shard, w.Name, "expected the weight of a Linear, found a stack of experts %v in 4 bits, which only Unsloth loads (--target unsloth)",
					w.State.Dims()).Breaks = loadersOf(sub.targets)
			}
			whole = true
			continue
		}
		stack := convert.ExpertStack(w.Name)
		if stack == "" || sub.targets&arch.Unsloth == 0 {
			continue
		}
		single = append(single, w.Name)
		f := first[stack]
		if f == nil {
			first[stack] = w
			continue
		}
		if a, b := f.State, w.State; !told[stack] && (a.Type != b.Type || a.Block() != b.Block() || a.DType != b.DType) {
			told[stack] = true
			r.find(fourbit.Warning, w.Packed.Shard, w.Name, "expected %s of %s as %s has it, by which Unsloth reads all experts of %s, found %s of %s: it decodes them wrongly",
				a.Format, a.DType, f.Name, stack, b.Format, b.DType).Breaks = loadersOf(sub.targets)
		}
	}
	if name := convert.Alone(single); name != "" { // the first of its stack
		r.find(fourbit.Warning, first[convert.ExpertStack(name)].Packed.Shard, name, "expected several experts, or a stack, found the only one of its layer, which lies by itself: "+
			"Unsloth cannot decode it").Breaks = loadersOf(sub.targets)
	}
}
