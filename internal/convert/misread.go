package convert

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/arch"
)

// A Misread is a group of packed weights that loaders quantize on their own, and whose modeling code cannot work with them.
type Misread struct {
	By    arch.Target
	How   arch.Misuse
	Names []string // of the weights
}

// String says it in one sentence.
func (m *Misread) String() string {
	then := "fails or computes nonsense"
	if !m.How.Always() {
		then = "fails there"
	}
	return fmt.Sprintf("%s: %s loads what is packed, but %s and %s; convert without --as-bitsandbytes keeps 16 bits", some(m.Names), m.By, m.How, then)
}

// some names the first of them and counts the rest.
func some(names []string) string {
	if n := len(names); n > 1 {
		return fmt.Sprintf("%d weights such as %s", n, names[0])
	}
	return names[0]
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
	return out
}

// misread says why a weight that transformers quantizes on its own stays in 16 bits: a loader among the targets cannot work with it
// packed. What fails in training alone is kept too, since the format is for QLoRA.
func (p *policy) misread(c arch.Class) string {
	if p.opt.AsBitsandbytes {
		return ""
	}
	found := p.model.Misread(c, p.t)
	var why []string
	for _, how := range slices.Sorted(maps.Keys(found)) {
		why = append(why, fmt.Sprintf("%s %s", found[how], how))
	}
	return strings.Join(why, ", and ")
}

// noteMisread tells of the weights that the policy kept for that.
func (p *Plan) noteMisread(kept []arch.Tensor, pol *policy) {
	if len(kept) == 0 {
		return
	}
	var names, why []string
	for _, t := range kept {
		names = append(names, t.Name)
		if w := pol.misread(t.Class); !slices.Contains(why, w) {
			why = append(why, w)
		}
	}
	p.notices = append(p.notices, fmt.Sprintf("kept in 16 bits: %s, since %s (--as-bitsandbytes quantizes them)", some(names), strings.Join(why, "; ")))
}

// checkReads warns of what the targets load and cannot run.
func (p *Plan) checkReads(opt *Options) {
	var packed []arch.Tensor
	for i := range p.items {
		if it := &p.items[i]; it.Quantize {
			packed = append(packed, arch.Tensor{Name: it.Name, Class: it.Class})
		}
	}
	for _, m := range Misreads(p.model, opt.targets(), packed) {
		if !m.How.Always() {
			p.notices = append(p.notices, m.String())
		} else {
			p.warnings = append(p.warnings, m.String())
		}
	}
}

// checkOlder tells of what 4.57 does not read of a source that transformers 5 saved: weights under names of its own, and its config.json.
func (p *Plan) checkOlder(opt *Options) {
	if opt.targets()&arch.Transformers4 == 0 || p.model == nil || !p.model.In[arch.V4] {
		return
	}
	var renamed []string
	for i := range p.items {
		if it := &p.items[i]; it.Quantize && it.Class.Renamed() {
			renamed = append(renamed, it.Name)
		}
	}
	if len(renamed) > 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("transformers 4.57 has other names for %s: it does not load the result, nor the source; transformers 5 does", some(renamed)))
	}
	if why := Unread(p.src.Config); why != "" {
		p.warnings = append(p.warnings, fmt.Sprintf("config.json is as transformers 5 writes it; 4.57 expects %s, and reads neither the result nor the source", why))
	}
}

// Unread says what 4.57 expects in a config.json that transformers 5 wrote and it does not read, or "". An infinite
// number, such as the end of Mamba-2's time_step_limit, is {"__float__": "Infinity"}, which 4.57 takes for the value, and
// Qwen-VL's mrope_section lies in rope_parameters alone, where 4.57 looks for it in rope_scaling.
func Unread(config []byte) string {
	has := func(key string) bool { return bytes.Contains(config, []byte(`"`+key+`"`)) }
	switch {
	case has("__float__"):
		return `plain numbers, found {"__float__": ...}`
	case has("mrope_section") && has("rope_parameters") && !has("rope_scaling"):
		return "rope_scaling with mrope_section, found it in rope_parameters"
	}
	return ""
}
