package report

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// A Card is what a model card says beside the error table.
type Card struct {
	Name      string   // of the new model, for the title
	BaseModel string   // on the hub, as "meta-llama/Llama-3.2-1B"; "" if not known
	Tags      []string // "nf4", added to those of the source
	Format    string   // in words: "NF4, block size 64, double quantization"
	Bits      float64  // per parameter of the whole checkpoint
	Saved     float64  // share of the source's bytes, in percent
	Package   string   // of Python, that loads it: "transformers" or "diffusers"
	Class     string   // of Package, "AutoModelForCausalLM"; "" leaves loading out
	DType     string   // the model's, in torch's spelling
}

// maxCard bounds a source's README; cards have some 100 kB.
const maxCard = 4 << 20

// keptKeys are the keys of a card's front matter that stay true of a quantized model, in the order they are written.
var keptKeys = []string{"license", "license_name", "license_link", "language", "pipeline_tag", "library_name", "extra_gated_prompt", "extra_gated_fields"}

// ModelCard writes README.md for a converted checkpoint: front matter with the base model, quantization tags and the licence
// of the source's card (https://huggingface.co/docs/hub/model-cards), and the error table of r. source is the README.md
// of the source, or nil. A card whose front matter cannot be read counts as one without any.
func ModelCard(source []byte, c Card, r *Report) ([]byte, error) {
	old := frontMatter(source)
	var front yaml.Node
	front.Kind = yaml.MappingNode
	add := func(key string, value *yaml.Node) {
		front.Content = append(front.Content, scalar(key), value)
	}
	base := c.BaseModel
	if base == "" {
		base = only(old["base_model"]) // of a source that is itself derived: better than nothing
	}
	if !hubID().MatchString(base) {
		base = "" // a path or worse: the hub would not know it
	}
	if base != "" {
		add("base_model", scalar(base))
		add("base_model_relation", scalar("quantized"))
	}
	for _, key := range keptKeys {
		if v := plain(old[key]); v != nil {
			add(key, v)
		}
	}
	tags := &yaml.Node{Kind: yaml.SequenceNode}
	seen := map[string]bool{}
	tag := func(s string) {
		if s != "" && !seen[s] {
			seen[s] = true
			tags.Content = append(tags.Content, scalar(s))
		}
	}
	if t := old["tags"]; t != nil {
		for _, n := range t.Content {
			if n = plain(n); n != nil && n.Kind == yaml.ScalarNode {
				tag(n.Value)
			}
		}
	}
	for _, t := range append([]string{"bitsandbytes", "4-bit"}, c.Tags...) {
		tag(t)
	}
	add("tags", tags)
	var b bytes.Buffer
	b.WriteString("---\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&front); err != nil {
		return nil, fmt.Errorf("encode front matter: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("encode front matter: %w", err)
	}
	b.WriteString("---\n\n")
	c.body(&b, base, r)
	return b.Bytes(), nil
}

func (c *Card) body(b *bytes.Buffer, base string, r *Report) {
	fmt.Fprintf(b, "# %s\n\n", escape.Markdown(c.Name))
	of := "a model"
	if base != "" {
		of = fmt.Sprintf("[%s](https://huggingface.co/%s)", escape.Markdown(base), base)
	}
	fmt.Fprintf(b, "%s in 4 bits: %s; %.3f bits per parameter in all, %.1f %% smaller. Written by %s.\n", of, c.Format, c.Bits, c.Saved, escape.Markdown(r.Tool))
	switch {
	case c.Class == "":
	case c.Package == "diffusers":
		fmt.Fprintf(b, "\n```python\nimport torch\nfrom diffusers import %[1]s\n\nmodel = %[1]s.from_pretrained(%[2]s, torch_dtype=torch.%[3]s)\n```\n", c.Class, pyString(c.Name), c.DType)
	case c.Package == "unsloth":
		fmt.Fprintf(b, "\n```python\nfrom unsloth import %[1]s\n\nmodel, tokenizer = %[1]s.from_pretrained(%[2]s, load_in_4bit=True)\n```\n", c.Class, pyString(c.Name))
	default:
		fmt.Fprintf(b, "\n```python\nfrom %[1]s import %[2]s\n\nmodel = %[2]s.from_pretrained(%[3]s, device_map=\"auto\")\n```\n", c.Package, c.Class, pyString(c.Name))
	}
	if len(r.Formats) == 0 {
		return
	}
	b.WriteString("\n## Reconstruction error\n\nOf the quantized weights against those of the source:\n\n")
	var s strings.Builder
	r.markdown(&s)
	b.WriteString(s.String())
}

// hubID matches the names of models on the hub, with or without their owner (huggingface_hub's validate_repo_id). Nothing
// in one can mean anything in YAML, Markdown or a URL. It is compiled where it is asked for: the counts make it large.
var hubID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?$`)
})

// pyString is s as a literal of Python, which agrees with Go on what %q writes of UTF-8. Nothing in it ends the code block.
func pyString(s string) string { return fmt.Sprintf("%q", strings.ToValidUTF8(s, "\ufffd")) }

func scalar(s string) *yaml.Node {
	var n yaml.Node
	n.SetString(strings.ToValidUTF8(s, "\ufffd"))
	return &n
}

// coreTags are the types that every YAML reader makes plain values of.
var coreTags = []string{"!!str", "!!bool", "!!int", "!!float", "!!null", "!!seq", "!!map"}

// plain is n without comments and styles, nil if any part of it is of a type of its own (!!python/object): there are
// readers that build what such a tag names.
func plain(n *yaml.Node) *yaml.Node {
	if n == nil || !slices.Contains(coreTags, n.ShortTag()) {
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return scalar(n.Value)
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.ShortTag(), Value: n.Value}
	for _, c := range n.Content {
		p := plain(c)
		if p == nil {
			return nil
		}
		out.Content = append(out.Content, p)
	}
	return out
}

// only is the value of a scalar, or of the first of a list.
func only(n *yaml.Node) string {
	switch {
	case n == nil:
		return ""
	case n.Kind == yaml.ScalarNode:
		return n.Value
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode:
		return n.Content[0].Value
	}
	return ""
}

// frontMatter are the members between the two lines "---" at the start of a card. Values with aliases are left out: an
// anchor of the old text need not be in the new one.
func frontMatter(card []byte) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	if len(card) > maxCard {
		return out
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(card), "\ufeff"), "\r\n", "\n")
	text, ok := strings.CutPrefix(text, "---\n")
	end := strings.Index(text, "\n---")
	if !ok || end < 0 {
		return out
	}
	var doc yaml.Node
	if yaml.Unmarshal([]byte(text[:end+1]), &doc) != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return out
	}
	m := doc.Content[0].Content
	for i := 0; i+1 < len(m); i += 2 {
		if !aliased(m[i+1]) {
			out[m[i].Value] = m[i+1]
		}
	}
	return out
}

func aliased(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return true
	}
	for _, c := range n.Content {
		if aliased(c) {
			return true
		}
	}
	return false
}
