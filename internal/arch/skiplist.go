package arch

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// SkipList returns the llm_int8_skip_modules list that keeps exactly the kept
// modules in 16 bits in every loader of the targets, or nil if there are none
// and null keeps none either. A list is written also where null would do: what
// null means has changed between versions (transformers issue 45674). Only where
// no list serves every loader is null preferred. Violations name what no list of ours can
// satisfy; the list is then the best found.
//
// Entries are the shortest names that match nothing else: a leaf (lm_head), a
// component (visual, which serves 4.57 and vLLM), a path (model.visual, which
// 5.x needs), and only then a path with "$" and paths with layer numbers.
func (m *Model) SkipList(t Target, kept, quantized []Tensor) (list []string, bad []Violation) {
	loaders := t.loaders()
	keep, quant := groups(kept, loaders), groups(quantized, loaders)
	keep = append(keep, m.absentHeads(keep, quant, loaders)...)
	list = cover(keep, quant)
	list = append(list, m.freshHeads(list, quant)...)
	null := m.CheckNull(t, kept, quantized)
	if len(list) == 0 {
		if len(null) == 0 {
			return nil, nil
		}
		// Null keeps too much: an empty list says to keep nothing.
		list = []string{}
	}
	slices.Sort(list)
	bad = checkGroups(list, loaders, keep, quant)
	if len(list) > MaxSkip {
		list = list[:MaxSkip]
		bad = checkGroups(list, loaders, keep, quant)
	}
	if len(bad) > 0 && len(null) == 0 {
		return nil, nil
	}
	if len(bad) == 0 {
		list = m.served(t, list, kept, keep, quantized, quant)
	}
	return list, bad
}

// served adds what vLLM and SGLang need beside the targets to keep the same modules, if a list can serve all of them. keep and quant
// are the groups of the targets' loaders.
func (m *Model) served(t Target, list []string, kept []Tensor, keep []*pathGroup, quantized []Tensor, quant []*pathGroup) []string {
	if m.Diffusers || t&(VLLM|SGLang) != 0 {
		return list
	}
	entries := make([]skipEntry, len(list))
	for i, text := range list {
		entries[i] = newSkipEntry(text)
	}
	vllm := []Loader{LoaderVLLM}
	keepThere := groups(kept, vllm)
	var missed []*pathGroup
	for _, g := range keepThere {
		if len(g.missed(entries)) > 0 {
			missed = append(missed, g)
		}
	}
	if len(missed) == 0 {
		return list
	}
	keep, quant = slices.Concat(keep, keepThere), slices.Concat(quant, groups(quantized, vllm))
	more := append(slices.Clone(list), cover(missed, quant)...)
	slices.Sort(more)
	more = slices.Compact(more)
	if len(more) > MaxSkip || len(checkGroups(more, append(t.loaders(), LoaderVLLM), keep, quant)) > 0 {
		return list
	}
	return more
}

// cover picks entries greedily: the one that covers most patterns first.
func cover(keep, quant []*pathGroup) []string {
	usable := func(e *skipEntry) bool {
		for _, g := range quant {
			if _, hit := g.hit(e); hit {
				return false
			}
		}
		return true
	}
	type candidate struct {
		entry skipEntry
		gain  int
	}
	texts := map[string]bool{}
	for _, g := range keep {
		for _, text := range candidates(g.pattern) {
			texts[text] = true
		}
	}
	var pool []*candidate
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		if e := newSkipEntry(text); usable(&e) {
			pool = append(pool, &candidate{entry: e})
		}
	}
	var list []string
	for len(list) < MaxSkip {
		var best *candidate
		for _, c := range pool {
			c.gain = 0
			for _, g := range keep {
				if !g.covered && g.all(&c.entry) {
					c.gain++
				}
			}
			if c.gain > 0 && (best == nil || better(c.gain, c.entry.text, best.gain, best.entry.text)) {
				best = c
			}
		}
		if best == nil {
			break
		}
		list = append(list, best.entry.text)
		for _, g := range keep {
			g.covered = g.covered || g.all(&best.entry)
		}
	}
	list = append(list, coverAnywhere(keep, usable, MaxSkip-len(list))...)
	return append(list, coverMembers(keep, usable, MaxSkip-len(list))...)
}

