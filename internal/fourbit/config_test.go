package fourbit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// goldenConfig is the quantization_config that save_pretrained wrote.
func goldenConfig(t testing.TB, dir string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(goldens, dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	return config.Quantization
}

func TestParseConfig(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      *bnb.QuantizationConfig
		problems  []string
		err       string
	}{
		{name: "defaults", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true}`,
			want: &bnb.QuantizationConfig{Type: nf4.FP4, ComputeDType: "float32", Storage: "uint8"}},
		{name: "spellings", raw: `{"_load_in_4bit": true, "bnb_4bit_compute_dtype": "torch.bfloat16", "bnb_4bit_quant_type": "nf4", "llm_int8_threshold": 6}`,
			want: &bnb.QuantizationConfig{Type: nf4.NF4, ComputeDType: "bfloat16", Storage: "uint8"},
			problems: []string{
				`quantization_config.quant_method: config mismatch: expected "bitsandbytes", found nothing; breaks transformers 5, transformers 4.57`,
				`quantization_config.load_in_4bit: config mismatch: expected true, found only _load_in_4bit; breaks transformers 5, transformers 4.57`,
				`quantization_config.llm_int8_threshold: config mismatch: expected 6.0, found 6 (raises TypeError: must be a float); breaks transformers 5, transformers 4.57`,
				`quantization_config.bnb_4bit_compute_dtype: config mismatch: expected bfloat16, found "torch.bfloat16" (raises AttributeError); breaks transformers 5, transformers 4.57`}},
		{name: "null", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "llm_int8_threshold": null, "bnb_4bit_quant_type": null, "llm_int8_skip_modules": null}`,
			want: &bnb.QuantizationConfig{Type: nf4.FP4, ComputeDType: "float32", Storage: "uint8"},
			problems: []string{
				`quantization_config.llm_int8_threshold: config mismatch: expected 6.0, found null (raises TypeError: must be a float); breaks transformers 5, transformers 4.57`,
				`quantization_config.bnb_4bit_quant_type: config mismatch: expected nf4 or fp4, found null (raises TypeError: must be a string); breaks transformers 5, transformers 4.57`}},
		{name: "thresholds", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "llm_int8_threshold": 6e0}`,
			want: &bnb.QuantizationConfig{Type: nf4.FP4, ComputeDType: "float32", Storage: "uint8"}},
		{name: "other case", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "BNB_4bit_quant_type": "nf4", "Quant_Method": "gptq", "Bnb_4bit_use_double_quant": 1}`,
			want: &bnb.QuantizationConfig{Type: nf4.FP4, ComputeDType: "float32", Storage: "uint8"}},
		{name: "both widths, junk", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": true, "bnb_4bit_compute_dtype": "junk", "llm_int8_has_fp16_weight": null, "llm_int8_enable_fp32_cpu_offload": 0}`,
			want: &bnb.QuantizationConfig{Type: nf4.FP4, ComputeDType: "junk", Storage: "uint8"},
			problems: []string{
				`quantization_config.load_in_8bit: config mismatch: expected false beside load_in_4bit, found true (raises ValueError: only one can be used); breaks transformers 5, transformers 4.57`,
				`quantization_config.llm_int8_enable_fp32_cpu_offload: config mismatch: expected true or false, found 0 (raises TypeError: must be a boolean); breaks transformers 5, transformers 4.57`,
				`quantization_config.llm_int8_has_fp16_weight: config mismatch: expected true or false, found null (raises TypeError: must be a boolean); breaks transformers 5, transformers 4.57`,
				`quantization_config.bnb_4bit_compute_dtype: config mismatch: expected bfloat16, float16 or float32, found "junk" (no such dtype of torch, or one that no product has); breaks transformers 5, transformers 4.57`}},
		{name: "8-bit", raw: `{"quant_method": "bitsandbytes", "load_in_8bit": true}`,
			err: "parse quantization_config: expected bitsandbytes with load_in_4bit, found bitsandbytes 8-bit"},
		{name: "no boolean", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": "yes"}`,
			err: `parse quantization_config: load_in_4bit: expected true or false, found "yes"`},
		{name: "neither", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": "", "load_in_8bit": 0}`,
			err: "parse quantization_config: expected bitsandbytes with load_in_4bit, found bitsandbytes with neither load_in_4bit nor load_in_8bit"},
		{name: "GPTQ", raw: `{"quant_method": "gptq", "bits": 4, "load_in_4bit": true}`,
			err: "parse quantization_config: expected bitsandbytes with load_in_4bit, found GPTQ 4-bit"},
		{name: "type", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "af4"}`,
			err: `parse quantization_config: bnb_4bit_quant_type: expected nf4 or fp4, found "af4"`},
		{name: "not an object", raw: `[]`, err: "parse quantization_config: json: cannot unmarshal array"},
	} {
		got, problems, err := ParseConfig([]byte(c.raw))
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %s", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		var texts []string
		for _, p := range problems {
			texts = append(texts, p.String())
		}
		if diff := cmp.Diff(c.problems, texts); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	g, err := Group(openGolden(t, "nf4-dq"))
	if err != nil {
		t.Fatal(err)
	}
	if p := g.CheckConfig(&bnb.QuantizationConfig{Type: nf4.NF4, DoubleQuant: true}); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
	var got []string
	for _, p := range g.CheckConfig(&bnb.QuantizationConfig{Type: nf4.FP4, Storage: "bfloat16"}) {
		got = append(got, p.String())
	}
	const at = "model.safetensors: model.layers.0.mlp.down_proj.weight: config mismatch: expected "
	want := []string{
		at + "bnb_4bit_quant_type fp4 as in quantization_config, found nf4; breaks transformers 4.57",
		at + "bnb_4bit_use_double_quant false as in quantization_config, found true; breaks transformers 4.57",
		at + "bnb_4bit_quant_storage bfloat16 as in quantization_config, found uint8; breaks transformers 5, transformers 4.57",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p := (&Groups{}).CheckConfig(&bnb.QuantizationConfig{}); len(p) != 1 || p[0].Found != "none" {
		t.Errorf("without weights: %v", p)
	}
}

func TestDetectConfig(t *testing.T) {
	for _, c := range []struct {
		config string
		want   string // Error text, "" for none
		four   bool
	}{
		{config: `{}`}, {config: ``}, {config: `[1]`}, {config: `{"quantization_config": null}`}, {config: `{"quantization_config": {}}`},
		{config: `{"model_type": "llama", "vision_config": {"hidden_size": 1}}`},
		{`{"quantization_config": {"load_in_4bit": true, "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}}`,
			"config.json: quantization_config: already quantized by bitsandbytes 4-bit (nf4)", true},
		{`{"quantization_config": {"load_in_4bit": true}}`, "config.json: quantization_config: already quantized by bitsandbytes 4-bit (fp4)", true},
		{`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": "yes"}}`, "config.json: quantization_config: already quantized by bitsandbytes 4-bit (fp4)", true},
		{`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": 1}}`, "config.json: quantization_config: already quantized by bitsandbytes 4-bit (fp4)", true},
		{`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": 0.0, "load_in_8bit": [0]}}`, "config.json: quantization_config: already quantized by bitsandbytes 8-bit", false},
		{`{"quantization_config": {"load_in_4bit": "", "load_in_8bit": {}}}`, "config.json: quantization_config: already quantized by an unnamed method", false},
		{`{"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}`, "config.json: quantization_config: already quantized by bitsandbytes 8-bit", false},
		{`{"quantization_config": {"quant_method": "gptq", "bits": 4}}`, "config.json: quantization_config: already quantized by GPTQ 4-bit", false},
		{`{"quantization_config": {"quant_method": "awq", "w_bit": 4}}`, "config.json: quantization_config: already quantized by AWQ 4-bit", false},
		{`{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}`, "config.json: quantization_config: already quantized by FP8", false},
		{`{"quantization_config": {"quant_method": "mxfp4"}}`, "config.json: quantization_config: already quantized by MXFP4", false},
		{`{"quantization_config": {"quant_method": "hqq"}}`, "config.json: quantization_config: already quantized by HQQ", false},
		{`{"quantization_config": {"quant_method": "brand-new"}}`, `config.json: quantization_config: already quantized by "brand-new"`, false},
		{`{"quantization_config": {"bits": 4}}`, "config.json: quantization_config: already quantized by an unnamed method", false},
		{`{"compression_config": {"quant_method": "compressed-tensors"}}`, "config.json: compression_config: already quantized by compressed-tensors", false},
		{`{"quantization": {"group_size": 64, "bits": 4}}`, "config.json: quantization: already quantized by MLX 4-bit", false},
		{`{"text_config": {"quantization_config": {"quant_method": "aqlm"}}}`, "config.json: text_config.quantization_config: already quantized by AQLM", false},
		{`{"thinker_config": {"text_config": {"quantization_config": {"quant_method": "quanto"}}}}`,
			"config.json: thinker_config.text_config.quantization_config: already quantized by Quanto", false},
		{`{"time_step_limit": [0.0, Infinity], "x": "NaN, \"Infinity", "quantization_config": {"quant_method": "eetq"}}`,
			"config.json: quantization_config: already quantized by EETQ", false},
	} {
		q := DetectConfig([]byte(c.config))
		got := ""
		if q != nil {
			got = q.Error()
			if q.FourBit != c.four {
				t.Errorf("%s: FourBit is %v", c.config, q.FourBit)
			}
		}
		if got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.config, got, c.want)
		}
	}
}

