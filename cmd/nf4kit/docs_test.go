package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"go.yaml.in/yaml/v4"
)

// commandPages are the pages of docs/commands, by name: what --help says, of every command but those that complete for shells.
func commandPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c.HasParent() || c.Name() == "completion" || c.Name() == "help" {
			return
		}
		c.DisableAutoGenTag = true
		var b bytes.Buffer
		if err := doc.GenMarkdown(c, &b); err != nil {
			t.Fatal(err)
		}
		text := regexp.MustCompile(`(?m)^\* \[nf4kit completion\].*\n`).ReplaceAllString(b.String(), "")
		pages[strings.ReplaceAll(c.CommandPath(), " ", "_")+".md"] = strings.TrimRight(text, "\n") + "\n"
		for _, s := range c.Commands() {
			visit(s)
		}
	}
	visit(testRoot())
	return pages
}

// The pages of commands say what --help says.
func TestCommandPages(t *testing.T) {
	const dir = "../../docs/commands"
	want, got := commandPages(t), map[string]string{}
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name()] = string(raw)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("docs/commands (-help +pages; to write them: go test ./cmd/nf4kit -run CommandPages -update):\n%s", d)
	}
}

func testRoot() *cobra.Command {
	return newRootCommand(&globals{Stdout: io.Discard, Stderr: io.Discard, getenv: func(string) string { return "" }}, nil)
}

// shown is a command line in a document or an example: at the start of a line that is code, or in back quotes.
var shown = regexp.MustCompile("(?m)(?:^(?:\\s*(?:- run: |\\$ |exec )?|.*=')|`)nf4kit ([^`\n|&;#]+)")

// TestShownCommands takes the command lines of README, docs, examples and --help apart as the program would: there is such a
// command, it has these flags, and takes that many arguments. TestREADME and the scripts run them.
func TestShownCommands(t *testing.T) {
	texts := map[string]string{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		texts["nf4kit help "+c.CommandPath()] = c.Example
		for _, s := range c.Commands() {
			visit(s)
		}
	}
	visit(testRoot())
	for _, dir := range []string{"../../docs", "../../examples"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) == "commands" {
				return err
			}
			raw, err := os.ReadFile(path)
			texts[path] = string(raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	texts["README.md"] = strings.ReplaceAll(string(raw), "go run ./cmd/nf4kit", "nf4kit")
	found := 0
	for where, text := range texts {
		text = strings.ReplaceAll(text, "\\\n", " ")
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			if args := words(m[1]); parses(t, where, args) {
				found++
			}
		}
	}
	if found < 80 {
		t.Errorf("%d commands found", found)
	}
}

// words splits a command line as a shell does, quotes taken off; a variable is 1.
func words(s string) []string {
	var out []string
	for _, w := range regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`).FindAllString(s, -1) {
		if w == ">" || w == "<" {
			break
		}
		out = append(out, regexp.MustCompile(`\$[A-Z_]+`).ReplaceAllString(strings.NewReplacer("'", "", `"`, "").Replace(w), "1"))
	}
	return out
}

// parses reports whether args are a command line, not words about one, and complains if the program would.
func parses(t *testing.T, where string, args []string) bool {
	t.Helper()
	root := testRoot()
	if c, _, err := root.Find(args); err != nil || c == root || slices.ContainsFunc(args, isPlaceholder) {
		if err != nil && !slices.ContainsFunc(args, isPlaceholder) && len(args) > 1 {
			t.Errorf("%s: nf4kit %s: %v", where, strings.Join(args, " "), err)
		}
		return false
	}
	c, rest, _ := root.Find(args)
	if err := c.ParseFlags(rest); err != nil && strings.HasPrefix(err.Error(), "flag needs an argument") {
		return false // a flag that is named
	} else if err != nil {
		t.Errorf("%s: nf4kit %s: %v", where, strings.Join(args, " "), err)
		return false
	}
	if left := c.Flags().Args(); len(left) > 0 && c.Args != nil {
		if err := c.Args(c, left); err != nil {
			t.Errorf("%s: nf4kit %s: %v", where, strings.Join(args, " "), err)
			return false
		}
	}
	return true
}

// isPlaceholder tells the words of a synopsis.
func isPlaceholder(arg string) bool {
	return arg == "..." || strings.HasSuffix(arg, "...") || strings.HasPrefix(arg, "[") || arg == "COMMAND" || arg == "SHELL"
}

// The steps of the GitHub Action do on the shipped model what they say, and a limit that is not met fails.
func TestGitHubAction(t *testing.T) {
	raw, err := os.ReadFile("../../examples/github/convert.yml")
	if err != nil {
		t.Fatal(err)
	}
	var action struct {
		Jobs struct {
			Convert struct {
				Steps []struct {
					Run string `yaml:"run"`
				} `yaml:"steps"`
			} `yaml:"convert"`
		} `yaml:"jobs"`
	}
	if err := yaml.Unmarshal(raw, &action); err != nil {
		t.Fatal(err)
	}
	model, err := filepath.Abs("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	codes := func(from, to string) (list []int) {
		for _, s := range action.Jobs.Convert.Steps {
			args, ok := strings.CutPrefix(strings.ReplaceAll(strings.ReplaceAll(s.Run, "$MODEL", model), from, to), "nf4kit ")
			if ok {
				var out bytes.Buffer
				list = append(list, run(t.Context(), words(args), nil, strings.NewReader(""), &out, &out))
			}
		}
		return list
	}
	if d := cmp.Diff([]int{0, 0, 0}, codes("", "")); d != "" {
		t.Errorf("exit codes (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]int{1, 0, 4}, codes("--max-rel-rmse 0.1 ", "--max-rel-rmse 0.01 ")); d != "" { // 1: it is there
		t.Errorf("exit codes with a limit of 0.01 (-want +got):\n%s", d)
	}
}