// coverAnywhere covers, for transformers 5, modules in layers whose numbers no
// tensor tells (the blocks that Zamba's layers share) with regular expressions
// for a run of components wherever in a path it is.
func coverAnywhere(keep []*pathGroup, usable func(*skipEntry) bool, room int) []string {
	var list []string
	for _, g := range keep {
		if g.covered || !strings.Contains(g.members[0], "#") || g.loader != LoaderT50 && g.loader != LoaderT521 {
			continue
		}
		for _, text := range candidates(g.pattern) {
			e := newSkipEntry(".*" + text)
			if len(list) == room || !g.all(&e) || !usable(&e) {
				continue
			}
			list = append(list, e.text)
			for _, other := range keep {
				other.covered = other.covered || other.all(&e)
			}
			break
		}
	}
	return list
}

// settle finds what both versions quantize and no list can keep apart from a
// module that must be kept: 5.x compares the end of the path, so that the
// entry "classifier" that 4.57 needs for DistilBERT's head also hits
// pre_classifier in 5.x. Those are kept too. names has one tensor a pattern.
func (e *entry) settle(names []string) map[string]string {
	if !e.class.in[V5] || !e.class.in[V4] {
		return nil
	}
	const both = Transformers5 | Transformers4
	m := &Model{entry: e}
	var kept, quantized []Tensor
	for _, n := range names {
		c := e.classify(n)
		switch {
		case c.Quantize(both) && !c.Tower && !c.Projector:
			quantized = append(quantized, Tensor{n, c})
		case c.Module:
			kept = append(kept, Tensor{n, c})
		}
	}
	if len(m.CheckNull(both, kept, quantized)) == 0 {
		return nil
	}
	var out map[string]string
	for {
		loaders := both.loaders()
		keep, quant := groups(kept, loaders), groups(quantized, loaders)
		keep = append(keep, m.absentHeads(keep, quant, loaders)...)
		list := cover(keep, quant)
		var missed *pathGroup
		entries := make([]skipEntry, len(list))
		for i, text := range list {
			entries[i] = newSkipEntry(text)
		}
		for _, g := range keep {
			if len(g.missed(entries)) > 0 {
				missed = g
				break
			}
		}
		if missed == nil {
			return out
		}
		hit := cheapest(missed, quantized, loaders)
		if len(hit) == 0 {
			return out // the caller's own check will say so
		}
		if out == nil {
			out = map[string]string{}
		}
		for _, t := range hit {
			out[digitless(t.Name, "#")] = missed.members[0]
		}
		var rest []Tensor
		for _, t := range quantized {
			if _, ok := out[digitless(t.Name, "#")]; ok {
				kept = append(kept, t)
			} else {
				rest = append(rest, t)
			}
		}
		quantized = rest
	}
}

// cheapest returns the quantized tensors that have to be given up for the
// kept group: those hit by the candidate entry that hits fewest.
func cheapest(g *pathGroup, quantized []Tensor, loaders []Loader) []Tensor {
	var best []Tensor
	for _, text := range candidates(g.pattern) {
		e := newSkipEntry(text)
		if !g.all(&e) {
			continue
		}
		var hit []Tensor
		for _, t := range quantized {
			if slices.ContainsFunc(loaders, func(l Loader) bool {
				return slices.ContainsFunc(t.loaderPaths(l), func(p string) bool { return e.matches(l, p) })
			}) {
				hit = append(hit, t)
			}
		}
		if len(hit) > 0 && (best == nil || len(hit) < len(best)) {
			best = hit
		}
	}
	return best
}

// better prefers more patterns covered, then fewer components, then the
// shorter and the first name.
func better(gainA int, a string, gainB int, b string) bool {
	return cmp.Or(
		cmp.Compare(gainB, gainA),
		cmp.Compare(strings.Count(a, "."), strings.Count(b, ".")),
		cmp.Compare(len(a), len(b)),
		cmp.Compare(a, b),
	) < 0
}

// candidates lists the names that may stand for all paths of a pattern: every
// run of its components without a number, and a whole path with "$", which
// transformers 5 reads as a regular expression. Only that keeps JEV's proj, which
// as a name is also the end of q_proj.
func candidates(pattern string) []string {
	parts := strings.Split(pattern, ".")
	var out []string
	for i := range parts {
		for j := i; j < len(parts) && parts[j] != "#"; j++ {
			out = append(out, strings.Join(parts[i:j+1], "."))
		}
	}
	if !strings.Contains(pattern, "#") {
		out = append(out, pattern+"$")
	}
	return out
}

