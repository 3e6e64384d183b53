package arch

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

type ruleCase struct {
	List    []string `json:"list"`
	Path    string   `json:"path"`
	Skipped string   `json:"skipped"` // one digit a rule, in the order of Loader
}

// The recorded answers are those of the loaders' own code (gen/rules_golden.py).
func TestRulesMatchTheLoaders(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	text, err := os.ReadFile("testdata/rules.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Rules []string
		Paths []string
		Lists []ruleCase
		Cases []ruleCase
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	cases := golden.Cases
	for _, l := range golden.Lists {
		for i, s := range strings.Fields(l.Skipped) {
			cases = append(cases, ruleCase{l.List, golden.Paths[i], s})
		}
	}
	if len(cases) < 3000 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		for l, rule := range golden.Rules {
			if Loader(l).String() != rule {
				t.Fatalf("rule %d is %q, want %q", l, Loader(l), rule)
			}
			got := false
			for _, text := range c.List {
				e := newSkipEntry(text)
				if e.err != nil {
					t.Errorf("entry %q: %v", text, e.err)
				}
				got = got || e.matches(Loader(l), c.Path)
			}
			if want := c.Skipped[l] == '1'; got != want {
				t.Errorf("%s: list %q on %s: skipped %v, want %v", rule, c.List, c.Path, got, want)
			}
		}
	}
}
