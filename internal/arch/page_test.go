package arch

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var updatePage = flag.Bool("update", false, "write the table of docs/architectures.md in place of comparing it")

// The tables of docs/architectures.md follow this line.
const pageMark = "<!-- The table below is written by: go test ./internal/arch -run Page -update -->\n"

// TestPage holds docs/architectures.md and the README's count against the table.
func TestPage(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	docs := filepath.Join("..", "..", "docs", "architectures.md")
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
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range []string{fmt.Sprintf("%d model types", len(Types())), fmt.Sprintf("%d classes of diffusers", len(Components()))} {
		for name, text := range map[string]string{"README.md": string(readme), docs: prose} {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), count) {
				t.Errorf("%s does not say %q", name, count)
			}
		}
	}
}

// pageTable is the table in Markdown: a row for each model type, then one for each class of diffusers.
func pageTable() string {
	var b strings.Builder
	b.WriteString("\n| model type | class | 5.x | 4.57 | kept | experts | towers, projectors | 5.x and 4.57 differ on |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, info := range Types() {
		c := lookupType(info.ModelType).mainClass()
		if c == nil {
			continue
		}
		r := c.pageRow()
		name := "`" + info.ModelType + "`"
		for _, a := range info.Aliases {
			name += ", `" + a + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, c.name, mark(info.In[V5]), mark(info.In[V4]),
			strings.Join(r.kept, ", "), strings.Join(r.experts, ", "), code(r.towers), r.differ)
	}
	b.WriteString("\n| class of diffusers | kept in 32 bits |\n|---|---|\n")
	var rest []string
	for _, c := range Components() {
		if len(c.Kept) == 0 {
			rest = append(rest, c.Class)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |\n", c.Class, code(c.Kept))
	}
	fmt.Fprintf(&b, "\nEvery Linear is quantized of %s.\n", strings.Join(rest, ", "))
	b.WriteString(readsTable())
	return b.String()
}

// readsTable lists the weights that modeling code reads itself.
func readsTable() string {
	var b strings.Builder
	b.WriteString("\n## Weights that modeling code reads\n\nEnds of module paths; packed, what the version quantizes on its own is\n\n")
	for _, how := range []Misuse{TakenForMatrix, TakenForDType, TakenInTraining, TakenByKernels} {
		fmt.Fprintf(&b, "- %s: the version %s.\n", how.word(), how)
	}
	b.WriteString("\n| model type | modules | 5.x | 4.57 |\n|---|---|---|---|\n")
	for _, typ := range slices.Sorted(maps.Keys(reads())) {
		for _, r := range reads()[typ] {
			five, four := "", ""
			if r.by&Transformers5 != 0 {
				five = r.how.word()
			}
			if r.by&Transformers4 != 0 {
				four = r.how.word()
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", typ, code(r.paths), five, four)
		}
	}
	return b.String()
}

// word is the table's word for it.
func (m Misuse) word() string {
	return map[Misuse]string{TakenForMatrix: "misread", TakenForDType: "cast", TakenInTraining: "misread in training", TakenByKernels: "misread by kernels"}[m]
}

func mark(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func code(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "` `") + "`"
}

// mainClass is the class that checkpoints of the type are most likely of.
func (t *modelType) mainClass() *class {
	for _, suffix := range []string{"ForConditionalGeneration", "ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForPreTraining", "ForCTC"} {
		if t.causal != nil && suffix == "ForCausalLM" {
			return t.causal
		}
		for _, c := range t.classes {
			if strings.HasSuffix(c.name, suffix) {
				return c
			}
		}
	}
	if t.base == nil && len(t.classes) > 0 {
		return t.classes[0]
	}
	return t.base
}

type pageRow struct {
	kept, experts, towers []string
	differ                string
}

func (c *class) pageRow() pageRow {
	m := &Model{In: c.in, entry: newEntry(c, Query{}, nil)}
	var r pageRow
	kept := map[string][]string{}
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, name := range c.names("0") {
		d := m.Classify(name)
		path := digitless(strings.TrimSuffix(name, ".weight"), "#")
		quantized := d.Quant[V5] || !d.In[V5] && d.Quant[V4]
		switch {
		case d.Expert:
			switch {
			case d.Split:
				add(&r.experts, "fused; split when quantized")
			case d.Fused && d.Module:
				add(&r.experts, "one by one in 4.57, fused by 5.x")
			case quantized:
				add(&r.experts, "Linears")
			default:
				add(&r.experts, "fused, kept")
			}
		case d.Tower || d.Projector:
			add(&r.towers, topPath(path))
		case d.Module && !quantized:
			leaf := path[strings.LastIndexByte(path, '.')+1:]
			if leaf == "#" {
				leaf = path[strings.LastIndexByte(strings.TrimRight(path, ".#"), '.')+1:]
			}
			reason := d.Reason
			switch {
			case d.Head:
				reason = "head"
			case strings.HasPrefix(path, "layers.") || strings.Contains(path, ".layers."):
				reason = strings.Replace(reason, "transformers does not quantize it", "shared by layers", 1)
			}
			list := kept[reason]
			add(&list, leaf)
			kept[reason] = list
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(kept)) {
		r.kept = append(r.kept, code(kept[reason])+" ("+reason+")")
	}
	r.differ = strings.TrimPrefix(c.disagreement(), c.name+": ")
	return r
}

// topPath is the component that a tower lies under, with "model" before it.
func topPath(path string) string {
	parts := strings.SplitN(path, ".", 3)
	if parts[0] == "model" && len(parts) > 1 {
		return "model." + parts[1]
	}
	return parts[0]
}
