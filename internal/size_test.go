package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// What a function and a file may have of lines. What is longer is two things, or has its reason here.
const (
	maxFunction = 80
	maxFile     = 450
)

// long are the functions and files that are longer, and why.
var long = map[string]string{
	"internal/kernel/_asm/dynamic.go: dynamicQuantizeAVX2": "one kernel in assembly, whose registers are named from its first to its last line",
	"internal/memplan/search.go: edits":                    "a table of changes to a run, one entry after the other",
	"internal/modelshape/families.go: init":                "a table of model types, one entry after the other",
}

// TestSizes holds every function and every file that is no test to a length that one can read.
func TestSizes(t *testing.T) {
	used := map[string]bool{}
	judge := func(name string, lines, most int) {
		switch reason, ok := long[name]; {
		case lines <= most && ok:
			t.Errorf("%s has %d lines: it needs no reason any more", name, lines)
		case lines > most && reason == "":
			t.Errorf("%s has %d lines, want at most %d, or a reason here", name, lines, most)
		}
		used[name] = true
	}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != ".." && strings.HasPrefix(e.Name(), "."):
			return filepath.SkipDir
		case e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator)))
		judge(name, set.Position(file.End()).Line, maxFile)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				judge(name+": "+f.Name.Name, set.Position(f.End()).Line-set.Position(f.Pos()).Line+1, maxFunction)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range long {
		if !used[name] {
			t.Errorf("%s is not there any more", name)
		}
	}
}
