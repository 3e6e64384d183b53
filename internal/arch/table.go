package arch

import (
	_ "embed"
	"fmt"
	"maps"
	"strings"
	"sync"
)

// The table is text, one block a model type, after lines "alias NAME TYPE" for
// other names:
//
//	type NAME FLAGS [tied=FLAGS]      FLAGS: the versions that have the type, of "5" and "4", or "d"
//	                                  tied: those in which tie_word_embeddings is true by default
//	strict NAME...                    of a class of diffusers: _keep_in_fp32_modules
//	class NAME [base] [causal] [varies] [in=FLAGS] [prefix=P] [rows=TYPE/CLASS] [no=PATH,...] [keep=PATH,...] [keep5=...] [keep4=...]
//	 KK[ROLES] PARENT [P5 P4]: LEAF...
//	 KK[ROLES] PATH [P5 P4]
//	 @[ROLES] PATH [P5 P4]: KEY TYPE CLASS
//
// base and causal mark the type's base model and its ForCausalLM class, varies
// one whose null skip list depends on settings the table does not follow.
// prefix=P says that the class holds the base model's rows under P ("." for
// none), besides its own, but for those in no=. rows= shares the rows of another class.
// keep5 and keep4 (keep, if they are the same) list the module paths, in that
// version, that a null skip list keeps; with t or u appended (keep4t) only if embeddings are tied or
// untied. A "$" in them is the last layer's index.
//
// In a row, KK is a letter for every version, 5.x and 4.57: L nn.Linear, S a subclass
// of it (converted by 4.57 only), C Conv1D, K a Linear in
// _keep_in_fp32_modules, F consumed by a WeightConverter or otherwise not
// loadable packed, X fused experts that must be split, E embedding, P a
// router or experts that are no Linear, - absent. Norms, convolutions and
// biases have no rows. ROLES: r router, x expert, v tower, j projector, a a name
// that the newest version with the class reads but does not write. A path is a tensor name without ".weight", or with "!" at the end a whole tensor
// name; "#" stands for any number. P5 and P4 are the module paths in the two
// versions where they differ from the name ("=" if not; "." is the root); a
// name split into several modules lists the last components with commas.
//
// An "@" line places the rows of another type's class under a path: the model
// type in the config's KEY, TYPE if that is not given; CLASS is "base" or
// "causal" for the type's base model or ForCausalLM class, or a class name.
//
//go:embed data/table.txt
var tableText Blocks

// diffusersText has the classes of diffusers in the same grammar. Their type
// is the _class_name of config.json and their flag "d"; what the rows say of
// 4.57 holds for diffusers, whose rules are the same, K is a Linear that
// _keep_in_fp32_modules keeps, and strict lists these names.
//
//go:embed data/diffusers.txt
var diffusersText Blocks

// aliases maps other names of a model type to the one that has a block.
var aliases = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(tableText[:nextBlock(string(tableText), 0)])) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			m[f[1]] = f[2]
		}
	}
	return m
})

// parsed caches the types that were asked for.
var parsed = struct {
	sync.Mutex
	types map[string]*modelType
}{types: map[string]*modelType{}}

type modelType struct {
	name         string
	in           [NumVersions]bool
	diffusers    bool // a class of diffusers, for which in[V4] stands
	tied         [NumVersions]bool
	strict       []string
	classes      []*class
	base, causal *class
}

type class struct {
	typ    *modelType
	name   string
	in     [NumVersions]bool
	prefix string // of the base model's rows, with the dot
	onBase bool   // the base model's rows belong to the class
	no     map[string]bool
	varies bool
	root   *node
	keep   [NumVersions]keeps
}

// keeps are module paths by the state of tie_word_embeddings.
type keeps struct{ both, tied, untied map[string]bool }

// in is the list in one state.
func (k keeps) in(tied bool) map[string]bool {
	set := maps.Clone(k.both)
	if set == nil {
		set = map[string]bool{}
	}
	if tied {
		maps.Copy(set, k.tied)
	} else {
		maps.Copy(set, k.untied)
	}
	return set
}

// keeps reports whether the list has the path, or its pattern.
func (k keeps) keeps(path string, tied bool) bool {
	some := k.untied
	if tied {
		some = k.tied
	}
	if len(k.both)+len(some) == 0 {
		return false
	}
	if k.both[path] || some[path] {
		return true
	}
	pattern := digitless(path, "#")
	return k.both[pattern] || some[pattern]
}

// A node is a position in the tree of name components.
type node struct {
	kids   map[string]*node
	number *node // "#"
	weight *row  // of PATH.weight
	param  *row  // of PATH itself
	models []*include
}

type row struct {
	k     [NumVersions]byte
	roles string
	name  string              // pattern
	p     [NumVersions]string // patterns; "" if the version has no such module
}

type include struct {
	roles      string
	name       string
	p          [NumVersions]string
	key        string
	typ, class string
}

func (n *node) at(path string) *node {
	if path == "" {
		return n
	}
	for part := range strings.SplitSeq(path, ".") {
		if part == "#" {
			if n.number == nil {
				n.number = &node{}
			}
			n = n.number
			continue
		}
		next := n.kids[part]
		if next == nil {
			next = &node{}
			if n.kids == nil {
				n.kids = map[string]*node{}
			}
			n.kids[part] = next
		}
		n = next
	}
	return n
}

// lookupType returns the parsed block of a model type, or nil.
func lookupType(name string) *modelType {
	parsed.Lock()
	defer parsed.Unlock()
	if other, ok := aliases()[name]; ok {
		name = other
	}
	return loadType(name)
}

