package memplan

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of presets into docs/plan.md")

// docs/plan.md has every preset with its values and their source.
func TestPresetsDocumented(t *testing.T) {
	const page = "../../docs/plan.md"
	docs, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| preset | flags | source |\n|---|---|---|\n")
	spell := func(values [][2]string) string {
		var out []string
		for _, v := range values {
			out = append(out, fmt.Sprintf("`--%s=%s`", v[0], v[1]))
		}
		return strings.Join(out, " ")
	}
	for _, p := range Presets() {
		full := ""
		if len(p.Full) > 0 {
			full = "; with `--method full` " + spell(p.Full)
		}
		fmt.Fprintf(&b, "| %s | %s%s | %s |\n", p.Name, spell(p.Flags), full, p.Source)
	}
	begin, end := strings.Index(string(docs), "| preset | flags"), strings.Index(string(docs), "\n## What it rests on")
	if begin < 0 || end < begin {
		t.Fatal("docs/plan.md has no table of presets")
	}
	if string(docs[begin:end]) != b.String() {
		if *update {
			if err := os.WriteFile(page, []byte(string(docs[:begin])+b.String()+string(docs[end:])), 0o666); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("docs/plan.md does not have the presets as they are (go test ./internal/memplan -run Presets -update)")
	}
}

// Values of full fine-tuning are without those of adapters, and none is there twice.
func TestPresetValues(t *testing.T) {
	for _, p := range Presets() {
		for _, m := range []Method{QLoRA, Full} {
			seen := map[string]bool{}
			for _, v := range p.Values(m) {
				if seen[v[0]] || m == Full && v[0] == "rank" {
					t.Errorf("%s, %s: --%s", p.Name, m, v[0])
				}
				seen[v[0]] = true
			}
		}
	}
	if _, ok := FindPreset("nobody"); ok {
		t.Error("a preset nobody has")
	}
}
