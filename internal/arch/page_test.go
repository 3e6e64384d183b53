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

var updatePage = flag.Bool("update", false, "write the pages of docs/architectures in place of comparing them")

// TestPage holds docs/architectures, and the counts of docs/architectures.md and the README, against the table.
func TestPage(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	dir := filepath.Join("..", "..", "docs", "architectures")
	want, got := pages(), map[string][]string{}
	if *updatePage {
		for name, lines := range want {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		page, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name()] = strings.Split(string(page), "\n")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is not current; -update writes it (-want +got):\n%s", dir, diff)
	}
	for _, count := range []string{fmt.Sprintf("%d model types", len(Types())), fmt.Sprintf("%d classes of diffusers", len(Components()))} {
		for _, name := range []string{"README.md", "docs/architectures.md"} {
			text, err := os.ReadFile(filepath.Join("..", "..", name))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), count) {
				t.Errorf("%s does not say %q", name, count)
			}
		}
	}
}

// pages are the lines of the pages in docs/architectures, by name: types by their initials, short enough to be read, and two
// other tables.
func pages() map[string][]string {
	texts := map[string]string{"diffusers.md": diffusersTable(), "reads.md": readsTable()}
	for _, span := range []string{"ac", "df", "gk", "lo", "pr", "sz"} {
		texts[span[:1]+"-"+span[1:]+".md"] = typesTable(span[0], span[1])
	}
	out := map[string][]string{}
	for name, text := range texts {
		out[name] = strings.Split("[Architectures](../architectures.md)\n\n"+text, "\n")
	}
	return out
}

// typesTable has a row for each model type whose name begins with from to to.
func typesTable(from, to byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Model types %c to %c\n\n", from, to)
	b.WriteString("| model type | class | 5.x | 4.57 | kept | experts | towers, projectors | 5.x and 4.57 differ on |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, info := range Types() {
		if initial := strings.ToLower(info.ModelType)[0]; initial < from && from != 'a' || initial > to && to != 'z' {
			continue
		}
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
	return b.String()
}

// diffusersTable has a row for each class of diffusers that keeps something.
func diffusersTable() string {
	var b strings.Builder
	b.WriteString("# Classes of diffusers\n\n| class | kept in 32 bits |\n|---|---|\n")
	var rest []string
	for _, c := range Components() {
		if len(c.Kept) == 0 {
			rest = append(rest, c.Class)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |\n", c.Class, code(c.Kept))
	}
	fmt.Fprintf(&b, "\nEvery Linear is quantized of %s.\n", strings.Join(rest, ", "))
	return b.String()
}

// readsTable lists the weights that modeling code reads itself.
func readsTable() string {
	var b strings.Builder
	b.WriteString("# Weights that modeling code reads\n\nEnds of module paths; packed, what the version quantizes on its own is\n\n")
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
