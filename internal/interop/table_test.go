//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTable has check.py compare the table of package arch with the installed transformers: class by class on the meta device,
// the tensors that arch quantizes with the modules that transformers' quantizer replaces, without a skip list and with ours.
// Every run checks an eighth of the model types, by their base model and one class with a head; with the build tag families it is
// all types and classes, with each boolean of their configs flipped, some 20 minutes a version.
func TestTable(t *testing.T) {
	t.Parallel()
	gen := filepath.Join(root, "internal", "arch", "gen")
	classify := buildClassify(t)
	for _, env := range environments {
		t.Run(env.String(), func(t *testing.T) {
			t.Parallel()
			args := []string{filepath.Join(gen, "check.py"), classify}
			if !allFamilies {
				args = append(args, "--few")
			}
			cmd := exec.CommandContext(t.Context(), env.python(), args...)
			cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1", "TORCHDYNAMO_DISABLE=1")
			checkReport(t, cmd)
		})
	}
}

// buildClassify builds the program that the generators' checks ask.
func buildClassify(t *testing.T) string {
	t.Helper()
	classify := filepath.Join(t.TempDir(), "classify")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", classify, "./classify")
	build.Dir = filepath.Join(root, "internal", "arch", "gen")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build classify: %v\n%s", err, out)
	}
	return classify
}

// checkReport runs a check, which must find something to compare and no difference.
func checkReport(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.Output()
	report := strings.TrimSpace(string(out))
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	last := report[strings.LastIndexByte(report, '\n')+1:]
	if !strings.HasSuffix(last, " 0 differences") || strings.Contains(last, " 0 variants") {
		t.Errorf("last line %q", last)
	}
	t.Log(last)
}
