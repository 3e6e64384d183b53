package arch

import (
	"fmt"
	"slices"
)

// Tensor is one module weight of a checkpoint as the skip list sees it.
type Tensor struct {
	Name  string // tensor name in the checkpoint
	Class Class
}

// Violation is one module that a skip list treats wrongly in one loader.
type Violation struct {
	Loader Loader
	Entry  string // the list entry at fault; "" if an entry is missing
	Path   string // module path in that loader
	Over   bool   // true: a quantized module is skipped; false: a kept module is not
}

func (v Violation) String() string {
	switch {
	case v.Over:
		return fmt.Sprintf("%s: entry %q skips %s, which is quantized", v.Loader, v.Entry, v.Path)
	case v.Entry != "":
		return fmt.Sprintf("%s: entry %q is no regular expression that can be checked", v.Loader, v.Entry)
	}
	return fmt.Sprintf("%s: no entry skips %s, which is not quantized", v.Loader, v.Path)
}

const (
	// MaxSkip is the longest list written: transformers 5.x compiles every
	// entry for every module, and Python caches 512 expressions, of which 5.0
	// to 5.20 use two an entry.
	MaxSkip = 250

	maxViolations = 100
)

// A module path that one rule looks at; the members are those that differ in
// numbers only.
type pathGroup struct {
	loader  Loader
	pattern string // with "#" for numbers
	members []string
	done    []bool // member i is covered, or nil
	covered bool
}

// groups collects the paths of the tensors under the loaders' rules.
func groups(ts []Tensor, loaders []Loader) []*pathGroup {
	index := map[string]*pathGroup{}
	seen := make(map[string]bool, len(ts))
	var out []*pathGroup
	var pattern []byte
	last := 0 // where the groups of the loader before begin
	for i, l := range loaders {
		before := out[last:]
		last = len(out)
		if l == LoaderT521 && i > 0 && loaders[i-1] == LoaderT50 {
			for _, g := range before { // the two rules look at the same paths
				out = append(out, &pathGroup{loader: l, pattern: g.pattern, members: g.members})
			}
			continue
		}
		clear(index)
		clear(seen)
		for j := range ts {
			for _, p := range ts[j].loaderPaths(l) {
				if seen[p] {
					continue
				}
				seen[p] = true
				pattern, _ = appendDigitless(pattern[:0], p, "#")
				g := index[string(pattern)]
				if g == nil {
					g = &pathGroup{loader: l, pattern: string(pattern)}
					index[g.pattern] = g
					out = append(out, g)
				}
				g.members = append(g.members, p)
			}
		}
	}
	return out
}

// hit returns the first member that the entry matches.
func (g *pathGroup) hit(e *skipEntry) (string, bool) {
	if !e.numbers {
		// One member stands for all.
		return g.members[0], e.matches(g.loader, g.members[0])
	}
	for _, p := range g.members {
		if e.matches(g.loader, p) {
			return p, true
		}
	}
	return "", false
}

// all reports whether the entry matches every member.
func (g *pathGroup) all(e *skipEntry) bool {
	if !e.numbers {
		return e.matches(g.loader, g.members[0])
	}
	for _, p := range g.members {
		if !e.matches(g.loader, p) {
			return false
		}
	}
	return true
}

// CheckSkip runs the match rules of the targets' loaders over all modules and
// returns every kept module that the list misses and every quantized module
// that it hits, at most 100. list is an explicit llm_int8_skip_modules; for a
// null one see [Model.CheckNull].
func CheckSkip(list []string, t Target, kept, quantized []Tensor) []Violation {
	return checkGroups(list, t.loaders(), groups(kept, t.loaders()), groups(quantized, t.loaders()))
}

// CheckSkip is the function of that name for a checkpoint of the model: a head that is tied to another weight has no tensor
// of its own, and is packed all the same where the list does not name it. transformers 5.23 and 4.57 both fail in forward then.
func (m *Model) CheckSkip(list []string, t Target, kept, quantized []Tensor) []Violation {
	loaders := t.loaders()
	keep, quant := groups(kept, loaders), groups(quantized, loaders)
	return checkGroups(list, loaders, append(keep, m.tiedHeads(keep, quant, loaders)...), quant)
}

func checkGroups(list []string, loaders []Loader, keep, quant []*pathGroup) []Violation {
	var bad []Violation
	entries := make([]skipEntry, len(list))
	for i, text := range list {
		entries[i] = newSkipEntry(text)
		if entries[i].err != nil && slices.ContainsFunc(loaders, func(l Loader) bool { return l == LoaderT50 || l == LoaderT521 }) {
			bad = append(bad, Violation{Loader: LoaderT521, Entry: text})
		}
	}
	for _, g := range quant {
		for i := range entries {
			if p, ok := g.hit(&entries[i]); ok {
				bad = append(bad, Violation{Loader: g.loader, Entry: list[i], Path: p, Over: true})
			}
			if len(bad) >= maxViolations {
				return bad
			}
		}
	}
	for _, g := range keep {
		for _, p := range g.missed(entries) {
			bad = append(bad, Violation{Loader: g.loader, Path: p})
			if len(bad) >= maxViolations {
				return bad
			}
		}
	}
	return bad
}

// missed returns the members that no entry matches.
func (g *pathGroup) missed(entries []skipEntry) []string {
	var numbered []*skipEntry
	for i := range entries {
		e := &entries[i]
		if e.numbers {
			numbered = append(numbered, e)
		} else if e.matches(g.loader, g.members[0]) {
			return nil
		}
	}
	var out []string
	for _, p := range g.members {
		if !slices.ContainsFunc(numbered, func(e *skipEntry) bool { return e.matches(g.loader, p) }) {
			out = append(out, p)
		}
	}
	return out
}

// CheckNull does for a null llm_int8_skip_modules what [CheckSkip] does for a
// list: a null list keeps, in each version, what that version's defaults keep
// for the checkpoint's class. vLLM and SGLang skip nothing then.
func (m *Model) CheckNull(t Target, kept, quantized []Tensor) []Violation {
	var bad []Violation
	check := func(ts []Tensor, over bool) {
		for _, x := range ts {
			for _, l := range t.loaders() {
				paths := x.loaderPaths(l)
				if len(paths) == 0 || len(bad) >= maxViolations {
					continue
				}
				converts := true
				switch l {
				case LoaderT4:
					converts = x.Class.Quant[V4]
				case LoaderT50, LoaderT521:
					// A fused module is converted like any other.
					converts = x.Class.Quant[V5] || x.Class.Fused
				}
				if x.Class.Stray {
					converts = true // another class, loaded from the same files, would convert it
				}
				if converts == over {
					continue
				}
				bad = append(bad, Violation{Loader: l, Path: paths[0], Over: over})
			}
		}
	}
	check(quantized, true)
	check(kept, false)
	return bad
}
