package complete

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// values are a config.json as one class reads it.
type values struct {
	root  map[string]any
	facts *facts
	memo  map[string]looked

	scopes map[string]*values // of nested configs of another type than the facts were made with
	before map[[2]string][]int64
}

type looked struct {
	value any
	ok    bool
}

// A preset is what stands for a value that config.json does not have.
type preset struct {
	value any
	expr  *expr
}

func newValues(config []byte) (*values, error) {
	v := &values{}
	if err := json.Unmarshal(config, &v.root); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	return v, nil
}

// of is the same config as another class reads it.
func (v *values) of(f *facts) *values {
	out := &values{root: v.root, facts: f, memo: map[string]looked{}, scopes: map[string]*values{}}
	for key, inner := range f.scopes {
		nested, _ := v.root[key].(map[string]any)
		out.scopes[key] = (&values{root: nested}).of(inner)
	}
	return out
}

// in is the nested config of the key, as its own type reads it, or the whole.
func (v *values) in(scope string) *values {
	if inner := v.scopes[scope]; inner != nil {
		return inner
	}
	return v
}

// lookup returns what the class takes the value at the dotted path for, and false if that is not known.
func (v *values) lookup(path string) (any, bool) {
	if l, ok := v.memo[path]; ok {
		return l.value, l.ok
	}
	if whole, part, ok := strings.Cut(path, ".div."); ok {
		x, ok1 := v.number(whole)
		y, ok2 := v.number(part)
		return math.Floor(x / y), ok1 && ok2 && y > 0
	}
	if head, rest, ok := strings.Cut(path, "."); ok && v.scopes[head] != nil {
		return v.scopes[head].lookup(rest)
	}
	if head, _, ok := strings.Cut(path, "."); ok && v.lacks(head) {
		return nil, true
	}
	v.memo[path] = looked{} // an expression that leads back here is not known
	x, ok := v.find(path)
	v.memo[path] = looked{x, ok}
	return x, ok
}

// lacks reports whether the class has no nested model of the key, since config.json has no config of it.
func (v *values) lacks(key string) bool { return v.facts.optional[key] && v.root[key] == nil }

// beyond reports whether config.json has a value with which the class was not asked: what it has then is not in the facts.
func (v *values) beyond() bool {
	for _, inner := range v.scopes {
		if inner.beyond() {
			return true
		}
	}
	for path, h := range v.facts.held {
		head, _, _ := strings.Cut(path, ".")
		if v.scopes[head] != nil || v.lacks(head) {
			continue
		}
		x, ok := v.stored(path)
		if x == nil && h.isDefault {
			continue // a null stands for the default
		}
		if !ok || !reflect.DeepEqual(x, h.value) {
			return true
		}
	}
	return false
}

func (v *values) find(path string) (any, bool) {
	if list, ok := strings.CutSuffix(path, ".len"); ok {
		// A list that the file does not have may be there under another name, or in another form.
		x, _ := v.stored(list)
		if e := v.facts.defaults[path].expr; x == nil && e != nil {
			n, ok := e.eval(v) // the class makes one that is as long as others, or as there are layers
			return float64(n), ok
		}
		l, ok := x.([]any)
		return float64(len(l)), ok
	}
	if list, value, ok := strings.Cut(path, ".of."); ok {
		x, _ := v.stored(list)
		l, ok := x.([]any)
		n := 0
		for _, x := range l {
			if isKind(x, value) {
				n++
			}
		}
		return float64(n), ok
	}
	x, ok := v.stored(path)
	p, known := v.facts.defaults[path]
	if known && !ok {
		// a list that is there, and shorter than the default
		parent, leaf := path[:strings.LastIndexByte(path, '.')+1], path[strings.LastIndexByte(path, '.')+1:]
		if _, isIndex := index(leaf); isIndex && parent != "" {
			if _, isList := v.stored(strings.TrimSuffix(parent, ".")); isList {
				return nil, false
			}
		}
	}
	if ok && (x != nil || !known || p.expr == nil && p.value == nil) {
		return x, true
	}
	switch {
	case !known:
		return nil, false
	case p.expr != nil:
		n, ok := p.expr.eval(v)
		return float64(n), ok
	}
	return p.value, true
}

// ranks says for each element of the list at the path how many before it are the value; nil if there is no list.
func (v *values) ranks(path, value string) []int64 {
	key := [2]string{path, value}
	if out, ok := v.before[key]; ok {
		return out
	}
	x, _ := v.lookup(path)
	l, _ := x.([]any)
	var out []int64
	n := int64(0)
	for _, x := range l {
		out = append(out, n)
		if isKind(x, value) {
			n++
		}
	}
	if v.before == nil {
		v.before = map[[2]string][]int64{}
	}
	v.before[key] = out
	return out
}

// stored finds the value in the file, under its name or an alias of it. The values of a nested config that the file does not
// have stand at the top in files of before it was split.
func (v *values) stored(path string) (any, bool) {
	if path == "num_labels" {
		if labels, ok := v.root["id2label"].(map[string]any); ok && v.root["num_labels"] == nil {
			return float64(len(labels)), true
		}
	}
	if x, ok := at(v.root, path); ok {
		return x, true
	}
	for alias, real := range v.facts.aliases {
		if real == path {
			if x, ok := at(v.root, alias); ok {
				return x, true
			}
		}
	}
	if head, rest, ok := strings.Cut(path, "."); ok {
		if _, nested := v.root[head].(map[string]any); !nested {
			return at(v.root, rest)
		}
	}
	return nil, false
}

func at(x any, path string) (any, bool) {
	for part := range strings.SplitSeq(path, ".") {
		switch c := x.(type) {
		case map[string]any:
			if part == "*" {
				_, rest, _ := strings.Cut(path, "*.")
				return common(c, rest)
			}
			next, ok := c[part]
			if !ok {
				return nil, false
			}
			x = next
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(c) {
				return nil, false
			}
			x = c[i]
		default:
			return nil, false
		}
	}
	return x, true
}

// common is the value that all members have at the path; false if none has one, and no number or text where they differ.
func common(members map[string]any, path string) (any, bool) {
	var out any
	n := 0
	for _, m := range members {
		x, ok := at(m, path)
		if !ok {
			continue
		}
		if n > 0 && !reflect.DeepEqual(x, out) {
			return members, true
		}
		out, n = x, n+1
	}
	if n > 0 && n < len(members) {
		return members, true
	}
	return out, n > 0
}

// uneven reports whether the heads do not divide the hidden size. The facts were fitted where they do, and what a head's size is
// then rounded to is not in them.
func (v *values) uneven() bool {
	for _, inner := range v.scopes {
		if inner.uneven() {
			return true
		}
	}
	for _, path := range slices.Sorted(maps.Keys(v.facts.defaults)) {
		hidden, ok1 := strings.CutSuffix(path, "hidden_size")
		if !ok1 || hidden != "" && !strings.HasSuffix(hidden, ".") {
			continue
		}
		size, ok1 := v.number(path)
		heads, ok2 := v.number(hidden + "num_attention_heads")
		if ok1 && ok2 && heads > 0 && math.Mod(size, heads) != 0 {
			if _, ok := v.number(hidden + "head_dim"); !ok {
				return true
			}
		}
	}
	return false
}

func (v *values) number(path string) (float64, bool) {
	x, ok := v.lookup(path)
	f, isNumber := x.(float64)
	return f, ok && isNumber
}
