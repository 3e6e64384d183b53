package bnb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// QuantizationConfig is the part of config.json's quantization_config that describes 4-bit weights.
type QuantizationConfig struct {
	QuantType    string   // NF4 or FP4
	DoubleQuant  bool     // every weight, or none: transformers 4 derives sidecar names from it
	ComputeDType string   // "bfloat16", "float16" or "float32", without "torch."
	Storage      string   // "uint8", "bfloat16", "float16" or "float32"; "" is "uint8"
	SkipModules  []string // llm_int8_skip_modules; nil is written as null, which loaders take for their own defaults
}

// Encode returns the object as JSON with the keys of BitsAndBytesConfig.to_dict in ascending order, as save_pretrained
// writes them, less the two that no loader reads (_load_in_4bit, _load_in_8bit; vllm-omni issue 5601 fails on them).
// llm_int8_threshold is spelled 6.0: transformers raises TypeError on the integer 6.
func (c QuantizationConfig) Encode() ([]byte, error) {
	storage := c.Storage
	if storage == "" {
		storage = "uint8"
	}
	switch {
	case !validType(c.QuantType):
		return nil, fmt.Errorf("bnb: quantization_config: quant type: expected nf4 or fp4, found %q", c.QuantType)
	case !validDType(c.ComputeDType):
		return nil, fmt.Errorf("bnb: quantization_config: compute dtype: expected bfloat16, float16 or float32, found %q", c.ComputeDType)
	case storage != "uint8" && !validDType(storage):
		return nil, fmt.Errorf("bnb: quantization_config: storage: expected uint8, bfloat16, float16 or float32, found %q", c.Storage)
	}
	skip := []byte("null")
	if c.SkipModules != nil {
		var err error
		if skip, err = encodeStrings(c.SkipModules); err != nil {
			return nil, fmt.Errorf("bnb: quantization_config: skip modules: %w", err)
		}
	}
	return fmt.Appendf(nil, `{"bnb_4bit_compute_dtype": "%s", "bnb_4bit_quant_storage": "%s", "bnb_4bit_quant_type": "%s", `+
		`"bnb_4bit_use_double_quant": %t, "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false, `+
		`"llm_int8_skip_modules": %s, "llm_int8_threshold": 6.0, "load_in_4bit": true, "load_in_8bit": false, `+
		`"quant_method": "bitsandbytes"}`, c.ComputeDType, storage, c.QuantType, c.DoubleQuant, skip), nil
}

func encodeStrings(list []string) ([]byte, error) {
	out := []byte{'['}
	for i, s := range list {
		if i > 0 {
			out = append(out, ", "...)
		}
		var err error
		if out, err = jsontext.AppendQuote(out, s); err != nil {
			return nil, fmt.Errorf("entry %q: %w", s, err)
		}
	}
	return append(out, ']'), nil
}

