package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mergeReport() *Report {
	other, gap := 0.25, 1.5
	r := New(nil)
	r.Command, r.Source, r.Destination = "lora merge", "base", "dst"
	total := Update{Tensor: "all", Relative: 0.02, Survives: 0.5, Lost: 2, Otherwise: &other, Gap: &gap}
	r.Merge = &Merge{Adapters: []string{"a|b", "=c"}, Changed: 2, Otherwise: "absmax", Notes: []string{"tied"}, Total: &total,
		Kinds:   []Update{{Tensor: "q_proj (2)", Rank: 8, Relative: 0.02, Survives: 0.5}},
		Tensors: []Update{{Tensor: "=l.0.q_proj.weight", Rank: 8, Relative: 0.03, Survives: 0.75, Otherwise: &other, Gap: &gap}, {Tensor: "<l.1>.q_proj.weight", Rank: 8, Relative: 0.01}}}
	return r
}

// Every rendering has the figures that there are, under one name.
func TestMergeRenderings(t *testing.T) {
	r := mergeReport()
	var b bytes.Buffer
	if err := r.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"tensor", "rank", "relative_norm", "max", "survives", "survives_otherwise", "lost", "base_error"},
		{"'=l.0.q_proj.weight", "8", "0.03", "0", "0.75", "0.25", "0", "1.5"}, {"<l.1>.q_proj.weight", "8", "0.01", "0", "0", "", "0", ""}}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`- adapters: a\|b, =c`, "| q_proj (2) | 8 | 0.02 | - | 50.0 % | - | - | - |", "| all |   | 0.02 | - | 50.0 % | 25.0 % | 2 | 1.5 |", "scales by absmax, of a sample, 25.0 %"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("no %q in\n%s", text, b.String())
		}
	}
	b.Reset()
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"<td>&lt;l.1&gt;.q_proj.weight</td>", "<th>by absmax</th>", "<h2>Merged</h2>", "<td>75.0 %</td>"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("no %q in the page", text)
		}
	}
	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Merge.Tensors, back.Merge.Tensors); diff != "" {
		t.Error(diff)
	}
}

// Columns of what was not asked are left out, and so is the table where nothing was measured.
func TestMergeWithoutFigures(t *testing.T) {
	r := mergeReport()
	r.Merge.Otherwise, r.Merge.Total.Gap = "", nil
	head, rows := r.Merge.Table(r.Merge.Tensors)
	if diff := cmp.Diff([]string{"weight", "rank", "|D|/|W|", "max |D|", "survives", "lost/|D|"}, head); diff != "" || len(rows) != 3 {
		t.Errorf("%s\n%d rows", diff, len(rows))
	}
	r.Merge.Total = nil
	if head, rows := r.Merge.Table(r.Merge.Tensors); head != nil || rows != nil {
		t.Errorf("a table %v of nothing", head)
	}
	var b bytes.Buffer
	if err := r.WriteMarkdown(&b); err != nil || strings.Contains(b.String(), "|---") {
		t.Errorf("%v: %s", err, b.String())
	}
}
