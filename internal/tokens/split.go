package tokens

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"unicode"
)

// gpt2 is the split of GPT-2, which ByteLevel has of its own. Most runs read no text.
var gpt2 = sync.OnceValue(func() pattern {
	return mustCompile(`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`)
})

// parseSplitter reads a pre-tokenizer; nil is none.
func parseSplitter(raw json.RawMessage) (splitter, error) {
	kind, err := kindOf(raw)
	if err != nil || kind == "" {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return splitters(raw)
	case "ByteLevel":
		f, err := decodeAs(raw, struct {
			Prefix bool `json:"add_prefix_space"`
			Regex  bool `json:"use_regex"`
		}{Prefix: true, Regex: true})
		return func(p piece) ([]piece, error) {
			if f.Prefix && !strings.HasPrefix(p.text, " ") {
				p.text = " " + p.text
			}
			out := []piece{p}
			if f.Regex {
				var err error
				if out, err = gpt2().split(p, "Isolated", false); err != nil {
					return nil, err
				}
			}
			for i := range out {
				out[i].text = byteLevel(out[i].text)
			}
			return out, nil
		}, err
	case "Split":
		f, err := decodeAs(raw, struct {
			Pattern  json.RawMessage
			Behavior string
			Invert   bool
		}{})
		if err != nil {
			return nil, err
		}
		re, err := parsePattern(f.Pattern)
		if err == nil && behaviors[f.Behavior] == nil {
			err = fmt.Errorf("behavior %q is not supported", f.Behavior)
		}
		return func(p piece) ([]piece, error) { return re.split(p, f.Behavior, f.Invert) }, err
	case "Metaspace":
		return metaspace(raw)
	case "Digits":
		f, err := decodeAs(raw, struct {
			Individual bool `json:"individual_digits"`
		}{})
		behavior := "Contiguous"
		if f.Individual {
			behavior = "Isolated"
		}
		return runes(unicode.IsNumber, behavior), err
	case "Punctuation":
		f, err := decodeAs(raw, struct{ Behavior string }{"Isolated"})
		if err == nil && behaviors[f.Behavior] == nil {
			err = fmt.Errorf("behavior %q is not supported", f.Behavior)
		}
		return runes(punctuation, f.Behavior), err
	case "Whitespace":
		re := mustCompile(`[\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u200c\u200d]+|[^\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u200c\u200d\s]+`)
		return func(p piece) ([]piece, error) { return re.split(p, "Removed", true) }, nil
	case "WhitespaceSplit":
		return runes(unicode.IsSpace, "Removed"), nil
	case "BertPreTokenizer":
		return sequence(runes(unicode.IsSpace, "Removed"), runes(punctuation, "Isolated")), nil
	}
	return nil, fmt.Errorf("type %q is not supported", kind)
}

func splitters(raw json.RawMessage) (splitter, error) {
	f, err := decodeAs(raw, struct {
		List []json.RawMessage `json:"pretokenizers"`
	}{})
	if err != nil {
		return nil, err
	}
	var list []splitter
	for _, raw := range f.List {
		s, err := parseSplitter(raw)
		if err != nil {
			return nil, err
		}
		if s != nil {
			list = append(list, s)
		}
	}
	return sequence(list...), nil
}

// sequence gives the pieces of each splitter to the next.
func sequence(list ...splitter) splitter {
	return func(p piece) ([]piece, error) {
		pieces := []piece{p}
		for _, s := range list {
			var next []piece
			for _, p := range pieces {
				out, err := s(p)
				if err != nil {
					return nil, err
				}
				for _, p := range out {
					if p.text != "" {
						next = append(next, p)
					}
				}
			}
			pieces = next
		}
		return pieces, nil
	}
}

// split cuts p at the places of a pattern.
func (re pattern) split(p piece, behavior string, invert bool) ([]piece, error) {
	c, err := re.cuts(p.text, invert)
	if err != nil {
		return nil, err
	}
	return p.cut(behaviors[behavior](c)), nil
}

func (p piece) cut(cuts []cut) []piece {
	out := make([]piece, 0, len(cuts))
	for _, c := range cuts {
		if c.from < c.to {
			out = append(out, piece{p.text[c.from:c.to], p.start && c.from == 0})
		}
	}
	return out
}

// runes cuts at every character that is of a kind.
func runes(is func(rune) bool, behavior string) splitter {
	return func(p piece) ([]piece, error) {
		var cuts []cut
		from := 0
		for i, r := range p.text {
			if !is(r) {
				continue
			}
			if from < i {
				cuts = append(cuts, cut{from, i, false})
			}
			from = i + len(string(r))
			cuts = append(cuts, cut{i, from, true})
		}
		if from < len(p.text) {
			cuts = append(cuts, cut{from, len(p.text), false})
		}
		return p.cut(behaviors[behavior](cuts)), nil
	}
}

// punctuation is ASCII's, symbols among it, or Unicode's.
func punctuation(r rune) bool {
	return r > ' ' && r < 0x7f && !unicode.IsLetter(r) && !unicode.IsNumber(r) || unicode.IsPunct(r)
}

// metaspace is SentencePiece's way: spaces are a character of their own, that a text begins with.
func metaspace(raw json.RawMessage) (splitter, error) {
	f, err := decodeAs(raw, struct {
		Replacement string
		Prepend     string `json:"prepend_scheme"`
		Space       *bool  `json:"add_prefix_space"`
		Split       *bool
	}{Replacement: "▁", Prepend: "always"})
	if err != nil {
		return nil, err
	}
	if f.Space != nil && !*f.Space {
		f.Prepend = "never"
	}
	if f.Replacement == "" || f.Prepend != "always" && f.Prepend != "first" && f.Prepend != "never" {
		return nil, fmt.Errorf("replacement %q, prepend_scheme %q: not supported", f.Replacement, f.Prepend)
	}
	mark := pattern{literal: f.Replacement}
	return func(p piece) ([]piece, error) {
		p.text = strings.ReplaceAll(p.text, " ", f.Replacement)
		if (f.Prepend == "always" || f.Prepend == "first" && p.start) && !strings.HasPrefix(p.text, f.Replacement) {
			p.text = f.Replacement + p.text
		}
		if f.Split != nil && !*f.Split {
			return []piece{p}, nil
		}
		return mark.split(p, "MergedWithNext", false)
	}, nil
}

// byteChars are the characters that stand for bytes: those that can be seen for themselves, others from U+0100 on.
var byteChars = func() (t [256]string) {
	next := rune(0x100)
	for b := range t {
		r := rune(b)
		if !(r >= '!' && r <= '~' || r >= '¡' && r <= '¬' || r >= '®' && r <= 'ÿ') {
			r = next
			next++
		}
		t[b] = string(r)
	}
	return t
}()

func byteLevel(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	for i := range len(s) {
		b.WriteString(byteChars[s[i]])
	}
	return b.String()
}
