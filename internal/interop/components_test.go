//go:build interop

package interop

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// componentCase is one question to components.py.
type componentCase struct {
	List         bool     `json:"list,omitempty"`
	Model        string   `json:"model"`
	Out          string   `json:"out,omitempty"`
	MaxShardSize string   `json:"max_shard_size,omitempty"`
	Source       string   `json:"source,omitempty"`
	Converted    string   `json:"converted,omitempty"`
	DoubleQuant  bool     `json:"double_quant"`
	Skip         []string `json:"skip"`

	name string
}

type componentAnswer struct {
	compareAnswer
	Names []string `json:"names"`
	Class string   `json:"class"`
}

// TestComponents has diffusers load what was made of its models: the transformers, UNets, autoencoders and ControlNets of pipelines.
func TestComponents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := python[componentCase, componentAnswer](t, diffusers, "components.py", []componentCase{{List: true}})[0]
	if list.Error != "" {
		t.Fatal(list.Error)
	}
	var sources, cases []componentCase
	for i, name := range list.Names {
		c := componentCase{Model: name, Out: filepath.Join(dir, name), MaxShardSize: "10GB"}
		if i%3 == 0 && !strings.HasSuffix(name, "-old") {
			c.MaxShardSize = "60KB"
		}
		sources = append(sources, c)
	}
	for i, a := range python[componentCase, componentAnswer](t, diffusers, "components.py", sources) {
		if a.Error != "" {
			t.Fatalf("make %s: %s", sources[i].Model, a.Error)
		}
	}
	add := func(model string, double bool, flags ...string) {
		c := componentCase{name: strings.Join(append([]string{model}, flags...), " "), Model: model, Source: filepath.Join(dir, model), DoubleQuant: double}
		if !double {
			flags = append(flags, "--double-quant=false")
		}
		c.Converted = convert(t, c.Source, flags...)
		raw, err := os.ReadFile(filepath.Join(c.Converted, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			DType string `json:"dtype"`
			Q     struct {
				Skip []string `json:"llm_int8_skip_modules"`
			} `json:"quantization_config"`
		}
		if err := json.Unmarshal(raw, &config); err != nil {
			t.Fatal(err)
		}
		if c.Skip = config.Q.Skip; (c.Skip != nil) != (strings.Contains(c.name, "--skip") || strings.HasSuffix(model, "-old")) {
			t.Errorf("%s: skip list %q", c.name, c.Skip)
		}
		if config.DType != "" {
			t.Errorf("%s: config.json has dtype, which is no argument of the class", c.name)
		}
		cases = append(cases, c)
		nf4kit(t, "verify", c.Converted)
		nf4kit(t, "verify", c.Converted, "--target", "diffusers", "--source", c.Source)
	}
	for _, name := range list.Names {
		add(name, false)
	}
	add("flux", true)
	add("flux", false, "--skip", `^time_text_embed\.`, "--target", "diffusers")
	add("wan", false, "--skip", `attn2\.to_out`, "--max-shard-size", "100KB")
	add("unet-linear", false, "--skip", `^mid_block\.`)
	for i, a := range python[componentCase, componentAnswer](t, diffusers, "components.py", cases) {
		c := cases[i]
		t.Run(c.name, func(t *testing.T) {
			a.check(t, diffusers, compareCase{DoubleQuant: c.DoubleQuant})
			t.Logf("%s: %d modules quantized", a.Class, len(a.Quantized))
		})
	}
	// And back: a checkpoint that diffusers loads without bitsandbytes.
	plain := filepath.Join(dir, "plain")
	nf4kit(t, "dequantize", cases[0].Converted, plain)
	var before, after map[string]any
	for path, config := range map[string]*map[string]any{cases[0].Source: &before, plain: &after} {
		raw, err := os.ReadFile(filepath.Join(path, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, config); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("config.json after convert and dequantize (-want +got):\n%s", diff)
	}
}

// TestComponentTable is TestTable for the classes of diffusers.
func TestComponentTable(t *testing.T) {
	t.Parallel()
	gen := filepath.Join(root, "internal", "arch", "gen")
	args := []string{filepath.Join(gen, "components.py"), "--check", buildClassify(t)}
	if !allFamilies {
		args = append(args, "--few")
	}
	cmd := exec.CommandContext(t.Context(), diffusers.python(), args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1")
	checkReport(t, cmd)
}
