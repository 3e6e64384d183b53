package arch

import (
	"slices"
	"strings"
)

// converted are the kinds of rows that a version makes 4-bit Linears of.
var converted = [NumVersions]string{V5: "LC", V4: "LSC"}

func (e *entry) classify(name string) Class {
	f, found := e.find(name)
	if !found {
		return e.stranger(name)
	}
	c := e.describe(f, name)
	path := strings.TrimSuffix(name, ".weight")
	tensor := strings.HasSuffix(name, ".weight")
	c.Hold = e.holds(name)
	// A composite's own head is no row above a base model's; what a list keeps in a layer is shared by layers, and no head.
	head := f.head || e.class != e.class.typ.base && digitless(path, "#") == path
	for _, v := range versions() {
		converts := c.In[v] && tensor && strings.IndexByte(converted[v], f.row.k[v]) >= 0
		c.Quant[v] = converts && !e.keep[v].keeps(f.p[v], e.tied[v]) && !e.last[v][f.p[v]]
		c.Head = c.Head || head && converts && !c.Quant[v]
	}
	if !c.Embedding {
		c.AllPaths = c.allPaths(path)
	}
	c.Reason = e.reason(c, f)
	if len(e.unlisted) > 0 && c.Reason == "" {
		if kept, ok := e.unlisted[digitless(name, "#")]; ok {
			c.Unlisted = true
			c.Reason = "no skip list keeps " + kept + " without also keeping this one in transformers 5"
		}
	}
	return c
}

// allPaths are the checkpoint's own path and those of all versions, the oldest first.
func (c *Class) allPaths(path string) []string {
	all := []string{path}
	for _, v := range slices.Backward(c.Paths[:]) {
		all = append(all, v...)
	}
	return distinct(all...)
}

// prefixes lists the prefixes under which the type's task models hold the
// base model.
func (t *modelType) prefixes() []string {
	var out []string
	for _, c := range t.classes {
		if c.onBase && c.prefix != "" && !slices.Contains(out, c.prefix) {
			out = append(out, c.prefix)
		}
	}
	return out
}

// describe fills in what does not depend on the class's skip list.
func (e *entry) describe(f found, name string) Class {
	is := func(kinds string) bool {
		return slices.ContainsFunc(f.row.k[:], func(k byte) bool { return strings.IndexByte(kinds, k) >= 0 })
	}
	k5, whole := f.row.k[V5], strings.HasSuffix(f.p[V5], "!")
	c := Class{
		Known:     true,
		In:        e.class.in,
		Conv1D:    is("C"),
		Embedding: is("E"),
		Router:    strings.Contains(f.roles, "r"),
		Expert:    strings.Contains(f.roles, "x"),
		Tower:     strings.Contains(f.roles, "v"),
		Projector: strings.Contains(f.roles, "j"),
		Fused:     k5 == 'F',
		Split:     is("X"),
	}
	if c.Fused && c.Expert && whole {
		c.Stack = strings.TrimSuffix(f.p[V5], "!")
	}
	c.Module = is("LSCK") || k5 == 'F' && !whole
	if !strings.HasSuffix(name, ".weight") {
		// nn.MultiheadAttention's in_proj_weight, which 5.x splits into Linears: they are kept, and the list must say so.
		c.Module = k5 == 'F' && f.p[V5] != "" && !whole
	}
	if c.Module {
		for _, v := range versions() {
			c.Linear[v] = c.In[v] && strings.IndexByte(converted[v]+"F", f.row.k[v]) >= 0
			c.Paths[v] = e.modulePaths(f.p[v], f.base[v])
		}
		c.Linear[V5] = c.Linear[V5] && !(k5 == 'F' && whole)
	}
	return c
}

// modulePaths expands a row's path, which may name several modules, and adds
// the paths under which the type's other classes hold the same base model:
// without the prefix if the class has one, else with each task model's.
func (e *entry) modulePaths(path, base string) []string {
	if path == "" || strings.HasSuffix(path, "!") {
		return nil
	}
	paths := splitTargets(path)
	if base != "" {
		paths = append(paths, splitTargets(base)...)
	} else if e.class == e.class.typ.base {
		for _, prefix := range e.class.typ.prefixes() {
			paths = append(paths, splitTargets(prefix+path)...)
		}
	}
	return distinct(paths...)
}

