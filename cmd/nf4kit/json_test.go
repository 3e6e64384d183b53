package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestJSONDocumented: docs/json.md has the schema of every command, and every member of it.
func TestJSONDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	llama, err := filepath.Abs("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	commands := [][]string{
		{"convert", llama, "out", "--report", "r.json", "--rule", "q_proj=block=128"},
		{"convert", llama, "other", "--dry-run"},
		{"measure", llama, "--formats", "nf4,int8", "--sample", "0.5"},
		{"measure", llama, "out"},
		{"verify", "out", "--source", llama, "--report", "v.json"},
		{"verify", "out", "--headers-only"},
		{"inspect", "out"},
		{"inspect", "--architectures"},
		{"dequantize", "out", "plain"},
		{"plan", "llama-2-7b", "--gpu", "T4", "--generate", "100"},
		{"version"},
	}
	seen := map[string]bool{}
	check := func(what string, raw []byte) {
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		schema, _ := v["schema"].(string)
		seen[schema] = true
		for _, key := range keys(v) {
			if !strings.Contains(doc, "`"+key+"`") && !strings.Contains(doc, "`"+key+"[]`") {
				t.Errorf("%s (%s): docs/json.md does not say what %s is", what, schema, key)
			}
		}
	}
	for _, args := range commands {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--json"), nil, strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr.String())
		}
		check(strings.Join(args, " "), stdout.Bytes())
	}
	for _, name := range []string{"r.json", "v.json"} {
		report, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		check("--report "+name, report)
	}
	var stdout, stderr bytes.Buffer
	run(t.Context(), []string{"inspect", "nothing", "--json"}, nil, strings.NewReader(""), &stdout, &stderr)
	check("an error", stdout.Bytes())
	for schema := range seen {
		if !strings.Contains(doc, "`"+schema+"`") {
			t.Errorf("docs/json.md does not have %s", schema)
		}
	}
	if len(seen) != 9 {
		t.Errorf("%d schemas: %v", len(seen), seen)
	}
}

// keys are the names of all members, at any depth, sorted.
func keys(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			out = append(append(out, k), keys(x)...)
		}
	case []any:
		for _, x := range v {
			out = append(out, keys(x)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
