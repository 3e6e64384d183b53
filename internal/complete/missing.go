package complete

import (
	"fmt"
	"slices"
	"strings"
)

// missing reports a tensor, or once for all tensors of its list of modules that the list is too short.
func (c *checker) missing(g *group, r *row, idx []int64) {
	for h, container := range g.containers {
		have := c.observed[container]
		if have == 0 || idx[h] < have {
			continue
		}
		list := fill(strings.TrimSuffix(strings.TrimSuffix(container, "#"), "."), idx[:h])
		what := list[strings.LastIndexByte(list, '.')+1:]
		if !strings.HasSuffix(what, "s") {
			what = "members"
		}
		whole := fmt.Sprintf("%d %s (%s)", c.counts[container], what, c.layout.counts[container])
		if c.plain(container) {
			c.report.add(Problem{Missing, c.spelling.of(fill(g.pattern, idx)), "it, " + c.describe(g, r) + ", of " + whole, fmt.Sprint(have)})
		} else if !c.short[list] {
			c.short[list] = true
			c.report.add(Problem{Missing, c.spelling.of(list), whole, fmt.Sprint(have)})
		}
		return
	}
	c.report.add(Problem{Missing, c.spelling.of(fill(g.pattern, idx)), "it, " + c.describe(g, r), "no such tensor"})
}

// plain reports whether the members of the list are of one tensor each: the tensor that lacks says more than their number.
func (c *checker) plain(container string) bool {
	n := 0
	for _, g := range c.layout.groups {
		if slices.Contains(g.containers, container) {
			n++
		}
	}
	return n == 1
}

// reason puts the condition of a tensor's presence in words.
func reason(g *group) string {
	var words []string
	for _, r := range g.rows {
		for _, a := range r.present.atoms {
			if len(a.arg) > 0 && !slices.Contains(words, a.arg[0]) {
				words = append(words, a.arg[0])
			}
		}
	}
	if len(words) == 0 {
		return "the layer has none"
	}
	return strings.Join(words, ", ")
}

// excused reports whether the checkpoint may lack the row's tensor: it is of a pooler of which nothing is there, or a tensor
// that config.json ties to it stands in for it.
func (c *checker) excused(of *group, r *row, idx []int64) bool {
	pattern := of.pattern
	if c.poolerless(pattern) {
		return true
	}
	for _, g := range c.standsIn[pattern] {
		if turn := r.turn(); g == of && turn != nil {
			if c.sharesBlock(g, r, turn, idx) {
				return true
			}
			continue
		}
		tied := len(g.containers) > 0 || slices.ContainsFunc(g.rows, func(r *row) bool {
			return r.tied == pattern && r.required.eval(c.values.in(g.scope), nil, nil) != yes
		})
		if tied && len(c.hits[g]) > 0 {
			return true
		}
	}
	return false
}

// turn is the condition by which the first layers of a kind have the blocks that all others share in turn, nil if there is none.
func (r *row) turn() *atom {
	for i, a := range r.required.atoms {
		if a.op == "nth" && !a.negated {
			return &r.required.atoms[i]
		}
	}
	return nil
}

// sharesBlock reports whether the tensor is there in another layer that has the same block.
func (c *checker) sharesBlock(g *group, r *row, turn *atom, idx []int64) bool {
	v := c.values.in(g.scope)
	rank, of, ok := turn.rank(v, idx[turn.hole])
	if !ok {
		return false
	}
	other := slices.Clone(idx)
	for k := range c.hits[g] {
		other[turn.hole] = int64(k[turn.hole])
		same := true
		for h, i := range other {
			same = same && int64(k[h]) == i
		}
		if !same || r.required.eval(v, other, nil) == yes {
			continue // another's, or one that shares nothing
		}
		if n, _, ok := turn.rank(v, other[turn.hole]); ok && n%of == rank%of {
			return true
		}
	}
	return false
}

// poolerless reports whether the pattern is of the pooler of a base model and the checkpoint has nothing of it, and says so
// once. Encoders are published without the pooler that their class has: sentence-transformers pools by itself.
func (c *checker) poolerless(pattern string) bool {
	const pooler = "pooler."
	if c.facts.prefix != "" || !strings.HasPrefix(pattern, pooler) {
		return false
	}
	for g, hits := range c.hits {
		if len(hits) > 0 && strings.HasPrefix(g.pattern, pooler) {
			return false
		}
	}
	const note = "there is no pooler; transformers starts one at random, which matters only where its output is used"
	if !slices.Contains(c.report.Notices, note) {
		c.report.Notices = append(c.report.Notices, note)
	}
	return true
}

func fill(pattern string, idx []int64) string {
	for _, i := range idx {
		pattern = strings.Replace(pattern, "#", fmt.Sprint(i), 1)
	}
	return pattern
}
