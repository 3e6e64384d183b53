package decode

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// modelopt is NVIDIA's TensorRT Model Optimizer, as its config.json spells it (nvidia-modelopt 0.47.0,
// export/convert_hf_config.py).
const modelopt = "modelopt"

// modeloptLayer are the settings of a model, or of a layer of one of mixed precision.
type modeloptLayer struct {
	Algo      string `json:"quant_algo"`
	GroupSize int64  `json:"group_size"`
}

// modelopt reads hf_quant_config.json, or what config.json says instead of it. Both say which numbers the weights are;
// tensors of bytes under two scales do not.
func (c *config) modelopt(config []byte) error {
	c.method, c.label = modelopt, "NVIDIA ModelOpt"
	if len(config) == 0 {
		return c.unsupported("", "no hf_quant_config.json that can be read stands beside it, which says how its weights are packed: download it with them")
	}
	type settings struct {
		modeloptLayer
		Layers map[string]modeloptLayer `json:"quantized_layers"`
	}
	var raw struct {
		settings
		File   settings               `json:"quantization"`
		Groups map[string]configGroup `json:"config_groups"`
	}
	if err := json.Unmarshal(config, &raw); err != nil {
		return &ConfigError{Key: "the object", Expected: "the fields of " + c.label, Found: err.Error()}
	}
	s := raw.File
	if s.Algo == "" {
		s = raw.settings
	}
	c.label += " " + clip(s.Algo)
	layers := []modeloptLayer{s.modeloptLayer}
	if s.Algo == "MIXED_PRECISION" {
		layers = layers[:0]
		for _, l := range s.Layers {
			layers = append(layers, l)
		}
	}
	for _, g := range raw.Groups {
		if g.Weights != nil && g.Weights.GroupSize != nil && s.GroupSize == 0 {
			c.groups = append(c.groups, *g.Weights.GroupSize)
		}
	}
	for _, l := range layers {
		switch l.Algo {
		case "NVFP4", "W4A16_NVFP4":
			if l.GroupSize < 0 {
				return &ConfigError{Key: "group_size", Expected: "a positive integer", Found: fmt.Sprint(l.GroupSize)}
			}
			if len(raw.Groups) == 0 || l.GroupSize > 0 {
				c.groups = append(c.groups, cmp.Or(l.GroupSize, 16))
			}
		case "FP8", "FP8_PER_CHANNEL_PER_TOKEN":
		default:
			return c.unsupported("", fmt.Sprintf("its quant_algo %q is not decoded", clip(l.Algo)))
		}
	}
	c.groups = append(c.groups, 0) // not empty: no other size is a group
	return nil
}

// modeloptLevel2 finds weight_scale_2, which the scales of an NVFP4 weight are multiplied with (modelopt
// torch/quantization/qtensor/nvfp4_tensor.py, NVFP4QTensor.dequantize).
func (d *detector) modeloptLevel2(t *Tensor, r *scaledReader) (*Tensor, error) {
	second := d.byName[t.Name+"_scale_2"]
	if second == nil || r.kind != scaleE4M3 {
		return nil, &TensorError{File: t.File, Tensor: t.Name, Expected: "scales in F8_E4M3 and their own in " + t.Name + "_scale_2", Found: "others"}
	}
	var lead []int64
	if n := len(t.Shape); n > 2 {
		lead = t.Shape[:n-2]
	}
	var err error
	r.level2, err = newLevel2(second, lead, r.grid.scaleRows*r.grid.scaleCols)
	return second, err
}

// refuseModelOpt tells weights that only ModelOpt's own runtimes put together.
func (d *detector) refuseModelOpt(t *Tensor) error {
	_, leaf := split(t.Name)
	switch {
	case leaf == "pre_quant_scale" || strings.HasPrefix(leaf, "svdquant_lora_"):
		return d.cfg.unsupported(t.Name, "its inputs are scaled, or a second product added, in the runtime")
	case d.byName[t.Name+"_weight_scale"] != nil:
		return d.cfg.unsupported(t.Name, "stacked experts are not decoded")
	}
	return nil
}
