package complete

import "strings"

// match files every tensor under the pattern of its name, and returns those without one.
func (c *checker) match() (strangers []int32) {
	spellings := map[spelling]int{}
	for i := range c.tensors {
		g, k, how := c.find(c.tensors[i].Name)
		if g == nil {
			strangers = append(strangers, int32(i))
			continue
		}
		spellings[how]++
		if c.hits[g] == nil {
			c.hits[g] = map[key]int32{}
		}
		if j, twice := c.hits[g][k]; twice && c.facts.loose && c.leading != "" {
			// A class of its own may have a module beside the base model that is called like one of the base model's.
			own := int32(i)
			if how.more != c.leading {
				own, j = j, own
			}
			c.hits[g][k] = own
			strangers = append(strangers, j)
			continue
		}
		c.hits[g][k] = int32(i)
		for h, container := range g.containers {
			c.observed[container] = max(c.observed[container], int64(k[h])+1)
		}
	}
	most := 0
	for how, n := range spellings {
		if n > most || n == most && how == (spelling{}) {
			most, c.spelling = n, how
		}
	}
	return strangers
}

// A spelling is what the checkpoint's names have before those of the patterns, or lack.
type spelling struct {
	more, less string
}

// of is a pattern's name as the checkpoint would have it.
func (s spelling) of(name string) string {
	if rest, ok := strings.CutPrefix(name, s.less+"."); ok && s.less != "" {
		return rest
	}
	if s.more != "" {
		return s.more + "." + name
	}
	return name
}

// find looks a name up as it is, and as loaders read it: with the base model's prefix or without, and with the names that norms
// and normed weights had once.
func (c *checker) find(name string) (*group, key, spelling) {
	for _, n := range [...]string{name, renamed(name)} {
		if n == "" {
			continue
		}
		var k key
		if g := c.root.find(n, &k, 0); g != nil {
			return g, k, spelling{}
		}
		if c.facts.prefix != "" {
			if g := c.root.find(c.facts.prefix+"."+n, &k, 0); g != nil {
				return g, k, spelling{less: c.facts.prefix}
			}
		}
		for _, prefix := range [...]string{c.leading, c.facts.base, c.facts.prefix} {
			if rest, ok := strings.CutPrefix(n, prefix+"."); ok && prefix != "" {
				if g := c.root.find(rest, &k, 0); g != nil {
					return g, k, spelling{more: prefix}
				}
			}
		}
	}
	return nil, key{}, spelling{}
}

// renamed is the name that transformers gives one of an old checkpoint, or "".
func renamed(name string) string {
	for _, r := range [...][2]string{
		{"LayerNorm.gamma", "LayerNorm.weight"}, {"LayerNorm.beta", "LayerNorm.bias"},
		{".weight_g", ".parametrizations.weight.original0"}, {".weight_v", ".parametrizations.weight.original1"},
		{".parametrizations.weight.original0", ".weight_g"}, {".parametrizations.weight.original1", ".weight_v"},
	} {
		if rest, ok := strings.CutSuffix(name, r[0]); ok {
			return rest + r[1]
		}
	}
	return ""
}
