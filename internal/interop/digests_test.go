//go:build interop

package interop

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"
)

var (
	digestAgainst = flag.String("against", "", "compare with what this binary writes, in place of testdata/digests.tsv")
	digestSources = flag.String("digest-sources", "", "a directory in which the sources of the digests are, or are made")
	digestOnly    = flag.String("digests", "", "of the digests, only the sources that match this regular expression")
	digestRows    = flag.String("digest-flags", "", "of the digests, only the conversions whose flags match this regular expression")
)

// digestFlags are the conversions of every source.
var digestFlags = [][]string{
	nil,
	{"--type", "fp4", "--block-size", "128"},
	{"--block-size", "32", "--jobs", "3"},
	{"--double-quant=false", "--jobs", "1"},
	{"--block-size", "4096", "--target", "transformers5"},
	{"--quant-storage", "bfloat16", "--target", "transformers5"},
	{"--rule", `down|mlp|out|fc=fp4,block=256,nodq`, "--rule", `q_proj|\.1\.=keep`, "--target", "transformers5"},
	{"--towers", "quantize", "--target", "transformers4", "--moe", "per-expert"},
	{"--target", "vllm", "--moe", "per-expert"},
	{"--dtype", "float16", "--no-error"},
	{"--jobs", "2", "--max-memory", "16MiB"}, // nothing is left for tensors
	{"--jobs", "2", "--max-memory", "16MiB", "--double-quant=false", "--type", "fp4"},
	{"--jobs", "2", "--max-memory", "18MiB", "--max-shard-size", "1MB", "--compute-dtype", "float32"},
	{"--only", `q_proj|\.up|c_fc|query|proj`, "--skip", "layers.0|h.0.attn"},
}

// digestFormats are those of measure SRC.
var digestFormats = [][]string{
	{"--formats", "nf4,fp4,af4,int4,int4-asym,mxfp4,nvfp4,int8,fp8,dynamic8", "--block-sizes", "32,64,4096", "--double-quant", "both"},
	{"--formats", "nf4,int8,nvfp4", "--jobs", "2", "--max-memory", "16MiB"},
	{"--sample", "0.3", "--dtype", "float16"},
	{"--towers", "quantize"},
}

