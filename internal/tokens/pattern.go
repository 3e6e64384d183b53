package tokens

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dlclark/regexp2/v2"
)

// matchTime is how long one piece of text may take a pattern: those of hostile files can take forever.
const matchTime = time.Minute

// A pattern finds places in text.
type pattern struct {
	literal string
	re      *regexp2.Regexp
}

// foreign are constructs that mean something else to Oniguruma: intersections and POSIX brackets in classes, \h and the like.
var foreign = regexp.MustCompile(`&&|\[:|\\[hHRXKOyY]`)

// parsePattern reads {"String": ...} or {"Regex": ...}.
func parsePattern(raw json.RawMessage) (p pattern, err error) {
	var f struct {
		String *string
		Regex  *string
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return p, err
	}
	switch {
	case f.String != nil && *f.String != "":
		return pattern{literal: *f.String}, nil
	case f.Regex != nil:
		if at := foreign.FindString(strings.ReplaceAll(*f.Regex, `\\`, "")); at != "" {
			return p, fmt.Errorf("pattern %q: %s is not supported", *f.Regex, at)
		}
		p, err := compile(*f.Regex)
		if err != nil {
			return p, fmt.Errorf("pattern %q: %w", *f.Regex, err)
		}
		return p, nil
	}
	return p, fmt.Errorf("a pattern without String and Regex")
}

// compile compiles as Oniguruma would, to which ^ and $ are the ends of lines.
func compile(re string) (pattern, error) {
	r, err := regexp2.Compile(re, regexp2.Multiline, regexp2.OptionMaxBacktrackingStackSize(64<<20))
	if err != nil {
		return pattern{}, err
	}
	r.MatchTimeout = matchTime
	return pattern{re: r}, nil
}

func mustCompile(re string) pattern {
	p, err := compile(re)
	if err != nil {
		panic("tokens: " + err.Error())
	}
	return p
}

// find returns the places of p in s, as pairs of byte indices in ascending order.
func (p pattern) find(s string) ([][]int, error) {
	if p.re != nil {
		return p.re.FindAllStringIndex(s, -1)
	}
	var out [][]int
	for at := 0; ; {
		i := strings.Index(s[at:], p.literal)
		if i < 0 {
			return out, nil
		}
		out = append(out, []int{at + i, at + i + len(p.literal)})
		at += i + len(p.literal)
	}
}

// A cut is a part of a text, and whether a pattern matched it.
type cut struct {
	from, to int
	match    bool
}

// cuts are the parts of s, matched by p or between.
func (p pattern) cuts(s string, invert bool) ([]cut, error) {
	found, err := p.find(s)
	if err != nil {
		return nil, err
	}
	var out []cut
	at := 0
	for _, f := range found {
		if at < f[0] {
			out = append(out, cut{at, f[0], invert})
		}
		out = append(out, cut{f[0], f[1], !invert})
		at = f[1]
	}
	if at < len(s) {
		out = append(out, cut{at, len(s), invert})
	}
	return out, nil
}

// behaviors are what becomes of the matches of a pattern, by the names of tokenizer.json.
var behaviors = map[string]func([]cut) []cut{
	"Isolated": func(c []cut) []cut { return c },
	"Removed": func(c []cut) (out []cut) {
		for _, x := range c {
			if !x.match {
				out = append(out, x)
			}
		}
		return out
	},
	"Contiguous": func(c []cut) (out []cut) {
		for i, x := range c {
			if i > 0 && x.match == c[i-1].match {
				out[len(out)-1].to = x.to
			} else {
				out = append(out, x)
			}
		}
		return out
	},
	"MergedWithPrevious": func(c []cut) (out []cut) {
		for i, x := range c {
			if i > 0 && x.match && !c[i-1].match {
				out[len(out)-1].to = x.to
			} else {
				out = append(out, x)
			}
		}
		return out
	},
	"MergedWithNext": func(c []cut) (out []cut) {
		for i, x := range c {
			if i > 0 && c[i-1].match && !x.match {
				out[len(out)-1].to = x.to
			} else {
				out = append(out, x)
			}
		}
		return out
	},
}
