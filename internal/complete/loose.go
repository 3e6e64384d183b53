package complete

import (
	"maps"
	"slices"
	"strings"
)

// asked is how many names decide what stands before the base model's in a class without facts.
const asked = 4096

// loosely returns the facts of the type's base model for a class of which there are none: whatever the class has beside it is its own.
func loosely(all []*facts, v *values) []*facts {
	var out []*facts
	for _, f := range all {
		if f.role != "base" {
			continue
		}
		if f = f.in(v); f != nil {
			c := *f
			c.loose = true
			out = append(out, &c)
		}
	}
	return out
}

// lead is what stands before the base model's names in the checkpoint, if that is another prefix than the type's own.
func (c *checker) lead() string {
	votes := map[string]int{}
	for i := range c.tensors[:min(len(c.tensors), asked)] {
		name := c.tensors[i].Name
		for at := 0; at < len(name); {
			var k key
			if c.root.find(name[at:], &k, 0) != nil {
				votes[name[:at]]++
			}
			n := strings.IndexByte(name[at:], '.')
			if n < 0 {
				break
			}
			at += n + 1
		}
	}
	best, most := "", votes[""]
	for _, p := range slices.Sorted(maps.Keys(votes)) {
		if votes[p] > most {
			best, most = p, votes[p]
		}
	}
	return strings.TrimSuffix(best, ".")
}

// towers finds the modules with layers of which the checkpoint has nothing, where it has others: a class may be made of one side of the
// base model, and then has its own of all that is beside the layers.
func (c *checker) towers() {
	present, absent := map[string]bool{}, false
	for g, hits := range c.hits {
		if len(hits) > 0 {
			present[first(g.pattern)] = true
		}
	}
	any := false
	for _, g := range c.layout.groups {
		if len(g.containers) > 0 {
			if present[first(g.pattern)] {
				any = true
			} else {
				absent = true
			}
		}
	}
	if any && absent {
		c.parts = present
	}
}

func first(pattern string) string {
	name, _, _ := strings.Cut(pattern, ".")
	return name
}

// hidden files a tensor that is below a path of which nothing is known.
func (c *checker) hidden(i int32) bool {
	name := c.tensors[i].Name
	for _, path := range c.opaque {
		for _, n := range [...]string{name, c.facts.prefix + "." + name, strings.TrimPrefix(name, c.facts.base+"."), strings.TrimPrefix(name, c.facts.prefix+".")} {
			if strings.HasPrefix(n, path+".") {
				c.unknown = append(c.unknown, c.tensors[i])
				return true
			}
		}
	}
	return false
}
