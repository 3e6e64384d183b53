package complete

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// factsText says which tensors the classes of transformers have, by model type and class. gen/facts.py of package arch asks
// transformers and gen/facts_build.py writes the file.
//
//	type NAME
//	class NAME in=FLAGS [prefix=P] [base=P]   FLAGS: "5" or "4", the version that was asked
//	alias NAME LEAF                           another name of a config value (attribute_map)
//	nested KEY TYPE                           the type of a nested config for which the facts hold
//	default LEAF JSON | default LEAF =EXPR    what stands for a value that config.json lacks
//	ignore REGEX                              _keys_to_ignore_on_load_unexpected
//	layout [from=CLASS/N]                     one set of names; from: the rows of another class's N-th, below the prefix
//	count CONTAINER EXPR
//	PATTERN FLAGS SHAPE PRESENT REQUIRED [TIED]
//
// In a row, PATTERN is a tensor name with "#" for numbers that vary, FLAGS "-", "i" for integers and "b" for buffers, SHAPE
// "[EXPR,EXPR]", "?" for one that is not known, PRESENT the condition under which the class has the tensor, REQUIRED that under which a checkpoint
// must have it, TIED the tensor that stands in for it otherwise. A dimension "?" is not known, "?N" not known but the same
// wherever it stands. Expressions and conditions are explained in gen/facts_fit.py. A row replaces those of the same pattern
// that came by from=; SHAPE "none" removes them.
//
//go:embed data/facts.txt
var factsText string

var factBlocks = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for _, block := range strings.Split("\n"+factsText, "\ntype ")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		m[name] = rest
	}
	return m
})

var factCache = struct {
	sync.Mutex
	types map[string][]*facts
}{types: map[string][]*facts{}}

// factsOf returns the facts of a type's classes, nil if there are none.
func factsOf(modelType string) []*facts {
	block, ok := factBlocks()[modelType]
	if !ok {
		return nil
	}
	factCache.Lock()
	defer factCache.Unlock()
	if f, ok := factCache.types[modelType]; ok {
		return f
	}
	f, err := parseFacts(block)
	if err != nil {
		// The file is part of the program; a test parses all of it.
		panic("complete: internal error: facts of " + modelType + ": " + err.Error())
	}
	factCache.types[modelType] = f
	return f
}

// facts are one class as one version of transformers has it.
type facts struct {
	class, in    string
	prefix, base string // of the base model in the class, and of the class in task models; without the dot
	aliases      map[string]string
	nested       map[string]string
	defaults     map[string]preset
	ignore       []*regexp.Regexp
	layouts      []*layout
	siblings     []*facts // all classes of the type
}

type layout struct {
	counts map[string]*expr
	groups map[string]*group
	root   node
}

// A group is the rows of one pattern, of which at most one holds.
type group struct {
	pattern    string
	containers []string // the pattern up to each hole
	inherited  bool
	open       bool // below a list whose length the facts do not know
	rows       []*row
}

type row struct {
	integer, buffer   bool
	dims              []dim
	shaped            bool
	present, required *cond
	tied              string
}

type dim struct {
	e      *expr
	symbol string
}

func parseFacts(block string) ([]*facts, error) {
	var all []*facts
	var f *facts
	var l *layout
	for line := range strings.Lines(block) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var err error
		switch word := fields[0]; {
		case word == "class" && len(fields) > 1:
			f, l = &facts{class: fields[1], aliases: map[string]string{}, nested: map[string]string{}, defaults: map[string]preset{}}, nil
			for _, option := range fields[2:] {
				switch key, value, _ := strings.Cut(option, "="); key {
				case "in":
					f.in = value
				case "prefix":
					f.prefix = value
				case "base":
					f.base = value
				default:
					err = fmt.Errorf("unknown field %q", option)
				}
			}
			all = append(all, f)
		case f == nil:
			err = fmt.Errorf("outside a class")
		case word == "alias" && len(fields) == 3:
			f.aliases[fields[1]] = fields[2]
		case word == "nested" && len(fields) == 3:
			f.nested[fields[1]] = fields[2]
		case word == "default" && len(fields) == 3:
			err = f.parseDefault(fields[1], fields[2])
		case word == "ignore" && len(fields) == 2:
			// Python's syntax; what RE2 lacks is not ignored.
			if re, err := regexp.Compile(fields[1]); err == nil {
				f.ignore = append(f.ignore, re)
			}
		case word == "layout":
			l, err = f.newLayout(all, fields[1:])
		case l == nil:
			err = fmt.Errorf("outside a layout")
		case word == "count" && len(fields) == 3:
			if l.counts[fields[1]], err = parseExpr(fields[2]); fields[2] == "?" {
				l.counts[fields[1]], err = nil, nil
			}
		default:
			err = l.parseRow(fields)
		}
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
		}
	}
	for _, f := range all {
		f.siblings = all
		for _, l := range f.layouts {
			for pattern, g := range l.groups {
				for _, container := range g.containers {
					if _, ok := l.counts[container]; !ok {
						return nil, fmt.Errorf("class %s: %s has no count of %s", f.class, pattern, container)
					}
				}
			}
			l.index()
		}
	}
	return all, nil
}

