package complete

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
)

// An expr is a sum of terms, each a product of numbers and config values, or the ceiling or floor of such a sum.
type expr struct {
	text  string
	round string // "ceil", "floor" or ""
	terms []term
}

type term struct {
	negative bool
	factors  []factor
}

type factor struct {
	divide bool
	number float64
	leaf   string // "" for a number
}

func parseExpr(s string) (*expr, error) {
	e := &expr{text: s}
	for _, f := range []string{"ceil", "floor"} {
		if inner, ok := strings.CutPrefix(s, f+"("); ok && strings.HasSuffix(inner, ")") {
			e.round, s = f, strings.TrimSuffix(inner, ")")
		}
	}
	t := term{}
	divide := false
	for s != "" {
		if len(t.factors) == 0 && (s[0] == '-' || s[0] == '+') {
			t.negative, s = s[0] == '-', s[1:]
		}
		n := strings.IndexAny(s, "+-*/")
		if n < 0 {
			n = len(s)
		}
		f := factor{divide: divide, leaf: s[:n]}
		if s == "" || n == 0 || strings.ContainsAny(f.leaf, "()") {
			return nil, fmt.Errorf("expression %q: want a number or a config value", e.text)
		}
		if x, err := strconv.ParseFloat(f.leaf, 64); err == nil {
			f.leaf, f.number = "", x
		}
		t.factors = append(t.factors, f)
		if n == len(s) {
			break
		}
		op := s[n]
		divide = op == '/'
		if op == '+' || op == '-' {
			e.terms = append(e.terms, t)
			t, s = term{}, s[n:]
			continue
		}
		if s = s[n+1:]; s == "" {
			return nil, fmt.Errorf("expression %q ends in an operator", e.text)
		}
	}
	if len(t.factors) == 0 {
		return nil, fmt.Errorf("expression %q: empty", e.text)
	}
	e.terms = append(e.terms, t)
	return e, nil
}

// leaves are the config values of the expression; none of nil.
func (e *expr) leaves() iter.Seq[string] {
	return func(yield func(string) bool) {
		if e == nil {
			return
		}
		for _, t := range e.terms {
			for _, f := range t.factors {
				if f.leaf != "" && !yield(f.leaf) {
					return
				}
			}
		}
	}
}

// maxValue bounds what config.json can make of a dimension; a float64 holds it exactly.
const maxValue = 1 << 50

// eval returns the value, and false if a config value is not known or the result is no count.
func (e *expr) eval(v *values) (int64, bool) {
	if e == nil {
		return 0, false
	}
	sum := 0.0
	for _, t := range e.terms {
		product := 1.0
		for _, f := range t.factors {
			x := f.number
			if f.leaf != "" {
				var ok bool
				if x, ok = v.number(f.leaf); !ok {
					return 0, false
				}
			}
			if f.divide {
				product /= x
			} else {
				product *= x
			}
		}
		if t.negative {
			product = -product
		}
		sum += product
	}
	near := math.Round(sum)
	switch {
	case math.IsNaN(sum) || sum < -0.5 || sum > maxValue:
		return 0, false
	case math.Abs(sum-near) < 1e-6:
		return int64(near), true
	case e.round == "ceil":
		return int64(math.Ceil(sum)), true
	case e.round == "floor":
		return int64(math.Floor(sum)), true
	}
	return 0, false
}

// truth is yes, no, or not known.
type truth int8

