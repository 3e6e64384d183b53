package allocate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// sampleSize is how many elements of a weight are looked at. The error of 2,048 blocks of 64 is that of a large weight within
// some 2 %.
const sampleSize = 1 << 17

// setting is what a weight may be given.
type setting struct {
	keep   bool
	block  int
	double bool
}

func (s setting) apply(f bnb.Format) bnb.Format {
	f.BlockSize, f.NoDoubleQuant = s.block, !s.double
	return f
}

// option is a setting of a weight, or of a group of them, and what it takes and leaves.
type option struct {
	setting
	bits     int64
	estimate float64
}

type weights struct {
	settings []setting
	list     []weight
	params   int64
}

type weight struct {
	item    *convert.Item
	fixed   bool
	options []option // of the settings; of one that is fixed, its own alone
	squares float64
}

// measure finds what each setting of each weight leaves.
func measure(ctx context.Context, p *convert.Plan, o *Options) (*weights, error) {
	w := new(weights)
	if !o.NoKeep {
		w.settings = append(w.settings, setting{keep: true})
	}
	for _, b := range o.Blocks {
		w.settings = append(w.settings, setting{block: b, double: true}, setting{block: b})
	}
	for i := range p.Items() {
		if it := &p.Items()[i]; it.Quantize && it.Elems() > 0 {
			w.list = append(w.list, weight{item: it, fixed: o.Fixed != nil && o.Fixed(it.Name)})
			w.params += it.Elems()
		}
	}
	const held = 16 * sampleSize // bytes of a sample and its codes, at most
	var mu sync.Mutex
	err := stream.Run(ctx, o.Stream, func() struct{} { return struct{}{} }, len(w.list), func(int) int64 { return held },
		func(i int, each stream.Each[struct{}]) error {
			return each(1, func(struct{}, int) error {
				if err := w.list[i].measure(p, w.settings); err != nil {
					return err
				}
				if o.Progress != nil {
					mu.Lock()
					defer mu.Unlock()
					o.Progress(w.list[i].item.Name, w.list[i].item.Bytes)
				}
				return nil
			})
		})
	return w, err
}

// measure fills the options.
func (w *weight) measure(p *convert.Plan, settings []setting) error {
	s, err := p.Sample(w.item, sampleSize)
	if err != nil {
		return err
	}
	all := w.item.Elems()
	whole := float64(all) / float64(s.Len())
	w.squares = whole * s.Squares()
	own := setting{block: w.item.Spec.Block(), double: !w.item.Spec.NoDoubleQuant}
	if w.fixed {
		settings = []setting{own}
	}
	errors := map[int][2]float64{}
	for _, set := range settings {
		if set.keep {
			w.options = append(w.options, option{setting: set, bits: 16 * all})
			continue
		}
		e, done := errors[set.block]
		if !done {
			if e[0], e[1], err = s.Errors(w.item.Spec.Scale, set.block); err != nil {
				return fmt.Errorf("%s: %w", w.item.Name, err)
			}
			errors[set.block] = e
		}
		size, err := set.apply(w.item.Spec).Size(w.item.Shape...)
		if err != nil {
			return fmt.Errorf("%s: %w", w.item.Name, err)
		}
		left := e[0]
		if set.double {
			left = e[1]
		}
		w.options = append(w.options, option{setting: set, bits: 8 * size.Data, estimate: whole * left})
	}
	return nil
}

// scale makes errors of the weights' outputs what they cost, and says in what unit.
func (w *weights) scale(sensitivity func(string) (float64, bool)) (by string) {
	factor := make([]float64, len(w.list))
	var known []float64 // relative to what a relative error would count
	for i := range w.list {
		if sensitivity == nil {
			break
		}
		if v, ok := sensitivity(w.list[i].item.Name); ok {
			factor[i] = v / 2
			if r := factor[i] * w.list[i].squares; r > 0 {
				known = append(known, r)
			}
		}
	}
	typical, by := 1., "relative error of each layer's output, all counted alike"
	if len(known) > 0 {
		slices.Sort(known)
		typical, by = known[len(known)/2], "KL divergence in nats a token"
	}
	for i := range w.list {
		if factor[i] == 0 && w.list[i].squares > 0 {
			factor[i] = typical / w.list[i].squares
		}
		for k := range w.list[i].options {
			w.list[i].options[k].estimate *= factor[i]
		}
	}
	return by
}

// group is weights that are given the same setting.
type group struct {
	members []int
	options []option
	fixed   bool
}

// of is the option with a setting, or the only one.
func (g *group) of(s setting) option {
	if i := slices.IndexFunc(g.options, func(o option) bool { return o.setting == s }); i >= 0 {
		return g.options[i]
	}
	return g.options[0]
}

// groups puts weights together in the order of the plan.
func (w *weights) groups(t arch.Target) []group {
	var out []group
	index := map[string]int{}
	for i := range w.list {
		m := &w.list[i]
		key := groupKey(m.item, t)
		if m.fixed {
			key = ""
		}
		at, ok := index[key]
		if !ok || key == "" {
			at = len(out)
			out = append(out, group{options: slices.Clone(m.options), fixed: m.fixed})
			if key != "" {
				index[key] = at
			}
		} else {
			for k := range m.options {
				out[at].options[k].bits += m.options[k].bits
				out[at].options[k].estimate += m.options[k].estimate
			}
		}
		out[at].members = append(out[at].members, i)
	}
	return out
}

// groupKey names the weights that must have one format: the experts of a layer, which loaders put together as the first of them
// is, and what engines that serve models make one matrix of.
func groupKey(it *convert.Item, t arch.Target) string {
	parts := strings.Split(it.Name, ".")
	if it.Class.Expert {
		for i := 1; i < len(parts); i++ {
			if _, err := strconv.Atoi(parts[i]); err == nil && strings.Contains(parts[i-1], "expert") {
				return strings.Join(parts[:i], ".")
			}
		}
	}
	if t&(arch.VLLM|arch.SGLang) == 0 || len(parts) < 2 {
		return it.Name
	}
	leaf := len(parts) - 2
	if fused := map[string]string{"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}[parts[leaf]]; fused != "" {
		parts[leaf] = fused
	}
	return strings.Join(parts, ".")
}
