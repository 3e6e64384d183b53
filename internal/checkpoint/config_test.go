package checkpoint

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const vlm = `{
  "architectures": ["Qwen2_5_VLForConditionalGeneration", "X"],
  "eps": 1e-05,
  "model_type": "qwen2_5_vl",
  "one": 1.0,
  "rope": {"factor": 1E+2, "list": [1, 2.50, -0]},
  "text_config": {
    "dtype": "float32",
    "quantization_config": {"quant_method": "fp8"},
    "tie_word_embeddings": true
  },
  "time_step_limit": [0.0, Infinity, -Infinity, NaN],
  "torch_dtype": "float32",
  "vision_config": {
    "torch_dtype": null,
    "sub_config": {"torch_dtype": "float32"}
  }
}
`

func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(vlm))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := c.String("model_type"); got != "qwen2_5_vl" || !ok {
		t.Errorf("model type %q", got)
	}
	if diff := cmp.Diff([]string{"Qwen2_5_VLForConditionalGeneration", "X"}, c.Architectures()); diff != "" {
		t.Errorf("architectures (-want +got):\n%s", diff)
	}
	if got := c.DType(); got != "float32" {
		t.Errorf("dtype %q", got)
	}
	if v, ok := c.Get("rope", "factor"); string(v) != "1E+2" || !ok {
		t.Errorf("factor %q %v", v, ok)
	}
	if v, _ := c.Get("time_step_limit"); string(v) != "[0.0, Infinity, -Infinity, NaN]" {
		t.Errorf("time_step_limit %q", v)
	}
	for _, path := range [][]string{{"nonesuch"}, {"eps", "x"}, {"rope", "list", "x"}, {"rope", "nonesuch"}, {}} {
		if v, ok := c.Get(path...); ok || v != nil {
			t.Errorf("%v is %q", path, v)
		}
	}
	if diff := cmp.Diff([]string{"torch_dtype", "sub_config"}, c.Keys("vision_config")); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if c.Keys("eps") != nil || c.Keys("nonesuch") != nil {
		t.Error("keys of what is no object")
	}
	if _, ok := c.Bool("eps"); ok {
		t.Error("a number is a boolean")
	}
	if _, ok := c.String("eps"); ok {
		t.Error("a number is a string")
	}
	if bytes.Contains(c.Strict(), []byte("Infinity")) || len(c.Strict()) != len(vlm) {
		t.Errorf("strict text %s", c.Strict())
	}
}

