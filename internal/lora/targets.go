package lora

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/weights"
)

// A selection is what of adapter_config.json says which modules PEFT gives factors as it loads an adapter. What a file has for
// other modules it leaves out without a word.
type selection struct {
	names    []string // whole paths, or their ends
	re       *regexp.Regexp
	excluded []string
	exRE     *regexp.Regexp
	layers   []int64 // layers_to_transform; empty: all
	patterns []*regexp.Regexp
	unknown  bool // the modules are an architecture's default, or an expression that RE2 lacks: any may be meant
}

// selection reads target_modules, exclude_modules, layers_to_transform and layers_pattern.
func (d *decoder) selection() selection {
	var s selection
	s.names, s.re, s.unknown = d.modules("target_modules")
	if parameters := d.top["target_parameters"]; len(s.names) == 0 && s.re == nil && (len(parameters) == 0 || empty(parameters)) {
		s.unknown = true
	}
	var unknown bool
	if s.excluded, s.exRE, unknown = d.modules("exclude_modules"); unknown {
		s.unknown = true
	}
	s.layers = listed[int64](d, "layers_to_transform", "layers")
	for _, p := range listed[string](d, "layers_pattern", "names") {
		re, err := regexp.Compile(`^(?:|.*?\.)` + p + `\.(\d+)\.`)
		if err != nil || len(p) > maxPatternLen {
			s.unknown = true
			continue
		}
		s.patterns = append(s.patterns, re)
	}
	return s
}

// listed reads a list, or one of its elements.
func listed[T any](d *decoder, key, want string) (out []T) {
	if raw := d.top[key]; len(raw) == 0 || raw[0] == '[' {
		d.read(key, &out, want)
		return out
	}
	var one *T
	d.read(key, &one, want)
	if one != nil {
		out = append(out, *one)
	}
	return out
}

// modules reads names, or one expression. unknown says that RE2 lacks it, or that PEFT replaces it by names.
func (d *decoder) modules(key string) (names []string, re *regexp.Regexp, unknown bool) {
	raw := d.top[key]
	if len(raw) == 0 || raw[0] != '"' {
		d.read(key, &names, "names or one expression")
		return names, nil, false
	}
	var one string
	d.read(key, &one, "names or one expression")
	if one == "" {
		return nil, nil, false
	}
	re, err := regexp.Compile(`\A(?:` + one + `)\z`)
	if err != nil || one == "all-linear" || len(one) > maxPatternLen {
		return nil, nil, true
	}
	return nil, re, false
}

// layer is the number of the layer that a module is in, as PEFT finds it without layers_pattern.
var layer = regexp.MustCompile(`^.*?\.[^.]*\.(\d+)\.`)

// takes reports whether a module of this path gets factors (peft/tuners/tuners_utils.py, check_target_module_exists).
func (s *selection) takes(path string) bool {
	switch {
	case s.unknown:
		return true
	case s.exRE != nil && s.exRE.MatchString(path), s.exRE == nil && endsIn(path, s.excluded):
		return false
	case s.re != nil:
		return s.re.MatchString(path)
	case !endsIn(path, s.names):
		return false
	case len(s.layers) == 0 || slices.Contains(s.names, path):
		return true
	}
	patterns := s.patterns
	if len(patterns) == 0 {
		patterns = []*regexp.Regexp{layer}
	}
	for _, re := range patterns {
		if m := re.FindStringSubmatch(path); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			return err == nil && slices.Contains(s.layers, n)
		}
	}
	return false
}

// endsIn reports whether one of the names is a path or the end of it.
func endsIn(path string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return path == n || strings.HasSuffix(path, "."+n) })
}

// loads reports whether PEFT loads the factors of a module: target_modules or target_parameters has it, under a name that some
// version of transformers has for it.
func (c *Config) loads(path string) bool {
	if c.Tying && isHead(path) { // has the factors of the embeddings
		return true
	}
	for _, p := range spellings(bare(path)) {
		if c.selected.takes(p) || slices.ContainsFunc(c.Parameters, func(param string) bool {
			at := strings.LastIndexByte(param, '.')
			return at < 0 || endsIn(p, []string{param[:at]})
		}) {
			return true
		}
	}
	return false
}

// checkLoaded refuses factors that PEFT leaves out as it loads the adapter: whoever trained or tried it has never had them.
func (a *Adapter) checkLoaded(m *Module) error {
	c := a.Config
	if c == nil || m.Tokens != nil {
		return nil
	}
	e := &Error{Path: a.file.Name(), Found: "a tensor that PEFT leaves out without a word"}
	switch {
	case !c.loads(m.Path):
		e.Key, e.Expect, e.Hint = m.A.Name, "a module that target_modules of "+ConfigName+" has", "add it there if it is to be merged, else take its tensors out"
	case m.Magnitude != nil && !c.DoRA && m.alpha == nil:
		e.Key, e.Expect, e.Hint = m.Magnitude.Name, "no magnitudes, as use_dora of "+ConfigName+" is false", "set use_dora if this is DoRA, else take them out"
	case m.Bias != nil && !c.LoraBias:
		e.Key, e.Expect, e.Hint = m.Bias.Name, "no bias of lora_B, as lora_bias of "+ConfigName+" is false", "set lora_bias if it was trained, else take it out"
	default:
		return nil
	}
	return e
}

// checkComplete refuses an adapter that lacks what its config says was trained: modules_to_save that BASE has, trained rows.
func (b *base) checkComplete(a *Adapter, tensors []weights.Tensor) error {
	c := a.Config
	if c == nil {
		return nil
	}
	has := map[string]bool{}
	for _, s := range a.Saved {
		if t := b.tensor(s.Name); t != nil {
			has[t.Name] = true
		}
	}
	missing := func(key, what string) error {
		return &Error{Path: a.file.Name(), Key: what, Expect: "it among the tensors, as " + key + " of " + ConfigName + " has it", Found: "none",
			Hint: "the adapter is incomplete, and PEFT does not load it: save it again with PEFT's save_pretrained"}
	}
	for i := range tensors {
		name := tensors[i].Name
		module, ok := strings.CutSuffix(name, ".weight")
		if ok && !has[name] && endsIn(module, c.Saved) && tensors[i].Class.Stack == "" { // one of a stack is no module in memory
			return missing("modules_to_save", name)
		}
	}
	rows := slices.ContainsFunc(a.Modules, func(m *Module) bool { return m.Tokens != nil })
	if !rows && slices.ContainsFunc(c.Tokens, func(t Tokens) bool { return len(t.IDs) > 0 }) {
		return missing("trainable_token_indices", fmt.Sprintf("the trained rows of %d tokens", len(c.Tokens[0].IDs)))
	}
	return nil
}