// TestDigests holds everything that the binary writes of many small sources against recorded digests, or with -against
// against what another binary writes. A change that is to change no byte changes none of these:
//
//	go test -tags 'interop families' ./internal/interop -run Digests -against OLD
//
// Without the tag families it is every sixth conversion. With -update and the tag, what was run is recorded: all of it, or what
// -digests and -digest-flags choose.
func TestDigests(t *testing.T) {
	t.Parallel()
	dir := *digestSources
	if dir == "" {
		dir = t.TempDir()
	}
	names := makeDigestSources(t, dir)
	if *digestOnly != "" {
		re := regexp.MustCompile(*digestOnly)
		names = slices.DeleteFunc(names, func(n string) bool { return !re.MatchString(n) })
	} else if len(names) < 40 {
		t.Fatalf("%d sources, want 40 or more", len(names))
	}
	got := digestsOf(t, dir, program, names)
	name := filepath.Join(root, "internal", "interop", "testdata", "digests.tsv")
	var want []string
	switch {
	case *digestAgainst != "":
		want = digestsOf(t, dir, *digestAgainst, names)
	case *update && allFamilies:
		if *digestOnly != "" || *digestRows != "" {
			got = recordedElse(t, name, got)
		}
		if err := os.WriteFile(name, []byte(strings.Join(got, "")), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	default:
		recorded, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, got = recordedHere(t, string(recorded), got)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other bytes are written than before; if that is meant, -update records them, with the tag families (-want +got):\n%s", diff)
	}
}

// recordedElse is the recorded file with the rows of got in their places.
func recordedElse(t *testing.T, name string, got []string) []string {
	t.Helper()
	recorded, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	what := func(line string) string { return line[:strings.LastIndexByte(line, '\t')] }
	now := map[string]string{}
	for _, line := range got {
		now[what(line)] = line
	}
	var out []string
	for line := range strings.Lines(string(recorded)) {
		if n, ok := now[what(line)]; ok {
			line = n
			delete(now, what(line))
		}
		out = append(out, line)
	}
	if len(now) > 0 {
		t.Fatalf("%d rows are not recorded yet: record all", len(now))
	}
	return out
}

// recordedHere leaves of both lists what was run here, of sources that are the recorded ones: torch's random numbers are not
// the same with every instruction set.
func recordedHere(t *testing.T, recorded string, got []string) (want, same []string) {
	t.Helper()
	is := func(line string) (what, source string) {
		what = line[:strings.LastIndexByte(line, '\t')]
		source, _, _ = strings.Cut(what, "\t")
		return what, source
	}
	then := map[string]string{}
	for line := range strings.Lines(recorded) {
		what, _ := is(line)
		then[what] = line
	}
	others := map[string]bool{}
	for _, line := range got {
		if what, source := is(line); what == source+"\tsource" && then[what] != "" && then[what] != line {
			others[source] = true
			t.Logf("%s is made differently on this machine: not compared", source)
		}
	}
	ran := map[string]bool{}
	for _, line := range got {
		if what, source := is(line); !others[source] {
			ran[what] = true
			same = append(same, line)
		}
	}
	if len(same) == 0 {
		t.Skip("all sources are made differently on this machine")
	}
	for line := range strings.Lines(recorded) {
		if what, _ := is(line); ran[what] {
			want = append(want, line)
		}
	}
	return want, same
}

// makeDigestSources makes what digest_sources.py can, where it is not there, and lists it.
func makeDigestSources(t *testing.T, dir string) []string {
	t.Helper()
	type question struct {
		List string `json:"list,omitempty"`
		Name string `json:"name,omitempty"`
		Out  string `json:"out,omitempty"`
	}
	type answer struct {
		Error string   `json:"error"`
		Names []string `json:"names"`
	}
	var names []string
	for _, env := range []environment{t5, t4, diffusers} {
		list := python[question, answer](t, env, "digest_sources.py", []question{{List: env.name}})[0].Names
		names = append(names, list...)
		var cases []question
		for _, n := range list {
			if _, err := os.Stat(filepath.Join(dir, n)); errors.Is(err, fs.ErrNotExist) {
				cases = append(cases, question{Name: n, Out: filepath.Join(dir, n)})
			}
		}
		if len(cases) == 0 {
			continue
		}
		for i, a := range python[question, answer](t, env, "digest_sources.py", cases) {
			if a.Error != "" {
				t.Fatalf("make %s: %s", cases[i].Name, a.Error)
			}
		}
	}
	return names
}

// digestsOf runs a binary over the sources and returns lines "source, what ran, digest".
func digestsOf(t *testing.T, dir, binary string, names []string) []string {
	t.Helper()
	out, err := exec.Command(binary, "version", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "out"), 0o777); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(filepath.Join(dir, "out"))
	lines := make([][]string, len(names))
	written := make([]bool, len(names))
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				d := &digester{binary: binary, dir: dir, source: names[i], version: v.Version}
				d.all(i)
				lines[i], written[i] = d.lines, d.written
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	for i, ok := range written {
		if !ok && allFamilies && !refused[names[i]] && *digestRows == "" {
			t.Errorf("%s: no conversion of it writes anything", names[i])
		}
	}
	return slices.Concat(lines...)
}

// digester runs a binary on one source.
type digester struct {
	binary, dir, source, version string
	lines                        []string
	written                      bool // some conversion went through
}

// refused are the sources that are there to be refused.
var refused = map[string]bool{"bare-large.safetensors": true} // a weight that overflows both run dtypes

