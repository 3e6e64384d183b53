//go:build interop

package interop

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	update = flag.Bool("update", false, "write testdata/families.tsv in place of comparing with it; of the architectures not asked for, the rows stay")
	only   = flag.String("families", "", "with this regular expression, show the outcomes of these architectures alone")
)

// minFamilies is how many architectures have to load and match in each version of transformers.
var minFamilies = map[environment]int{t5: 60, t4: 25}

// exactFlags ask for the set of one version of transformers to the last module.
func exactFlags(env environment) []string {
	if env == t4 {
		return []string{"--target", "transformers4", "--as-bitsandbytes", "--moe", "per-expert"}
	}
	return []string{"--target", "transformers5", "--as-bitsandbytes"}
}

// familySource asks families_models.py for a checkpoint.
type familySource struct {
	List   bool   `json:"list,omitempty"`
	Family string `json:"family"`
	Out    string `json:"out"`
}

type familySourceAnswer struct {
	Error    string   `json:"error"`
	Absent   string   `json:"absent"`
	Families []string `json:"families"`
}

// familyCase is one question to families.py.
type familyCase struct {
	Family    string `json:"family"`
	Source    string `json:"source"`
	Converted string `json:"converted"`

	saved environment
	in5   bool // 5.x has the class
	flags []string
	plan  planJSON
}

type familyAnswer struct {
	compareAnswer
	Kept                []string `json:"kept"`
	Extra               []string `json:"extra"`
	Split               []string `json:"split"`
	Stateless           []string `json:"stateless"`
	SourceLoading       loading  `json:"source_loading"`
	ReferenceUnloadable string   `json:"reference_unloadable"`
	OursUnloadable      string   `json:"ours_unloadable"`
	OwnFails            string   `json:"own_fails"`
	ReferenceFails      string   `json:"reference_fails"`
	OursFails           string   `json:"ours_fails"`
	SourceFails         string   `json:"source_fails"`
}

// planJSON is what convert --json says of the tensors.
type planJSON struct {
	Tensors []struct {
		Name      string `json:"name"`
		Quantized bool   `json:"quantized"`
		Why       string `json:"kept_because"`
	} `json:"tensors"`
}

func (p planJSON) quantized() []string {
	var out []string
	for _, t := range p.Tensors {
		if t.Quantized {
			out = append(out, t.Name)
		}
	}
	return out
}

// why says why the module is kept. Its tensor is the one whose name has the longest end in common with the module's path.
func (p planJSON) why(module string) string {
	parts := strings.Split(module, ".")
	best, reason := 0, "unknown"
	for _, t := range p.Tensors {
		name := strings.Split(strings.TrimSuffix(t.Name, ".weight"), ".")
		n := 0
		for n < min(len(parts), len(name)) && parts[len(parts)-1-n] == name[len(name)-1-n] {
			n++
		}
		if n > best && t.Why != "" {
			best, reason = n, t.Why
		}
	}
	return reason
}

// familyRow is a line of testdata/families.tsv.
type familyRow struct {
	family, saved, loaded, flags string
	quantized                    int
	outcome, kept                string
}

const familyHeader = "family\tsaved by\tloaded in\tflags\tquantized\toutcome\tquantized by transformers and kept here: why\n"

func (r familyRow) String() string {
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.family, r.saved, r.loaded, r.flags, r.quantized, r.outcome, r.kept)
}

