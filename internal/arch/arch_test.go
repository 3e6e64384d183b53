package arch

import "testing"

func TestTableParses(t *testing.T) {
	for name, block := range blocks() {
		mt, err := parseBlock(block)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if mt.name != name || len(mt.classes) == 0 {
			t.Errorf("block %s: parsed as %q with %d classes", name, mt.name, len(mt.classes))
		}
		for _, c := range mt.classes {
			checkIncludes(t, c, c.root)
		}
	}
}

// Every nested model must exist, or a checkpoint would be classified in part.
func checkIncludes(t *testing.T, c *class, n *node) {
	t.Helper()
	e := &entry{class: c}
	for _, m := range n.models {
		if e.nested(m) == nil {
			t.Errorf("%s/%s: nothing to include for %s %s at %q", c.typ.name, c.name, m.typ, m.class, m.name)
		}
	}
	for _, k := range n.kids {
		checkIncludes(t, c, k)
	}
	if n.number != nil {
		checkIncludes(t, c, n.number)
	}
}
