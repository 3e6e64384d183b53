package complete

import (
	"slices"
	"strconv"
	"strings"
)

// maxHoles is how many numbers of a name vary at most.
const maxHoles = 4

// A key is the numbers in the holes.
type key [maxHoles]int32

// A node is a position in the tree of the patterns' components.
type node struct {
	kids    map[string]*node
	numbers []numbered
	group   *group
	list    bool // its numbered members are alike, and there may be more of them
	open    bool // there may be fewer, too
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
	l.root.unbound(nil)
}

// minListed is how many members written out by number are a list; two may be the parts of an nn.Sequential.
const minListed = 3

// unbound marks the lists whose members are written out by number: the variants that the facts were made from did not vary their
// length, since a list in the config gives it (conv_dim), and nothing is known of it. The first member may be different. outer is the
// member of such a list that the node is below.
func (n *node) unbound(outer *listMember) {
	count := 0
	for n.kids[strconv.Itoa(count)] != nil {
		count++
	}
	if count >= minListed {
		n.open = slices.Equal(n.kids["1"].leaves(), n.kids[strconv.Itoa(count-1)].leaves())
	}
	// ... unless the length of that list is a condition of the later members. Longer ones were not asked about.
	counted := n.kids[strconv.Itoa(count-1)].counted()
	n.list = n.open || counted
	n.open = n.open && !counted
	if n.group != nil {
		n.group.of = outer
	}
	for name, kid := range n.kids {
		of := outer
		if number, ok := index(name); ok && n.open && of == nil {
			of = &listMember{n, number}
		}
		kid.unbound(of)
	}
	for _, kid := range n.numbers {
		kid.next.unbound(outer)
	}
}

// A listMember is one of a list whose length the facts do not know.
type listMember struct {
	list   *node
	number int32
}

// beyondLast reports whether the pattern is of a member that the checkpoint's list need not have: one behind all that are there, of a list
// whose length is not known. What is before the last one is whole.
func (c *checker) beyondLast(g *group) bool {
	if g.of == nil {
		return false
	}
	last, ok := c.lasts[g.of.list]
	return (!ok || g.of.number > last) && !slices.ContainsFunc(g.rows, func(r *row) bool { return c.enumerated(g, r) })
}

// enumerated reports whether config.json has all elements of lists that the shape of a row is made of, and among them one of the member's
// own number or a later one: then it calls for the member.
func (c *checker) enumerated(g *group, r *row) bool {
	own := false
	for _, d := range r.dims {
		for leaf := range d.e.leaves() {
			n, ok := index(leaf[strings.LastIndexByte(leaf, '.')+1:])
			if !ok {
				continue
			}
			if _, ok := c.values.in(g.scope).stored(leaf); !ok {
				return false
			}
			own = own || n >= g.of.number
		}
	}
	return own
}

// counted reports whether the length of a list in config.json says whether there are the tensors below the node.
func (n *node) counted() bool {
	if n == nil || n.group != nil && slices.ContainsFunc(n.group.rows, func(r *row) bool { return !r.present.ofLength() }) {
		return false
	}
	for _, kid := range n.kids {
		if !kid.counted() {
			return false
		}
	}
	for _, kid := range n.numbers {
		if !kid.next.counted() {
			return false
		}
	}
	return true
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
		if n.list && n.kids[part] == nil {
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
