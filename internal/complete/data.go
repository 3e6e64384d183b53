package complete

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// factsText says which tensors the classes of transformers have, by model type and class. gen/facts.py of package arch asks
// transformers and gen/facts_build.py writes the file.
//
//	type NAME
//	class NAME in=FLAGS [prefix=P] [base=P] [auto=ROLE]   FLAGS: "5" or "4", the version that was asked
//	alias NAME LEAF                           another name of a config value (attribute_map); "*" is all members of an object, which agree
//	nested KEY TYPE                           the type of a nested config for which the facts hold
//	default LEAF JSON | default LEAF =EXPR    what stands for a value that config.json lacks
//	held LEAF JSON [?]                        the facts are of classes with this value alone; ?: it is not the default
//	optional KEY                              a nested config that the class has only where config.json does
//	ignore REGEX                              _keys_to_ignore_on_load_unexpected
//	layout [from=CLASS/N]                     one set of names; from: the rows of another class's N-th, below the prefix
//	count CONTAINER EXPR [COND]               COND: whether the class has the list at all
//	PATTERN FLAGS SHAPE PRESENT REQUIRED [TIED]
//
// In a row, PATTERN is a tensor name with "#" for numbers that vary, FLAGS "-", "i" for integers and "b" for buffers, SHAPE
// "[EXPR,EXPR]", "?" for one that is not known, PRESENT the condition under which the class has the tensor, REQUIRED that under which a checkpoint
// must have it, TIED the tensor that stands in for it otherwise. A dimension "?" is not known, "?N" not known but the same
// wherever it stands, "?*" not known and not the same in all members of a list. Expressions and conditions are explained in gen/facts_fit.py. A row replaces those of the same pattern
// that came by from=; SHAPE "none" removes them. ROLE is "base" or "causal" for the class that transformers' AutoModel or
// AutoModelForCausalLM makes of the type: those stand in other models.
//
//go:embed data/facts.txt
var factsText arch.Blocks

var factCache = struct {
	sync.Mutex
	types map[string][]*facts
}{types: map[string][]*facts{}}

// factsOf returns the facts of a type's classes, nil if there are none.
func factsOf(modelType string) []*facts {
	factCache.Lock()
	defer factCache.Unlock()
	if f, ok := factCache.types[modelType]; ok {
		return f
	}
	_, rows, ok := strings.Cut(factsText.Find(modelType), "\n")
	if !ok {
		return nil
	}
	f, err := parseFacts(rows)
	if err != nil {
		// The file is part of the program; a test parses all of it.
		panic("complete: internal error: facts of " + modelType + ": " + err.Error())
	}
	factCache.types[modelType] = f
	return f
}

// facts are one class as one version of transformers has it.
type facts struct {
	class        string
	version      string // of transformers that was asked: "5" or "4"
	prefix, base string // of the base model in the class, and of the class in task models; without the dot
	role         string // "base", "causal" or ""
	aliases      map[string]string
	nested       map[string]string
	defaults     map[string]preset
	held         map[string]heldValue
	optional     map[string]bool
	ignore       []*regexp.Regexp
	layouts      []*layout
	siblings     []*facts // all classes of the type

	scopes map[string]*facts // of nested configs of another type than the facts were made with
	loose  bool              // the checkpoint is of another class of the type: the base model's tensors, and any others beside
}

// A heldValue is one that the class had in all variants that were asked.
type heldValue struct {
	value     any
	isDefault bool // where config.json has none
}

type layout struct {
	counts map[string]*count
	groups map[string]*group
	root   node
	opaque []string // paths of nested models without facts
}

// A count is how many members a list of modules has.
type count struct {
	expr  *expr // nil if it is not known
	whole *cond // whether there is the list; nil: there is
	scope string
}

func (n *count) eval(v *values) (int64, bool) {
	if n.whole != nil {
		switch n.whole.eval(v, nil, nil) {
		case no:
			return 0, true
		case unknown:
			return 0, false
		}
	}
	return n.expr.eval(v)
}

// String is what a problem says of where the number is from.
func (n *count) String() string {
	if n.expr == nil {
		return ""
	}
	text := n.expr.text
	if n.whole != nil {
		text += ", " + n.whole.text
	}
	return text
}

// A group is the rows of one pattern, of which at most one holds.
type group struct {
	pattern    string
	containers []string // the pattern up to each hole
	scope      string   // the key of the nested config that the rows speak of; "" for the whole
	inherited  bool
	of         *listMember // of a list whose length the facts do not know; nil if it is of none
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
			f, l = &facts{class: fields[1], aliases: map[string]string{}, nested: map[string]string{}, defaults: map[string]preset{},
				held: map[string]heldValue{}, optional: map[string]bool{}}, nil
			for _, option := range fields[2:] {
				switch key, value, _ := strings.Cut(option, "="); key {
				case "in":
					f.version = value
				case "prefix":
					f.prefix = value
				case "base":
					f.base = value
				case "auto":
					f.role = value
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
		case word == "held" && (len(fields) == 3 || len(fields) == 4):
			h := heldValue{isDefault: len(fields) == 3}
			err = json.Unmarshal([]byte(strings.ReplaceAll(fields[2], "%20", " ")), &h.value)
			f.held[fields[1]] = h
		case word == "optional" && len(fields) == 2:
			f.optional[fields[1]] = true
		case word == "ignore" && len(fields) == 2:
			// Python's syntax; what RE2 lacks is not ignored.
			if re, err := regexp.Compile(fields[1]); err == nil {
				f.ignore = append(f.ignore, re)
			}
		case word == "layout":
			l, err = f.newLayout(all, fields[1:])
		case l == nil:
			err = fmt.Errorf("outside a layout")
		case word == "count" && (len(fields) == 3 || len(fields) == 4):
			l.counts[fields[1]], err = parseCount(fields[2:])
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

func parseCount(fields []string) (_ *count, err error) {
	n := &count{}
	if fields[0] != "?" {
		if n.expr, err = parseExpr(fields[0]); err != nil {
			return nil, err
		}
	}
	if len(fields) > 1 {
		n.whole, err = parseCond(fields[1], 0)
	}
	return n, err
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
	l := &layout{counts: map[string]*count{}, groups: map[string]*group{}}
	f.layouts = append(f.layouts, l)
	if len(options) == 0 {
		return l, nil
	}
	from, ok := strings.CutPrefix(options[0], "from=")
	class, number, _ := strings.Cut(from, "/")
	for _, other := range all {
		for i, source := range other.layouts {
			if !ok || other.class != class || other.version != f.version || fmt.Sprint(i) != number || source == l {
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