const (
	unknown truth = iota
	no
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// A cond is a condition on config values and the numbers in a name's holes.
type cond struct {
	text  string
	fixed truth // of "1", "0" and "?"
	any   bool  // one atom suffices
	atoms []atom
}

// ofLength reports whether the condition is one on the length of a list in config.json.
func (c *cond) ofLength() bool {
	return slices.ContainsFunc(c.atoms, func(a atom) bool { return len(a.arg) > 0 && strings.HasSuffix(a.arg[0], ".len") })
}

type atom struct {
	negated bool
	op      string
	hole    int
	arg     []string
	n       int64
}

// holeless are the operators whose first argument is not a hole, and how many arguments each has.
var operators = map[string]struct {
	hole bool
	args int
}{
	"t": {args: 1}, "nn": {args: 1}, "eq": {args: 2}, "gt": {args: 2}, "same": {args: 2},
	"i": {true, 1}, "last": {true, 0}, "lt": {true, 1}, "mod": {true, 2}, "off": {true, 2}, "at": {true, 2}, "cyc": {true, 2},
	"in": {true, 1}, "rest": {true, 2}, "nth": {true, 3}, "turn": {true, 4},
}

func parseCond(s string, holes int) (*cond, error) {
	c := &cond{text: s}
	switch s {
	case "1":
		c.fixed = yes
		return c, nil
	case "0":
		c.fixed = no
		return c, nil
	case "?":
		return c, nil
	}
	sep := "&"
	if strings.Contains(s, "|") {
		sep, c.any = "|", true
	}
	for part := range strings.SplitSeq(s, sep) {
		a := atom{}
		a.op, a.negated = strings.CutPrefix(part, "!")
		f := strings.Split(a.op, ":")
		a.op, a.arg = f[0], f[1:]
		op, ok := operators[a.op]
		if !ok {
			return nil, fmt.Errorf("condition %q: unknown operator %q", s, a.op)
		}
		if op.hole {
			if len(a.arg) == 0 {
				return nil, fmt.Errorf("condition %q: want a hole", s)
			}
			h, err := strconv.Atoi(a.arg[0])
			if err != nil || h < 0 || h >= holes {
				return nil, fmt.Errorf("condition %q: no hole %q", s, a.arg[0])
			}
			a.hole, a.arg = h, a.arg[1:]
		}
		if len(a.arg) != op.args {
			return nil, fmt.Errorf("condition %q: %s has %d arguments", s, a.op, op.args)
		}
		if number := map[string]int{"gt": 1, "i": 0, "mod": 0, "turn": 3}; len(a.arg) > 0 {
			if at, ok := number[a.op]; ok {
				n, err := strconv.ParseInt(a.arg[at], 10, 32)
				if err != nil {
					return nil, fmt.Errorf("condition %q: %w", s, err)
				}
				a.n = n
			}
		}
		if a.op == "turn" && (a.n < 0 || a.n >= int64(holes)) {
			return nil, fmt.Errorf("condition %q: no hole %d", s, a.n)
		}
		c.atoms = append(c.atoms, a)
	}
	return c, nil
}

// eval says whether the condition holds for the numbers in the holes; counts are those of the containers, -1 if not known.
func (c *cond) eval(v *values, idx, counts []int64) truth {
	if len(c.atoms) == 0 {
		return c.fixed
	}
	out := truthOf(!c.any)
	for i := range c.atoms {
		t := c.atoms[i].eval(v, idx, counts)
		if t == truthOf(c.any) {
			return t
		}
		if t == unknown {
			out = unknown
		}
	}
	return out
}

func (a *atom) eval(v *values, idx, counts []int64) truth {
	t := a.plain(v, idx, counts)
	if a.negated && t != unknown {
		return yes + no - t
	}
	return t
}

func (a *atom) plain(v *values, idx, counts []int64) truth {
	var i int64
	if len(idx) > 0 {
		i = idx[a.hole]
	}
	num := func(leaf string) (int64, bool) {
		x, ok := v.number(leaf)
		return int64(x), ok && x == math.Trunc(x) && math.Abs(x) < maxValue
	}
	switch a.op {
	case "t", "nn", "eq", "gt":
		return a.scalar(v)
	case "same":
		x, ok1 := v.number(a.arg[0])
		y, ok2 := v.number(a.arg[1])
		if !ok1 || !ok2 {
			return unknown
		}
		return truthOf(x == y)
	case "i":
		return truthOf(i == a.n)
	case "last":
		if counts[a.hole] < 0 {
			return unknown
		}
		return truthOf(i == counts[a.hole]-1)
	case "lt":
		if x, ok := num(a.arg[0]); ok {
			return truthOf(i < x)
		}
	case "mod":
		if x, ok := num(a.arg[1]); ok && x >= 0 {
			return truthOf(x > 0 && (i+a.n)%x == 0) // 0 is "no layer" to the classes that take it
		}
	case "off":
		x, ok1 := num(a.arg[0])
		y, ok2 := num(a.arg[1])
		if ok1 && ok2 && x > 0 {
			return truthOf(i%x == y)
		}
	case "rest":
		x, ok1 := num(a.arg[0])
		y, ok2 := num(a.arg[1])
		if ok1 && ok2 {
			return truthOf(i < x-y)
		}
	case "at", "cyc", "in":
		return a.list(v, i)
	case "nth", "turn":
		rank, of, ok := a.rank(v, i)
		switch {
		case !ok:
			return unknown
		case a.op == "nth":
			return truthOf(rank < of)
		}
		return truthOf(rank%of == idx[a.n]%of)
	}
	return unknown
}

// rank is how many elements of the list before the i-th have the atom's value, and the number above 0 that the atom compares that with.
func (a *atom) rank(v *values, i int64) (rank, of int64, ok bool) {
	before := v.ranks(a.arg[0], a.arg[1])
	n, err := strconv.ParseFloat(a.arg[2], 64)
	if err != nil {
		n, _ = v.number(a.arg[2])
	}
	if n < 1 || n != math.Trunc(n) || n > maxValue || i >= int64(len(before)) {
		return 0, 0, false
	}
	return before[i], int64(n), true
}

func (a *atom) scalar(v *values) truth {
	x, ok := v.lookup(a.arg[0])
	if !ok {
		return unknown
	}
	switch a.op {
	case "nn":
		return truthOf(x != nil)
	case "eq":
		return truthOf(spelled(x) == a.arg[1])
	case "gt":
		f, ok := x.(float64)
		return truthOf(ok && f > float64(a.n))
	}
	switch x := x.(type) {
	case bool:
		return truthOf(x)
	case float64:
		return truthOf(x > 0)
	case string:
		return truthOf(x != "")
	case []any:
		return truthOf(len(x) > 0)
	}
	return truthOf(x != nil)
}

func (a *atom) list(v *values, i int64) truth {
	x, ok := v.lookup(a.arg[0])
	if !ok {
		return unknown
	}
	l, ok := x.([]any)
	if !ok && x != nil {
		return unknown
	}
	if a.op == "in" {
		return truthOf(slices.Contains(l, any(float64(i))))
	}
	if a.op == "cyc" && len(l) > 0 {
		i %= int64(len(l))
	}
	if i >= int64(len(l)) {
		return unknown
	}
	return truthOf(isKind(l[i], a.arg[1]))
}

// isKind reports whether x is the value, in whatever version's words.
func isKind(x any, value string) bool {
	kind := spelled(x)
	return kind == value || kinds[kind] == value
}

// kinds are layer types that transformers 5 has other words for.
var kinds = map[string]string{
	"mamba": "linear_attention", "attention": "full_attention",
	"deepseek_sparse_attention": "indexed_attention", "qwen_sparse_attention": "indexed_attention",
}

// spelled writes a value as the generator does.
func spelled(x any) string {
	switch x := x.(type) {
	case string:
		return x
	case bool:
		if x {
			return "True"
		}
		return "False"
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return ""
}
