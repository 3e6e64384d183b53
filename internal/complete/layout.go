package complete

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A checker holds tensors to one layout.
type checker struct {
	*layout
	facts    *facts
	values   *values
	tensors  []Tensor
	anyHead  bool // tensors beside those of the class are a head's
	report   *Report
	hits     map[*group]map[key]int32 // which tensor has the name
	counts   map[string]int64         // of a container by config.json; -1 if not known
	observed map[string]int64         // the highest number in a container, plus one
	lasts    map[*node]int32          // the highest member of a list of unknown length
	standsIn map[string][]*group      // groups whose tensor may stand in for the pattern's
	votes    map[string]map[int64]vote
	expected map[*row][]int64
	short    map[string]bool // lists of modules reported to have too few members
	spelling spelling        // of most names
	leading  string          // what stands before the names of loose facts; without the dot
	parts    map[string]bool // the first components of the patterns that are there, if whole towers are not; else nil
	unknown  []Tensor        // those of nested models without facts
}

type vote struct {
	count int
	first int32
}

// check holds tensors to the layout. With anyHead, config.json names no class: the head of another task is not held against the base
// model.
func (l *layout) check(f *facts, v *values, tensors []Tensor, anyHead bool) *Report {
	c := &checker{layout: l, facts: f, values: v, tensors: tensors, anyHead: anyHead, report: &Report{Class: f.class},
		hits: map[*group]map[key]int32{}, counts: map[string]int64{}, observed: map[string]int64{}, standsIn: map[string][]*group{}, lasts: map[*node]int32{},
		votes: map[string]map[int64]vote{}, expected: map[*row][]int64{}, short: map[string]bool{}}
	if f.loose {
		c.leading = c.lead()
	}
	strangers := c.match()
	if f.loose {
		c.towers()
	}
	for container, e := range l.counts {
		c.counts[container] = -1
		if n, ok := e.eval(v.in(e.scope)); ok {
			c.counts[container] = n
		}
	}
	for _, g := range l.groups {
		if g.of != nil && len(c.hits[g]) > 0 {
			c.lasts[g.of.list] = max(c.lasts[g.of.list], g.of.number)
		}
		for _, r := range g.rows {
			if r.tied != "" {
				c.standsIn[r.tied] = append(c.standsIn[r.tied], g)
			}
		}
	}
	c.surplus()
	for _, g := range l.groups {
		c.group(g)
	}
	c.disagreements()
	for _, i := range strangers {
		if !c.hidden(i) {
			c.stranger(&tensors[i])
		}
	}
	if len(c.unknown) > 0 {
		for _, p := range alike(&values{}, c.unknown).Problems {
			c.report.add(p)
		}
	}
	return c.report
}

// surplus reports members of a container beyond its count, one problem for each, and takes them out.
func (c *checker) surplus() {
	type member struct {
		name  string
		count int
	}
	extra := map[string]*member{}
	for g, hits := range c.hits {
		for k, i := range hits {
			for h, container := range g.containers {
				n := c.counts[container]
				if n < 0 || int64(k[h]) < n {
					continue
				}
				name := c.tensors[i].Name
				path := through(name, g.pattern, h)
				if c.ignored(name) {
					// a layer that transformers leaves alone
				} else if e := extra[path]; e == nil {
					extra[path] = &member{fmt.Sprintf("%d (%s)", n, c.layout.counts[container]), 1}
				} else {
					e.count++
				}
				delete(hits, k)
				break
			}
		}
	}
	for path, e := range extra {
		c.report.add(Problem{Foreign, path, "only " + e.name + " by config.json", fmt.Sprintf("it, with %s", plural(e.count, "tensor"))})
	}
}

