package arch

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Resolve picks the table entry for a config and the checkpoint's tensor
// names. The error is an [*UnknownError] for a model type the table does not
// have; for that [Unknown] is the fallback.
//
// The class is the first architecture of the config. If that is absent, not a
// class of the type, or names none of the tensors, the class that names most
// of them is taken.
func Resolve(q Query, names []string) (*Model, error) {
	t := lookupType(q.ModelType)
	if t == nil || t.diffusers != q.Diffusers {
		return nil, &UnknownError{ModelType: q.ModelType, Diffusers: q.Diffusers, Near: near(q)}
	}
	patterns := distinctPatterns(names)
	var c *class
	if len(q.Architectures) > 0 {
		c = t.class(q.Architectures[0])
	}
	if c == nil || newEntry(c, q, names).hits(patterns) == 0 {
		c = bestClass(t, c, q, patterns)
	}
	e := newEntry(c, q, names)
	e.unlisted = e.settle(patterns)
	return &Model{Type: t.name, Class: c.name, Diffusers: t.diffusers, In: c.in, Notes: c.notes(), entry: e}, nil
}

func (c *class) notes() []string {
	switch {
	case c.typ.diffusers:
		return nil
	}
	var has, lacks []string
	for _, v := range versions() {
		if c.in[v] {
			has = append(has, v.String())
		} else {
			lacks = append(lacks, v.String())
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return []string{"transformers " + strings.Join(lacks, " and ") + " has no " + c.name + "; the result loads in " + strings.Join(has, " and ") + " only"}
}

// bestClass returns the class with the most rows for the patterns: the given
// one, or else the base model, if no other has more.
func bestClass(t *modelType, best *class, q Query, patterns []string) *class {
	most := -1
	if best != nil {
		most = newEntry(best, q, nil).hits(patterns)
	}
	if best == nil && t.base != nil {
		best, most = t.base, newEntry(t.base, q, nil).hits(patterns)
	}
	for _, c := range t.classes {
		if n := newEntry(c, q, nil).hits(patterns); n > most {
			best, most = c, n
		}
	}
	return best
}

// An entry is a class as one checkpoint uses it: the nested types, the state
// of its tied embeddings and the last layers are known.
type entry struct {
	class    *class
	sub      map[string]string
	tied     [NumVersions]bool
	headTied [NumVersions]bool            // the output head is
	last     [NumVersions]map[string]bool // "$" paths of the keep lists, with the last index in place
	keep     [NumVersions]keeps           // what a null skip list keeps
	held     held
	unlisted map[string]string // name patterns that cannot be quantized because of a kept module, and its path
}

func newEntry(c *class, q Query, names []string) *entry {
	e := &entry{class: c, sub: q.Sub, tied: c.typ.tied}
	if q.TiedSet {
		e.tied = each(func(Version) bool { return q.Tied })
	}
	if q.TextTied != nil {
		e.tied[V4] = *q.TextTied
	}
	e.headTied = e.tied
	if q.DecoderTied != nil {
		e.headTied = each(func(Version) bool { return *q.DecoderTied })
	}
	e.keep = e.keepLists()
	e.held = e.newHeld()
	e.last = each(func(v Version) map[string]bool { return e.lastPaths(v, names) })
	return e
}

// lastPaths finds, for every "$" pattern of a keep list, the path with the
// highest index among the tensors.
func (e *entry) lastPaths(v Version, names []string) map[string]bool {
	var patterns []string
	for p := range e.keep[v].in(e.tied[v]) {
		if strings.Contains(p, "$") {
			patterns = append(patterns, p)
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	type last struct {
		index int
		path  string
	}
	max := map[string]last{}
	for _, name := range names {
		f, ok := e.find(name)
		if !ok {
			continue
		}
		p := f.p[v]
		for _, pattern := range patterns {
			index, ok := lastIndex(pattern, p)
			if old, seen := max[pattern]; ok && (!seen || index > old.index) {
				max[pattern] = last{index, p}
			}
		}
	}
	out := map[string]bool{}
	for _, l := range max {
		out[l.path] = true
	}
	return out
}

// lastIndex returns the number that a path has where the pattern has "$".
func lastIndex(pattern, path string) (index int, ok bool) {
	before, after, _ := strings.Cut(pattern, "$")
	rest, ok1 := strings.CutPrefix(path, before)
	number, ok2 := strings.CutSuffix(rest, after)
	if !ok1 || !ok2 || !isDigits(number) {
		return 0, false
	}
	index, err := strconv.Atoi(number)
	return index, err == nil
}

// found is a row of the table met by one tensor name.
type found struct {
	row   *row
	p     [NumVersions]string // module paths in the versions, digits in place
	roles string              // of the row and of the nested models it lies in
	typ   *modelType
	base  [NumVersions]string // p without the base model's prefix, or ""
	head  bool                // a row of the class itself, not of its base model
}

// below changes the path in every version that has one.
func (f *found) below(change func(v Version, path string) string) {
	for _, v := range versions() {
		if f.p[v] != "" {
			f.p[v] = change(v, f.p[v])
		}
	}
}

// find looks the name up in the class: in its own rows, in the base model's
// under its prefix, and in the base model's without it, since loaders add it.
func (e *entry) find(name string) (found, bool) {
	parts := strings.Split(name, ".")
	weight := len(parts) > 1 && parts[len(parts)-1] == "weight"
	if weight {
		parts = parts[:len(parts)-1]
	}
	f, ok := e.findIn(e.class, parts, weight, 0)
	if i := slices.Index(parts, cross); !ok && i >= 0 {
		return e.findCrossing(parts, i, weight)
	}
	return f, ok
}

// depth bounds the nesting of included types; the table nests three deep.
const maxDepth = 6

func (e *entry) findIn(c *class, parts []string, weight bool, depth int) (found, bool) {
	if f, ok := e.walk(c, c.root, parts, 0, nil, weight, depth); ok {
		f.head = c.onBase
		return f, true
	}
	base := c.typ.base
	if !c.onBase || base == nil || base == c {
		return found{}, false
	}
	inner := parts
	if c.prefix != "" && len(parts) > 1 && parts[0] == c.prefix[:len(c.prefix)-1] {
		inner = parts[1:]
	}
	f, ok := e.walk(base, base.root, inner, 0, nil, weight, depth)
	if !ok || c.no[f.row.name] {
		return found{}, false
	}
	if c.prefix != "" {
		f.base = f.p
		f.below(func(_ Version, path string) string { return c.prefix + path })
	}
	return f, true
}

// walk follows parts[i:] from n. Literal components go before numbers, and
// rows before nested models. holes are the numbers met so far.
func (e *entry) walk(c *class, n *node, parts []string, i int, holes []string, weight bool, depth int) (found, bool) {
	if i == len(parts) {
		r := n.param
		if weight && n.weight != nil {
			r = n.weight
		}
		if r == nil || weight != (r == n.weight) {
			return found{}, false
		}
		return found{row: r, p: each(func(v Version) string { return fill(r.p[v], holes) }), roles: r.roles, typ: c.typ}, true
	}
	if next := n.kids[parts[i]]; next != nil {
		if f, ok := e.walk(c, next, parts, i+1, holes, weight, depth); ok {
			return f, true
		}
	}
	if last, ok := n.series(parts[i]); ok {
		if f, ok := e.walk(c, n.kids[last], parts, i+1, holes, weight, depth); ok {
			f.below(func(_ Version, path string) string { return swapComponent(path, last, parts[i]) })
			return f, true
		}
	}
	if n.number != nil && isDigits(parts[i]) {
		if f, ok := e.walk(c, n.number, parts, i+1, append(holes, parts[i]), weight, depth); ok {
			return f, true
		}
	}
	if depth == maxDepth {
		return found{}, false
	}
	for _, m := range n.models {
		inner := e.nested(m)
		if inner == nil {
			continue
		}
		f, ok := e.findIn(inner, parts[i:], weight, depth+1)
		if !ok {
			continue
		}
		f.below(func(v Version, path string) string { return join(fill(m.p[v], holes), path) })
		f.roles += m.roles
		f.base, f.head = [NumVersions]string{}, false
		return f, true
	}
	return found{}, false
}

// nested returns the class that an include stands for in this checkpoint.
func (e *entry) nested(m *include) *class {
	name := m.typ
	if s := e.sub[m.key]; s != "" && (m.class == "base" || m.class == "causal") {
		name = s
	}
	t := lookupType(name)
	if t == nil {
		if t = lookupType(m.typ); t == nil {
			return nil
		}
	}
	switch m.class {
	case "base":
		return t.base
	case "causal":
		return t.causal
	}
	return t.class(m.class)
}

// minSeries is how many members a series has at least: as many as the layers and experts of the generator's models.
const minSeries = 4

// series returns the last of n's components expert_0, expert_1, ... if component is another of them. The generator's models
// are small, and of many like tensors the table has the first, the second and the last; all members of a ModuleDict are alike.
func (n *node) series(component string) (last string, ok bool) {
	i := strings.LastIndexByte(component, '_') + 1
	if i == 0 || !isDigits(component[i:]) || n.kids[component] != nil || n.kids[component[:i]+"0"] == nil || n.kids[component[:i]+"1"] == nil {
		return "", false
	}
	most := 1
	for name := range n.kids {
		if number, ok := strings.CutPrefix(name, component[:i]); ok && isDigits(number) {
			if m, err := strconv.Atoi(number); err == nil {
				most = max(most, m)
			}
		}
	}
	return component[:i] + strconv.Itoa(most), most >= minSeries-1
}

// swapComponent replaces the component old of a path by another, or where the path has only its number (linear_23 is
// encoder_layers.23.projection), the number.
func swapComponent(path, old, by string) string {
	parts := strings.Split(path, ".")
	if i := slices.Index(parts, old); i >= 0 {
		parts[i] = by
	} else if i := slices.Index(parts, old[strings.LastIndexByte(old, '_')+1:]); i >= 0 {
		parts[i] = by[strings.LastIndexByte(by, '_')+1:]
	}
	return strings.Join(parts, ".")
}

// fill puts the numbers into the pattern's holes, in order.
func fill(pattern string, holes []string) string {
	if len(holes) == 0 || !strings.Contains(pattern, "#") {
		return pattern
	}
	var b strings.Builder
	for len(holes) > 0 {
		i := strings.IndexByte(pattern, '#')
		if i < 0 {
			break
		}
		b.WriteString(pattern[:i])
		b.WriteString(holes[0])
		pattern, holes = pattern[i+1:], holes[1:]
	}
	b.WriteString(pattern)
	return b.String()
}

// digitless replaces every number of a path by the mark.
func digitless(path, mark string) string {
	var room [128]byte // most names fit
	b, changed := appendDigitless(room[:0], path, mark)
	if !changed {
		return path
	}
	return string(b)
}

// appendDigitless is digitless for a buffer that is used again, of names by the hundred thousand.
func appendDigitless(b []byte, path, mark string) (_ []byte, changed bool) {
	done := 0 // bytes of path written to b
	for start := 0; start <= len(path); {
		end := start
		digits := true
		for end < len(path) && path[end] != '.' {
			digits = digits && path[end] >= '0' && path[end] <= '9'
			end++
		}
		if digits && end > start {
			b = append(append(b, path[done:start]...), mark...)
			done = end
		}
		start = end + 1
	}
	return append(b, path[done:]...), done > 0
}

// distinctPatterns returns one name for each name pattern, in order.
func distinctPatterns(names []string) []string {
	seen := make(map[string]bool)
	var out []string
	var b []byte
	for _, n := range names {
		b, _ = appendDigitless(b[:0], n, "#")
		if !seen[string(b)] {
			seen[string(b)] = true
			out = append(out, n)
		}
	}
	return out
}

// hits counts the names that the class has a row for.
func (e *entry) hits(names []string) int {
	n := 0
	for _, name := range names {
		if _, ok := e.find(name); ok {
			n++
		}
	}
	return n
}

// near lists known model types that a misspelled or newer one may stand for.
func near(q Query) []string {
	name := q.ModelType
	type scored struct {
		name string
		d    int
	}
	var all []scored
	if name == "" || len(name) > 64 {
		return nil
	}
	table := tableText
	if q.Diffusers {
		table = diffusersText
	}
	for t := range table.Names() {
		d := distance(name, t)
		if d <= max(1, len(name)/4) || (len(name) > 3 && strings.HasPrefix(t, strings.TrimRight(name, "0123456789_.-"))) {
			all = append(all, scored{t, d})
		}
	}
	slices.SortFunc(all, func(a, b scored) int { return cmp.Or(cmp.Compare(a.d, b.d), cmp.Compare(a.name, b.name)) })
	var out []string
	for _, s := range all[:min(3, len(all))] {
		out = append(out, s.name)
	}
	return out
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
