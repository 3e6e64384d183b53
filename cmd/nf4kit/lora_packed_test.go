package main

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/safetensors"
)

// bytesOf are the tensors of a checkpoint.
func bytesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	src, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := map[string]string{}
	for _, x := range src.Tensors {
		data, err := io.ReadAll(x.Section())
		if err != nil {
			t.Fatal(err)
		}
		out[x.Name] = string(data)
	}
	return out
}

// A merge into a 4-bit base leaves codes and scales of what no adapter changes as they are, as PEFT's does: quantized again the scales
// of two levels would be others.
func TestMergeKeepsPacked(t *testing.T) {
	dir := t.TempDir()
	base, adapter := filepath.Join(dir, "base"), filepath.Join(dir, "adapter")
	const module = "model.layers.1.self_attn.q_proj"
	if err := os.Mkdir(adapter, 0o777); err != nil {
		t.Fatal(err)
	}
	var factors []safetensors.Filled
	for name, shape := range map[string][]int64{".lora_A.weight": {1, 128}, ".lora_B.weight": {128, 1}} {
		data := []byte(strings.Repeat("\x00\x00\x80\x3d", 128)) // 1/16
		factors = append(factors, safetensors.Filled{Entry: safetensors.Entry{Name: "base_model.model." + module + name, DType: safetensors.F32, Shape: shape}, Data: data})
	}
	if err := safetensors.WriteFile(filepath.Join(adapter, lora.WeightsName), factors, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(adapter, lora.ConfigName), []byte(`{"peft_type":"LORA","r":1,"lora_alpha":8}`), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, double := range []string{"--double-quant=true", "--double-quant=false"} {
		run := func(args ...string) {
			t.Helper()
			if cmd, stderr := nf4kitCommand(append(args, "--force", "-q")...); cmd.Run() != nil {
				t.Fatal(stderr)
			}
		}
		run("convert", "../../testdata/llama", base, double)
		run("lora", "merge", base, adapter, filepath.Join(dir, "merged"), "--quantize")
		run("lora", "merge", base, adapter, filepath.Join(dir, "searched"), "--quantize", "--scale", "mse")
		if cmd, stderr := nf4kitCommand("verify", filepath.Join(dir, "merged")); cmd.Run() != nil {
			t.Error(stderr)
		}
		was := bytesOf(t, base)
		differ := func(name string) (list []string) {
			is := bytesOf(t, filepath.Join(dir, name))
			for _, n := range slices.Sorted(maps.Keys(was)) {
				if was[n] != is[n] {
					list = append(list, n)
				}
			}
			return list
		}
		want := []string{module + ".weight", module + ".weight.absmax"}
		if double == "--double-quant=true" {
			want = append(want, module+".weight.nested_absmax", module+".weight.quant_state.bitsandbytes__nf4")
		}
		if diff := cmp.Diff(want, differ("merged")); diff != "" {
			t.Errorf("%s: changed (-want +got):\n%s", double, diff)
		}
		if n := len(differ("searched")); n <= len(want) {
			t.Errorf("%s: other scales were asked for, and %d tensors changed", double, n)
		}
	}
}
