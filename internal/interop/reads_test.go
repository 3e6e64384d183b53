//go:build interop

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fewReads are the models of reads.py that every run tests: a weight in a product, and one in torch's own attention. Packed, as
// BitsAndBytesConfig packs them, none of them runs.
var fewReads = []string{"mamba", "wavlm"}

// readsCase is one question to reads.py.
type readsCase struct {
	List      bool   `json:"list,omitempty"`
	Model     string `json:"model,omitempty"`
	Out       string `json:"out,omitempty"`
	Source    string `json:"source,omitempty"`
	Converted string `json:"converted,omitempty"`
}

type readsAnswer struct {
	Error  string   `json:"error"`
	Models []string `json:"models"`
	Absent string   `json:"absent"`
	Types  []string `json:"types"`
	Fails  string   `json:"fails"`
	Finite bool     `json:"finite"`

	SourceFails string `json:"source_fails"`
}

// outcome says whether the model runs, and why not.
func (a readsAnswer) outcome() string {
	switch {
	case a.Error != "":
		return knownFailure + lastLine(a.Error)
	case a.Absent != "":
		return cannotMake + a.Absent
	case a.SourceFails != "":
		return cannotLoad + "nor its source: " + a.SourceFails
	case a.Fails != "":
		return knownFailure + a.Fails
	case !a.Finite:
		return knownFailure + "its output is not finite"
	}
	return readsRuns
}

const readsRuns = "runs"

// TestReads: the types in arch's data/reads.txt, whose code reads the weight of some Linear itself, run in 5.x as convert
// writes them by default, but for those of which no small model can be made, with the reason in testdata/reads.tsv.
//
// With the build tag families it is all of reads.py, without it fewReads:
//
//	go test -tags 'interop families' -timeout 40m ./internal/interop -run Reads
func TestReads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := fewReads
	if allFamilies {
		names = python[readsCase, readsAnswer](t, t5, "reads.py", []readsCase{{List: true}})[0].Models
	}
	var sources, packed []readsCase
	for _, n := range names {
		sources = append(sources, readsCase{Model: n, Out: filepath.Join(dir, n)})
	}
	rows := map[string]string{}
	types := map[string][]string{}
	for i, a := range python[readsCase, readsAnswer](t, t5, "reads.py", sources) {
		n, source := names[i], sources[i].Out
		types[n] = a.Types
		if a.Error+a.Absent+a.Fails != "" {
			rows[n] = cannotMake + lastLine(a.Error+a.Absent+a.Fails)
			continue
		}
		c, err := convertFamily(t, n, source, []string{"--target", "transformers5"})
		if err != nil {
			rows[n] = convertOutcome(err)
			continue
		}
		packed = append(packed, readsCase{Model: n, Source: source, Converted: c.Converted})
		if slices.Contains(fewReads, n) {
			c, err := convertFamily(t, n, source, exactFlags(t5))
			if err != nil {
				t.Fatal(err)
			}
			packed = append(packed, readsCase{Model: n, Source: source, Converted: c.Converted})
		}
	}
	for i, a := range python[readsCase, readsAnswer](t, t5, "reads.py", packed) {
		n, outcome := packed[i].Model, a.outcome()
		if rows[n] == "" {
			rows[n] = outcome
		} else if outcome == readsRuns {
			t.Errorf("%s runs with --as-bitsandbytes: it is no model to test with", n)
		}
	}
	checkReads(t, rows, types)
}

// newer are types of reads.txt that the environment's 5.x does not have yet.
var newer = []string{"hy_v4_vl", "hy_v4_vl_text", "inkling2_loop", "inkling2_loop_text"}

// checkReads compares the outcomes with testdata/reads.tsv, or records them, and with the tag families holds them to reads.txt: each of its
// types is in a model that runs, or in one that cannot be made.
func checkReads(t *testing.T, rows map[string]string, types map[string][]string) {
	t.Helper()
	var lines []string
	covered := map[string]bool{}
	for n, outcome := range rows {
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s\n", n, strings.Join(types[n], " "), outcome))
		for _, typ := range append(types[n], n) {
			covered[typ] = true
		}
		if strings.HasPrefix(outcome, knownFailure) {
			t.Errorf("%s: %s", n, outcome)
		}
	}
	slices.Sort(lines)
	file := filepath.Join(root, "internal", "interop", "testdata", "reads.tsv")
	if *update && allFamilies {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	recorded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(recorded)) {
		if name, _, _ := strings.Cut(line, "\t"); rows[name] != "" || allFamilies {
			want = append(want, line)
		}
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("outcomes differ from testdata/reads.tsv; -update with the tag families writes it (-want +got):\n%s", diff)
	}
	if !allFamilies {
		return
	}
	data, err := os.ReadFile(filepath.Join(root, "internal", "arch", "data", "reads.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if typ, _, _ := strings.Cut(line, " "); typ != "#" && !covered[typ] && !slices.Contains(newer, typ) {
			t.Errorf("%s is in no model of reads.py", typ)
		}
	}
}
