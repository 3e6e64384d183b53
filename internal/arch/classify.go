package arch

import (
	"slices"
	"strings"
)

func (e *entry) classify(name string) Class {
	f, found := e.find(name)
	if !found {
		return e.stranger(name)
	}
	c := e.describe(f, name)
	path := strings.TrimSuffix(name, ".weight")
	tensor := strings.HasSuffix(name, ".weight")
	c.Hold5, c.Hold4 = e.holds(name)
	converts5 := c.In5 && tensor && strings.IndexByte("LC", f.row.k5) >= 0
	converts4 := c.In4 && tensor && strings.IndexByte("LSC", f.row.k4) >= 0
	c.Quant5 = converts5 && !e.class.keep5.keeps(f.p5, e.tied5) && !e.last5[f.p5]
	c.Quant4 = converts4 && !e.class.keep4.keeps(f.p4, e.tied4) && !e.last4[f.p4]
	// A composite's own head is no row above a base model's; what a list keeps in a layer is shared by layers, and no head.
	c.Head = (f.head || e.class != e.class.typ.base && digitless(path, "#") == path) && (converts5 && !c.Quant5 || converts4 && !c.Quant4)
	if !c.Embedding {
		c.Paths = distinct(slices.Concat([]string{path}, c.Paths4, c.Paths5)...)
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
	k5, k4 := f.row.k5, f.row.k4
	c := Class{
		Known:     true,
		In5:       e.class.in5,
		In4:       e.class.in4,
		Conv1D:    k5 == 'C' || k4 == 'C',
		Embedding: k5 == 'E' || k4 == 'E',
		Router:    strings.Contains(f.roles, "r"),
		Expert:    strings.Contains(f.roles, "x"),
		Tower:     strings.Contains(f.roles, "v"),
		Projector: strings.Contains(f.roles, "j"),
		FusedBy5:  k5 == 'F',
		Split:     k5 == 'X' || k4 == 'X',
	}
	isModule := func(k byte) bool { return strings.IndexByte("LSCK", k) >= 0 }
	c.Module = isModule(k5) || isModule(k4) || k5 == 'F' && !strings.HasSuffix(f.p5, "!")
	if !strings.HasSuffix(name, ".weight") {
		// nn.MultiheadAttention's in_proj_weight, which 5.x splits into Linears: they are kept, and the list must say so.
		c.Module = k5 == 'F' && f.p5 != "" && !strings.HasSuffix(f.p5, "!")
	}
	if c.Module {
		c.Linear5 = c.In5 && (k5 == 'L' || k5 == 'C' || k5 == 'F' && !strings.HasSuffix(f.p5, "!"))
		c.Linear4 = c.In4 && (k4 == 'L' || k4 == 'S' || k4 == 'C' || k4 == 'F')
		c.Paths5 = e.modulePaths(f.p5, f.base5)
		c.Paths4 = e.modulePaths(f.p4, f.base4)
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
	k5, k4 := f.row.k5, f.row.k4
	both := c.In5 && c.In4
	switch {
	case c.Quantize(Transformers5 | Transformers4):
		return ""
	case c.Embedding:
		return "embedding"
	case c.Split:
		return "fused experts; transformers loads them quantized only when split into one Linear an expert"
	case c.Expert && !c.Module:
		return "experts are not Linear modules in transformers"
	case c.Expert && c.FusedBy5:
		return "transformers 5 fuses the experts and cannot load them packed"
	case c.FusedBy5:
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
	case both && c.Quant5 != c.Quant4 && c.Quant5:
		return "transformers 4.57 does not quantize it"
	case both && c.Quant5 != c.Quant4:
		return "transformers 5 does not quantize it"
	}
	return "transformers does not quantize it"
}

// stranger classifies a name that the class has no row for: the base model
// may have one, as when a task model's checkpoint still holds the pooler, or
// another class of the type.
func (e *entry) stranger(name string) Class {
	for _, c := range e.class.typ.classes {
		if c == e.class {
			continue
		}
		other := &entry{class: c, sub: e.sub, tied5: e.tied5, tied4: e.tied4}
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
				d.Paths5 = distinct(append([]string{path}, d.Paths5...)...)
				d.Paths4 = distinct(append([]string{path}, d.Paths4...)...)
				d.Paths = distinct(slices.Concat([]string{path}, d.Paths4, d.Paths5)...)
			}
			d.Hold5, d.Hold4 = e.holds(name)
			d.In5, d.In4, d.Stray = e.class.in5, e.class.in4, d.Module
			d.Reason = "not part of " + e.class.name + " (" + c.name + " has it)"
			return d
		}
	}
	c := Class{In5: e.class.in5, In4: e.class.in4, Reason: "not a Linear of " + e.class.name}
	c.Hold5, c.Hold4 = e.holds(name)
	if path, ok := strings.CutSuffix(name, ".weight"); ok && e.class.typ.diffusers {
		// The table names every matrix that is no Linear.
		c.Module, c.Linear4, c.Stray = true, true, true
		c.Paths4 = distinct(path, renamedAttention(path))
		c.Paths = c.Paths4
	} else if ok && projection(path[strings.LastIndexByte(path, '.')+1:]) {
		// A Linear by its name, of layers that the table's configs lack: the
		// skip list must keep it.
		c.Module, c.Linear5, c.Linear4, c.Stray = true, true, true, true
		c.Paths = unknownPaths(path)
		c.Paths5, c.Paths4 = c.Paths, c.Paths
	}
	return c
}
