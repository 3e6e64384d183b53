//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// writtenFamilies are those of families_models.py whose checkpoints transformers writes in TestVerifyWritten; fewWritten are
// those of a run without the tag families.
var (
	writtenFamilies = []string{"llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "opt", "gpt2", "gpt_neox", "bloom", "mixtral",
		"qwen3_moe", "deepseek_v3", "ernie4_5_moe", "gpt_oss", "mamba", "bert", "roberta", "t5", "bart", "whisper", "llava", "gemma3",
		"qwen2_vl", "llama-classifier", "falcon", "stablelm", "cohere", "mamba2", "nemotron_h"}
	fewWritten = []string{"llama", "gpt2"}
)

// writtenCase is one question to written.py.
type writtenCase struct {
	Family      string `json:"family"`
	Source      string `json:"source,omitempty"`
	Out         string `json:"out"`
	DType       string `json:"dtype"`
	Type        string `json:"type"`
	DoubleQuant bool   `json:"double_quant"`
	Shard       string `json:"shard"`
	Reference   string `json:"reference"`

	saved  environment
	source string
}

func (c writtenCase) String() string {
	return fmt.Sprintf("%s-%s-%s-dq=%v-%s-%s", c.Family, c.saved.name, c.Type, c.DoubleQuant, c.DType, c.Shard)
}

type writtenAnswer struct {
	Error       string   `json:"error"`
	Nothing     bool     `json:"nothing"`
	Unloadable  string   `json:"unloadable"`
	Loading     loading  `json:"loading"`
	Stateless   []string `json:"stateless"`
	Fails       string   `json:"fails"`
	SourceFails string   `json:"source_fails"`
	Equal       bool     `json:"equal"`
	Relative    float64  `json:"relative"`
}

// why says why the version does not run the checkpoint, "" if it does. Where the source does not run either, it has to load.
func (a writtenAnswer) why(write writtenAnswer) string {
	switch {
	case a.Unloadable != "":
		return a.Unloadable
	case len(a.Loading.Missing)+len(a.Loading.Unexpected)+len(a.Loading.Mismatched) > 0:
		return fmt.Sprintf("keys: %+v", a.Loading)
	case len(a.Stateless) > 0:
		return "no quant_state: " + a.Stateless[0]
	case write.SourceFails != "":
		return ""
	case a.Fails != "":
		return a.Fails
	case write.Fails == "" && a.Relative > 0.05:
		return fmt.Sprintf("its output is off by %.2g", a.Relative)
	}
	return ""
}

// writtenVariants are the ways to write one family, in a design that has each pair of settings of type, double quantization, shard size
// and dtype: six in place of 24; or four that have each setting.
func writtenVariants() []writtenCase {
	if !allFamilies {
		return []writtenCase{
			{Type: "nf4", DoubleQuant: true, DType: "bfloat16"},
			{Type: "fp4", DType: "bfloat16", Shard: "40KB"},
			{Type: "nf4", DType: "float16"},
			{Type: "fp4", DoubleQuant: true, DType: "float32", Shard: "40KB"},
		}
	}
	return []writtenCase{
		{Type: "nf4", DoubleQuant: true, DType: "bfloat16"},
		{Type: "fp4", DType: "bfloat16", Shard: "40KB"},
		{Type: "nf4", DType: "float16", Shard: "40KB"},
		{Type: "fp4", DoubleQuant: true, DType: "float16"},
		{Type: "nf4", DoubleQuant: true, DType: "float32", Shard: "40KB"},
		{Type: "fp4", DType: "float32"},
	}
}

// verification is what verify --json says.
type verification struct {
	OK       bool     `json:"ok"`
	Targets  []string `json:"targets"`
	Serves   []string `json:"serves"`
	Findings []struct {
		Severity, File, Tensor, Text string
	} `json:"findings"`
	Source struct {
		WrongCodes     int64 `json:"wrong_codes"`
		WrongConstants int64 `json:"wrong_constants"`
		WrongPlain     int64 `json:"wrong_plain_tensors"`
		Unproven       int   `json:"tensors_without_counterpart"`
	} `json:"source"`
}

