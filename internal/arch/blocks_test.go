package arch

import (
	"slices"
	"strings"
	"testing"
)

func TestBlocks(t *testing.T) {
	text := Blocks("# a comment\nalias x a\ntype a\none\ntype b 54 tied=5\n type c\ntype bb\ntype d\ntwo\n")
	if got, want := slices.Collect(text.Names()), []string{"a", "b", "bb", "d"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	for name, want := range map[string]string{
		"a": "type a\none\n", "b": "type b 54 tied=5\n type c\n", "bb": "type bb\n", "d": "type d\ntwo\n",
		"": "", "A": "", "c": "", "e": "", "one": "",
	} {
		if got := text.Find(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	for _, text := range []Blocks{"", "# no block\n", "alias a b\n"} {
		if got := text.Find("a"); got != "" || slices.Collect(text.Names()) != nil {
			t.Errorf("%q has a block %q", text, got)
		}
	}
}

// TestBlocksOfTables finds every block of the tables by its name, which is so only if they are sorted.
func TestBlocksOfTables(t *testing.T) {
	for _, text := range []Blocks{tableText, diffusersText} {
		n := 0
		for name := range text.Names() {
			n++
			if block := text.Find(name); !strings.HasPrefix(block, "type "+name) || strings.Contains(block[1:], blockHead) {
				t.Errorf("%s: found %q", name, block[:min(len(block), 40)])
			}
		}
		if want := strings.Count(string(text), blockHead); n != want || n < 100 {
			t.Errorf("%d names, want %d", n, want)
		}
	}
}
