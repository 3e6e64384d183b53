package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

const testLlama = "../../testdata/llama"

// execPlan runs the command as cobra would.
func execPlan(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	g := &globals{Stdout: &out, Stderr: &errs}
	cmd := newPlanCommand(g)
	cmd.Flags().BoolVar(&g.JSON, "json", false, "")
	cmd.Flags().BoolVarP(&g.Verbose, "verbose", "v", false, "")
	cmd.Flags().BoolVarP(&g.Quiet, "quiet", "q", false, "")
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

func planOf(t *testing.T, args ...string) planJSON {
	t.Helper()
	out, errs, err := execPlan(t, append(args, "--json")...)
	if err != nil {
		t.Fatalf("plan %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	var p planJSON
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// What the shapes call a tensor, the table of architectures that convert
// decides by knows under the same name, and quantizes as transformers does.
func TestPlanNamesAgreeWithArch(t *testing.T) {
	data, err := os.ReadFile("../../internal/modelshape/testdata/params.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Models []struct {
			Name      string
			Quantized int64
			Config    json.RawMessage
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	for _, c := range golden.Models {
		m, err := modelshape.FromConfig(c.Config)
		if err != nil {
			t.Fatal(err)
		}
		q, err := arch.ParseConfig(c.Config)
		if err != nil {
			t.Fatal(err)
		}
		names := make([]string, len(m.Groups))
		for i, g := range m.Groups {
			names[i] = strings.ReplaceAll(g.Name, "*", "1")
		}
		table, err := arch.Resolve(q, names)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		var n int64
		for i, g := range m.Groups {
			if class := table.Classify(names[i]); class.Quantize(arch.Transformers5) {
				n += g.Params()
			} else if g.Kind == modelshape.Linear {
				t.Errorf("%s: %s is quantized by transformers, not by the table", c.Name, g.Name)
			}
		}
		if n != c.Quantized {
			t.Errorf("%s: the table quantizes %d parameters, transformers %d", c.Name, n, c.Quantized)
		}
	}
}

// The plan's 4-bit bytes are those that convert writes, whether planned from
// the source's headers, from its config.json, or from the result.
func TestPlanBytesAreConverts(t *testing.T) {
	for _, c := range []struct {
		dq    bool
		block int
	}{{true, 64}, {false, 64}, {true, 128}, {false, 4096}} {
		dst := filepath.Join(t.TempDir(), "out")
		g := &globals{Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer), Quiet: true}
		args := []string{"convert", testLlama, dst, "-q", "--no-error", "--double-quant=" + strconv.FormatBool(c.dq), "--block-size", strconv.Itoa(c.block)}
		if code := run(context.Background(), args, nil, nil, g.Stdout, g.Stderr); code != 0 {
			t.Fatalf("convert: exit code %d\n%s", code, g.Stderr)
		}
		s, err := checkpoint.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		want := s.TensorBytes()
		s.Close()
		for _, src := range []string{testLlama, filepath.Join(testLlama, "config.json"), dst} {
			p := planOf(t, src, "--double-quant="+strconv.FormatBool(c.dq), "--block-size", strconv.Itoa(c.block))
			if p.Weights.File != want {
				t.Errorf("%s, %+v: planned %d bytes, convert wrote %d", src, c, p.Weights.File, want)
			}
		}
	}
}

// Sizes of adapter_model.safetensors that peft wrote
// (huggingface/peft, method_comparison/MetaMathQA/results at 5d602fd: file_size).
func TestPlanAdapterFile(t *testing.T) {
	for _, c := range []struct {
		rank, targets string
		want          int64
	}{{"32", "q_proj,v_proj", 36715216}, {"64", "q_proj,v_proj", 73415408}, {"10", "up_proj,gate_proj,down_proj", 37868984}} {
		p := planOf(t, "llama-3.2-3b", "--method", "lora", "--rank", c.rank, "--targets", c.targets)
		if p.Adapter.File != c.want {
			t.Errorf("rank %s on %s: %d bytes, peft wrote %d", c.rank, c.targets, p.Adapter.File, c.want)
		}
	}
}

func TestPlanSources(t *testing.T) {
	dir := t.TempDir()
	config, err := os.ReadFile(filepath.Join(testLlama, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("bare/config.json", string(config))
	want := planOf(t, testLlama).Model.Params
	for _, src := range []string{filepath.Join(testLlama, "config.json"), filepath.Join(dir, "bare"), filepath.Join(dir, "bare/config.json")} {
		if got := planOf(t, src).Model.Params; got != want {
			t.Errorf("%s: %d parameters, headers give %d", src, got, want)
		}
	}
	for _, c := range []struct {
		src, want string
		code      int
	}{
		{"llama3", "near: ", 1},
		{"nothing-like-it", "no built-in shape", 1},
		{filepath.Join(dir, "no/where"), "no such file", 1},
		{write("a.json", "{"), "a.json", 3},
		{write("b.json", `{"model_type":"new-thing"}`), "new-thing", 3},
		{write("c.json", `{"model_type":"llama","hidden_size":"x"}`), "hidden_size", 3},
		{write("d.json", `{"model_type":"llama","vocab_size":1e12}`), "d.json", 3},
		{write("e.safetensors", "short"), "e.safetensors", 3},
	} {
		_, _, err := execPlan(t, c.src)
		if c.want == "near: " {
			c.want = "llama-3.1-8b"
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != c.code {
			t.Errorf("plan %s: %v (exit code %d); want %q and %d", c.src, err, exitCode(err), c.want, c.code)
		}
	}
}

func TestPlanFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--rank", "0"}, {"--seq", "-1"}, {"--gpu", "warp"}, {"--gpu", "4090", "--vram", "24GiB"}, {"--vram", "0"}, {"--must-fit"}, {"--overhead", "x"},
		{"--overhead", "-1%"}, {"--context", "much"}, {"--targets", "nothing"}, {"--experts", "some"}, {"--towers", "x"}, {"--generate", "-1"},
		{"--optimizer", "adam"}, {"--sharding", "zero2"}, {"--html", "plan.txt"}, {"--block-size", "100"}, {"--method", "dora"},
	} {
		_, _, err := execPlan(t, append([]string{"llama-2-7b"}, args...)...)
		var u *usageError
		if !errors.As(err, &u) || exitCode(err) != 2 {
			t.Errorf("plan %v: %v, want a usage error", args, err)
		}
	}
	if _, _, err := execPlan(t, "llama-2-7b", "--gpu", "t4", "--method", "full", "--must-fit"); exitCode(err) != 4 {
		t.Errorf("--must-fit: %v, want exit code 4", err)
	}
	if _, _, err := execPlan(t, "smollm2-135m", "--gpu", "t4", "--must-fit"); err != nil {
		t.Errorf("--must-fit of what fits: %v", err)
	}
}

// The plan and its Python are the same run: every flag changes a figure and the script, or its help says that it is not
// in the script.
func TestPlanFlagsChangePlanAndScript(t *testing.T) {
	rows := map[string]struct {
		model string
		with  []string // common to both
		args  []string
	}{
		"method":                {"llama-2-7b", nil, []string{"--method", "lora"}},
		"precision":             {"llama-2-7b", []string{"--method", "full"}, []string{"--precision", "mixed"}},
		"rank":                  {"llama-2-7b", nil, []string{"--rank", "64"}},
		"targets":               {"llama-2-7b", nil, []string{"--targets", "attention"}},
		"adapter-dtype":         {"llama-2-7b", nil, []string{"--adapter-dtype", "bfloat16"}},
		"dropout":               {"llama-2-7b", []string{"--checkpointing=false"}, []string{"--dropout", "0.1"}},
		"double-quant":          {"llama-2-7b", nil, []string{"--double-quant=false"}},
		"block-size":            {"llama-2-7b", nil, []string{"--block-size", "128"}},
		"kbit-prep":             {"llama-2-7b", nil, []string{"--kbit-prep=false"}},
		"experts":               {"mixtral-8x7b", nil, []string{"--experts", "quantize"}},
		"towers":                {"llava-1.5-7b", nil, []string{"--towers", "quantize"}},
		"optimizer":             {"llama-2-7b", nil, []string{"--optimizer", "adamw-8bit"}},
		"foreach":               {"llama-2-7b", []string{"--method", "full", "--seq", "64"}, []string{"--foreach"}},
		"optimizer-in-backward": {"llama-2-7b", []string{"--method", "full"}, []string{"--optimizer-in-backward"}},
		"micro-batch":           {"llama-2-7b", nil, []string{"--micro-batch", "2"}},
		"seq":                   {"llama-2-7b", nil, []string{"--seq", "4096"}},
		"accumulate":            {"llama-2-7b", []string{"--method", "full", "--seq", "8192"}, []string{"--accumulate", "2"}},
		"padded":                {"llama-3.1-8b", []string{"--checkpointing=false"}, []string{"--padded"}},
		"checkpointing":         {"llama-2-7b", nil, []string{"--checkpointing=false"}},
		"offload":               {"llama-2-7b", nil, []string{"--offload"}},
		"attention":             {"llama-2-7b", nil, []string{"--attention", "eager"}},
		"loss":                  {"llama-3.1-8b", nil, []string{"--loss", "fused"}},
		"compile":               {"llama-2-7b", []string{"--checkpointing=false"}, []string{"--compile"}},
		"drop-outputs":          {"llama-3.1-8b", nil, []string{"--drop-outputs=false"}},
		"gpus":                  {"llama-2-7b", nil, []string{"--gpus", "8"}},
		"sharding":              {"llama-2-7b", []string{"--gpus", "8"}, []string{"--sharding", "fsdp"}},
		"dtype":                 {"llama-2-7b", []string{"--method", "lora"}, []string{"--dtype", "float32"}},
		"task":                  {"llama-2-7b", nil, []string{"--task", "dpo"}},
		"preset":                {"llama-2-7b", nil, []string{"--preset", "axolotl"}},
		"bits":                  {"llama-2-7b", nil, []string{"--bits", "8"}},
		"dora":                  {"llama-2-7b", nil, []string{"--dora"}},
		"train-embeddings":      {"llama-2-7b", nil, []string{"--train-embeddings"}},
		"cpu-offload":           {"llama-2-7b", []string{"--gpus", "8", "--sharding", "zero3"}, []string{"--cpu-offload"}},
		"overhead":              {"llama-2-7b", nil, []string{"--overhead", "20%"}},
		"context":               {"llama-2-7b", nil, []string{"--context", "1GiB"}},
	}
	// What is printed beside the run.
	beside := map[string]bool{"generate": true, "gpu": true, "vram": true, "must-fit": true, "no-advice": true, "html": true, "list": true, "sweep": true, "brief": true}
	newPlanCommand(new(globals)).Flags().VisitAll(func(f *pflag.Flag) {
		c, ok := rows[f.Name]
		if ok == beside[f.Name] {
			t.Errorf("--%s has no row that says what it changes", f.Name)
		}
		if !ok {
			return
		}
		a, b := planOf(t, append([]string{c.model}, c.with...)...), planOf(t, append(append([]string{c.model}, c.with...), c.args...)...)
		if cmp.Equal(a.Memory, b.Memory) {
			t.Errorf("%s %v: %v changes no figure", c.model, c.with, c.args)
		}
		marked := strings.Contains(f.Usage, "(not in the script)")
		if same := a.Snippet == b.Snippet; same != marked {
			t.Errorf("%s %v: %v: the script is the same: %t, the flag is marked so: %t\n%s", c.model, c.with, c.args, same, marked, b.Snippet)
		}
	})
}

// Every value of a flag with a list of them has a script of its own: what a word changes in the figures it does not
// leave out of the Python.
func TestPlanValuesHaveScripts(t *testing.T) {
	for flag, values := range planValues {
		with := []string{"llama-3.1-8b", "--method", "full", "--gpus", "8", "--seq", "512"}
		switch flag {
		case "optimizer", "loss":
			with = []string{"llama-3.1-8b", "--method", "full", "--seq", "512"}
		case "method", "towers", "experts", "task", "preset":
			with = []string{"llama-3.1-8b"}
		case "adapter-dtype", "dtype":
			with = []string{"llama-3.1-8b", "--method", "lora"}
		}
		figures := map[string]string{} // figures of a script
		for _, v := range values {
			p := planOf(t, append(slices.Clone(with), "--"+flag, v)...)
			m, err := json.Marshal(p.Memory)
			if err != nil {
				t.Fatal(err)
			}
			if old, ok := figures[p.Snippet]; ok && old != string(m) {
				t.Errorf("--%s %s: other figures and the same script", flag, v)
			}
			figures[p.Snippet] = string(m)
			for line := range strings.Lines(p.Snippet) {
				if len(strings.TrimSuffix(line, "\n")) > 80 {
					t.Errorf("--%s %s: a line of %d columns: %s", flag, v, len(line)-1, line)
				}
			}
		}
	}
}

// Full fine-tuning is planned as Trainer does it from a 16-bit checkpoint: 74.8 GiB were measured for an 8B model with
// the for-each step.
func TestPlanFullIsTrainers(t *testing.T) {
	p := planOf(t, "llama-3.1-8b", "--method", "full", "--foreach")
	if got := float64(p.Memory.Allocated) / (1 << 30); math.Abs(got-74.8) > 0.1 {
		t.Errorf("8B full: %.2f GiB, measured 74.8", got)
	}
	if strings.Contains(p.Snippet, "bf16=True") || !strings.Contains(p.Snippet, `"meta-llama/Llama-3.1-8B"`) {
		t.Errorf("its script:\n%s", p.Snippet)
	}
}

// What is printed beside the run: the KV cache, advice, active parameters.
func TestPlanBeside(t *testing.T) {
	p := planOf(t, "llama-3.1-8b", "--generate", "8192")
	if p.KV == nil || p.KV.Cache != 1<<30 || p.KV.Token != 128<<10 {
		t.Errorf("KV cache: %+v, want 1 GiB, 128 KiB a token", p.KV)
	}
	if len(planOf(t, "llama-2-7b", "--no-advice").Advice) > 0 || len(planOf(t, "llama-2-7b").Advice) == 0 {
		t.Error("--no-advice")
	}
	if m := planOf(t, "mixtral-8x7b").Model; m.Params != 46702792704 || m.Active != 12879925248 {
		t.Errorf("Mixtral: %d parameters, %d active", m.Params, m.Active)
	}
}

func TestPlanText(t *testing.T) {
	out, _, err := execPlan(t, "llama-3.1-8b", "--method", "full", "--gpu", "RTX 4090", "--generate", "4096", "-v")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"8.03 billion parameters", "allocated", "reserved", "needs", "nvidia-smi will show more", "RTX 4090 *", "does not fit", "One way down", "QLoRA NF4+DQ", "KV cache",
		"B200", "MI300X", "arXiv 2405.09673", "TrainingArguments", "\u2588"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "%!") {
		t.Errorf("a format is wrong:\n%s", out)
	}
}

func TestPlanHTML(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.html")
	for _, args := range [][]string{{"--gpu", "L4"}, {"--vram", "20GiB"}, {"--method", "norms"}, nil} {
		_, stderr, err := execPlan(t, append([]string{"qwen2.5-1.5b", "--html", file}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(page, []byte("memoryAt")) || !bytes.Contains(page, []byte("qwen2.5-1.5b")) || !strings.Contains(stderr, file) {
			t.Errorf("%v: page of %d bytes, stderr %q", args, len(page), stderr)
		}
	}
	if _, _, err := execPlan(t, "qwen2.5-1.5b", "--html", filepath.Join(t.TempDir(), "no", "plan.html")); exitCode(err) != 1 {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestPlanBar(t *testing.T) {
	for _, c := range []struct {
		n, full int64
		want    string
	}{{0, 10, ""}, {10, 0, ""}, {1, 1000000, "\u258f"}, {10, 10, strings.Repeat("\u2588", 32)}, {20, 10, strings.Repeat("\u2588", 32)},
		{1, 64, "\u258c"}, {7, 256, "\u2589"}, {1, 32, "\u2588"}} {
		if got := bar(c.n, c.full); got != c.want {
			t.Errorf("bar(%d, %d) = %q, want %q", c.n, c.full, got, c.want)
		}
	}
}
