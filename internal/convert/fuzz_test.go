package convert

import (
	"strings"
	"testing"
)

// A rule that is read either keeps or changes, and has a pattern that can be asked.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"down_proj=block=128", "a=b=keep", "=keep", "x=nf4,block=32,dq", "(=keep", "layers\\.0\\.=keep"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		if r.Pattern == nil {
			t.Fatalf("%q: no pattern", s)
		}
		r.Pattern.MatchString("model.layers.0.mlp.down_proj.weight")
		pattern, spec := r.Pattern.String(), strings.TrimPrefix(s, r.Pattern.String())
		if !strings.HasPrefix(spec, "=") || r.Keep != (spec == "=keep") {
			t.Errorf("%q: pattern %q, keep %v", s, pattern, r.Keep)
		}
	})
}
