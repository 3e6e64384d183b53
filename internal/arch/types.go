package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TypeInfo describes one model type of the table.
type TypeInfo struct {
	ModelType string
	Aliases   []string          // other values of model_type, sorted
	Classes   []string          // transformers classes, sorted
	In        [NumVersions]bool // known to the version of transformers
	Notes     []string          // modules on which the two versions disagree, by class
}

// Component describes one class of diffusers in the table.
type Component struct {
	Class string   // as _class_name has it
	Kept  []string // names of the modules that _keep_in_fp32_modules keeps, sorted, with "#" for numbers
}

// Components lists the table's classes of diffusers, sorted.
func Components() []Component {
	var out []Component
	for name := range diffusersText.Names() {
		t := lookupType(name)
		info := Component{Class: name}
		e := newEntry(t.base, Query{}, nil)
		for _, weight := range t.base.names("0") {
			if f, ok := e.find(weight); ok && f.row.k[V4] == 'K' {
				info.Kept = append(info.Kept, digitless(strings.TrimSuffix(weight, ".weight"), "#"))
			}
		}
		out = append(out, info)
	}
	return out
}

// Types lists the table's model types of transformers, sorted. It reads the
// whole table.
func Types() []TypeInfo {
	var out []TypeInfo
	for name := range tableText.Names() {
		t := lookupType(name)
		info := TypeInfo{ModelType: name, In: t.in}
		for _, c := range t.classes {
			info.Classes = append(info.Classes, c.name)
			if note := c.disagreement(); note != "" {
				info.Notes = append(info.Notes, note)
			}
		}
		for a, of := range aliases() {
			if of == name {
				info.Aliases = append(info.Aliases, a)
			}
		}
		slices.Sort(info.Aliases)
		slices.Sort(info.Classes)
		out = append(out, info)
	}
	return out
}

// disagreement says which modules of the class only one of the two versions
// quantizes, with the class's default for tied embeddings.
func (c *class) disagreement() string {
	if !c.in[V5] || !c.in[V4] {
		return ""
	}
	e := newEntry(c, Query{}, nil)
	only := map[bool]map[string]bool{true: {}, false: {}}
	for _, name := range c.names("0") {
		// A name that one version cannot read is no disagreement.
		if d := e.classify(name); d.Quant[V5] != d.Quant[V4] && len(d.Paths[V5]) > 0 && len(d.Paths[V4]) > 0 {
			only[d.Quant[V5]][digitless(strings.TrimSuffix(name, ".weight"), "#")] = true
		}
	}
	var parts []string
	for _, five := range []bool{true, false} {
		if len(only[five]) == 0 {
			continue
		}
		version := "4.57"
		if five {
			version = "5.x"
		}
		parts = append(parts, fmt.Sprintf("only %s quantizes %s", version, strings.Join(slices.Sorted(maps.Keys(only[five])), " ")))
	}
	if len(parts) == 0 {
		return ""
	}
	return c.name + ": " + strings.Join(parts, "; ")
}

// names writes out the tensor names of the class, with each of the numbers in
// every hole of the patterns.
func (c *class) names(numbers ...string) []string {
	set := map[string]bool{}
	e := &entry{class: c}
	var walk func(n *node, prefix string, no map[string]bool, depth int)
	walkClass := func(c *class, prefix string, depth int) {
		walk(c.root, prefix, nil, depth)
		if b := c.typ.base; c.onBase && b != nil && b != c {
			walk(b.root, prefix+c.prefix, c.no, depth)
		}
	}
	walk = func(n *node, prefix string, no map[string]bool, depth int) {
		path := strings.TrimSuffix(prefix, ".")
		if r := n.weight; r != nil && !r.alias() && !no[r.name] {
			set[path+".weight"] = true
		}
		if r := n.param; r != nil && !r.alias() && !no[r.name] {
			set[path] = true
		}
		for name, k := range n.kids {
			walk(k, prefix+name+".", no, depth)
		}
		if n.number != nil {
			for _, d := range numbers {
				walk(n.number, prefix+d+".", no, depth)
			}
		}
		if depth == maxDepth {
			return
		}
		for _, m := range n.models {
			if inner := e.nested(m); inner != nil && !strings.Contains(m.roles, "a") {
				walkClass(inner, prefix, depth+1)
			}
		}
	}
	walkClass(c, "", 0)
	return slices.Sorted(maps.Keys(set))
}

// alias reports whether the row's name is not the one that the newest version
// with the class writes.
func (r *row) alias() bool { return strings.Contains(r.roles, "a") }
