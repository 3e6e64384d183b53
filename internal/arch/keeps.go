package arch

import (
	"maps"
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
