package complete

import (
	"maps"
	"slices"
	"strings"
)

// in returns the facts for the nested models that config.json has, in the place of those that the facts were made with: a class that
// makes its parts by AutoModel holds a model of any type under the same path. It is nil where that path is not found.
func (f *facts) in(v *values) *facts {
	for _, key := range slices.Sorted(maps.Keys(f.nested)) {
		got, ok := at(v.root, key+".model_type")
		if want := f.nested[key]; ok && got != want {
			name, _ := got.(string)
			if f = f.exchange(key, want, name); f == nil {
				return nil
			}
		}
	}
	return f
}

// exchange puts the rows of one type in the place of those of another, which the nested config of the key was of. A type without facts
// leaves a path of which nothing is known.
func (f *facts) exchange(key, want, got string) *facts {
	out := *f
	out.layouts = nil
	for _, l := range f.layouts {
		path, role := l.pathOf(want, f.in5())
		if role == "" {
			return nil
		}
		inner := roleOf(got, role, f.in5())
		if inner == nil {
			n := l.without(path)
			n.opaque = append(slices.Clone(l.opaque), path)
			n.index()
			out.layouts = append(out.layouts, n)
			continue
		}
		if out.scopes == nil || out.scopes[key] != inner {
			out.scopes = maps.Clone(out.scopes)
			if out.scopes == nil {
				out.scopes = map[string]*facts{}
			}
			out.scopes[key] = inner
		}
		for _, il := range inner.layouts {
			n := l.without(path)
			n.put(path, key, il)
			n.keepTies(l, path)
			n.index()
			out.layouts = append(out.layouts, n)
		}
	}
	return &out
}

func (f *facts) in5() bool { return f.version == "5" }

// roleOf returns the facts of the class of a type that AutoModel ("base") or AutoModelForCausalLM ("causal") makes.
func roleOf(modelType, role string, in5 bool) *facts {
	for _, f := range factsOf(modelType) {
		if f.role == role && f.in5() == in5 {
			return f
		}
	}
	return nil
}

// pathOf finds where a model of the type is in the layout, and as which of its classes. The one with most tensors there is it.
func (l *layout) pathOf(modelType string, in5 bool) (path, role string) {
	most := 0
	for _, r := range []string{"base", "causal"} {
		f := roleOf(modelType, r, in5)
		if f == nil {
			continue
		}
		for _, inner := range f.layouts {
			votes := map[string]int{}
			for pattern := range l.groups {
				for at := 0; at < len(pattern); {
					if _, ok := inner.groups[pattern[at:]]; ok && at > 0 {
						votes[pattern[:at-1]]++
					}
					n := strings.IndexByte(pattern[at:], '.')
					if n < 0 {
						break
					}
					at += n + 1
				}
			}
			for _, p := range slices.Sorted(maps.Keys(votes)) {
				if n := votes[p]; n > most && 10*n >= 7*len(inner.groups) {
					most, path, role = n, p, r
				}
			}
		}
	}
	return path, role
}

// without is a copy of the layout that has nothing below the path.
func (l *layout) without(path string) *layout {
	n := &layout{counts: map[string]*count{}, groups: map[string]*group{}, opaque: l.opaque}
	for container, c := range l.counts {
		if !strings.HasPrefix(container, path+".") {
			n.counts[container] = c
		}
	}
	for pattern, g := range l.groups {
		if !strings.HasPrefix(pattern, path+".") {
			c := *g
			n.groups[pattern] = &c
		}
	}
	return n
}

// put adds another layout below the path; its rows speak of the nested config of the key.
func (l *layout) put(path, key string, inner *layout) {
	for container, c := range inner.counts {
		l.counts[path+"."+container] = &count{expr: c.expr, whole: c.whole, scope: key}
	}
	for pattern, g := range inner.groups {
		to := l.group(path + "." + pattern)
		to.scope = key
		for _, r := range g.rows {
			c := *r
			if c.tied != "" {
				c.tied = path + "." + c.tied
			}
			for d := range c.dims {
				if c.dims[d].symbol != "" && c.dims[d].symbol != "?" {
					c.dims = slices.Clone(c.dims)
					c.dims[d].symbol = path + c.dims[d].symbol
				}
			}
			to.rows = append(to.rows, &c)
		}
	}
}

// keepTies takes the rows of tensors that may be tied from the layout that the nested model was put into: that config says whether they
// are.
func (l *layout) keepTies(outer *layout, path string) {
	for pattern, g := range l.groups {
		o := outer.groups[pattern]
		if !strings.HasPrefix(pattern, path+".") || o == nil || len(o.containers) > 0 {
			continue
		}
		if slices.ContainsFunc(o.rows, func(r *row) bool { return r.required.text != "1" }) {
			g.rows, g.scope = o.rows, o.scope
		}
	}
}