// ParseQuantizationConfig reads the quantization_config object of a bitsandbytes 4-bit checkpoint, filling what is
// absent with BitsAndBytesConfig's defaults (float32, uint8, fp4, no double quantization). The problems are spellings
// that some loader stumbles over; the error is of an object that says something else than bitsandbytes 4-bit.
func ParseQuantizationConfig(raw []byte) (*QuantizationConfig, []*Problem, error) {
	var in struct {
		Method       string          `json:"quant_method"`
		Load4        *bool           `json:"load_in_4bit"`
		Load4Private *bool           `json:"_load_in_4bit"`
		ComputeDType *string         `json:"bnb_4bit_compute_dtype"`
		QuantType    *string         `json:"bnb_4bit_quant_type"`
		DoubleQuant  bool            `json:"bnb_4bit_use_double_quant"`
		Storage      *string         `json:"bnb_4bit_quant_storage"`
		SkipModules  []string        `json:"llm_int8_skip_modules"`
		Threshold    json.RawMessage `json:"llm_int8_threshold"`
	}
	if err := json.Unmarshal(strictJSON(raw), &in); err != nil {
		return nil, nil, fmt.Errorf("parse quantization_config: %w", err)
	}
	isSet := func(b *bool) bool { return b != nil && *b }
	if in.Method != "" && in.Method != "bitsandbytes" || !isSet(in.Load4) && !isSet(in.Load4Private) {
		return nil, nil, fmt.Errorf("parse quantization_config: expected bitsandbytes with load_in_4bit, found %s", Describe(raw))
	}
	var problems []*Problem
	warn := func(key, expected, found, effect string) {
		problems = append(problems, &Problem{Kind: ConfigMismatch, Severity: Warning, Tensor: "quantization_config." + key,
			Expected: expected, Found: found, Effect: effect, Breaks: []Loader{Transformers5, Transformers4}})
	}
	if in.Method == "" {
		warn("quant_method", `"bitsandbytes"`, "nothing", "")
	}
	if !isSet(in.Load4) {
		warn("load_in_4bit", "true", "only _load_in_4bit", "")
	}
	if t := string(in.Threshold); len(t) > 0 && !strings.ContainsAny(t, ".eEn") {
		warn("llm_int8_threshold", t+".0", t, "raises TypeError: must be a float")
	}
	dtype := func(key string, v *string, fallback string) string {
		if v == nil {
			return fallback
		}
		bare := strings.TrimPrefix(*v, "torch.")
		if bare == "" {
			bare = fallback
		}
		if bare != *v {
			warn(key, bare, strconv.Quote(*v), "raises AttributeError")
		}
		return bare
	}
	c := &QuantizationConfig{
		QuantType:    FP4,
		DoubleQuant:  in.DoubleQuant,
		ComputeDType: dtype("bnb_4bit_compute_dtype", in.ComputeDType, "float32"),
		Storage:      dtype("bnb_4bit_quant_storage", in.Storage, "uint8"),
		SkipModules:  in.SkipModules,
	}
	if in.QuantType != nil {
		c.QuantType = *in.QuantType
	}
	if !validType(c.QuantType) {
		return nil, nil, fmt.Errorf("parse quantization_config: bnb_4bit_quant_type: expected nf4 or fp4, found %q", c.QuantType)
	}
	return c, problems, nil
}

// CheckConfig compares what the tensors are with what quantization_config says they are.
func (g *Groups) CheckConfig(c *QuantizationConfig) []*Problem {
	if len(g.Weights) == 0 {
		return []*Problem{{Kind: ConfigMismatch, Severity: Warning, Tensor: "quantization_config",
			Expected: "4-bit weights", Found: "none", Breaks: []Loader{Transformers5, Transformers4}}}
	}
	var problems []*Problem
	seen := make(map[string]bool)
	differ := func(w *Weight, key, config, tensor string, breaks ...Loader) {
		if config == tensor || seen[key] {
			return
		}
		seen[key] = true
		problems = append(problems, &Problem{Kind: ConfigMismatch, Severity: Warning, Tensor: w.Name, Shard: w.Packed.Shard,
			Expected: fmt.Sprintf("%s %s as in quantization_config", key, config), Found: tensor, Breaks: breaks})
	}
	storage := c.Storage
	if storage == "" {
		storage = "uint8"
	}
	for _, w := range g.Weights {
		differ(w, "bnb_4bit_quant_type", c.QuantType, w.State.QuantType, Transformers4)
		differ(w, "bnb_4bit_use_double_quant", fmt.Sprint(c.DoubleQuant), fmt.Sprint(w.State.DoubleQuant), Transformers4)
		differ(w, "bnb_4bit_quant_storage", storage, StorageName(w.Packed.DType), Transformers5, Transformers4)
	}
	return problems
}

// pythonTokens matches strings, to pass over them, and what Python's json writes that JSON lacks.
var pythonTokens = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|NaN|-?Infinity`)

// strictJSON replaces NaN and Infinity, which occur in published configs (time_step_limit of Mamba-2), by null.
func strictJSON(raw []byte) []byte {
	if !bytes.Contains(raw, []byte("NaN")) && !bytes.Contains(raw, []byte("Infinity")) {
		return raw
	}
	return pythonTokens.ReplaceAllFunc(raw, func(token []byte) []byte {
		if token[0] == '"' {
			return token
		}
		return []byte("null")
	})
}

type member struct {
	name  string
	value jsontext.Value
}

// members are those of a JSON object in their order, duplicates included; nil if raw is none, and those before the
// fault if it is malformed.
func members(raw []byte) []member {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return nil
	}
	var out []member
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return out
		}
		key := name.String() // before ReadValue reuses the token's buffer
		value, err := dec.ReadValue()
		if err != nil {
			return out
		}
		out = append(out, member{key, value.Clone()})
	}
	return out
}