// TestArchitectures converts small models of many architectures, saved by either version of transformers. Each loads in the
// version that saved it, what 4.57 saved in 5.x too, and of crossFamilies the other way round, and must be what bitsandbytes makes of the same source there:
// the same modules, but for those kept for a reason, the same codes and states, the same output. Where the default keeps
// modules, the set of that one version is asked for too, and has to be the same to the last module. Dequantized again, each has
// the names and shapes of its source.
//
// With the build tag families it does so for all of families_models.py, in some four minutes, else for those of fewFamilies:
//
//	go test -tags 'interop families' -timeout 40m ./internal/interop -run Architectures
func TestArchitectures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	families := python[familySource, familySourceAnswer](t, t5, "families_models.py", []familySource{{List: true}})[0].Families
	whole := allFamilies && *only == ""
	if *only != "" {
		re := regexp.MustCompile(*only)
		families = slices.DeleteFunc(families, func(f string) bool { return !re.MatchString(f) })
	} else if !allFamilies {
		families = fewFamilies
	}
	made := map[environment][]familySourceAnswer{}
	t.Run("make", func(t *testing.T) {
		answers := map[environment]*[]familySourceAnswer{t5: new([]familySourceAnswer), t4: new([]familySourceAnswer)}
		t.Run("all", func(t *testing.T) {
			for _, env := range environments {
				t.Run(env.name, func(t *testing.T) {
					t.Parallel()
					var cases []familySource
					for _, f := range families {
						cases = append(cases, familySource{Family: f, Out: filepath.Join(dir, env.name, f)})
					}
					*answers[env] = python[familySource, familySourceAnswer](t, env, "families_models.py", cases)
				})
			}
		})
		for env, a := range answers {
			made[env] = *a
		}
	})
	if t.Failed() {
		return
	}
	var rows []familyRow
	var converted []familyCase
	cases := map[environment][]familyCase{}
	for i, f := range families {
		for _, env := range environments {
			a := made[env][i]
			r := familyRow{family: f, saved: env.name, loaded: env.name}
			if a.Error != "" || a.Absent != "" {
				reason, _, _ := strings.Cut(lastLine(a.Error+a.Absent), " [{") // a set of names, in any order
				r.outcome = cannotMake + reason
				rows = append(rows, r)
				continue
			}
			source := filepath.Join(dir, env.name, f)
			usual, err := convertFamily(t, f, source, nil)
			usual.saved, usual.in5 = env, made[t5][i].Absent == ""
			if err != nil {
				r.outcome = convertOutcome(err)
				rows = append(rows, r)
			} else {
				cases[env], converted = append(cases[env], usual), append(converted, usual)
				if env == t4 && usual.in5 {
					cases[t5] = append(cases[t5], usual)
				}
				if env == t5 && slices.Contains(crossFamilies, f) {
					cases[t4] = append(cases[t4], usual)
				}
			}
			exact, err := convertFamily(t, f, source, exactFlags(env))
			exact.saved = env
			switch {
			case err != nil:
				r.flags, r.outcome = strings.Join(exactFlags(env), " "), convertOutcome(err)
				rows = append(rows, r)
			case !slices.Equal(exact.plan.quantized(), usual.plan.quantized()):
				cases[env], converted = append(cases[env], exact), append(converted, exact)
			}
		}
	}
	t.Run("dequantize", func(t *testing.T) { checkRestored(t, converted) })
	answers := map[environment]*[]familyAnswer{t5: new([]familyAnswer), t4: new([]familyAnswer)}
	t.Run("load", func(t *testing.T) {
		for _, env := range environments {
			t.Run(env.name, func(t *testing.T) {
				t.Parallel()
				*answers[env] = python[familyCase, familyAnswer](t, env, "families.py", cases[env])
			})
		}
	})
	if t.Failed() {
		return
	}
	for _, env := range environments {
		good := map[string]bool{}
		for i, c := range cases[env] {
			a := (*answers[env])[i]
			r := familyRow{family: c.Family, saved: c.saved.name, loaded: env.name, flags: strings.Join(c.flags, " "), quantized: len(a.Quantized)}
			// 4.57 loads the default set, 5.x's, which the row of 5.x compares.
			r.outcome, r.kept = a.outcome(env == t4 && c.flags == nil && c.in5), a.keptText(c.plan)
			if strings.HasSuffix(r.outcome, sameOutput) && c.flags == nil {
				good[c.Family] = true
			}
			rows = append(rows, r)
		}
		if len(good) < minFamilies[env] && whole {
			t.Errorf("%s: %d architectures load and match, want at least %d", env, len(good), minFamilies[env])
		}
		t.Logf("%s: %d architectures load and match", env, len(good))
	}
	checkExceptions(t, rows, whole)
	recordFamilies(t, rows, whole)
}

