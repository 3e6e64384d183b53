package decode

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// config is what quantization_config says about the place of scales, over all methods.
type config struct {
	method, label string
	given         bool // there is a config at all

	blocks   [][2]int64 // sizes of blocks of [out, in] that scales may stand for
	groups   []int64    // sizes of groups along in
	divide   bool       // any scale grid that divides the shape is taken
	kvScheme bool       // scales of the key-value cache of any shape are expected
	schemes  []*scheme  // config_groups, by name
}

// A scheme is how one of config_groups stores weights.
type scheme struct {
	name, format   string
	bits, group    int64
	kind, strategy string // "int" or "float"; "tensor", "channel", "group", "tensor_group", ...
	symmetric      bool
	targets        []string
}

// alike reports whether weights of both are decoded alike.
func (s *scheme) alike(o *scheme) bool {
	return s.bits == o.bits && s.group == o.group && s.kind == o.kind && s.strategy == o.strategy && s.symmetric == o.symmetric
}

// form says how its scales lie, for people.
func (s *scheme) form() string {
	switch s.strategy {
	case "tensor", "channel":
		return "per " + s.strategy
	}
	return fmt.Sprintf("in groups of %d", s.group)
}

// unsupported makes the error of refusal.
func (c *config) unsupported(tensor, reason string) error {
	return &UnsupportedError{Method: c.method, Label: c.label, Tensor: tensor, Reason: reason}
}

// parseConfig reads the fields of every method that is decoded. An empty method means that there is none.
func parseConfig(src Source) (*config, error) {
	c := &config{method: src.Method, label: src.Label, given: len(src.Config) > 0}
	var raw struct {
		Method   string          `json:"quant_method"`
		Block    json.RawMessage `json:"weight_block_size"`
		Load4    bool            `json:"load_in_4bit"`
		Private4 bool            `json:"_load_in_4bit"`
		compressed
	}
	if c.given {
		if err := json.Unmarshal(src.Config, &raw); err != nil {
			return nil, &ConfigError{Key: "the object", Expected: "the fields of " + c.method, Found: err.Error()}
		}
	}
	if c.method == "" {
		c.method = raw.Method
	}
	if c.label == "" {
		c.label = c.method
	}
	switch c.method {
	case "fp8", "mxfp8":
		c.label = strings.ToUpper(c.method)
		return c, c.fineGrained(raw.Block)
	case "fbgemm_fp8":
		c.label = "FBGEMM FP8"
	case "compressed-tensors":
		return c, c.compressedTensors(&raw.compressed)
	case modelopt, "nvfp4":
		return c, c.modelopt(src.Config)
	case "mxfp4":
		c.label = "MXFP4"
	case "bitsandbytes":
		if raw.Load4 || raw.Private4 {
			return nil, c.unsupported("", "4-bit weights are read by the packages for bitsandbytes' own format")
		}
		c.label = "LLM.int8"
	}
	return c, nil
}

// fineGrained reads weight_block_size: 128x128 if absent, no blocks if null (transformers utils/quantization_config.py,
// FineGrainedFP8Config).
func (c *config) fineGrained(raw json.RawMessage) error {
	switch {
	case raw == nil:
		c.blocks = [][2]int64{{128, 128}}
		return nil
	case bytes.Equal(raw, []byte("null")):
		c.divide = true
		return nil
	}
	block, err := blockSize("weight_block_size", raw)
	if err != nil {
		return err
	}
	c.blocks = [][2]int64{block}
	return nil
}

func blockSize(key string, raw json.RawMessage) (block [2]int64, err error) {
	var list []int64
	if json.Unmarshal(raw, &list) != nil || len(list) != 2 || list[0] <= 0 || list[1] <= 0 {
		return block, &ConfigError{Key: key, Expected: "two positive integers", Found: clip(string(raw))}
	}
	return [2]int64(list), nil
}

// compressed are the fields of compressed-tensors (its quantization/quant_config.py, QuantizationConfig; the older
// sparsity_config and the newer transform_config stand beside them).
type compressed struct {
	Format string                     `json:"format"`
	Groups map[string]json.RawMessage `json:"config_groups"`
	KV     json.RawMessage            `json:"kv_cache_scheme"`
	Sparse struct {
		Format string `json:"format"`
	} `json:"sparsity_config"`
	Transform json.RawMessage `json:"transform_config"`
}

