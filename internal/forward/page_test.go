package forward

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
)

var updatePage = flag.Bool("update", false, "write the table of docs/forward.md in place of comparing it")

// The table of docs/forward.md follows this line.
const pageMark = "<!-- The table below is written by: go test ./internal/forward -run Page -update -->\n"

// TestPage holds docs/forward.md against the descriptions.
func TestPage(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	docs := filepath.Join("..", "..", "docs", "forward.md")
	page, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	prose, got, ok := strings.Cut(string(page), pageMark)
	if !ok {
		t.Fatalf("%s has no line %q", docs, pageMark)
	}
	want := pageTable()
	if *updatePage {
		if err := os.WriteFile(docs, []byte(prose+pageMark+want), 0o666); err != nil {
			t.Fatal(err)
		}
		got = want
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s is not current; -update writes it (-want +got):\n%s", docs, diff)
	}
}

// pageTable says of every model type of the table of architectures whether it can be computed.
func pageTable() string {
	why := map[string][]string{}
	for _, typ := range arch.Types() {
		if families[typ.ModelType] == nil {
			m := lackingOf(typ)
			why[m] = append(why[m], typ.ModelType)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n| model types | |\n|---|---|\n| %s | computed |\n", strings.Join(Types(), ", "))
	var rows []string
	for m, types := range why {
		rows = append(rows, fmt.Sprintf("| %s | refused: %s |\n", strings.Join(types, ", "), m))
	}
	slices.Sort(rows)
	return b.String() + strings.Join(rows, "")
}

// Every reason is of types of the table, of which there is no description, and each type has one.
func TestLacking(t *testing.T) {
	known := map[string]bool{}
	for _, typ := range arch.Types() {
		known[typ.ModelType] = true
	}
	seen := map[string]bool{}
	for _, l := range lacking {
		for _, typ := range strings.Fields(l.types) {
			if !known[typ] || families[typ] != nil || seen[typ] {
				t.Errorf("%s: of the table: %v, described: %v, said twice: %v", typ, known[typ], families[typ] != nil, seen[typ])
			}
			seen[typ] = true
		}
	}
	for _, typ := range Types() {
		if !known[typ] {
			t.Errorf("%s is no model type of the table", typ)
		}
	}
}
