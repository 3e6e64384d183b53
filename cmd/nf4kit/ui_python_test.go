package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

func TestBreakPython(t *testing.T) {
	for _, c := range []struct {
		code    string
		columns int
		want    string
	}{
		{"x = f(1, 2)\n", 0, "x = f(1, 2)\n"},
		{"x = f(1, 2)\n", 11, "x = f(1, 2)\n"},
		{"x = f(one, two, three)\n", 16, "x = f(one, two,\n    three)\n"},
		{"from a import bee, sea, dee\n", 20, "from a import (bee,\n    sea, dee)\n"},
		{"from a import (bee, sea,\n    dee)\n", 18, "from a import (\n    bee, sea,\n    dee)\n"},
		{"import a_module_with_a_name\n", 20, "import a_module_with_a_name\n"},
		{"x = 1 + 2 + 3 + 4\n", 10, "x = 1 + 2 + 3 + 4\n"}, // no brackets
		{"f('a, b (c', \"d, e # f\", 3)\n", 16, "f('a, b (c',\n    \"d, e # f\",\n    3)\n"},
		{"f('it\\'s, so', 2, 3)\n", 14, "f('it\\'s, so',\n    2, 3)\n"},
		{"if x:\n    y = f(\n        one, two, three)\n", 18, "if x:\n    y = f(\n        one, two,\n        three)\n"},
		{"# words that go on and on\n", 14, "# words that\n# go on and on\n"},
		{"    data = ...  # words that go on\n", 20, "    # words that go\n    # on\n    data = ...\n"},
		{"x = '# no comment, (neither)'\n", 10, "x = '# no comment, (neither)'\n"},
	} {
		if d := cmp.Diff(c.want, breakPython(c.code, c.columns)); d != "" {
			t.Errorf("%q at %d (-want +got):\n%s", c.code, c.columns, d)
		}
	}
}

// Whatever is planned, its script says the same on a narrow terminal, and fits one of 60 columns.
func TestBreakSnippets(t *testing.T) {
	tokens := func(code string) string {
		var b strings.Builder
		for line := range strings.Lines(code) {
			statement, _ := cutComment(strings.TrimSuffix(line, "\n"))
			b.WriteString(strings.ReplaceAll(statement, " ", ""))
		}
		return strings.NewReplacer("import(", "import", ")", "").Replace(b.String()) // what closes an import's brackets too
	}
	m, err := modelshape.Builtin("mixtral-8x7b")
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []memplan.Run{
		{}, {Method: memplan.Full, GPUs: 8, Sharding: memplan.FSDP}, {Method: memplan.Full, Precision: memplan.Pure, Optimizer: memplan.GaLore},
		{Method: memplan.LoRA, AdapterDType: memplan.BF16, Targets: "q_proj,k_proj,v_proj,o_proj", Offload: true}, {BlockSize: 128, QuantExperts: true},
		{Loss: memplan.ChunkedLoss, Padded: true}, {Task: memplan.DPO}, {Task: memplan.GRPO}, {DropOutputs: true, Optimizer: "paged-adamw-8bit"},
		{Loss: memplan.FusedLoss, GPUs: 2, Sharding: memplan.ZeRO3},
	} {
		p, err := memplan.New(m, run)
		if err != nil {
			t.Errorf("%+v: %v", run, err)
			continue
		}
		code := p.Snippet("a/model")
		for _, columns := range []int{40, 60, 79} {
			got := breakPython(code, columns)
			if d := cmp.Diff(tokens(code), tokens(got)); d != "" {
				t.Errorf("%+v at %d columns (-whole +broken):\n%s", run, columns, d)
			}
			for line := range strings.Lines(got) {
				if n := utf8.RuneCountInString(line) - 1; n > columns && columns >= 60 {
					t.Errorf("%+v at %d columns: a line of %d: %s", run, columns, n, line)
				}
			}
		}
	}
}