func (v verification) severe() string {
	var out []string
	for _, f := range v.Findings {
		if f.Severity != "notice" {
			out = append(out, fmt.Sprintf("%s: %s: %s: %s", f.Severity, f.File, f.Tensor, f.Text))
		}
	}
	return strings.Join(out[:min(len(out), 4)], "\n\t")
}

// verifyJSON runs verify --json, which exits with 4 where a check is not met.
func verifyJSON(t *testing.T, args ...string) verification {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, append([]string{"verify", "--json"}, args...)...).Output()
	var v verification
	if json.NewDecoder(bytes.NewReader(out)).Decode(&v) != nil { // the error follows, as another value
		t.Fatalf("nf4kit verify %v: %v\n%s", args, err, out)
	}
	return v
}

// TestVerifyWritten: of what transformers and bitsandbytes quantize and write themselves, verify says for each of the two
// versions whether it runs it, and --source proves it. bitsandbytes is as it is installed, with its coarse lookup.
//
// With the build tag families it does so for all of writtenFamilies and the six variants that have every pair of settings, without it for
// two families and four:
//
//	go test -tags 'interop families' -timeout 90m ./internal/interop -run VerifyWritten -v
func TestVerifyWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	families := fewWritten
	if allFamilies {
		families = writtenFamilies
	}
	if *only != "" {
		re := regexp.MustCompile(*only)
		families = slices.DeleteFunc(slices.Clone(writtenFamilies), func(f string) bool { return !re.MatchString(f) })
	}
	var cases []writtenCase
	var wrote []writtenAnswer
	for _, env := range stock {
		var sources []familySource
		for _, f := range families {
			sources = append(sources, familySource{Family: f, Out: filepath.Join(dir, env.name, f)})
		}
		var list []writtenCase
		for i, a := range python[familySource, familySourceAnswer](t, env, "families_models.py", sources) {
			if a.Error != "" || a.Absent != "" {
				t.Logf("%s cannot make %s: %s", env.name, families[i], lastLine(a.Error+a.Absent))
				continue
			}
			for k, c := range writtenVariants() {
				c.Family, c.Source, c.saved, c.source = families[i], sources[i].Out, env, sources[i].Out
				c.Out = fmt.Sprintf("%s-%d", c.Source, k)
				c.Reference = c.Out + ".pt"
				list = append(list, c)
			}
		}
		for i, a := range python[writtenCase, writtenAnswer](t, env, "written.py", list) {
			if a.Error != "" {
				t.Logf("%s: transformers cannot write it: %s", list[i], lastLine(a.Error))
			} else if !a.Nothing {
				cases, wrote = append(cases, list[i]), append(wrote, a)
			}
		}
	}
	loads := map[string][]writtenAnswer{}
	for _, env := range stock {
		questions := slices.Clone(cases)
		for i := range questions {
			questions[i].Source = ""
		}
		loads[env.name] = python[writtenCase, writtenAnswer](t, env, "written.py", questions)
	}
	served, proved := 0, 0
	for i, c := range cases {
		v := verifyJSON(t, c.Out, "--source", c.source, "--target", "transformers5", "--target", "transformers4")
		for _, env := range stock {
			target := "transformers" + env.name[1:]
			says, why := slices.Contains(v.Serves, target), loads[env.name][i].why(wrote[i])
			if says != (why == "") {
				t.Errorf("%s: verify says ok for %s: %v; there: %q\n\t%s", c, target, says, why, v.severe())
			} else if says {
				served++
			}
		}
		if s := v.Source; s.WrongCodes+s.WrongConstants+s.WrongPlain != 0 || s.Unproven != 0 {
			t.Errorf("%s: not proven: %+v\n\t%s", c, s, v.severe())
		} else {
			proved++
		}
	}
	t.Logf("%d checkpoints of %d families, %d proven; %d times one that a version runs", len(cases), len(families), proved, served)
}
