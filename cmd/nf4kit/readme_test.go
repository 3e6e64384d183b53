package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the output of the README's commands into it")

// volatile is what differs from run to run: times and rates.
var volatile = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`in [0-9.]+ m?s \([0-9.]+ [kMG]?B/s\)`), "in 0.05 s (50 MB/s)"},
	{regexp.MustCompile(`in [0-9.]+ s\b`), "in 0.05 s"},
	{regexp.MustCompile(`(?m)^nf4kit: .* left, at .*\n`), ""}, // progress, where a machine is slow
}

func normalize(s string) string {
	for _, v := range volatile {
		s = v.re.ReplaceAllString(s, v.to)
	}
	return s
}

// byCI are the commands of the README that .ci/run runs.
var byCI = map[string]bool{
	"go test ./...": true,
}

// TestREADME runs every command of the README and of the pages in docs that show commands with their output, in order
// and those of a page in one directory, and compares what they print.
func TestREADME(t *testing.T) {
	for _, page := range []string{"README.md", "docs/article.md", "docs/measure.md", "docs/plan.md", "docs/tutorial.md"} {
		t.Run(page, func(t *testing.T) { testPage(t, page) })
	}
}

func testPage(t *testing.T, page string) {
	name, err := filepath.Abs(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "testdata/llama"), os.DirFS("../../testdata/llama")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	block := regexp.MustCompile("(?s)```console\n(.*?)```\n")
	commands := 0
	got := block.ReplaceAllStringFunc(string(raw), func(b string) string {
		body := block.FindStringSubmatch(b)[1]
		line, _, _ := strings.Cut(body, "\n")
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			t.Errorf("console block begins with %q; want a command", line)
			return b
		}
		if byCI[command] {
			return b
		}
		args, ok := strings.CutPrefix(command, "go run ./cmd/nf4kit ")
		if !ok {
			t.Errorf("nobody runs %q: not a test, not .ci/run", command)
			return b
		}
		commands++
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), fields(args), nil, strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Errorf("%s: exit code %d\n%s", command, code, stderr.String())
		}
		return "```console\n" + line + "\n" + normalize(stderr.String()+stdout.String()) + "```\n"
	})
	if commands == 0 {
		t.Error("no commands found")
	}
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(normalize(string(raw)), got); d != "" {
		t.Errorf("output of the page's commands (-page +now; go test ./cmd/nf4kit -run README -update):\n%s", d)
	}
}

// fields splits a command line at spaces, with single quotes.
func fields(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}