func TestDetectFile(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"quantize_config.json", `{"bits": 4, "group_size": 128}`, "quantize_config.json: the file as a whole: already quantized by GPTQ 4-bit"},
		{"quantize_config.json", `{"quant_method": "awq", "bits": 4}`, "quantize_config.json: the file as a whole: already quantized by AWQ 4-bit"},
		{"quant_config.json", `{"w_bit": 4}`, "quant_config.json: the file as a whole: already quantized by AWQ 4-bit"},
		{"hf_quant_config.json", `{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}`,
			"hf_quant_config.json: the file as a whole: already quantized by NVIDIA ModelOpt NVFP4"},
		{"quantization_config.json", `{"a": 1}`, "quantization_config.json: the file as a whole: already quantized by an unnamed method"},
		{"quantize_config.json", `{}`, ""},
		{"quantize_config.json", `nonsense`, ""},
	} {
		got := ""
		if q := DetectFile(c.name, []byte(c.raw)); q != nil {
			got = q.Error()
		}
		if got != c.want {
			t.Errorf("%s %s:\n got %q\nwant %q", c.name, c.raw, got, c.want)
		}
	}
}

func TestDetectTensors(t *testing.T) {
	u8, i8, u32, f32, f16, bf16 := safetensors.U8, safetensors.I8, safetensors.U32, safetensors.F32, safetensors.F16, safetensors.BF16
	for _, c := range []struct {
		name    string
		tensors map[string]safetensors.DType
		want    string
	}{
		{"plain", map[string]safetensors.DType{"a.q.weight": bf16, "a.scales": f32, "codebooks": f32}, ""},
		{"bitsandbytes", map[string]safetensors.DType{"q.weight": u8, "q.weight.quant_state.bitsandbytes__fp4": u8}, "bitsandbytes 4-bit (fp4)"},
		{"bitsandbytes 8-bit", map[string]safetensors.DType{"q.weight": i8, "q.SCB": f32}, "bitsandbytes 8-bit"},
		{"GPTQ", map[string]safetensors.DType{"q.qweight": safetensors.I32, "q.qzeros": safetensors.I32, "q.g_idx": safetensors.I32, "q.scales": f16}, "GPTQ"},
		{"AWQ", map[string]safetensors.DType{"q.qweight": safetensors.I32, "q.qzeros": safetensors.I32, "q.scales": f16}, "AWQ or GPTQ"},
		{"compressed-tensors", map[string]safetensors.DType{"q.weight_packed": safetensors.I32, "q.weight_scale": bf16}, "compressed-tensors"},
		{"HQQ", map[string]safetensors.DType{"q.W_q": u8, "q.scale": f16, "q.zero": f16}, "HQQ"},
		{"AQLM", map[string]safetensors.DType{"q.codes": i8, "q.codebooks": f16, "q.scales": f16}, "AQLM"},
		{"Quanto", map[string]safetensors.DType{"q.weight._data": i8, "q.weight._scale": f16}, "Quanto"},
		{"MXFP4", map[string]safetensors.DType{"e.gate_up_proj_blocks": u8, "e.gate_up_proj_scales": u8}, "MXFP4"},
		{"MLX", map[string]safetensors.DType{"q.weight": u32, "q.scales": bf16, "q.biases": bf16}, "MLX"},
		{"NVFP4", map[string]safetensors.DType{"q.weight": u8, "q.weight_scale": safetensors.F8_E4M3, "q.weight_scale_2": f32}, "NVFP4"},
		{"BitNet", map[string]safetensors.DType{"q.weight": u8, "q.weight_scale": bf16}, "a method that packs weights into bytes"},
		{"int8", map[string]safetensors.DType{"q.weight": i8, "q.weight_scale": bf16}, "an 8-bit integer method"},
		{"FP8", map[string]safetensors.DType{"q.weight": safetensors.F8_E4M3, "q.weight_scale_inv": f32}, "FP8"},
		{"FP8 without scales", map[string]safetensors.DType{"q.weight": safetensors.F8_E5M2}, "FP8"},
		{"FP8 under another name", map[string]safetensors.DType{"experts": safetensors.F8_E4M3, "experts_scale_inv": f32}, "FP8"},
	} {
		s := make(set)
		for name, d := range c.tensors {
			s.add(safetensors.Entry{Name: name, DType: d, Shape: []int64{4, 4}}, "f")
		}
		got := ""
		if q := DetectTensors(s.tensors(t)); q != nil {
			got = q.Label
			if !strings.HasPrefix(q.Where, "f: ") {
				t.Errorf("%s: where %q", c.name, q.Where)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goldenConfig(f, "nf4-dq")))
	f.Add([]byte(`{"text_config": {"quantization_config": {"quant_method": "aqlm", "bits": 2}}}`))
	f.Add([]byte(`{"x": -Infinity, "y": "\"NaN", "quantization": {"bits": 4}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if q := DetectConfig(raw); q != nil && (q.Label == "" || q.Method == "" || len(q.Raw) == 0) {
			t.Errorf("incomplete %+v", q)
		}
		for _, name := range SideFiles {
			DetectFile(name, raw)
		}
		c, _, err := ParseConfig(raw)
		if err != nil {
			return
		}
		encoded, err := c.Encode()
		if err != nil {
			return // a dtype that Encode does not write
		}
		back, problems, err := ParseConfig(encoded)
		if err != nil || len(problems) > 0 {
			t.Fatalf("%s: %v %v", encoded, problems, err)
		}
		if diff := cmp.Diff(c, back); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}