func (f *facts) parseDefault(leaf, value string) (err error) {
	p := preset{}
	if text, ok := strings.CutPrefix(value, "="); ok {
		p.expr, err = parseExpr(text)
	} else {
		err = json.Unmarshal([]byte(strings.ReplaceAll(value, "%20", " ")), &p.value)
	}
	f.defaults[leaf] = p
	return err
}

func (f *facts) newLayout(all []*facts, options []string) (*layout, error) {
	l := &layout{counts: map[string]*expr{}, groups: map[string]*group{}}
	f.layouts = append(f.layouts, l)
	if len(options) == 0 {
		return l, nil
	}
	from, ok := strings.CutPrefix(options[0], "from=")
	class, number, _ := strings.Cut(from, "/")
	for _, other := range all {
		for i, source := range other.layouts {
			if !ok || other.class != class || other.in != f.in || fmt.Sprint(i) != number || source == l {
				continue
			}
			// It is the same config: what the base model's rows call for has defaults there.
			for leaf, p := range other.defaults {
				if _, ok := f.defaults[leaf]; !ok {
					f.defaults[leaf] = p
				}
			}
			for alias, leaf := range other.aliases {
				f.aliases[alias] = leaf
			}
			for c, e := range source.counts {
				l.counts[f.prefix+"."+c] = e
			}
			for pattern, g := range source.groups {
				l.group(f.prefix + "." + pattern).rows = g.rows
				l.groups[f.prefix+"."+pattern].inherited = true
			}
			return l, nil
		}
	}
	return nil, fmt.Errorf("no layout %q", from)
}

func (l *layout) group(pattern string) *group {
	g := l.groups[pattern]
	if g == nil {
		g = &group{pattern: pattern}
		for i := range len(pattern) {
			if pattern[i] == '#' {
				g.containers = append(g.containers, pattern[:i+1])
			}
		}
		l.groups[pattern] = g
	}
	return g
}

func (l *layout) parseRow(fields []string) error {
	if len(fields) < 5 || len(fields) > 6 {
		return fmt.Errorf("want 5 or 6 fields")
	}
	g := l.group(fields[0])
	if g.inherited {
		g.rows, g.inherited = nil, false
	}
	if fields[2] == "none" {
		delete(l.groups, fields[0])
		return nil
	}
	if len(g.containers) > maxHoles {
		return fmt.Errorf("more than %d holes", maxHoles)
	}
	r := &row{integer: strings.Contains(fields[1], "i"), buffer: strings.Contains(fields[1], "b")}
	var err error
	if list, ok := strings.CutPrefix(fields[2], "["); ok {
		r.shaped = true
		list = strings.TrimSuffix(list, "]")
		for text := range strings.SplitSeq(list, ",") {
			d := dim{}
			switch {
			case text == "" && list == "":
				continue
			case strings.HasPrefix(text, "?"):
				d.symbol = text
			default:
				if d.e, err = parseExpr(text); err != nil {
					return err
				}
			}
			r.dims = append(r.dims, d)
		}
	}
	if r.present, err = parseCond(fields[3], len(g.containers)); err != nil {
		return err
	}
	if r.required, err = parseCond(fields[4], len(g.containers)); err != nil {
		return err
	}
	if len(fields) == 6 {
		r.tied = fields[5]
	}
	g.rows = append(g.rows, r)
	return nil
}

