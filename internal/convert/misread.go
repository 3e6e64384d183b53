package convert

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// A Misread is a group of packed weights that loaders quantize on their own, and whose modeling code cannot work with them.
type Misread struct {
	By    arch.Target
	How   arch.Misuse
	Names []string // of the weights
	Skip  string   // a regular expression for --skip that keeps these, and no other of the packed weights
}

// String says it in one sentence.
func (m *Misread) String() string {
	then := "fails or computes nonsense"
	if !m.How.Always() {
		then = "fails there"
	}
	what := m.Names[0]
	if n := len(m.Names); n > 1 {
		what = fmt.Sprintf("%d weights such as %s", n, what)
	}
	return fmt.Sprintf("%s: %s loads what is packed, but %s and %s; convert --skip '%s' keeps 16 bits", what, m.By, m.How, then, m.Skip)
}

// Misreads finds them among the packed weights of a checkpoint.
func Misreads(model *arch.Model, t arch.Target, packed []arch.Tensor) []*Misread {
	if model == nil {
		return nil
	}
	var out []*Misread
	for _, p := range packed {
		misread := model.Misread(p.Class, t)
		for _, how := range slices.Sorted(maps.Keys(misread)) {
			i := slices.IndexFunc(out, func(m *Misread) bool { return m.By == misread[how] && m.How == how })
			if i < 0 {
				out = append(out, &Misread{By: misread[how], How: how})
				i = len(out) - 1
			}
			out[i].Names = append(out[i].Names, p.Name)
		}
	}
	for _, m := range out {
		m.Skip = skipPattern(m.Names, packed)
	}
	return out
}

// skipPattern is a regular expression that matches the names and no other of the packed weights: of each name as many last
// components as that takes.
func skipPattern(names []string, packed []arch.Tensor) string {
	in := map[string]bool{}
	for _, n := range names {
		in[n] = true
	}
	ends, alone := map[string]bool{}, map[string]bool{}
	for _, n := range names {
		parts := strings.Split(strings.TrimSuffix(n, ".weight"), ".")
		for i := len(parts) - 1; i >= 0; i-- {
			if i > 0 && isNumber(parts[i]) {
				continue
			}
			end := pattern(parts[i:])
			if _, known := alone[end]; !known {
				re := regexp.MustCompile(`(^|\.)` + end + `\.weight$`)
				alone[end] = !slices.ContainsFunc(packed, func(p arch.Tensor) bool { return !in[p.Name] && re.MatchString(p.Name) })
			}
			if i == 0 || alone[end] {
				ends[end] = true
				break
			}
		}
	}
	list := sortedKeys(ends)
	if len(list) == 1 {
		return `(^|\.)` + list[0] + `\.weight$`
	}
	return `(^|\.)(` + strings.Join(list, "|") + `)\.weight$`
}

// pattern quotes components, with any number for a number.
func pattern(parts []string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		quoted[i] = regexp.QuoteMeta(p)
		if isNumber(p) {
			quoted[i] = `\d+`
		}
	}
	return strings.Join(quoted, `\.`)
}

// checkReads warns of what the targets load and cannot run.
func (p *Plan) checkReads(opt *Options) {
	var packed []arch.Tensor
	for i := range p.Items {
		if it := &p.Items[i]; it.Quantize {
			packed = append(packed, arch.Tensor{Name: it.Name, Class: it.Class})
		}
	}
	for _, m := range Misreads(p.Model, opt.targets(), packed) {
		if !m.How.Always() {
			p.Notices = append(p.Notices, m.String())
		} else {
			p.Warnings = append(p.Warnings, m.String())
		}
	}
}
