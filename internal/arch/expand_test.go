package arch

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// expand writes out tensor names of a class, with the given numbers in the
// patterns' holes: what a checkpoint saved by that class holds.
func expand(c *class, numbers []string) []string {
	set := map[string]bool{}
	e := &entry{class: c}
	var walk func(n *node, prefix string, depth int)
	walkClass := func(c *class, prefix string, depth int) {
		walk(c.root, prefix, depth)
		if b := c.typ.base; c.onBase && b != nil && b != c {
			walk(b.root, prefix+c.prefix, depth)
		}
	}
	walk = func(n *node, prefix string, depth int) {
		path := strings.TrimSuffix(prefix, ".")
		if n.weight != nil {
			set[path+".weight"] = true
		}
		if n.param != nil {
			set[path] = true
		}
		for name, k := range n.kids {
			walk(k, prefix+name+".", depth)
		}
		if n.number != nil {
			for _, d := range numbers {
				walk(n.number, prefix+d+".", depth)
			}
		}
		if depth < maxDepth {
			for _, m := range n.models {
				if inner := e.nested(m); inner != nil {
					walkClass(inner, prefix, depth+1)
				}
			}
		}
	}
	walkClass(c, "", 0)
	return slices.Sorted(maps.Keys(set))
}

func split(m *Model, t Target, names []string) (kept, quantized []Tensor) {
	for _, n := range names {
		c := m.Classify(n)
		switch {
		case c.Quantize(t) && !c.Tower && !c.Projector:
			quantized = append(quantized, Tensor{n, c})
		case c.Module:
			kept = append(kept, Tensor{n, c})
		}
	}
	return kept, quantized
}

// For every class of the table and every target there must be a skip list
// that every loader reads as meant.
func TestSkipListServesEveryClass(t *testing.T) {
	targets := []Target{Transformers5 | Transformers4, Transformers5, Transformers4}
	for _, info := range Types() {
		mt := lookupType(info.ModelType)
		for _, c := range mt.classes {
			names := expand(c, []string{"0", "1", "10", "11"})
			for _, tied := range []bool{false, true} {
				q := Query{ModelType: mt.name, Architectures: []string{c.name}, Tied: tied, TiedSet: true}
				m, err := Resolve(q, names)
				if err != nil {
					t.Fatal(err)
				}
				if m.Class != c.name {
					t.Errorf("%s: resolved %s as %s", mt.name, c.name, m.Class)
				}
				for _, target := range targets {
					kept, quantized := split(m, target, names)
					list, bad := m.SkipList(target, kept, quantized)
					for i, v := range bad {
						if i == 3 {
							break
						}
						t.Errorf("%s/%s for %s, tied %v: %v; list %q", mt.name, c.name, target, tied, v, list)
					}
				}
			}
		}
	}
}
