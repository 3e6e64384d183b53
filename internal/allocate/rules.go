package allocate

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Rules are the choices as rules of convert, REGEX=SPEC, for weights whose format would else be base. Each names weights of one
// kind by the numbers of their layers.
func (o *Outcome) Rules(base bnb.Format) []string {
	type rule struct{ before, after, spec string }
	var order []rule
	numbers := map[rule][]string{}
	for _, c := range o.Choices {
		spec := c.spec(base)
		if spec == "" {
			continue
		}
		before, number, after := pattern(c.Item.Name, c.Item.Class.Expert)
		r := rule{before, after, spec}
		if _, ok := numbers[r]; !ok {
			order = append(order, r)
		}
		if !slices.Contains(numbers[r], number) { // experts of a layer share their rule
			numbers[r] = append(numbers[r], number)
		}
	}
	out := make([]string, len(order))
	for i, r := range order {
		middle := strings.Join(numbers[r], "|")
		if len(numbers[r]) > 1 {
			middle = "(" + middle + ")"
		}
		out[i] = "^" + r.before + middle + r.after + "$=" + r.spec
	}
	return out
}

// spec is what is to be said of a choice, "" for nothing.
func (c *Choice) spec(base bnb.Format) string {
	if c.fixed {
		return ""
	}
	if c.Keep {
		return "keep"
	}
	var parts []string
	if c.Format.Block() != base.Block() {
		parts = append(parts, fmt.Sprintf("block=%d", c.Format.Block()))
	}
	switch {
	case c.Format.NoDoubleQuant == base.NoDoubleQuant:
	case c.Format.NoDoubleQuant:
		parts = append(parts, "nodq")
	default:
		parts = append(parts, "dq")
	}
	return strings.Join(parts, ",")
}

// pattern is a name as a regular expression, cut at the number of its layer. The number of an expert is any.
func pattern(name string, expert bool) (before, number, after string) {
	parts := strings.Split(name, ".")
	at := -1
	for i, c := range parts {
		_, err := strconv.ParseUint(c, 10, 32)
		switch {
		case err == nil && at < 0 && !(expert && i > 0 && strings.Contains(parts[i-1], "expert")):
			at = i
		case err == nil && expert && i > 0 && strings.Contains(parts[i-1], "expert"):
			parts[i] = `\d+`
			continue
		}
		parts[i] = regexp.QuoteMeta(c)
	}
	if at < 0 {
		return strings.Join(parts, `\.`), "", ""
	}
	number = parts[at]
	if before = strings.Join(parts[:at], `\.`); at > 0 {
		before += `\.`
	}
	if after = strings.Join(parts[at+1:], `\.`); at < len(parts)-1 {
		after = `\.` + after
	}
	return before, number, after
}
