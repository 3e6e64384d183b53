//go:build interop

package interop

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fewDefective are the families of TestDefects in a run without the tag families: dense, gated, tied and untied heads, experts,
// encoders, encoder and decoder, convolutions, state spaces, a vision model.
var fewDefective = []string{"llama", "qwen2", "gpt2", "opt", "mixtral", "bert", "t5", "mamba", "vit", "wav2vec2", "llava"}

// minNamed is the share of the defects that transformers sees and convert or verify must name, in percent.
const minNamed = 99

// defectCase is one question to defects.py.
type defectCase struct {
	Family    string `json:"family"`
	Source    string `json:"source"`
	Out       string `json:"out"`
	Seed      int    `json:"seed"`
	Count     int    `json:"count"`
	Variants  bool   `json:"variants"`
	OnlySound bool   `json:"only_sound"`

	args []string // of the command that has to judge the copies; DIR is the copy
}

type defectAnswer struct {
	Error    string       `json:"error"`
	Sound    string       `json:"sound"`
	Defects  []defectCopy `json:"defects"`
	Variants []defectCopy `json:"variants"`
}

type defectCopy struct {
	Dir  string `json:"dir"`
	What string `json:"what"`
	Seen string `json:"seen"`
}

// names are those of the tensors or lists of layers that a defect is about.
func (d defectCopy) names() []string {
	words := strings.Fields(d.What)
	for i, w := range words {
		w = strings.TrimSuffix(w, ".")
		if words[0] == "lose" && i > 0 {
			w = w[:strings.LastIndexByte(w, '.')]
		}
		words[i] = w
	}
	return words[1:]
}

// judge runs the case's command on a checkpoint and returns its exit code and all it said.
func (c defectCase) judge(t *testing.T, dir string) (int, string) {
	t.Helper()
	args := slices.Clone(c.args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	out, err := runBinary(t, args...)
	if err == nil {
		return 0, out
	}
	if strings.Contains(err.Error(), nothing) {
		return 0, err.Error()
	}
	exit := &exec.ExitError{}
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode(), err.Error()
}

var (
	judgeSource  = []string{"convert", "DIR", "DIR-out", "--dry-run", "--no-error"}
	judgeWritten = []string{"verify", "DIR", "--headers-only", "--target", "transformers5"}
)

// TestDefects: a sound checkpoint of each family passes convert and verify, whether 5.23 or 4.57 saved it and in the variants in which
// people publish it; of those that defects.py breaks, each that transformers' report of loading tells of is named. With the
// build tag families it is all families, with ten defects of each source and of each conversion:
//
//	go test -tags 'interop families' -timeout 90m ./internal/interop -run Defects -v
//
// and with -families of some of them.
func TestDefects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	families, count := fewDefective, 5
	if allFamilies {
		families, count = python[familySource, familySourceAnswer](t, t5, "families_models.py", []familySource{{List: true}})[0].Families, 10
	}
	if *only != "" {
		re := regexp.MustCompile(*only)
		families, count = slices.DeleteFunc(slices.Clone(families), func(f string) bool { return !re.MatchString(f) }), 10
	}
	var cases []defectCase
	for _, env := range environments {
		var sources []familySource
		for _, f := range families {
			sources = append(sources, familySource{Family: f, Out: filepath.Join(dir, env.name, f)})
		}
		for i, a := range python[familySource, familySourceAnswer](t, env, "families_models.py", sources) {
			if a.Error != "" || a.Absent != "" {
				t.Logf("%s cannot make %s: %s", env, families[i], lastLine(a.Error+a.Absent))
				continue
			}
			src := defectCase{Family: families[i], Source: sources[i].Out, Count: count, args: judgeSource, Variants: env == t5, OnlySound: env == t4}
			cases = append(cases, src)
			if env == t4 {
				continue
			}
			dst := src
			dst.Source, dst.Seed, dst.Variants, dst.args = src.Source+"-nf4", 1, false, judgeWritten
			if out, err := runBinary(t, "convert", src.Source, dst.Source, "--no-error", "-q"); err != nil {
				if !strings.Contains(err.Error(), nothing) {
					t.Errorf("%s: a sound source is refused: %v\n%s", src.Family, err, out)
				}
				continue
			}
			cases = append(cases, dst)
		}
	}
	for i := range cases {
		cases[i].Out = fmt.Sprintf("%s-copies-%d", cases[i].Source, i)
		if err := os.Mkdir(cases[i].Out, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n := defectCounts{}
	for i, a := range python[defectCase, defectAnswer](t, t5, "defects.py", cases) {
		n.count(t, cases[i], a)
	}
	n.assert(t, len(families))
}

// defectCounts are what TestDefects asserts.
type defectCounts struct {
	sound4, sound5, variants, unsound int
	made, seen, named                 int
	families                          map[string][2]int // seen and named
}

func (n *defectCounts) count(t *testing.T, c defectCase, a defectAnswer) {
	t.Helper()
	if a.Error != "" {
		t.Errorf("%s: %s", c.Source, lastLine(a.Error))
		return
	}
	if a.Sound != "" {
		// What 4.57 saved is none of ours, and not all of it loads in 5.x.
		if !c.OnlySound {
			t.Errorf("%s: transformers does not find it sound: %s", c.Source, a.Sound)
		}
		n.unsound++
		return
	}
	if code, out := c.judge(t, c.Source); code != 0 {
		t.Errorf("%s: a sound checkpoint is refused: %s", c.Source, out)
	}
	if c.OnlySound {
		n.sound4++
	} else {
		n.sound5++
	}
	for _, v := range a.Variants {
		if v.Seen != "" {
			continue
		}
		n.variants++
		if code, out := c.judge(t, v.Dir); code != 0 {
			t.Errorf("%s, %s: a sound variant is refused: %s", c.Family, v.What, out)
		}
	}
	for _, d := range a.Defects {
		n.made++
		if d.Seen == "" {
			continue
		}
		n.seen++
		code, out := c.judge(t, d.Dir)
		named := (code == 3 || code == 4) && slices.ContainsFunc(d.names(), func(name string) bool { return strings.Contains(out, name) })
		if named {
			n.named++
		} else {
			t.Logf("%s of %s, %s: exit %d, not named; transformers says %s", c.args[0], c.Family, d.What, code, d.Seen)
		}
		n.of(c.Family, named)
	}
}

func (n *defectCounts) of(family string, named bool) {
	if n.families == nil {
		n.families = map[string][2]int{}
	}
	f := n.families[family]
	f[0]++
	if named {
		f[1]++
	}
	n.families[family] = f
}

func (n *defectCounts) assert(t *testing.T, families int) {
	t.Helper()
	t.Logf("%d families: %d sound checkpoints of 5.23, %d of 4.57 (%d that 5.23 does not load whole), %d sound variants; %d defects, %d seen by transformers, %d of those named",
		families, n.sound5, n.sound4, n.unsound, n.variants, n.made, n.seen, n.named)
	if n.seen < 5*families || n.named*100 < minNamed*n.seen {
		t.Errorf("%d of %d defects named, want %d%% of at least %d", n.named, n.seen, minNamed, 5*families)
	}
	for f, k := range n.families {
		if 10*k[1] < 9*k[0] {
			t.Errorf("%s: %d of %d defects named", f, k[1], k[0])
		}
	}
	if allFamilies && *only == "" && (n.sound5 < 120 || n.sound4 < 60) {
		t.Errorf("%d and %d sound checkpoints, want 120 of 5.23 and 60 of 4.57", n.sound5, n.sound4)
	}
	if n.variants < 2*families {
		t.Errorf("%d sound variants, want %d", n.variants, 2*families)
	}
}