// splitTargets expands "a.q,k" to "a.q" and "a.k".
func splitTargets(path string) []string {
	if !strings.Contains(path, ",") {
		return []string{path}
	}
	i := strings.LastIndexByte(path, '.') + 1
	out := strings.Split(path[i:], ",")
	for j := range out {
		out[j] = path[:i] + out[j]
	}
	return out
}

func (e *entry) reason(c Class, f found) string {
	k5, k4 := f.row.k[V5], f.row.k[V4]
	both := c.In[V5] && c.In[V4]
	switch {
	case c.Quantize(Transformers5 | Transformers4):
		return ""
	case c.Embedding:
		return "embedding"
	case c.Split:
		return "fused experts; transformers loads them quantized only when split into one Linear an expert"
	case c.Expert && !c.Module:
		return "experts are not Linear modules in transformers"
	case c.Expert && c.Fused:
		return "transformers 5 fuses the experts and cannot load them packed"
	case c.Fused:
		return "transformers 5 rearranges the tensor while loading and cannot load it packed"
	case !c.Module && c.Router:
		return "router"
	case !c.Module:
		return "not the weight of a Linear"
	case c.Head:
		return "output head or last module of the model's task head"
	case k5 == 'K' || k4 == 'K':
		return "transformers keeps it in 32 bits"
	case both && k5 == 'S':
		return "a subclass of Linear, which transformers 5 does not quantize"
	case c.Router:
		return "router"
	case both && c.Quant[V5] != c.Quant[V4] && c.Quant[V5]:
		return "transformers 4.57 does not quantize it"
	case both && c.Quant[V5] != c.Quant[V4]:
		return "transformers 5 does not quantize it"
	}
	return "transformers does not quantize it"
}

// linear makes it a Linear of every version, under the same paths.
func (c *Class) linear(paths []string) {
	c.AllPaths = paths
	c.Linear, c.Paths = all, each(func(Version) []string { return paths })
}

// OneOfStack is the class of one expert's matrix under the path module, of the class of the stack that is split.
func (c Class) OneOfStack(module string) Class {
	c.Split, c.Module, c.Expert, c.Quant = false, true, false, all
	c.linear([]string{module})
	return c
}

// stranger classifies a name that the class has no row for: the base model
// may have one, as when a task model's checkpoint still holds the pooler, or
// another class of the type.
func (e *entry) stranger(name string) Class {
	for _, c := range e.class.typ.classes {
		if c == e.class {
			continue
		}
		other := &entry{class: c, sub: e.sub, tied: e.tied}
		parts := [][]string{strings.Split(name, ".")}
		if e.class.prefix != "" && parts[0][0]+"." == e.class.prefix {
			parts = append(parts, parts[0][1:])
		}
		for _, p := range parts {
			f, ok := other.find(strings.Join(p, "."))
			if !ok {
				continue
			}
			d := other.describe(f, name)
			d.Head = d.Module && f.head
			path := strings.TrimSuffix(name, ".weight")
			if d.Module {
				for _, v := range versions() {
					d.Paths[v] = distinct(append([]string{path}, d.Paths[v]...)...)
				}
				d.AllPaths = d.allPaths(path)
			}
			d.Hold = e.holds(name)
			d.In, d.Stray = e.class.in, d.Module
			d.Reason = "not part of " + e.class.name + " (" + c.name + " has it)"
			return d
		}
	}
	c := Class{In: e.class.in, Reason: "not a Linear of " + e.class.name, Hold: e.holds(name)}
	if path, ok := strings.CutSuffix(name, ".weight"); ok && e.class.typ.diffusers {
		// The table names every matrix that is no Linear.
		c.Module, c.Linear[V4], c.Stray = true, true, true
		c.Paths[V4] = distinct(path, renamedAttention(path))
		c.AllPaths = c.Paths[V4]
	} else if ok && (projection(path[strings.LastIndexByte(path, '.')+1:]) || strings.HasSuffix(digitless(path, "#"), ".layers.#")) {
		// A Linear by its name, of layers that the table's configs lack, or one more of an MLP's (SAM's and EdgeTAM's
		// mlp.layers): the skip list must keep it.
		c.Module, c.Stray = true, true
		c.linear(unknownPaths(path))
	}
	return c
}