func loadType(name string) *modelType {
	if t, ok := parsed.types[name]; ok {
		return t
	}
	block := tableText.Find(name)
	if block == "" {
		block = diffusersText.Find(name)
	}
	if block == "" {
		return nil
	}
	t, err := parseBlock(block)
	if err != nil {
		// The table is part of the program; a test parses all of it.
		panic("arch: internal error: table: " + err.Error())
	}
	parsed.types[name] = t
	return t
}

func parseBlock(block string) (*modelType, error) {
	t := &modelType{}
	var c *class
	for line := range strings.Lines(block) {
		line = strings.TrimSuffix(line, "\n")
		var err error
		switch {
		case line == "":
		case line[0] == ' ':
			if c == nil {
				return nil, fmt.Errorf("row outside a class: %q", line)
			}
			err = c.parseRow(line[1:])
		default:
			word, rest, _ := strings.Cut(line, " ")
			switch word {
			case "type":
				t.parseHead(rest)
			case "strict":
				t.strict = strings.Fields(rest)
			case "class":
				c, err = t.parseClass(rest)
			default:
				err = fmt.Errorf("unknown line %q", line)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("type %s: %w", t.name, err)
		}
	}
	t.pair()
	return t, nil
}

func (t *modelType) parseHead(rest string) {
	for i, f := range strings.Fields(rest) {
		has, tied := strings.CutPrefix(f, "tied=")
		switch {
		case i == 0:
			t.name = f
		case tied:
			t.tied = flagged(has)
		default:
			t.in, t.diffusers = flagged(has), strings.Contains(has, "d")
			t.in[V4] = t.in[V4] || t.diffusers
		}
	}
}

func (t *modelType) parseClass(rest string) (*class, error) {
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return nil, fmt.Errorf("class without a name")
	}
	c := &class{typ: t, name: fields[0], in: t.in, root: &node{}}
	for _, f := range fields[1:] {
		key, value, ok := strings.Cut(f, "=")
		if !ok && f == "base" {
			t.base = c
			continue
		}
		if !ok && f == "causal" {
			t.causal = c
			continue
		}
		if !ok && f == "varies" {
			c.varies = true
			continue
		}
		switch key {
		case "in":
			c.in = flagged(value)
		case "prefix":
			c.onBase = true
			if value != "." {
				c.prefix = value + "."
			}
		case "no":
			c.no = pathSet(value)
		case "rows":
			typ, name, _ := strings.Cut(value, "/")
			other := t
			if typ != t.name {
				other = loadType(typ)
			}
			from := other.class(name)
			if from == nil {
				return nil, fmt.Errorf("class %s: no rows %q", c.name, value)
			}
			c.root = from.root
		default:
			if !c.parseKeep(key, pathSet(value)) {
				return nil, fmt.Errorf("class %s: unknown field %q", c.name, f)
			}
		}
	}
	t.classes = append(t.classes, c)
	return c, nil
}

// flagged are the versions whose flags a word has.
func flagged(word string) [NumVersions]bool {
	return each(func(v Version) bool { return strings.IndexByte(word, versionFlags[v]) >= 0 })
}

// parseKeep files what keep (of all versions), keep5, keep5t, keep5u and so on list.
func (c *class) parseKeep(key string, paths map[string]bool) bool {
	rest, ok := strings.CutPrefix(key, "keep")
	if ok && rest == "" {
		c.keep = each(func(Version) keeps { return keeps{both: paths} })
		return true
	}
	v := Version(strings.IndexByte(versionFlags, (rest + " ")[0]))
	if !ok || v < 0 {
		return false
	}
	switch rest[1:] {
	case "":
		c.keep[v].both = paths
	case "t":
		c.keep[v].tied = paths
	case "u":
		c.keep[v].untied = paths
	default:
		return false
	}
	return true
}

func (t *modelType) class(name string) *class {
	if t == nil {
		return nil
	}
	for _, c := range t.classes {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (c *class) parseRow(line string) error {
	left, leaves, grouped := strings.Cut(line, ":")
	f := strings.Fields(left)
	const every = 2 + int(NumVersions)
	if len(f) != 2 && len(f) != every {
		return fmt.Errorf("row %q: want 2 or %d fields", line, every)
	}
	name := dot(f[1])
	paths := each(func(v Version) string {
		if len(f) == 2 || f[2+v] == "=" {
			return name
		}
		return dot(f[2+v])
	})
	if roles, ok := strings.CutPrefix(f[0], "@"); ok {
		to := strings.Fields(leaves)
		if len(to) != 3 {
			return fmt.Errorf("row %q: want key, type and class", line)
		}
		n := c.root.at(name)
		n.models = append(n.models, &include{roles: roles, name: name, p: paths, key: to[0], typ: to[1], class: to[2]})
		return nil
	}
	if len(f[0]) < int(NumVersions) {
		return fmt.Errorf("row %q: want %d kinds", line, NumVersions)
	}
	add := func(leaf string) {
		name := join(name, leaf)
		r := &row{k: [NumVersions]byte([]byte(f[0])), roles: f[0][NumVersions:], name: name}
		for _, v := range versions() {
			if r.k[v] != '-' {
				r.p[v] = join(paths[v], leaf)
			}
		}
		if path, ok := strings.CutSuffix(name, "!"); ok {
			c.root.at(path).param = r
		} else {
			c.root.at(name).weight = r
		}
	}
	if !grouped {
		add("")
		return nil
	}
	for _, leaf := range strings.Fields(leaves) {
		add(leaf)
	}
	return nil
}

// dot reads the table's "." for the root.
func dot(s string) string {
	if s == "." {
		return ""
	}
	return s
}

func join(prefix, path string) string {
	if prefix == "" {
		return path
	}
	if path == "" {
		return prefix
	}
	return prefix + "." + path
}

func pathSet(list string) map[string]bool {
	m := map[string]bool{}
	for p := range strings.SplitSeq(list, ",") {
		m[p] = true
	}
	return m
}