// coverMembers covers what has to be told apart by number: for each path left
// the shortest prefix that matches nothing quantized.
func coverMembers(keep []*pathGroup, usable func(*skipEntry) bool, room int) []string {
	var list []string
	rejected := map[string]bool{}
	for _, g := range keep {
		if g.covered || strings.Contains(g.members[0], "#") {
			continue
		}
		if g.done == nil {
			g.done = make([]bool, len(g.members))
		}
		for i, p := range g.members {
			if g.done[i] || len(list) == room {
				continue
			}
			for end := 1; end <= len(p); end++ {
				if end < len(p) && p[end] != '.' {
					continue
				}
				e := newSkipEntry(p[:end])
				if rejected[e.text] || !e.matches(g.loader, p) {
					continue
				}
				if !usable(&e) {
					rejected[e.text] = true
					continue
				}
				list = append(list, e.text)
				markMembers(keep, &e)
				break
			}
		}
	}
	return list
}

func markMembers(keep []*pathGroup, e *skipEntry) {
	for _, g := range keep {
		if g.covered {
			continue
		}
		if g.done == nil {
			g.done = make([]bool, len(g.members))
		}
		for i, p := range g.members {
			g.done[i] = g.done[i] || e.matches(g.loader, p)
		}
	}
}

// absentHeads returns the modules that the class keeps by default and that the
// checkpoint has no tensor for, because it is tied to another: an explicit
// list must name them too, or the loader would convert them. Of those in
// layers, some are tied and some are not (Zamba's shared blocks), and entries
// for the numbers in the checkpoint are not enough.
func (m *Model) absentHeads(keep, quant []*pathGroup, loaders []Loader) []*pathGroup {
	if m.entry == nil {
		return nil
	}
	have, packed := patterns(slices.Concat(keep, quant)), patterns(quant)
	var out []*pathGroup
	for _, l := range loaders {
		k, tied := m.entry.keep[V5], m.entry.tied[V5]
		switch l {
		case LoaderT4:
			k, tied = m.entry.keep[V4], m.entry.tied[V4]
		case LoaderVLLM:
			continue
		}
		kept := k.in(tied)
		for _, p := range slices.Sorted(maps.Keys(kept)) {
			pattern := digitless(p, "#")
			if len(kept) == 1 && packed[l][pattern] {
				continue // the class's last module (classifier.1 of ResNet), which is tied to none
			}
			if !strings.Contains(p, "$") && (strings.Contains(p, "#") || !have[l][pattern]) {
				out = append(out, &pathGroup{loader: l, pattern: pattern, members: []string{p}})
			}
		}
	}
	return out
}

// patterns are those that each loader has.
func patterns(groups []*pathGroup) map[Loader]map[string]bool {
	have := map[Loader]map[string]bool{}
	for _, g := range groups {
		if have[g.loader] == nil {
			have[g.loader] = map[string]bool{}
		}
		have[g.loader][g.pattern] = true
	}
	return have
}

// tiedHeads returns those of absentHeads that are heads tied to another weight.
func (m *Model) tiedHeads(keep, quant []*pathGroup, loaders []Loader) []*pathGroup {
	return slices.DeleteFunc(m.absentHeads(keep, quant, loaders), func(g *pathGroup) bool {
		tied := m.entry.headTied[V5]
		if g.loader == LoaderT4 {
			tied = m.entry.headTied[V4]
		}
		return !tied || !m.TiedHead(g.members[0]+".weight")
	})
}

// TiedHead reports whether the tensor would be that of a head that is tied to another weight in some version.
func (m *Model) TiedHead(name string) bool {
	if m.entry == nil || !m.entry.headTied[V5] && !m.entry.headTied[V4] {
		return false
	}
	return m.Classify(name).Head
}

// freshHeads returns entries for the task heads of the type's other classes.
// An explicit list replaces the loaders' own default, which would have kept
// such a head out when the checkpoint is loaded to train one (the score of
// LlamaForSequenceClassification).
func (m *Model) freshHeads(list []string, quant []*pathGroup) []string {
	free := func(path string) bool {
		e := newSkipEntry(path)
		return !slices.ContainsFunc(quant, func(g *pathGroup) bool { _, hit := g.hit(&e); return hit })
	}
	if m.entry == nil {
		// Tied to the embedding, the usual head has no tensor of its own.
		if m.Diffusers || slices.Contains(list, "lm_head") || !free("lm_head") {
			return nil
		}
		return []string{"lm_head"}
	}
	var out []string
	for _, c := range m.entry.class.typ.classes {
		lists := c.keep
		if c == m.entry.class {
			lists = m.entry.keep
		}
		for _, k := range lists {
			for _, set := range []map[string]bool{k.both, k.tied, k.untied} {
				for path := range set {
					if strings.ContainsAny(path, "#$") || slices.Contains(list, path) || slices.Contains(out, path) {
						continue
					}
					if free(path) {
						out = append(out, path)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}
