package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cases are inputs from public reports that an earlier version got wrong, and the tests that hold what is right: "package: Test", or a
// script of cmd/nf4kit.
var cases = []struct {
	report, what string
	tests        []string
}{
	{"colibri 1479", "an overlay shard holds newer copies of tensors", []string{"script: index"}},
	{"huggingface_hub 4725", "an index names a tensor that no shard has", []string{"script: index"}},
	{"unsloth 1601", "merged 16-bit weights whose config still says bitsandbytes", []string{"script: stale", "verify: TestFixMends"}},
	{"stable-diffusion.cpp 1898", "ComfyUI's scaled FP8 single files", []string{"decode: TestDropComfy", "decode: TestBareFile"}},
	{"llama.cpp 17064", "packed int4 experts of compressed-tensors", []string{"decode: TestGolden", "decode: TestColumnOrder", "interop: TestEncodedSources"}},
	{"diffusers 9165", "a single file of packed and plain weights under a prefix", []string{"script: stale", "fourbit: TestGroupOddAndMixed"}},
	{"OpenRLHF 839", "ZeRO-3 saved weights of no elements", []string{"complete: TestCheck", "interop: TestDefects"}},
	{"Qwen3-VL-Embedding 89", "no lm_head though it is not tied; lost and surplus layers", []string{"script: incomplete", "complete: TestCheck", "interop: TestDefects"}},
	{"vllm 42813", "packed towers and projectors fail in vLLM", []string{"verify: TestServed", "interop: TestVLLMParsing"}},
	{"llama.cpp 12923", "LLM.int8 back to 16 bits", []string{"script: stale", "interop: TestReadsSavePretrained"}},
	{"bitsandbytes 1295", "packed codes labelled as bfloat16, for FSDP", []string{"interop: TestStorage", "convert: TestStorageWithoutNaN", "script: verify"}},
	{"unsloth 5082", "a PEFT model's own state dict, or an adapter beside the model", []string{"script: incomplete"}},
	{"vllm-ascend 16728", "integer Linears of an unknown scheme beside floats", []string{"complete: TestUnknownScheme", "complete: TestCheck"}},
	{"transformers, double quantization", "nested codes of bitsandbytes' lookup", []string{"verify: TestTolerances", "verify: TestMeanScale", "interop: TestVerifyWritten"}},
	{"transformers 9295", "what is held in float32: T5's wo overflows float16", []string{"convert: TestFloat32", "arch: TestFloat32Names", "interop: TestTable"}},
	{"our own float32 modules", "verify of Ernie 4.5's gate in float32", []string{"arch: TestFloat32", "convert: TestFloat32"}},
	{"unsloth 10276", "packed weights without any quant_state", []string{"verify: TestFinds", "fourbit: TestGroupProblems", "script: stale"}},
	{"exo 1956", "indexes with no total_size, folders, byte order marks, duplicate keys", []string{"script: index", "checkpoint: TestIndexGolden"}},
	{"auto-round 2188", "a packed output head or embedding", []string{"script: heads"}},
	{"GGUF, pickle, NaN", "what is no safetensors, and values that cannot be quantized", []string{"script: bad_source", "convert: TestValueErrors"}},
	{"bitsandbytes 1849", "experts of Llama-4 split and fused again, gpt-oss in MXFP4", []string{"convert: TestRestore", "interop: TestDequantizesItsOwn", "interop: TestEncodedSources"}},
	{"what transformers saves", "verify, inspect and measure of other people's checkpoints", []string{"interop: TestVerifyWritten", "interop: TestMeasuresAndProvesOthers"}},
}

// TestCases: every report has a test, and each test that is named exists.
func TestCases(t *testing.T) {
	have := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(raw, -1) {
			have[filepath.Base(filepath.Dir(path))+": "+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("../cmd/nf4kit/testdata/script/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, error %v", len(scripts), err)
	}
	for _, s := range scripts {
		have["script: "+strings.TrimSuffix(filepath.Base(s), ".txt")] = true
	}
	for _, c := range cases {
		if len(c.tests) == 0 {
			t.Errorf("%s (%s) has no test", c.report, c.what)
		}
		for _, name := range c.tests {
			if !have[name] {
				t.Errorf("%s (%s): there is no test %s", c.report, c.what, name)
			}
		}
	}
}