// recordFamilies compares the rows with those recorded, or records them.
func recordFamilies(t *testing.T, rows []familyRow, whole bool) {
	t.Helper()
	var lines []string
	families := map[string]bool{}
	for _, r := range rows {
		lines = append(lines, r.String())
		families[r.family] = true
	}
	slices.Sort(lines)
	if *only != "" {
		t.Log("\n" + strings.Join(lines, ""))
	}
	name := filepath.Join(root, "internal", "interop", "testdata", "families.tsv")
	recorded, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var want, others []string
	for line := range strings.Lines(string(recorded)) {
		family, _, _ := strings.Cut(line, "\t")
		switch {
		case line == familyHeader:
		case whole || families[family]:
			want = append(want, line)
		default:
			others = append(others, line)
		}
	}
	if *update {
		lines = append(lines, others...)
		slices.Sort(lines)
		if err := os.WriteFile(name, []byte(familyHeader+strings.Join(lines, "")), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("outcomes differ from testdata/families.tsv; -update writes it (-want +got):\n%s", diff)
	}
}

// convertFamily converts a source with the flags into a new directory.
func convertFamily(t *testing.T, family, source string, flags []string) (familyCase, error) {
	t.Helper()
	c := familyCase{Family: family, Source: source, Converted: filepath.Join(t.TempDir(), "converted"), flags: flags}
	out, err := runBinary(t, append([]string{"convert", source, c.Converted, "--double-quant=false", "--no-error", "--json", "-q"}, flags...)...)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(out), &c.plan); err != nil {
		t.Fatalf("%s: summary: %v", source, err)
	}
	return c, nil
}

