package bnb

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nf4kit/nf4kit/nf4"
)

// QuantizationConfig is the part of config.json's quantization_config that describes 4-bit weights.
type QuantizationConfig struct {
	Type         nf4.Type
	DoubleQuant  bool     // every weight, or none: transformers 4 derives sidecar names from it
	ComputeDType string   // "bfloat16", "float16" or "float32", without "torch."
	Storage      string   // "uint8", "bfloat16", "float16" or "float32"; "" is "uint8"
	SkipModules  []string // llm_int8_skip_modules; nil is written as null, which loaders take for their own defaults
}

// Encode returns the object as JSON with the keys of BitsAndBytesConfig.to_dict in ascending order, as save_pretrained
// writes them, less the two that no loader reads (_load_in_4bit, _load_in_8bit; vllm-omni issue 5601 fails on them).
// llm_int8_threshold is spelled 6.0: transformers raises TypeError on the integer 6.
func (c QuantizationConfig) Encode() ([]byte, error) {
	storage := cmp.Or(c.Storage, UInt8.String())
	_, badDType := nf4.ParseDType(c.ComputeDType)
	_, badStorage := ParseStorage(storage)
	switch {
	case c.Type > nf4.FP4:
		return nil, fmt.Errorf("bnb: quantization_config: quant type: expected nf4 or fp4, found %v", c.Type)
	case badDType != nil:
		return nil, fmt.Errorf("bnb: quantization_config: compute dtype: expected bfloat16, float16 or float32, found %q", c.ComputeDType)
	case badStorage != nil:
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
		`"quant_method": "bitsandbytes"}`, c.ComputeDType, storage, c.Type, c.DoubleQuant, skip), nil
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
// absent with BitsAndBytesConfig's defaults (float32, uint8, fp4, no double quantization). It takes the spellings that
// some loader stumbles over, such as "torch.bfloat16", and gives the plain ones. The error is of an object that is
// malformed or says something else than bitsandbytes 4-bit.
func ParseQuantizationConfig(raw []byte) (*QuantizationConfig, error) {
	var members map[string]json.RawMessage // into a struct encoding/json takes names of another case too; Python does not
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, fmt.Errorf("parse quantization_config: %w", err)
	}
	var in struct {
		Method, ComputeDType, Storage string
		Load4, Load4Private           bool
		QuantType                     *string
		DoubleQuant                   bool
		SkipModules                   []string
	}
	for _, m := range []struct {
		key string
		to  any
	}{
		{"quant_method", &in.Method}, {"load_in_4bit", &in.Load4}, {"_load_in_4bit", &in.Load4Private},
		{"bnb_4bit_compute_dtype", &in.ComputeDType}, {"bnb_4bit_quant_type", &in.QuantType},
		{"bnb_4bit_use_double_quant", &in.DoubleQuant}, {"bnb_4bit_quant_storage", &in.Storage},
		{"llm_int8_skip_modules", &in.SkipModules},
	} {
		if v, ok := members[m.key]; ok {
			if err := json.Unmarshal(v, m.to); err != nil {
				if _, ok := m.to.(*bool); ok {
					return nil, fmt.Errorf("parse quantization_config: %s: expected true or false, found %.60s", m.key, v)
				}
				return nil, fmt.Errorf("parse quantization_config: %s: %w", m.key, err)
			}
		}
	}
	if in.Method != "" && in.Method != "bitsandbytes" || !in.Load4 && !in.Load4Private {
		return nil, fmt.Errorf("parse quantization_config: expected bitsandbytes with load_in_4bit, found quant_method %q without", in.Method)
	}
	c := &QuantizationConfig{
		Type:         nf4.FP4,
		DoubleQuant:  in.DoubleQuant,
		ComputeDType: cmp.Or(strings.TrimPrefix(in.ComputeDType, "torch."), "float32"),
		Storage:      cmp.Or(strings.TrimPrefix(in.Storage, "torch."), "uint8"),
		SkipModules:  in.SkipModules,
	}
	if in.QuantType != nil {
		var err error
		if c.Type, err = nf4.ParseType(*in.QuantType); err != nil {
			return nil, fmt.Errorf("parse quantization_config: bnb_4bit_quant_type: expected nf4 or fp4, found %q", *in.QuantType)
		}
	}
	return c, nil
}