func (d *digester) all(index int) {
	out := filepath.Join("out", d.source)
	report := filepath.Join("out", d.source+".report.json")
	defer os.RemoveAll(filepath.Join(d.dir, out))
	d.line("source", d.tree(d.source))
	d.line("inspect", d.run("", "inspect", d.source, "--json"))
	for i, flags := range digestFormats {
		if allFamilies || (i+index)%len(digestFormats) == 0 {
			d.line("measure "+strings.Join(flags, " "), d.run("", append([]string{"measure", d.source, "--json"}, flags...)...))
		}
	}
	rows := regexp.MustCompile(*digestRows)
	for i, flags := range digestFlags {
		if !rows.MatchString(strings.Join(flags, " ")) {
			continue
		}
		if !allFamilies && i > 0 && (i+index)%6 != 0 {
			continue
		}
		d.line("convert --dry-run "+strings.Join(flags, " "), d.run("", append([]string{"convert", d.source, out, "--json", "--dry-run"}, flags...)...))
		args := append([]string{"convert", d.source, out, "--json"}, flags...)
		if !slices.Contains(flags, "--no-error") {
			args = append(args, "--report", report)
		}
		what := strings.Join(flags, " ")
		d.line("convert "+what, d.run(out, args...)+d.file(report))
		if _, err := os.Stat(filepath.Join(d.dir, out)); err == nil {
			d.written = true
			memory := []string{"--jobs", "2", "--max-memory", []string{"16MiB", "512MiB"}[i%2]}
			then := func(args ...string) string { return d.run("", append(args, memory...)...) }
			d.line("verify "+what, then("verify", out, "--source", d.source, "--json"))
			d.line("measure of "+what, then("measure", d.source, out, "--json"))
			plain := out + ".plain"
			d.line("dequantize "+what, d.run(plain, "dequantize", out, plain, "--json", "--dtype", []string{"auto", "float32", "float16"}[i%3]))
			os.RemoveAll(filepath.Join(d.dir, plain))
			if os.Remove(filepath.Join(d.dir, out, "nf4kit.json")) == nil {
				d.line("verify as another's "+what, then("verify", out, "--source", d.source, "--json"))
			}
		}
		os.RemoveAll(filepath.Join(d.dir, out))
		os.Remove(filepath.Join(d.dir, report))
	}
}

func (d *digester) line(what, text string) {
	sum := blake3.Sum256([]byte(text))
	d.lines = append(d.lines, fmt.Sprintf("%s\t%s\t%s\n", d.source, strings.TrimSpace(what), hex.EncodeToString(sum[:12])))
}

// run returns all that a command says and writes below out.
func (d *digester) run(out string, args ...string) string {
	cmd := exec.Command(d.binary, args...)
	cmd.Dir = d.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	text := fmt.Sprintf("%v\n%s\n%s", err, d.steady(stdout.Bytes()), d.steady(stderr.Bytes()))
	if out == "" {
		return text
	}
	return text + d.tree(out)
}

// tree is the names of the files below a path, with their digests.
func (d *digester) tree(out string) string {
	var text string
	_ = filepath.WalkDir(filepath.Join(d.dir, out), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			text += path[len(d.dir):] + d.file(path[len(d.dir):])
		}
		return err
	})
	return text
}

func (d *digester) file(name string) string {
	raw, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		return "none"
	}
	if !strings.HasSuffix(name, ".safetensors") {
		raw = d.steady(raw)
	}
	sum := blake3.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

var (
	tookTime = regexp.MustCompile(`"seconds": [-+.e0-9]+`)
	usage    = regexp.MustCompile(`(?m)^Run 'nf4kit .* for usage\.$`)
	progress = regexp.MustCompile(`(?m)^.*/s, .* left, at .*\n`)
)

// steady leaves out what differs from run to run and from build to build.
func (d *digester) steady(text []byte) []byte {
	text = usage.ReplaceAll(text, []byte("Run 'nf4kit help' or 'nf4kit COMMAND --help' for usage.")) // as on the day of the record
	text = bytes.ReplaceAll(text, []byte("nf4kit "+d.version), []byte("nf4kit VERSION"))
	return progress.ReplaceAll(tookTime.ReplaceAll(text, nil), nil)
}
