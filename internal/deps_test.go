package internal

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nf4kit/nf4kit/"

// rank is the diagram of ARCHITECTURE.md as data: a package may import packages
// of lower rank only. A new package must be given its place here.
var rank = map[string]int{
	"internal/kernel": -1,
	"internal/escape": -1,
	"internal/stream": -1,
	"internal/panel":  -1,

	"nf4":         0,
	"doublequant": 0,
	"safetensors": 0,

	"internal/linalg":   0,
	"internal/search":   0,
	"internal/feedback": 1,

	"nf4/bnb":             1,
	"internal/checkpoint": 1,
	"internal/arch":       1,
	"internal/decode":     1,
	"internal/modelshape": 1,

	"internal/archive":        3,
	"internal/remote":         4,
	"internal/remote/standin": 0,

	"internal/fourbit":      2,
	"internal/complete":     2,
	"internal/manifest":     2,
	"internal/activations":  2,
	"internal/imatrix":      2,
	"internal/tokens":       2,
	"internal/memplan":      2,
	"internal/memplan/page": 3,

	"internal/weights":  3,
	"internal/quantize": 3,

	"internal/forward": 4,

	"internal/convert": 4,

	"internal/calibrate": 5,
	"internal/allocate":  5,
	"internal/footprint": 5,

	"internal/memplan/source": 6,

	"internal/evaluate": 6,
	"internal/lora":     6,
	"internal/measure":  6,
	"internal/verify":   6,
	"internal/report":   7,

	"cmd/nf4kit": 8,

	"examples/pack": 2, // of public packages alone, see TestExamplesOutside
}

// owners lists who may import a dependency that must not spread.
var owners = map[string][]string{
	"github.com/nlpodyssey/safetensors": {"internal/verify"},
	"github.com/aws/aws-sdk-go-v2":      {"internal/remote"},
	"github.com/spf13/cobra":            {"cmd/nf4kit"},
	"github.com/spf13/pflag":            {"cmd/nf4kit"},
	"golang.org/x/sys/cpu":              {"internal/kernel"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "internal" || strings.HasPrefix(name, "internal/interop") || strings.HasPrefix(name, "internal/arch/gen/") {
			continue
		}
		r, ok := rank[name]
		if !ok {
			t.Errorf("%s has no place in the diagram: add it to rank and to ARCHITECTURE.md", name)
			continue
		}
		for _, imp := range p.Imports {
			if dep, ours := strings.CutPrefix(imp, module); ours {
				if dr, ok := rank[dep]; ok && dr >= r {
					t.Errorf("%s (rank %d) imports %s (rank %d)", name, r, dep, dr)
				}
			}
			for lib, who := range owners {
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && !slices.Contains(who, name) {
					t.Errorf("%s imports %s, which only %s may", name, imp, strings.Join(who, ", "))
				}
			}
		}
	}
}

// Examples are programs as others would write them, with public packages alone, and short.
func TestExamplesOutside(t *testing.T) {
	const maxLines = 25
	found := 0
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !strings.HasPrefix(name, "examples/") {
			continue
		}
		found++
		for _, imp := range p.Imports {
			if strings.Contains(imp, "/internal/") {
				t.Errorf("%s imports %s", name, imp)
			}
		}
		raw, err := os.ReadFile(filepath.Join("..", name, "main.go"))
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
		if lines > maxLines {
			t.Errorf("%s has %d lines of code, want at most %d", name, lines, maxLines)
		}
	}
	if found == 0 {
		t.Error("there are no examples")
	}
}