func TestConfigDType(t *testing.T) {
	for raw, want := range map[string]string{
		`{}`: "", `{"dtype": "bfloat16"}`: "bfloat16", `{"torch_dtype": "torch.float16"}`: "float16",
		`{"torch_dtype": "float32", "dtype": "bfloat16"}`:      "bfloat16",
		`{"torch_dtype": null, "text_config": {"dtype": "a"}}`: "a", `{"dtype": 16}`: "",
		`{"text_config": {"torch_dtype": "bfloat16"}}`: "bfloat16", `{"text_config": "bfloat16"}`: "",
	} {
		c, err := ParseConfig([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.DType(); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

func TestEditConfig(t *testing.T) {
	quantization := []byte(`{"load_in_4bit": true, "llm_int8_skip_modules": ["lm_head"], "llm_int8_threshold": 6.0, "none": []}`)
	indented := `{
    "load_in_4bit": true,
    "llm_int8_skip_modules": [
      "lm_head"
    ],
    "llm_int8_threshold": 6.0,
    "none": []
  }`
	for _, c := range []struct {
		name, raw string
		edits     []Edit
		want      string
	}{
		{"nothing", "{\"a\":1e-05}\n", nil, "{\"a\":1e-05}\n"},
		{"replace", `{"a": 1.0, "b" : 2 ,"c":[1]}`, []Edit{Set("b", []byte(`"x"`))}, `{"a": 1.0, "b" : "x" ,"c":[1]}`},
		{"remove first", `{"a": 1, "b": 2, "c": 3}`, []Edit{Remove("a")}, `{"b": 2, "c": 3}`},
		{"remove middle", `{"a": 1, "b": 2, "c": 3}`, []Edit{Remove("b")}, `{"a": 1, "c": 3}`},
		{"remove last", "{\n  \"a\": 1,\n  \"b\": 2\n}\n", []Edit{Remove("b")}, "{\n  \"a\": 1\n}\n"},
		{"remove only", "{\n  \"a\": 1\n}\n", []Edit{Remove("a")}, "{}\n"},
		{"remove absent", `{"a": 1}`, []Edit{Remove("b"), Remove("a", "b"), Remove("c", "d")}, `{"a": 1}`},
		{"remove all", `{"a": 1, "b": 2}`, []Edit{Remove("a"), Remove("b")}, `{}`},
		{"insert in order", "{\n  \"a\": 1,\n  \"z\": 2\n}\n", []Edit{Set("q", quantization)}, "{\n  \"a\": 1,\n  \"q\": " + indented + ",\n  \"z\": 2\n}\n"},
		{"insert first", "{\n  \"b\": 1\n}\n", []Edit{Set("a", []byte("true"))}, "{\n  \"a\": true,\n  \"b\": 1\n}\n"},
		{"insert last", "{\n  \"a\": 1\n}\n", []Edit{Set("b", quantization)}, "{\n  \"a\": 1,\n  \"b\": " + indented + "\n}\n"},
		{"insert where nothing is in order", "{\n  \"b\": 1,\n  \"a\": 1\n}", []Edit{Set("aa", []byte("0"))}, "{\n  \"b\": 1,\n  \"a\": 1,\n  \"aa\": 0\n}"},
		{"insert on one line", `{"a":1,"b":2}`, []Edit{Set("aa", []byte(`{"x": [1, 2]}`))}, `{"a":1,"aa":{"x": [1, 2]},"b":2}`},
		{"insert into nothing", `{}`, []Edit{Set("a", []byte("1"))}, `{"a": 1}`},
		{"insert into an empty object over lines", "{\n}\n", []Edit{Set("a", []byte(`{"b":1}`))}, "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n"},
		{"tabs", "{\n\t\"a\": 1\n}", []Edit{Set("b", []byte(`{"c":1}`))}, "{\n\t\"a\": 1,\n\t\"b\": {\n\t\t\"c\": 1\n\t}\n}"},
		{"CRLF", "{\r\n  \"a\": 1\r\n}", []Edit{Set("b", []byte(`1`))}, "{\r\n  \"a\": 1,\r\n  \"b\": 1\r\n}"},
		{"nested", "{\n  \"t\": {\n    \"a\": 1.0,\n    \"c\": 2\n  }\n}", []Edit{{Path: []string{"t", "b"}, Value: []byte(`{"x":1}`)}},
			"{\n  \"t\": {\n    \"a\": 1.0,\n    \"b\": {\n      \"x\": 1\n    },\n    \"c\": 2\n  }\n}"},
		{"nested in an empty object", "{\n  \"t\": {}\n}", []Edit{{Path: []string{"t", "b"}, Value: []byte(`1`)}}, "{\n  \"t\": {\n    \"b\": 1\n  }\n}"},
		{"nested on one line", "{\n  \"t\": {\"a\": 1}\n}", []Edit{{Path: []string{"t", "b"}, Value: []byte(`{"x":1}`)}}, "{\n  \"t\": {\"a\": 1, \"b\": {\"x\":1}}\n}"},
		{"escaped key", `{"\u0061": 1, "b": 2}`, []Edit{Set("a", []byte("3"))}, `{"\u0061": 3, "b": 2}`},
		{"key with a quote", `{"a": 1}`, []Edit{Set(`q"`, []byte("3"))}, `{"a": 1, "q\"": 3}`},
		{"Python's numbers", `{"a": [NaN, -Infinity], "b": 2}`, []Edit{Remove("b"), Set("c", []byte("1"))}, `{"a": [NaN, -Infinity], "c": 1}`},
		{"replaced object", "{\n  \"q\": {\n    \"old\": 1\n  },\n  \"z\": 1\n}", []Edit{Set("q", quantization)}, "{\n  \"q\": " + indented + ",\n  \"z\": 1\n}"},
	} {
		got, err := EditConfig([]byte(c.raw), c.edits...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestEditConfigErrors(t *testing.T) {
	for _, c := range []struct {
		raw  string
		edit Edit
		want string
	}{
		{`{`, Set("a", []byte("1")), "config.json: expected valid JSON"},
		{`{}`, Edit{Value: []byte("1")}, "edit config.json: empty path"},
		{`{}`, Set("a", []byte("{")), "edit config.json: set a: value is not JSON"},
		{`{}`, Edit{Path: []string{"t", "a"}, Value: []byte("1")}, "edit config.json: set t.a: no object t"},
		{`{"t": 1}`, Edit{Path: []string{"t", "a"}, Value: []byte("1")}, "edit config.json: set t.a: no object t"},
		{`{"a": 1}`, Set("\xff", []byte("1")), `edit config.json: key "\xff": `},
	} {
		if _, err := EditConfig([]byte(c.raw), c.edit); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", c.raw, err, c.want)
		}
	}
}

// TestEditConfigConvert makes the edits of a conversion and checks, line by line, that nothing else has changed.
func TestEditConfigConvert(t *testing.T) {
	c, err := ParseConfig([]byte(vlm))
	if err != nil {
		t.Fatal(err)
	}
	edits := slices.Concat(c.RemoveQuantization(), c.SetDType("bfloat16"), []Edit{Set("quantization_config", []byte(`{"load_in_4bit": true}`))})
	got, err := EditConfig([]byte(vlm), edits...)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		`"dtype": "float32",
    "quantization_config": {"quant_method": "fp8"},`, `"dtype": "bfloat16",`,
		`"torch_dtype": "float32",`, `"torch_dtype": "bfloat16",`,
		`{"torch_dtype": "float32"}`, `{"torch_dtype": "bfloat16"}`,
		`  "rope"`, "  \"quantization_config\": {\n    \"load_in_4bit\": true\n  },\n  \"rope\"",
	).Replace(vlm)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSetDType(t *testing.T) {
	for raw, want := range map[string]string{
		`{}`:                                     `{"dtype": "bfloat16", "torch_dtype": "bfloat16"}`,
		`{"dtype": "float32"}`:                   `{"dtype": "bfloat16"}`,
		`{"torch_dtype": null}`:                  `{"torch_dtype": "bfloat16"}`,
		`{"dtype": "a", "torch_dtype": "b"}`:     `{"dtype": "bfloat16", "torch_dtype": "bfloat16"}`,
		`{"a": 1, "text_config": {"dtype": ""}}`: `{"a": 1, "dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "torch_dtype": "bfloat16"}`,
	} {
		c, err := ParseConfig([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		got, err := EditConfig([]byte(raw), c.SetDType("bfloat16")...)
		if err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", raw, got, err, want)
		}
	}
}

// tokens lists every scalar of a config with its path, numbers as they are spelled.
func tokens(t testing.TB, raw []byte) map[string]string {
	t.Helper()
	c, err := ParseConfig(raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	out := make(map[string]string)
	var walk func(path []string)
	walk = func(path []string) {
		for _, key := range c.Keys(path...) {
			full := append(slices.Clone(path), key)
			if c.Keys(full...) != nil {
				walk(full)
				continue
			}
			v, _ := c.Get(full...)
			out[strings.Join(full, "\x00")] = string(v)
		}
	}
	walk(nil)
	return out
}

func FuzzEditConfig(f *testing.F) {
	f.Add([]byte(vlm), "rope")
	for _, dir := range []string{"nf4-dq", "fp4-shards"} {
		raw, err := os.ReadFile(filepath.Join(goldenDir, dir, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "torch_dtype")
	}
	f.Add([]byte("{\r\n\t\"a\" : {} , \"b\":[ ]}"), "a")
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		c, err := ParseConfig(raw)
		if err != nil {
			return
		}
		value := `{"x": [1.0, {"y": "z"}]}`
		edits := slices.Concat(c.RemoveQuantization(), c.SetDType("bfloat16"),
			[]Edit{Set("quantization_config", []byte(value)), Remove(key), Remove("text_config", key)})
		got, err := EditConfig(raw, edits...)
		if err != nil {
			if len(raw) < MaxConfigSize/2 {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		before, after := tokens(t, raw), tokens(t, got)
		for path, v := range before {
			touched := slices.ContainsFunc(strings.Split(path, "\x00"), func(name string) bool {
				return slices.Contains([]string{"quantization_config", "compression_config", "quantization", "dtype", "torch_dtype", key}, name)
			})
			if now, ok := after[path]; !touched && (!ok || now != v) {
				t.Fatalf("%q: %q was %s, is %q", raw, path, v, now)
			}
		}
		if key != "quantization_config" {
			c, err := ParseConfig(got)
			if err != nil {
				t.Fatal(err)
			}
			if v, ok := c.Get("quantization_config", "x"); !ok || !strings.HasPrefix(string(v), "[") {
				t.Fatalf("%q: no quantization_config in %q", raw, got)
			}
		}
	})
}
