package verify

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// counterparts finds the names that the tensors of a checkpoint have in its source. They differ where one of them holds the
// bare base model, or was saved by another version of transformers (model.language_model.layers against
// language_model.model.layers): modules are the same that have a path in common in some version, and what surrounds them has
// the prefixes that they show.
type counterparts struct {
	model    *arch.Model // of the checkpoint; nil if the table does not have it
	have     map[string]bool
	byPath   map[string]string // of a module of the source; "" where two have it
	embedded []string          // embeddings of the source
	prefixes [][2]string       // of the checkpoint and of the source, the longest of the checkpoint first
}

// newCounterparts indexes the names of the tensors of the source, whose model may be nil. names are those of the checkpoint.
func newCounterparts(sub *subject, model *arch.Model, sourceNames, names []string) *counterparts {
	c := &counterparts{model: sub.model, have: make(map[string]bool, len(sourceNames)), byPath: map[string]string{}}
	for _, n := range sourceNames {
		c.have[n] = true
	}
	if !slices.ContainsFunc(names, func(n string) bool { return !c.have[n] }) {
		return c
	}
	if model != nil && c.model != nil {
		for _, n := range sourceNames {
			class := model.Classify(n)
			if class.Embedding {
				c.embedded = append(c.embedded, n)
			}
			for _, p := range slices.Concat(class.Paths[arch.V5], class.Paths[arch.V4]) {
				if old, ok := c.byPath[p]; ok && old != n {
					c.byPath[p] = ""
				} else {
					c.byPath[p] = n
				}
			}
		}
	}
	c.learn(names, sourceNames)
	return c
}

// sourceModel is the source's model, by the checkpoint's config.json if it has none; nil if the table does not have it.
func sourceModel(sub *subject, ix *weights.Index) *arch.Model {
	if m := ix.Model; m.Config != nil {
		if m.Unknown != nil {
			return nil
		}
		return m.Arch
	}
	model, err := arch.Resolve(sub.query, ix.Names())
	if err != nil {
		return nil
	}
	return model
}

// maxPrefixes bounds what of() tries for a name: real models show a handful.
const maxPrefixes = 64

// learn collects the prefixes by which modules differ, and those by which a whole side may.
func (c *counterparts) learn(names, sourceNames []string) {
	seen := map[[2]string]bool{}
	add := func(ours, theirs string) {
		if p := [2]string{ours, theirs}; ours != theirs && !seen[p] && len(seen) < maxPrefixes {
			seen[p] = true
			c.prefixes = append(c.prefixes, p)
		}
	}
	for _, n := range names {
		if s := c.module(n); s != "" && s != n {
			add(unlike(n, s))
		}
	}
	// Of a base model, the one first component of the other side is dropped.
	for _, n := range sourceNames {
		if first, _, ok := strings.Cut(n, "."); ok {
			add("", first+".")
		}
	}
	for _, n := range names {
		if first, _, ok := strings.Cut(n, "."); ok {
			add(first+".", "")
		}
	}
	slices.SortStableFunc(c.prefixes, func(a, b [2]string) int { return len(b[0]) - len(a[0]) })
}

// unlike returns what is left of two names without the components that they end in.
func unlike(a, b string) (restA, restB string) {
	for {
		i, j := strings.LastIndexByte(a, '.'), strings.LastIndexByte(b, '.')
		if a[i+1:] != b[j+1:] {
			break
		}
		if i < 0 || j < 0 {
			a, b = a[:max(i, 0)], b[:max(j, 0)]
			break
		}
		a, b = a[:i], b[:j]
	}
	dotted := func(s string) string {
		if s == "" {
			return ""
		}
		return s + "."
	}
	return dotted(a), dotted(b)
}

// module is the tensor of the source for the same module, "" if there is none or no one.
func (c *counterparts) module(name string) string {
	if c.model == nil {
		return ""
	}
	class := c.model.Classify(name)
	for _, p := range slices.Concat(class.Paths[arch.V5], class.Paths[arch.V4]) {
		if s := c.byPath[p]; s != "" {
			return s
		}
	}
	return ""
}

// of returns the name in the source of the checkpoint's tensor, or its own name.
func (c *counterparts) of(name string) string {
	if c.have[name] {
		return name
	}
	if s := c.module(name); s != "" {
		return s
	}
	for _, p := range c.prefixes {
		if rest, ok := strings.CutPrefix(name, p[0]); ok && c.have[p[1]+rest] {
			return p[1] + rest
		}
	}
	if c.model != nil && len(c.embedded) == 1 && c.model.Classify(name).Head {
		return c.embedded[0] // tied, and stored by one of them only
	}
	return name
}

// needs reports whether the model cannot do without a tensor of its source's: a module of its class that is not tied to another.
func (s *subject) needs(name string) bool {
	if s.model == nil {
		return false
	}
	c := s.model.Classify(name)
	return c.Known && !c.Stray && !c.Embedding && !s.model.TiedHead(name)
}

// layers is how many layers config.json gives a model, the largest number if it does not say. Checkpoints may have more,
// which loaders pass over (the layers for predicting several tokens of DeepSeek-V3).
func layers(src *checkpoint.Source) int {
	if src.Config == nil {
		return math.MaxInt
	}
	cfg, err := checkpoint.ParseConfig(src.Config)
	if err != nil {
		return math.MaxInt
	}
	for _, prefix := range [][]string{nil, {"text_config"}} {
		for _, key := range []string{"num_hidden_layers", "n_layer", "num_layers", "n_layers"} {
			v, _ := cfg.Get(append(slices.Clone(prefix), key)...)
			if n, err := strconv.Atoi(string(v)); err == nil {
				return n
			}
		}
	}
	return math.MaxInt
}

// pattern is a name with "#" in place of numbers.
func pattern(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if _, err := strconv.Atoi(p); err == nil {
			parts[i] = "#"
		}
	}
	return strings.Join(parts, ".")
}

// firstNumber is the first component of a name that is a number, -1 if none is.
func firstNumber(name string) int {
	for part := range strings.SplitSeq(name, ".") {
		if n, err := strconv.Atoi(part); err == nil {
			return n
		}
	}
	return -1
}
