package allocate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Options say what is asked for.
type Options struct {
	Target  float64 // bits per parameter of the weights that the plan quantizes: codes and constants, and 16 of those kept
	Blocks  []int   // block sizes to choose from; nil: Blocks
	Double  *bool   // double quantization for all or for none; nil: what is better, for all alike where a loader needs that
	NoKeep  bool    // 16 bits are no choice
	Targets arch.Target
	Fixed   func(name string) bool // weights that stay as the plan has them, such as those of a rule; nil: none

	// Sensitivity is how much the error of a weight's outputs counts; ok is false where that is not known, and the relative
	// error counts. nil: known of none.
	Sensitivity func(weight string) (value float64, ok bool)
	Progress    func(tensor string, bytes int64)
	Stream      stream.Options
}

// Blocks are the block sizes to choose from by default.
var Blocks = []int{32, 64, 128, 256}

// A Choice is the setting of one weight.
type Choice struct {
	Item   *convert.Item
	Keep   bool // in 16 bits
	Format bnb.Format
	fixed  bool
}

// A Uniform is one setting for all weights but those that are fixed, to compare with.
type Uniform struct {
	Format   string  `json:"format"`
	Bits     float64 `json:"bits_per_parameter"`
	Estimate float64 `json:"estimated_error"`
}

// An Outcome is what was chosen.
type Outcome struct {
	Target    float64   `json:"target_bits_per_parameter"`
	Bits      float64   `json:"bits_per_parameter"`
	Estimate  float64   `json:"estimated_error"` // the sum over the weights, in the unit of By
	By        string    `json:"estimated_by"`
	Uniform   []Uniform `json:"uniform"`   // of every setting, in ascending order of bits
	KeptCount int       `json:"kept_here"` // weights kept in 16 bits to meet the target
	Choices   []Choice  `json:"-"`         // in the order of the plan
}

// A TargetError is a target that no choice meets.
type TargetError struct{ Target, Least, Most float64 }

func (e *TargetError) Error() string {
	return fmt.Sprintf("a target of %v bits per parameter: expected %.3f to %.3f, which this model allows", e.Target, e.Least, e.Most)
}

// Choose chooses for the weights that p quantizes. It reads a sample of each.
func Choose(ctx context.Context, p *convert.Plan, o Options) (*Outcome, error) {
	if o.Blocks == nil {
		o.Blocks = Blocks
	}
	w, err := measure(ctx, p, &o)
	if err != nil {
		return nil, err
	}
	by := w.scale(o.Sensitivity)
	groups := w.groups(o.Targets)
	var best *assignment
	var least, most float64
	modes := w.modes(&o)
	for _, mode := range modes {
		a, low := allocate(groups, mode, int64(o.Target*float64(w.params)))
		if least == 0 || low < least {
			least = low
		}
		if a != nil && (best == nil || a.estimate < best.estimate) {
			best = a
		}
	}
	most = 16
	if best == nil || o.Target >= most {
		return nil, &TargetError{o.Target, least / float64(w.params), most}
	}
	return w.outcome(best, by, o.Target, groups, modes), nil
}

// modes are sets of settings of which one assignment may be made. Where transformers 4 or diffusers load the checkpoint, double
// quantization is the same for all.
func (w *weights) modes(o *Options) [][]setting {
	is := func(double bool) (out []setting) {
		for _, s := range w.settings {
			if s.keep || s.double == double {
				out = append(out, s)
			}
		}
		return out
	}
	alike := o.Targets == 0 || o.Targets&(arch.Transformers4|arch.Diffusers) != 0
	fixed := slices.IndexFunc(w.list, func(m weight) bool { return m.fixed })
	switch {
	case o.Double != nil:
		return [][]setting{is(*o.Double)}
	case alike && fixed >= 0:
		return [][]setting{is(!w.list[fixed].item.Spec.NoDoubleQuant)}
	case alike:
		return [][]setting{is(true), is(false)}
	}
	return [][]setting{w.settings}
}

// outcome says what was chosen of each weight.
func (w *weights) outcome(a *assignment, by string, target float64, groups []group, modes [][]setting) *Outcome {
	out := &Outcome{Target: target, Bits: float64(a.bits) / float64(w.params), Estimate: a.estimate, By: by, Uniform: w.uniform(groups, modes)}
	choices := make([]Choice, len(w.list))
	for g := range groups {
		for _, m := range groups[g].members {
			it := w.list[m].item
			c := Choice{Item: it, Format: it.Spec, fixed: groups[g].fixed}
			if s := groups[g].options[a.chosen[g]].setting; !c.fixed {
				c.Keep = s.keep
				c.Format = s.apply(it.Spec)
			}
			if c.Keep {
				out.KeptCount++
			}
			choices[m] = c
		}
	}
	out.Choices = choices
	return out
}

// uniform is every setting that might have been chosen, for all weights.
func (w *weights) uniform(groups []group, modes [][]setting) []Uniform {
	var out []Uniform
	for _, s := range w.settings {
		if s.keep || !slices.ContainsFunc(modes, func(m []setting) bool { return slices.Contains(m, s) }) {
			continue
		}
		u := Uniform{Format: s.apply(w.list[0].item.Spec).String()}
		var bits int64
		for g := range groups {
			o := groups[g].of(s)
			bits += o.bits
			u.Estimate += o.estimate
		}
		u.Bits = float64(bits) / float64(w.params)
		out = append(out, u)
	}
	slices.SortStableFunc(out, func(a, b Uniform) int {
		switch {
		case a.Bits < b.Bits:
			return -1
		case a.Bits > b.Bits:
			return 1
		}
		return strings.Compare(a.Format, b.Format)
	})
	return out
}
