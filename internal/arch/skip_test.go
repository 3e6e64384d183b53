package arch

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// layered drops what cannot be in one checkpoint: a layer has either a dense
// MLP or experts.
func layered(names []string) []string {
	sparse := regexp.MustCompile(`expert|\.gate\.|router`)
	dense := regexp.MustCompile(`\.(mlp|feed_forward)\.(gate_proj|up_proj|down_proj|gate_up_proj)\.`)
	if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "expert") }) {
		return names
	}
	odd := regexp.MustCompile(`\.1\.`)
	return slices.DeleteFunc(names, func(n string) bool {
		if odd.MatchString(n) {
			return sparse.MatchString(n)
		}
		return dense.MatchString(n) && !sparse.MatchString(n)
	})
}

func split(m *Model, t Target, names []string) (kept, quantized []Tensor) {
	for _, n := range names {
		c := m.Classify(n)
		switch {
		case c.Quantize(t) && !c.Tower && !c.Projector:
			quantized = append(quantized, Tensor{n, c})
		case c.Module:
			kept = append(kept, Tensor{n, c})
		}
	}
	return kept, quantized
}

// For every class of the table and every target there must be a skip list
// that every loader reads as meant.
func TestSkipListServesEveryClass(t *testing.T) {
	targets := []Target{Transformers5 | Transformers4, Transformers5, Transformers4}
	for _, info := range Types() {
		mt := lookupType(info.ModelType)
		for _, c := range mt.classes {
			names := layered(c.names("0", "1", "11"))
			for _, tied := range []bool{false, true} {
				if tied && len(c.keep5.tied)+len(c.keep5.untied)+len(c.keep4.tied)+len(c.keep4.untied) == 0 {
					continue
				}
				q := Query{ModelType: mt.name, Architectures: []string{c.name}, Tied: tied, TiedSet: true}
				m, err := Resolve(q, names)
				if err != nil {
					t.Fatal(err)
				}
				if m.Class != c.name {
					t.Errorf("%s: resolved %s as %s", mt.name, c.name, m.Class)
				}
				for _, target := range targets {
					kept, quantized := split(m, target, names)
					list, bad := m.SkipList(target, kept, quantized)
					for i, v := range bad {
						if i == 3 {
							break
						}
						t.Errorf("%s/%s for %s, tied %v: %v; list %q", mt.name, c.name, target, tied, v, list)
					}
				}
			}
		}
	}
}
