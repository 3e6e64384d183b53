package lora

import (
	"regexp"
	"strings"
)

const (
	// MaxRank bounds ranks: no use of LoRA is near, and the factors of one weight are held in memory.
	MaxRank = 16384
	// maxPatterns bounds rank_pattern and alpha_pattern: one for each of 128 layers' 7 modules is 896.
	maxPatterns = 16384
	// maxPatternLen bounds an expression.
	maxPatternLen = 1024
)

// Patterns are the values of rank_pattern or alpha_pattern: the first whose expression matches a module decides
// (peft/utils/other.py, get_pattern_key).
type Patterns []pattern

type pattern struct {
	key   string
	re    *regexp.Regexp // nil where the key is a name, in which a dot matches anything
	value float64
}

func newPattern(key string, value float64) (pattern, error) {
	p := pattern{key: key, value: value}
	if !strings.ContainsFunc(key, func(r rune) bool {
		return !(r == '.' || r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) {
		return p, nil
	}
	if len(key) > maxPatternLen {
		return p, errTooLong
	}
	var err error
	p.re, err = regexp.Compile(`\A(?:(.*\.)?(?:` + key + `))\n?\z`)
	return p, err
}

type patternError string

func (e patternError) Error() string { return string(e) }

const errTooLong = patternError("too long")

// Lookup is the value for a module, and whether an expression matches it.
func (p Patterns) Lookup(module string) (float64, bool) {
	for i := range p {
		if p[i].match(module) {
			return p[i].value, true
		}
	}
	return 0, false
}

func (p *pattern) match(module string) bool {
	if p.re != nil {
		return p.re.MatchString(module)
	}
	at := len(module) - len(p.key)
	if at < 0 || at > 0 && module[at-1] != '.' {
		return false
	}
	for i := range len(p.key) {
		if c := p.key[i]; c != '.' && c != module[at+i] {
			return false
		}
	}
	return true
}