// maxHoles is how many numbers of a name vary at most.
const maxHoles = 4

// A key is the numbers in the holes.
type key [maxHoles]int32

// A node is a position in the tree of the patterns' components.
type node struct {
	kids    map[string]*node
	numbers []numbered
	group   *group
	open    bool // its numbered members are alike, and there may be more or fewer of them
}

// numbered is a component with a hole: "#" or "expert_#".
type numbered struct {
	prefix string
	next   *node
}

func (l *layout) index() {
	l.root = node{}
	for pattern, g := range l.groups {
		n := &l.root
		for part := range strings.SplitSeq(pattern, ".") {
			n = n.child(part)
		}
		n.group = g
	}
	l.root.unbound(false)
}

// minListed is how many members written out by number are a list; two may be the parts of an nn.Sequential.
const minListed = 3

// unbound marks the lists whose members are written out by number: the variants that the facts were made from did not vary their
// length, since a list in the config gives it (conv_dim), and nothing is known of it. The first member may be different.
func (n *node) unbound(open bool) {
	count := 0
	for n.kids[strconv.Itoa(count)] != nil {
		count++
	}
	if count >= minListed {
		n.open = slices.Equal(n.kids["1"].leaves(), n.kids[strconv.Itoa(count-1)].leaves())
	}
	open = open || n.open
	if n.group != nil {
		n.group.open = open
	}
	for _, kid := range n.kids {
		kid.unbound(open)
	}
	for _, kid := range n.numbers {
		kid.next.unbound(open)
	}
}

// leaves are the patterns below the node, in order.
func (n *node) leaves() []string {
	var out []string
	if n.group != nil {
		out = append(out, "")
	}
	for name, kid := range n.kids {
		for _, leaf := range kid.leaves() {
			out = append(out, name+"."+leaf)
		}
	}
	for _, kid := range n.numbers {
		for _, leaf := range kid.next.leaves() {
			out = append(out, kid.prefix+"#."+leaf)
		}
	}
	slices.Sort(out)
	return out
}

// listed reports whether the name is that of a further member of a list whose length is not known.
func (n *node) listed(name string) bool {
	part, rest, more := strings.Cut(name, ".")
	if !more {
		return false
	}
	if _, number := index(part); number {
		if n.open && n.kids[part] == nil {
			return true
		}
		for _, kid := range n.numbers {
			if kid.prefix == "" && kid.next.listed(rest) {
				return true
			}
		}
	}
	return n.kids[part] != nil && n.kids[part].listed(rest)
}

func (n *node) child(part string) *node {
	if prefix, ok := strings.CutSuffix(part, "#"); ok {
		for _, k := range n.numbers {
			if k.prefix == prefix {
				return k.next
			}
		}
		n.numbers = append(n.numbers, numbered{prefix, &node{}})
		return n.numbers[len(n.numbers)-1].next
	}
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	if n.kids[part] == nil {
		n.kids[part] = &node{}
	}
	return n.kids[part]
}

// find returns the group of a name, and the numbers in its holes.
func (n *node) find(name string, k *key, hole int) *group {
	if name == "" {
		return n.group
	}
	part, rest, more := strings.Cut(name, ".")
	if more && rest == "" {
		return nil
	}
	if next := n.kids[part]; next != nil {
		if g := next.find(rest, k, hole); g != nil {
			return g
		}
	}
	for _, kid := range n.numbers {
		digits, ok := strings.CutPrefix(part, kid.prefix)
		i, isIndex := index(digits)
		if !ok || !isIndex || hole == maxHoles {
			continue
		}
		old := k[hole]
		k[hole] = i
		if g := kid.next.find(rest, k, hole+1); g != nil {
			return g
		}
		k[hole] = old
	}
	return nil
}

// index reads a number as transformers writes it: no leading zero, no sign.
func index(s string) (int32, bool) {
	if s == "" || len(s) > 9 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	n := int32(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int32(s[i]-'0')
	}
	return n, true
}