// through cuts a name after its number in the pattern's h-th hole.
func through(name, pattern string, h int) string {
	from := len(strings.Split(name, ".")) - len(strings.Split(pattern, "."))
	parts := strings.Split(pattern, ".")
	for i, p := range parts {
		if strings.HasSuffix(p, "#") {
			if h == 0 {
				return strings.Join(strings.Split(name, ".")[:max(i+from+1, 1)], ".")
			}
			h--
		}
	}
	return name
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// maxMembers bounds the tensors of one pattern that are looked for, beyond four for each that there is: high numbers in two holes
// of a name would make a product that never ends.
const maxMembers = 1 << 15

// beyond is how many members of a list are looked for after its last one: layers of one kind come again after some of others.
const beyond = 8

// group checks all tensors of one pattern.
func (c *checker) group(g *group) {
	hits := c.hits[g]
	bounds := make([]int64, len(g.containers))
	counts := make([]int64, len(g.containers))
	for h, container := range g.containers {
		n, known := c.counts[container]
		if !known {
			n = -1
		}
		counts[h] = n
		// A few members beyond those that are there show what the others lack, of whatever kind they are.
		bounds[h] = 1
		if have := c.observed[container]; have > 0 {
			bounds[h] = min(have+beyond, int64(4*len(c.tensors)+64))
		}
		if n >= 0 {
			bounds[h] = min(n, bounds[h])
		} else {
			bounds[h] = c.observed[container]
		}
		if h > 0 && c.observed[container] == 0 {
			bounds[h] = 0 // a list inside layers that config.json may well deny: only lists that exist were counted
		}
	}
	idx := make([]int64, len(bounds))
	for range maxMembers + 4*len(c.tensors) {
		if slices.ContainsFunc(bounds, func(n int64) bool { return n <= 0 }) {
			break
		}
		c.one(g, hits, idx, counts)
		h := len(idx) - 1
		for ; h >= 0; h-- {
			if idx[h]++; idx[h] < bounds[h] {
				break
			}
			idx[h] = 0
		}
		if h < 0 {
			break
		}
	}
}

// one checks the tensor with these numbers.
func (c *checker) one(g *group, hits map[key]int32, idx, counts []int64) {
	var k key
	for h, i := range idx {
		k[h] = int32(i)
	}
	i, has := hits[k]
	var holds *row
	open := false
	for _, r := range g.rows {
		switch r.present.eval(c.values.in(g.scope), idx, counts) {
		case yes:
			holds = r
		case unknown:
			open = true
		}
	}
	switch {
	case holds != nil && has:
		c.compare(g, holds, i)
	case holds != nil:
		if !c.beyondLast(g) && (c.parts == nil || c.parts[first(g.pattern)]) && holds.required.eval(c.values.in(g.scope), idx, counts) == yes && !holds.integer && !c.excused(g, holds, idx) {
			c.missing(g, holds, idx)
		}
	case has && open:
		if len(g.rows) == 1 {
			c.compare(g, g.rows[0], i)
		}
	case has:
		if name := c.tensors[i].Name; !c.ignored(name) {
			c.report.add(Problem{Foreign, name, "no such tensor by config.json (" + reason(g) + ")", "it"})
		}
	}
}

// shape returns the dimensions that config.json gives a row, -1 for those that are not known.
func (c *checker) shape(g *group, r *row) []int64 {
	want, ok := c.expected[r]
	if !ok {
		want = make([]int64, len(r.dims))
		for d := range r.dims {
			want[d] = -1
			if n, ok := r.dims[d].e.eval(c.values.in(g.scope)); ok {
				want[d] = n
			}
		}
		c.expected[r] = want
	}
	return want
}

func (c *checker) describe(g *group, r *row) string {
	if !r.shaped {
		return "by config.json"
	}
	return "of shape " + spell(c.shape(g, r))
}

func spell(shape []int64) string {
	var b strings.Builder
	for i, n := range shape {
		if i > 0 {
			b.WriteString(", ")
		}
		if n < 0 {
			b.WriteByte('?')
		} else {
			fmt.Fprint(&b, n)
		}
	}
	return "[" + b.String() + "]"
}

func (c *checker) compare(g *group, r *row, i int32) {
	t := &c.tensors[i]
	if !r.integer && !isFloat(t.DType) {
		c.report.add(Problem{DType, t.Name, "floating-point weights", t.DType.String()})
		return
	}
	if !r.shaped {
		if slices.Contains(t.Shape, 0) {
			c.report.add(Problem{Empty, t.Name, "weights", "shape " + spell(t.Shape)})
		}
		return
	}
	want, got := c.shape(g, r), t.Shape
	if t.Turned && len(got) == 2 && len(want) == 2 && !matches(want, got) && matches(want, []int64{got[1], got[0]}) {
		got = []int64{got[1], got[0]}
	}
	if !matches(want, got) {
		p := Problem{Shape, t.Name, "shape " + spell(want), spell(t.Shape)}
		if slices.Contains(t.Shape, 0) {
			p.Kind = Empty
		}
		c.report.add(p)
		return
	}
	for d, n := range want {
		if n >= 0 {
			continue
		}
		name := r.dims[d].symbol
		if strings.HasSuffix(name, varying) {
			continue
		}
		if name == "" || name == "?" {
			name = fmt.Sprintf("%s %d %p", g.pattern, d, r)
		}
		if c.votes[name] == nil {
			c.votes[name] = map[int64]vote{}
		}
		v, ok := c.votes[name][got[d]]
		if !ok || naturally(t.Name, c.tensors[v.first].Name) < 0 {
			v.first = i
		}
		v.count++
		c.votes[name][got[d]] = v
	}
}

// varying is the end of the symbol of a dimension that is not known, nor the same in all members of a list.
const varying = "?*"

func matches(want, got []int64) bool {
	if len(want) != len(got) {
		return false
	}
	for d, n := range want {
		if n >= 0 && n != got[d] || n < 0 && got[d] == 0 {
			return false
		}
	}
	return true
}

// disagreements reports dimensions that no expression gives and that are not the same everywhere. Most votes win.
func (c *checker) disagreements() {
	for _, values := range c.votes {
		if len(values) < 2 {
			continue
		}
		best, size := vote{}, int64(0)
		for n, v := range values {
			if v.count > best.count || v.count == best.count && n > size {
				best, size = v, n
			}
		}
		if best.count < 3 {
			continue // two tensors cannot say which of them is wrong
		}
		for n, v := range values {
			if n != size {
				t := c.tensors[v.first]
				c.report.add(Problem{Shape, t.Name, fmt.Sprintf("a dimension of %d as in %s", size, plural(best.count, "other tensor")), spell(t.Shape)})
			}
		}
	}
}

// harmless are buffers that loaders compute themselves, of any class.
var harmless = []string{"inv_freq", "position_ids", "num_batches_tracked", "masked_bias", "token_type_ids", "_extra_state", "attn.bias", "attention.bias"}

func (c *checker) ignored(name string) bool {
	for _, re := range c.facts.ignore {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

// stranger judges a tensor whose name the class does not have. Whatever it is of, it holds weights.
func (c *checker) stranger(t *Tensor) {
	name := t.Name
	if c.ignored(name) || slices.ContainsFunc(harmless, func(s string) bool { return name == s || strings.HasSuffix(name, "."+s) }) {
		return
	}
	if slices.Contains(t.Shape, 0) {
		c.report.add(Problem{Empty, name, "weights", "shape " + spell(t.Shape)})
		return
	}
	if crossAttention(name) && c.values.asks() && !c.facts.crosses() {
		return // BERT as a decoder: the facts were not asked for it
	}
	for _, n := range [...]string{name, c.facts.prefix + "." + name, strings.TrimPrefix(name, c.facts.base+"."), strings.TrimPrefix(name, c.facts.prefix+".")} {
		if c.root.listed(n) {
			return
		}
	}
	if class := c.sibling(name); class != "" {
		c.report.notice("%s belongs to no module of %s, but to %s", name, c.facts.class, class)
		return
	}
	if c.anyHead && !adapted(name) && !c.within(name) {
		c.report.notice("%s belongs to no module of %s: a head of another task", name, c.facts.class)
		return
	}
	if leaf := name[strings.LastIndexByte(name, '.')+1:]; c.anyHead && !adapted(name) && leaf != "weight" && leaf != "bias" {
		c.report.notice("%s belongs to no module of %s: a parameter of another task", name, c.facts.class) // ViT's mask_token
		return
	}
	c.report.strangers++
	p := Problem{Foreign, name, "only tensors of " + c.facts.class, "it"}
	if adapted(name) {
		p.Expected, p.Found = "a model's own tensors", "one of a PEFT model with its adapter"
	}
	c.report.add(p)
}

// within reports whether the name begins with a module of the class, or with the prefix of the base model. Where the base model's names
// have a prefix, what lacks it is beside the base model, whatever it is called: Wav2Vec2ForXVector has a feature_extractor of its own.
func (c *checker) within(name string) bool {
	if more := c.spelling.more; more != "" {
		return strings.HasPrefix(name, more+".")
	}
	module := first(name)
	_, ok := c.root.kids[module]
	return ok || module == c.facts.prefix || module == c.facts.base || module == c.leading
}

// sibling is another class of the type that has the name, or "".
func (c *checker) sibling(name string) string {
	for _, f := range c.facts.siblings {
		if f.class == c.facts.class {
			continue
		}
		for _, l := range f.layouts {
			other := checker{layout: l, facts: f}
			if g, _, _ := other.find(name); g != nil {
				return f.class
			}
		}
	}
	return ""
}

func isFloat(d safetensors.DType) bool {
	switch d {
	case safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8_E4M3, safetensors.F8_E5M2, safetensors.F8_E8M0, safetensors.F4,
		safetensors.F6_E2M3, safetensors.F6_E3M2:
		return true
	}
	return false
}
