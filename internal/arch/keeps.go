package arch

import (
	"maps"
	"slices"
	"strings"
)

// keepLists are what a null skip list keeps in each version: the class's modules, but below a nested model with a head, whose type
// config.json chooses and whose head every type names otherwise (TrOCR's output_projection), what that type keeps.
func (e *entry) keepLists() [NumVersions]keeps {
	lists := e.class.keep
	replace := func(prefix string, m *include) {
		inner := e.nested(m)
		if m.class != "causal" || inner == nil || inner.typ == lookupType(m.typ) {
			return
		}
		for _, v := range versions() {
			if m.p[v] != "" {
				lists[v] = lists[v].below(prefix+m.p[v]+".", inner.keep[v])
			}
		}
	}
	e.class.root.each(func(m *include) { replace("", m) })
	if base := e.class.typ.base; e.class.onBase && base != nil && base != e.class {
		base.root.each(func(m *include) { replace(e.class.prefix, m) })
	}
	return lists
}

// each calls do with every model that is nested in n or below it.
func (n *node) each(do func(*include)) {
	for _, m := range n.models {
		do(m)
	}
	for _, kid := range n.kids {
		kid.each(do)
	}
	if n.number != nil {
		n.number.each(do)
	}
}

// below returns k with inner's paths in place of those that begin with prefix.
func (k keeps) below(prefix string, inner keeps) keeps {
	replace := func(own, by map[string]bool) map[string]bool {
		out := maps.Clone(own)
		maps.DeleteFunc(out, func(path string, _ bool) bool { return strings.HasPrefix(path, prefix) })
		for path := range by {
			if out == nil {
				out = map[string]bool{}
			}
			out[prefix+path] = true
		}
		return out
	}
	return keeps{replace(k.both, inner.both), replace(k.tied, inner.tied), replace(k.untied, inner.untied)}
}

// pair lets the decoder of an encoder-decoder pair be of any type with a causal class. The rows of such a class are those of
// its default, BERT with cross-attention, which go first.
func (t *modelType) pair() {
	if !strings.HasSuffix(t.name, pairSuffix) {
		return
	}
	for _, c := range t.classes {
		if n := c.root.at("decoder"); len(n.models) == 0 {
			n.models = []*include{{name: "decoder", p: each(func(Version) string { return "decoder" }), key: "decoder", typ: "bert", class: "causal"}}
		}
	}
}

const (
	pairSuffix = "encoder-decoder"
	cross      = "crossattention" // in models of BERT's kind
)

// findCrossing is find for a module of the cross-attention parts[i], which a model of BERT's kind has as a decoder: it is another of the
// class that its attention is of, and no row of a model that is not one.
func (e *entry) findCrossing(parts []string, i int, weight bool) (found, bool) {
	as := slices.Clone(parts)
	as[i] = "attention"
	f, ok := e.findIn(e.class, as, weight, 0)
	if !ok {
		return found{}, false
	}
	back := func(path string) string { return strings.Replace(path, ".attention.", "."+cross+".", 1) }
	f.below(func(_ Version, path string) string { return back(path) })
	for v := range f.base {
		f.base[v] = back(f.base[v])
	}
	return f, true
}
