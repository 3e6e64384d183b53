package arch

import (
	"regexp"
	"strings"
)

// Loader is a family of loaders with one skip-list match rule.
type Loader uint8

// The four match rules.
const (
	LoaderT4   Loader = iota // transformers 4.57 and diffusers
	LoaderT50                // transformers 5.0 to 5.20
	LoaderT521               // transformers 5.21 and later
	LoaderVLLM               // vLLM and SGLang
)

// String names the loaders of the rule.
func (l Loader) String() string {
	return [...]string{"transformers 4.57 and diffusers", "transformers 5.0-5.20", "transformers 5.21 and later", "vLLM and SGLang"}[l]
}

// Targets returns the targets whose rule it is.
func (l Loader) Targets() Target {
	return [...]Target{Transformers4 | Diffusers, Transformers5, Transformers5, VLLM | SGLang}[l]
}

// loaders lists the rules that the targets use.
func (t Target) loaders() []Loader {
	if t == 0 {
		t = Transformers5 | Transformers4
	}
	var out []Loader
	if t&(Transformers4|Diffusers) != 0 {
		out = append(out, LoaderT4)
	}
	if t&Transformers5 != 0 {
		out = append(out, LoaderT50, LoaderT521)
	}
	if t&(VLLM|SGLang) != 0 {
		out = append(out, LoaderVLLM)
	}
	return out
}

// An entry of a skip list, prepared for matching. transformers 5.x takes it
// for a regular expression; nearly all are plain names whose only
// metacharacter is the dot.
type skipEntry struct {
	text    string
	dotted  string         // text and a dot
	single  bool           // one component
	plain   bool           // no metacharacter but "."
	numbers bool           // may tell layers apart, so paths must be compared with their numbers
	open    *regexp.Regexp // ^(?:text), not plain only
	closed  *regexp.Regexp // ^(?:text)(?:$|\.)
	err     error          // 5.x cannot compile it either, or we cannot
}

func newSkipEntry(text string) skipEntry {
	e := skipEntry{text: text, dotted: text + ".", single: !strings.Contains(text, "."), plain: true}
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.' && i > 0 && text[i-1] == '.':
			e.numbers = true
		case c >= '0' && c <= '9':
			e.numbers = true
		case strings.IndexByte(`\^$|?*+()[]{}`, c) >= 0:
			e.plain, e.numbers = false, true
		}
	}
	if text == "" {
		e.numbers = true
	}
	if !e.plain {
		if e.open, e.err = regexp.Compile("^(?:" + text + ")"); e.err == nil {
			e.closed = regexp.MustCompile("^(?:" + text + `)(?:$|\.)`)
		}
	}
	return e
}

// matches reports whether the loader skips the module at path because of the
// entry.
//
// Sources: transformers 4.57 integrations/bitsandbytes.py
// (_replace_with_bnb_linear; diffusers has the same), transformers 5.20 and
// 5.21 quantizers/quantizers_utils.py (should_convert_module), vLLM
// quantization/bitsandbytes.py (is_layer_skipped_bnb).
func (e *skipEntry) matches(l Loader, path string) bool {
	switch l {
	case LoaderT4:
		return path == e.text || path[strings.LastIndexByte(path, '.')+1:] == e.text ||
			len(path) > len(e.text) && strings.Contains(path, e.dotted)
	case LoaderT50:
		return e.matchStart(path, false) || strings.HasSuffix(path, e.text)
	case LoaderT521:
		return e.matchStart(path, true) || strings.HasSuffix(path, e.text)
	default:
		return e.single && hasComponents(path, e.text) ||
			strings.HasPrefix(path, e.text) && (len(path) == len(e.text) || path[len(e.text)] == '.')
	}
}

// matchStart is Python's re.match of the entry at the start of the path; with
// boundary, the match must end after a dot, before one, or at the end.
func (e *skipEntry) matchStart(path string, boundary bool) bool {
	if e.err != nil {
		return false
	}
	if e.plain {
		if len(path) < len(e.text) {
			return false
		}
		for i := range len(e.text) {
			if e.text[i] != '.' && e.text[i] != path[i] {
				return false
			}
		}
		n := len(e.text)
		return !boundary || n == len(path) || path[n] == '.' || n > 0 && path[n-1] == '.'
	}
	if !e.open.MatchString(path) {
		return false
	}
	if !boundary || e.closed.MatchString(path) {
		return true
	}
	// A match that ends just after a dot: try each, followed by the rest of
	// the path to the letter.
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		re, err := regexp.Compile("^(?:" + e.text + ")" + regexp.QuoteMeta(path[i+1:]) + "$")
		if err == nil && re.MatchString(path) {
			return true
		}
	}
	return false
}

// loaderPaths returns the module paths that the loader will look at for the
// tensor, if it would convert that module, else none.
func (t *Tensor) loaderPaths(l Loader) []string {
	c := &t.Class
	switch l {
	case LoaderT4:
		if c.Linear[V4] {
			return c.Paths[V4]
		}
	case LoaderT50, LoaderT521:
		if c.Linear[V5] {
			return c.Paths[V5]
		}
	default:
		// vLLM has modules of its own for heads and embeddings, which its
		// skip list does not concern.
		if c.Module && !c.Head && !c.Embedding {
			return vllmPaths(c.AllPaths)
		}
	}
	return nil
}

var vllmRename = strings.NewReplacer("model.language_model.", "language_model.model.")

// vllmPaths writes module paths as vLLM and SGLang name them, as far as that
// can be told without their model classes: towers and projectors at the root,
// the text model of a composite under language_model.model, and q, k, v and
// gate, up fused.
func vllmPaths(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		first, rest, ok := strings.Cut(p, ".")
		if ok && first == "model" {
			second, _, _ := strings.Cut(rest, ".")
			switch {
			case second == "language_model":
				p = vllmRename.Replace(p)
			case towerParts[second] || projectorParts[second]:
				p = rest
			}
		}
		i := strings.LastIndexByte(p, '.') + 1
		switch p[i:] {
		case "q_proj", "k_proj", "v_proj":
			p = p[:i] + "qkv_proj"
		case "gate_proj", "up_proj":
			p = p[:i] + "gate_up_proj"
		}
		out = append(out, p)
	}
	return distinct(out...)
}