// convertOutcome is the outcome of a source that nf4kit refuses.
func convertOutcome(err error) string {
	text := err.Error()
	var refusal struct {
		Error string `json:"error"`
	}
	if i := strings.IndexByte(text, '{'); i >= 0 && json.NewDecoder(strings.NewReader(text[i:])).Decode(&refusal) == nil {
		text = refusal.Error
	}
	if i := strings.Index(text, nothing); i >= 0 {
		return text[i:]
	}
	return knownFailure + "convert: " + lastLine(text)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// Parts of outcomes.
const (
	knownFailure = "FAILS: "
	cannotMake   = "cannot be made: "
	cannotLoad   = "transformers cannot load it: "
	cannotRun    = "; transformers cannot run it"
	sameOutput   = ", same output"
	nothing      = "nothing to quantize"
)

// needsException reports whether the outcome is short of a model that loads, matches and runs. A version without the class is not.
func needsException(outcome string) bool {
	return strings.HasPrefix(outcome, knownFailure) || strings.HasPrefix(outcome, cannotLoad) || strings.HasPrefix(outcome, nothing) ||
		strings.Contains(outcome, cannotRun) || strings.HasPrefix(outcome, cannotMake) && !strings.Contains(outcome, "no class ")
}

// outcome says how the checkpoint compares. With wider, the loading version does not decide the set alone: what it does not
// quantize by itself may be packed.
func (a familyAnswer) outcome(wider bool) string {
	switch {
	case a.Error != "":
		return knownFailure + lastLine(a.Error)
	case a.OursUnloadable != "" && a.ReferenceUnloadable != "":
		return cannotLoad + a.ReferenceUnloadable
	case a.OursUnloadable != "" && a.OwnFails != "":
		return cannotLoad + "nor what it saved itself: " + a.OwnFails
	case a.OursUnloadable != "":
		return knownFailure + a.OursUnloadable
	case a.ReferenceUnloadable != "":
		return knownFailure + "only the reference cannot be loaded: " + a.ReferenceUnloadable
	case len(a.Stateless) > 0 && a.OwnFails != "":
		return cannotLoad + "nor what it saved itself: " + a.OwnFails
	case len(a.Loading.Missing) > 0 && slices.Equal(a.Loading.Missing, a.SourceLoading.Missing):
		return cannotLoad + "nor its source, missing keys: " + strings.Join(namePatterns(a.Loading.Missing), " ")
	}
	extra := a.Extra
	if wider {
		extra = nil
	}
	for _, e := range []struct {
		what  string
		names []string
	}{
		{"missing keys", a.Loading.Missing},
		{"unexpected keys", a.Loading.Unexpected},
		{"mismatched keys", a.Loading.Mismatched},
		{"Linear4bit modules without quant_state", a.Stateless},
		{"transformers does not quantize", extra},
		{"its own skip list does not give the set", symmetricDifference(a.Quantized, a.ReferenceQuantized)},
		{"codes differ", a.CodesDiffer},
		{"absmax differs", a.AbsmaxDiffer},
		{"states differ", a.StateDiffer},
		{"kept tensors differ", a.RestDiffers},
	} {
		if len(e.names) > 0 {
			return knownFailure + e.what + ": " + strings.Join(namePatterns(e.names), " ")
		}
	}
	set := "same set"
	switch {
	case len(a.Kept) > 0 && len(a.Extra) > 0:
		set = "same but for those kept and for " + strings.Join(namePatterns(a.Extra), " ") + ", which 5.x quantizes"
	case len(a.Kept) > 0:
		set = "same but for those kept"
	case len(a.Extra) > 0:
		set = "same but for " + strings.Join(namePatterns(a.Extra), " ") + ", which 5.x quantizes"
	}
	if len(a.Split) > 0 {
		set += ", and the experts"
	}
	switch {
	case a.ReferenceFails != "" && a.OursFails != "" && a.SourceFails != "":
		return set + cannotRun + ", nor its source in bfloat16: " + a.SourceFails
	case a.ReferenceFails != "" && a.OursFails != "":
		return set + cannotRun + " in 4 bits: " + a.ReferenceFails
	case a.ReferenceFails != "":
		return knownFailure + "only the reference fails: " + a.ReferenceFails
	case a.OursFails != "":
		return knownFailure + "forward: " + a.OursFails
	case !a.Finite:
		return knownFailure + "output is not finite"
	case !a.LogitsEqual:
		return knownFailure + fmt.Sprintf("output differs by %.1e", a.LogitsRelative)
	}
	return set + sameOutput
}

// keptText lists the patterns of the kept modules by reason.
func (a familyAnswer) keptText(plan planJSON) string {
	by := map[string][]string{}
	var reasons []string
	for _, m := range a.Kept {
		why := plan.why(m)
		if by[why] == nil {
			reasons = append(reasons, why)
		}
		by[why] = append(by[why], m)
	}
	slices.Sort(reasons)
	for i, why := range reasons {
		reasons[i] = strings.Join(namePatterns(by[why]), " ") + ": " + why
	}
	return strings.Join(reasons, "; ")
}

func symmetricDifference(a, b []string) []string {
	var out []string
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	for _, x := range b {
		if !slices.Contains(a, x) {
			out = append(out, x)
		}
	}
	return out
}

var number = regexp.MustCompile(`[0-9]+`)

// component matches one that is a number, or ends in one after an underscore.
var component = regexp.MustCompile(`(^|[._])[0-9]+(\.|$)`)

// namePatterns writes "#" for the numbers in the names, and each pattern once.
func namePatterns(names []string) []string {
	var out []string
	for _, n := range names {
		for component.MatchString(n) {
			n = component.ReplaceAllStringFunc(n, func(s string) string { return number.ReplaceAllString(s, "#") })
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
