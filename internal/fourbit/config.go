package fourbit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// ParseConfig reads the quantization_config object of a bitsandbytes 4-bit checkpoint as bnb.ParseQuantizationConfig
// does. The problems are spellings that some loader stumbles over.
func ParseConfig(raw []byte) (*bnb.QuantizationConfig, []*Problem, error) {
	strict := strictJSON(raw)
	c, err := bnb.ParseQuantizationConfig(strict)
	if err != nil {
		if q := describeMethod(strict); json.Valid(strict) && !q.FourBit && len(members(strict)) > 0 {
			err = fmt.Errorf("parse quantization_config: expected bitsandbytes with load_in_4bit, found %s", q.Label)
		}
		return nil, nil, err
	}
	var problems []*Problem
	warn := func(key, expected, found, effect string) {
		problems = append(problems, &Problem{Kind: ConfigMismatch, Severity: Warning, Tensor: "quantization_config." + key,
			Expected: expected, Found: found, Effect: effect, Breaks: []Loader{Transformers5, Transformers4}})
	}
	if text(strict, "quant_method") == "" {
		warn("quant_method", `"bitsandbytes"`, "nothing", "")
	}
	if !isTrue(strict, "load_in_4bit") {
		warn("load_in_4bit", "true", "only _load_in_4bit", "")
	}
	switch t := find(strict, "llm_int8_threshold"); {
	case len(t) == 0 || t.Kind() == '0' && bytes.ContainsAny(t, ".eE"):
	case t.Kind() == '0':
		warn("llm_int8_threshold", string(t)+".0", string(t), "raises TypeError: must be a float")
	default:
		warn("llm_int8_threshold", "6.0", clip(string(t)), "raises TypeError: must be a float")
	}
	if t := find(strict, "bnb_4bit_quant_type"); t.Kind() == 'n' {
		warn("bnb_4bit_quant_type", "nf4 or fp4", "null", "raises TypeError: must be a string")
	}
	if isTrue(strict, "load_in_8bit") {
		warn("load_in_8bit", "false beside load_in_4bit", "true", "raises ValueError: only one can be used")
	}
	for _, key := range []string{"load_in_8bit", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight", "bnb_4bit_use_double_quant"} {
		if v := find(strict, key); len(v) > 0 && v.Kind() != 't' && v.Kind() != 'f' {
			warn(key, "true or false", clip(string(v)), "raises TypeError: must be a boolean")
		}
	}
	if !computeDTypes[c.ComputeDType] {
		warn("bnb_4bit_compute_dtype", "bfloat16, float16 or float32", strconv.Quote(clip(c.ComputeDType)), "no such dtype of torch, or one that no product has")
	}
	for _, d := range []struct{ key, value string }{{"bnb_4bit_compute_dtype", c.ComputeDType}, {"bnb_4bit_quant_storage", c.Storage}} {
		if find(strict, d.key).Kind() == '"' && text(strict, d.key) != d.value {
			warn(d.key, d.value, strconv.Quote(text(strict, d.key)), "raises AttributeError")
		}
	}
	return c, problems, nil
}

// computeDTypes are the names that torch has for floating-point dtypes of matrix products.
var computeDTypes = map[string]bool{"bfloat16": true, "float16": true, "half": true, "float32": true, "float": true, "float64": true, "double": true}

// CheckConfig compares what the tensors are with what quantization_config says they are.
func (g *Groups) CheckConfig(c *bnb.QuantizationConfig) []*Problem {
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
	config := cmp.Or(c.Storage, bnb.UInt8.String())
	for _, w := range g.Weights {
		differ(w, "bnb_4bit_quant_type", c.Type.String(), w.State.Type.String(), Transformers4)
		differ(w, "bnb_4bit_use_double_quant", fmt.Sprint(c.DoubleQuant), fmt.Sprint(!w.State.NoDoubleQuant), Transformers4)
		storage, _ := bnb.StorageOf(w.Packed.DType) // Group refuses a weight of another
		differ(w, "bnb_4bit_quant_storage", config, storage.String(), Transformers5, Transformers4)
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
