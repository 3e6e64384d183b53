package bnb

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/nf4"
)

// goldenConfig is the quantization_config that save_pretrained wrote.
func goldenConfig(t testing.TB, dir string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", dir, "config.json"))
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

// TestQuantizationConfigGolden compares token by token with what save_pretrained writes.
func TestQuantizationConfigGolden(t *testing.T) {
	for _, c := range []struct {
		dir  string
		want QuantizationConfig
	}{
		{"nf4-dq", QuantizationConfig{Type: nf4.NF4, DoubleQuant: true, ComputeDType: "bfloat16", Storage: "uint8"}},
		{"fp4-shards", QuantizationConfig{Type: nf4.FP4, ComputeDType: "bfloat16", Storage: "uint8"}},
	} {
		golden := goldenConfig(t, c.dir)
		got, err := ParseQuantizationConfig(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&c.want, got); diff != "" {
			t.Errorf("%s: parse (-want +got):\n%s", c.dir, diff)
		}
		encoded, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(members(t, golden), func(m member) bool { return strings.HasPrefix(m.Name, "_") })
		have := members(t, encoded)
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s: encode (-want +got):\n%s", c.dir, diff)
		}
	}
}

type member struct{ Name, Value string }

// members are those of a JSON object in their order, their values as they are spelled.
func members(t *testing.T, raw []byte) (out []member) {
	t.Helper()
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.ReadToken(); err != nil {
		t.Fatal(err)
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			t.Fatal(err)
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, member{key, string(value)})
	}
	return out
}

func TestQuantizationConfigEncode(t *testing.T) {
	c := QuantizationConfig{Type: nf4.NF4, DoubleQuant: true, ComputeDType: "float16", Storage: "bfloat16", SkipModules: []string{"lm_head", "model.visual", `a"b`}}
	got, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "bfloat16", "bnb_4bit_quant_type": "nf4", ` +
		`"bnb_4bit_use_double_quant": true, "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false, ` +
		`"llm_int8_skip_modules": ["lm_head", "model.visual", "a\"b"], "llm_int8_threshold": 6.0, "load_in_4bit": true, ` +
		`"load_in_8bit": false, "quant_method": "bitsandbytes"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	back, err := ParseQuantizationConfig(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&c, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	for _, bad := range []struct {
		c    QuantizationConfig
		want string
	}{
		{QuantizationConfig{Type: 2, ComputeDType: "bfloat16"}, `bnb: quantization_config: quant type: expected nf4 or fp4, found nf4.Type(2)`},
		{QuantizationConfig{Type: nf4.NF4}, `bnb: quantization_config: compute dtype: expected bfloat16, float16 or float32, found ""`},
		{QuantizationConfig{Type: nf4.NF4, ComputeDType: "float16", Storage: "int8"},
			`bnb: quantization_config: storage: expected uint8, bfloat16, float16 or float32, found "int8"`},
		{QuantizationConfig{Type: nf4.NF4, ComputeDType: "float16", SkipModules: []string{"\xff"}},
			`bnb: quantization_config: skip modules: entry "\xff": `},
	} {
		if _, err := bad.c.Encode(); err == nil || !strings.HasPrefix(err.Error(), bad.want) {
			t.Errorf("error %v, want %s", err, bad.want)
		}
	}
}

func TestParseQuantizationConfig(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      *QuantizationConfig
		err       string
	}{
		{name: "defaults", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true}`,
			want: &QuantizationConfig{Type: nf4.FP4, ComputeDType: "float32", Storage: "uint8"}},
		{name: "spellings", raw: `{"_load_in_4bit": true, "bnb_4bit_compute_dtype": "torch.bfloat16", "bnb_4bit_quant_type": "nf4"}`,
			want: &QuantizationConfig{Type: nf4.NF4, ComputeDType: "bfloat16", Storage: "uint8"}},
		{name: "8-bit", raw: `{"quant_method": "bitsandbytes", "load_in_8bit": true}`,
			err: `parse quantization_config: expected bitsandbytes with load_in_4bit, found quant_method "bitsandbytes" without`},
		{name: "GPTQ", raw: `{"quant_method": "gptq", "load_in_4bit": true}`,
			err: `parse quantization_config: expected bitsandbytes with load_in_4bit, found quant_method "gptq"`},
		{name: "type", raw: `{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "af4"}`,
			err: `parse quantization_config: bnb_4bit_quant_type: expected nf4 or fp4, found "af4"`},
		{name: "not an object", raw: `[]`, err: "parse quantization_config: json: cannot unmarshal array"},
	} {
		got, err := ParseQuantizationConfig([]byte(c.raw))
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
	}
}