func (c *config) compressedTensors(raw *compressed) error {
	c.label = "compressed-tensors"
	if raw.Format != "" {
		c.label += " " + clip(raw.Format)
	}
	c.kvScheme = !isNull(raw.KV)
	if f := raw.Sparse.Format; f != "" && f != "dense" {
		return c.unsupported("", fmt.Sprintf("its sparse format %q is not decoded", clip(f)))
	}
	if !isNull(raw.Transform) {
		return c.unsupported("", "its weights are rotated (transform_config), which the activations must be too")
	}
	if err := c.knownFormat("format", raw.Format); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(raw.Groups)) {
		var g configGroup
		key := "config_groups." + clip(name)
		if err := json.Unmarshal(raw.Groups[name], &g); err != nil {
			return &ConfigError{Key: key, Expected: "a quantization scheme", Found: err.Error()}
		}
		if err := c.knownFormat(key+".format", g.Format); err != nil {
			return err
		}
		if g.Weights == nil {
			continue
		}
		c.schemes = append(c.schemes, g.scheme(name))
		if size := g.Weights.GroupSize; size != nil && *size > 0 {
			c.groups = append(c.groups, *size)
		}
		if g.Weights.Strategy == "block" {
			block, err := blockSize(key+".weights.block_structure", g.Weights.Block)
			if err != nil {
				return err
			}
			c.blocks = append(c.blocks, block)
		}
	}
	return nil
}

// configGroup is a member of config_groups: compressed_tensors quantization/quant_scheme.py, QuantizationScheme.
type configGroup struct {
	Format  string   `json:"format"`
	Targets []string `json:"targets"`
	Weights *struct {
		Bits      int64           `json:"num_bits"`
		Type      string          `json:"type"`
		Symmetric *bool           `json:"symmetric"`
		Strategy  string          `json:"strategy"`
		GroupSize *int64          `json:"group_size"`
		Block     json.RawMessage `json:"block_structure"`
	} `json:"weights"`
}

// scheme fills in the defaults of QuantizationArgs (quant_args.py).
func (g *configGroup) scheme(name string) *scheme {
	w := g.Weights
	s := &scheme{name: name, format: g.Format, bits: cmp.Or(w.Bits, 8), kind: cmp.Or(w.Type, "int"), strategy: w.Strategy,
		symmetric: w.Symmetric == nil || *w.Symmetric, targets: g.Targets}
	if w.GroupSize != nil {
		s.group = *w.GroupSize
	}
	if s.strategy == "" {
		switch {
		case s.group > 0:
			s.strategy = "group"
		case s.group == -1:
			s.strategy = "channel"
		default:
			s.strategy = "tensor"
		}
	}
	return s
}

// check says what is wrong with a scheme that packed weights are to be read by.
func (s *scheme) check() error {
	wrong := func(key, expected, found string) error {
		return &ConfigError{Key: "config_groups." + clip(s.name) + ".weights." + key, Expected: expected, Found: clip(found)}
	}
	switch {
	case s.bits < 1 || s.bits > 8:
		return wrong("num_bits", "1 to 8", fmt.Sprint(s.bits))
	case s.kind != "int" && s.kind != "float":
		return wrong("type", `"int" or "float"`, fmt.Sprintf("%q", s.kind))
	}
	switch s.strategy {
	case "tensor", "channel", "block":
	case "group", "tensor_group":
		if s.group <= 0 {
			return wrong("group_size", "a positive integer", fmt.Sprint(s.group))
		}
	default:
		return wrong("strategy", "tensor, channel, group, tensor_group or block", fmt.Sprintf("%q", s.strategy))
	}
	return nil
}

// formats are those of compressed-tensors (config/base.py, CompressionFormat) that are decoded. A model whose groups
// differ has the name mixed-precision.
var formats = []string{"", "dense", "mixed-precision", "naive-quantized", "int-quantized", "float-quantized", "mxfp8-quantized",
	"pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized"}

func (c *config) knownFormat(key, format string) error {
	if slices.Contains(formats, format) {
		return nil
	}
	return c.unsupported("", fmt.Sprintf("its %s %q is not decoded", key, clip(format)))
}

// isNull reports a member that is absent, null or an empty object.
func isNull(raw json.RawMessage) bool {
	s := bytes.TrimSpace(raw)
	return len(s) == 0 || bytes.Equal(s, []byte("null")) || s[0] == '{' && bytes.Equal(bytes.TrimSpace(s[1:]), []byte("}"))
}

// clip bounds text from a file that goes into a message.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
