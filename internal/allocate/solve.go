package allocate

import (
	"cmp"
	"slices"
)

// assignment is an option for each group.
type assignment struct {
	chosen   []int
	bits     int64
	estimate float64
}

func (a *assignment) set(groups []group, g, o int) {
	from, to := &groups[g].options[a.chosen[g]], &groups[g].options[o]
	a.bits += to.bits - from.bits
	a.estimate += to.estimate - from.estimate
	a.chosen[g] = o
}

// sum adds the estimates up, in order: what set has added and taken away has rounded.
func (a *assignment) sum(groups []group) {
	a.estimate = 0
	for g := range groups {
		a.estimate += groups[g].options[a.chosen[g]].estimate
	}
}

// allocate finds an assignment of options that are allowed within the bits; nil if even the cheapest takes more. least is
// what that takes.
func allocate(groups []group, allowed []setting, bits int64) (best *assignment, least float64) {
	cheapest := &assignment{chosen: make([]int, len(groups))}
	for g := range groups {
		at := -1
		for o := range groups[g].options {
			if (groups[g].fixed || slices.Contains(allowed, groups[g].options[o].setting)) && (at < 0 || cheaper(&groups[g].options[o], &groups[g].options[at])) {
				at = o
			}
		}
		cheapest.chosen[g] = at
		cheapest.bits += groups[g].options[at].bits
	}
	if cheapest.bits > bits {
		return nil, float64(cheapest.bits)
	}
	cheapest.sum(groups)
	starts := []*assignment{steepest(groups, allowed, cheapest, bits)}
	// A uniform setting may be a better beginning where groups are few.
	for _, s := range allowed {
		u := &assignment{chosen: make([]int, len(groups))}
		for g := range groups {
			u.chosen[g] = max(0, slices.IndexFunc(groups[g].options, func(p option) bool { return p.setting == s }))
			u.bits += groups[g].options[u.chosen[g]].bits
		}
		if u.bits <= bits {
			starts = append(starts, u)
		}
	}
	for _, a := range starts {
		a.sum(groups)
		fill(groups, allowed, a, bits)
		a.sum(groups)
		if best == nil || a.estimate < best.estimate {
			best = a
		}
	}
	return best, float64(cheapest.bits)
}

func cheaper(a, b *option) bool {
	return a.bits < b.bits || a.bits == b.bits && a.estimate < b.estimate
}

// step is an option in place of a cheaper one.
type step struct {
	group, option int
	gain          float64 // of the estimate, for a bit
}

// steepest goes up the lower convex hulls of the groups, the steepest steps first, as far as the bits allow.
func steepest(groups []group, allowed []setting, from *assignment, bits int64) *assignment {
	a := &assignment{slices.Clone(from.chosen), from.bits, from.estimate}
	var steps []step
	for g := range groups {
		steps = append(steps, hull(&groups[g], g, allowed, a.chosen[g])...)
	}
	slices.SortStableFunc(steps, func(x, y step) int { return cmp.Compare(y.gain, x.gain) })
	full := make([]bool, len(groups)) // a step of the group did not fit, and those after it build on it
	for _, s := range steps {
		if full[s.group] {
			continue
		}
		o := groups[s.group].options
		if a.bits+o[s.option].bits-o[a.chosen[s.group]].bits > bits {
			full[s.group] = true
			continue
		}
		a.set(groups, s.group, s.option)
	}
	return a
}

// hull is the steps along the lower convex hull of a group's options, in ascending order of bits and of falling gain.
func hull(g *group, index int, allowed []setting, cheapest int) []step {
	var steps []step
	for at := cheapest; ; {
		next, gain := -1, 0.
		for o := range g.options {
			more, less := g.options[o].bits-g.options[at].bits, g.options[at].estimate-g.options[o].estimate
			if g.fixed || !slices.Contains(allowed, g.options[o].setting) || more <= 0 || less <= 0 {
				continue
			}
			if k := less / float64(more); k > gain {
				next, gain = o, k
			}
		}
		if next < 0 {
			return steps
		}
		steps = append(steps, step{index, next, gain})
		at = next
	}
}

// fill spends what is left on the option that lowers the estimate most, as long as one fits.
func fill(groups []group, allowed []setting, a *assignment, bits int64) {
	for {
		at, to, most := -1, 0, 0.
		for g := range groups {
			if groups[g].fixed {
				continue
			}
			from := &groups[g].options[a.chosen[g]]
			for o := range groups[g].options {
				p := &groups[g].options[o]
				if slices.Contains(allowed, p.setting) && a.bits+p.bits-from.bits <= bits && from.estimate-p.estimate > most {
					at, to, most = g, o, from.estimate-p.estimate
				}
			}
		}
		if at < 0 {
			return
		}
		a.set(groups, at, to)
	}
}
