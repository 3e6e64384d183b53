package arch

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// float32Text lists what transformers holds in float32 in a model of another dtype; gen/fp32.py says how a line is read.
//
//go:embed data/fp32.txt
var float32Text string

// Hold says in which dtypes of the model a loader holds a tensor in float32 all the same.
type Hold uint8

// The ways of it.
const (
	HoldNever     Hold = iota
	HoldInFloat16      // in float16
	HoldAlways         // in float16 and in bfloat16
)

// heldNames are the names of one type.
type heldNames struct {
	strict, loose [2][]string // for 5.x and for 4.57
	made          []string    // for 5.x; ends of paths and of tensor names
}

var float32s = sync.OnceValue(func() map[string]*heldNames {
	m := map[string]*heldNames{}
	for line := range strings.Lines(float32Text) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] == "#" {
			continue
		}
		h := m[f[0]]
		if h == nil {
			h = &heldNames{}
			m[f[0]] = h
		}
		for i, version := range []string{"5", "4"} {
			if !strings.Contains(f[1], version) {
				continue
			}
			switch f[2] {
			case "strict":
				h.strict[i] = append(h.strict[i], f[3:]...)
			case "loose":
				h.loose[i] = append(h.loose[i], f[3:]...)
			case "made":
				h.made = append(h.made, f[3:]...)
			}
		}
	}
	return m
})

// held matches the tensors that one checkpoint's loaders hold in float32.
type held struct {
	strict5, loose5 *regexp.Regexp // nil matches nothing
	any4            *regexp.Regexp
	made5           []string // ends of paths and of names, "#" for numbers
}

// newHeld joins the names of a class's type and, for 5.x, of the types nested in it, as PreTrainedModel.post_init does.
func (e *entry) newHeld() held {
	types := e.nestedTypes(e.class, []*modelType{e.class.typ}, 0)
	for _, sub := range e.sub {
		if t := lookupType(sub); t != nil && !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	var strict5, loose5, any4 []string
	var out held
	for _, t := range types {
		h := float32s()[t.name]
		if h == nil {
			h = &heldNames{}
		}
		strict5, loose5, out.made5 = append(strict5, h.strict[0]...), append(loose5, h.loose[0]...), append(out.made5, h.made...)
		if t == e.class.typ {
			any4 = append(append(append(any4, h.strict[1]...), h.loose[1]...), t.strict...)
		}
	}
	out.strict5, out.loose5 = searched(strict5, "%s"), searched(loose5, "%s")
	out.any4 = searched(any4, `(?:^|\.)%s(?:$|\.)`)
	return out
}

// searched is the expression that matches where one of the names does. A name is a regular expression; in build_glob_alternation (5.x,
// core_model_loading.py) a "*" of it stands for any characters.
func searched(names []string, as string) *regexp.Regexp {
	if len(names) == 0 {
		return nil
	}
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf(as, "(?:"+strings.ReplaceAll(n, "*", ".*")+")"))
	}
	return regexp.MustCompile(strings.Join(parts, "|"))
}

// nestedTypes appends the types of the models nested in a class.
func (e *entry) nestedTypes(c *class, types []*modelType, depth int) []*modelType {
	var visit func(n *node)
	visit = func(n *node) {
		for _, m := range n.models {
			if inner := e.nested(m); inner != nil && depth < maxDepth {
				if !slices.Contains(types, inner.typ) {
					types = append(types, inner.typ)
				}
				types = e.nestedTypes(inner, types, depth+1)
			}
		}
		for _, k := range n.kids {
			visit(k)
		}
		if n.number != nil {
			visit(n.number)
		}
	}
	visit(c.root)
	if b := c.typ.base; c.onBase && b != nil && b != c {
		visit(b.root)
	}
	return types
}

// holds says how the versions hold the tensor. 5.x searches its names anywhere in the parameter's path
// (convert_and_load_state_dict_in_model), 4.57 between dots, and with bitsandbytes whatever the dtype of the model (use_keep_in_fp32_modules
// of quantizer_bnb_4bit.py); diffusers does as 4.57.
func (e *entry) holds(name string) (hold [NumVersions]Hold) {
	h := &e.held
	if h.strict5 == nil && h.loose5 == nil && h.any4 == nil && len(h.made5) == 0 {
		return hold
	}
	paths := e.parameter(name)
	p5 := paths[V5]
	switch {
	case h.strict5 != nil && h.strict5.MatchString(p5), h.makes(p5), h.makes(name):
		hold[V5] = HoldAlways
	case h.loose5 != nil && h.loose5.MatchString(p5):
		hold[V5] = HoldInFloat16
	}
	if h.any4 != nil && h.any4.MatchString(paths[V4]) {
		hold[V4] = HoldAlways
	}
	return hold
}

func (h *held) makes(path string) bool {
	if len(h.made5) == 0 {
		return false
	}
	path = digitless(path, "#")
	return slices.ContainsFunc(h.made5, func(end string) bool {
		return strings.HasSuffix(path, end) && (len(path) == len(end) || path[len(path)-len(end)-1] == '.')
	})
}

// parameter is the path of the tensor's parameter in the versions: the table's, where it has the tensor or the weight beside it.
func (e *entry) parameter(name string) [NumVersions]string {
	f, ok := e.find(name)
	leaf := ""
	if i := strings.LastIndexByte(name, '.'); ok {
		leaf = strings.TrimPrefix(name[max(i, 0):], ".")
		if leaf != "weight" {
			leaf = ""
		}
	} else if i > 0 {
		f, ok = e.find(name[:i] + ".weight")
		leaf = name[i+1:]
	}
	return each(func(v Version) string {
		p := f.p[v]
		if !ok || p == "" {
			return name
		}
		if whole, bare := strings.CutSuffix(p, "!"); bare {
			return whole
		}
		return join(splitTargets(p)[0], leaf)
	})
}

// Float32 reports whether the tensor is to be written in float32 in a checkpoint of float16, or else of bfloat16, for the targets: as
// 5.x holds it, which keeps the dtype that a ".weight" has in its file, and where 5.x has no say as 4.57 does.
func (c Class) Float32(t Target, float16 bool) bool {
	hold := c.Hold[V5]
	if t&Transformers5 == 0 && t&(Transformers4|Diffusers) != 0 || !c.In[V5] {
		hold = c.Hold[V4]
	}
	return hold == HoldAlways || hold == HoldInFloat16 && float16
}
