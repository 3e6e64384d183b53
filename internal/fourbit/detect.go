package fourbit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Quantized says that a checkpoint is quantized already, by what, and where it says so.
type Quantized struct {
	Method  string // as spelled in the file, such as "gptq"; "bitsandbytes" for both widths
	Label   string // for people, such as "GPTQ 4-bit"
	FourBit bool   // bitsandbytes 4-bit, what this project reads and writes
	File    string // "config.json", a file beside it, or "" where tensors tell
	Where   string // key or tensor, such as "text_config.quantization_config"
	Raw     []byte // the object itself; nil where tensors tell
}

// Error makes a Quantized usable as the reason of a refusal.
func (q *Quantized) Error() string {
	at := q.Where
	if q.File != "" {
		at = q.File + ": " + q.Where
	}
	return fmt.Sprintf("%s: already quantized by %s", at, q.Label)
}

// SideFiles are the files beside config.json that name a quantization method, for DetectFile.
var SideFiles = []string{"quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json"}

// configKeys are the members of config.json that hold a quantization config: transformers' name, the older one of
// compressed-tensors, and MLX's.
var configKeys = []string{"quantization_config", "compression_config", "quantization"}

// maxConfigDepth bounds how far below the top a nested config is looked for (thinker_config.text_config is two).
const maxConfigDepth = 4

// DetectConfig looks for a quantization method in config.json: at the top, and in nested configs such as text_config.
// It returns nil if there is none. Python's NaN and Infinity are let pass; of malformed text what precedes the fault
// is read.
func DetectConfig(config []byte) *Quantized {
	return detectConfig(strictJSON(config), "", 0)
}

func detectConfig(config []byte, prefix string, depth int) *Quantized {
	top := members(config)
	for _, key := range configKeys {
		for _, m := range top {
			if m.name == key && m.value.Kind() == '{' && len(members(m.value)) > 0 {
				q := describeMethod(m.value)
				if key == "quantization" {
					q.Method, q.Label = "mlx", "MLX"+bits(m.value)
				}
				q.File, q.Where, q.Raw = "config.json", prefix+key, m.value
				return q
			}
		}
	}
	if depth == maxConfigDepth {
		return nil
	}
	for _, m := range top {
		if m.value.Kind() == '{' && strings.HasSuffix(m.name, "_config") {
			if q := detectConfig(m.value, prefix+m.name+".", depth+1); q != nil {
				return q
			}
		}
	}
	return nil
}

// DetectFile looks for a quantization method in one of SideFiles. It returns nil if raw is no JSON object.
func DetectFile(name string, raw []byte) *Quantized {
	top := members(raw)
	if len(top) == 0 {
		return nil
	}
	q := &Quantized{Method: "unknown", Label: "an unnamed method", File: name, Where: "the file as a whole", Raw: raw}
	switch name {
	case "quantize_config.json":
		q.Method, q.Label = "gptq", "GPTQ"+bits(raw)
	case "quant_config.json":
		q.Method, q.Label = "awq", "AWQ"+bits(raw)
	case "hf_quant_config.json":
		q.Method, q.Label = "modelopt", "NVIDIA ModelOpt"
		for _, m := range top {
			if algo := text(m.value, "quant_algo"); m.name == "quantization" && algo != "" {
				q.Label += " " + algo
			}
		}
	}
	if method := text(raw, "quant_method"); method != "" {
		named := describeMethod(raw)
		q.Method, q.Label, q.FourBit = named.Method, named.Label, named.FourBit
	}
	return q
}

// labels are the quant_method spellings of transformers (utils/quantization_config.py, QuantizationMethod, 5.23.0) and
// of others seen in published checkpoints.
var labels = map[string]string{
	"gptq": "GPTQ", "awq": "AWQ", "aqlm": "AQLM", "vptq": "VPTQ", "quanto": "Quanto", "eetq": "EETQ", "higgs": "HIGGS",
	"hqq": "HQQ", "compressed-tensors": "compressed-tensors", "fbgemm_fp8": "FBGEMM FP8", "torchao": "torchao",
	"bitnet": "BitNet", "spqr": "SpQR", "fp8": "FP8", "quark": "AMD Quark", "fp_quant": "FP-Quant", "nvfp4": "NVFP4", "mxfp8": "MXFP8",
	"auto-round": "AutoRound", "intel/auto-round": "AutoRound", "mxfp4": "MXFP4", "modelopt": "NVIDIA ModelOpt",
	"exl2": "EXL2", "exl3": "EXL3", "marlin": "Marlin", "gguf": "GGUF", "omniquant": "OmniQuant", "sinq": "SINQ",
	"metal": "Metal", "fouroversix": "Four Over Six", "gemma": "Gemma", "mlx": "MLX",
}

// describeMethod says what a quantization_config object stands for; the label is for people, such as "bitsandbytes 4-bit (nf4)".
func describeMethod(raw []byte) *Quantized {
	q := &Quantized{Method: text(raw, "quant_method")}
	four, eight := holds(raw, "load_in_4bit") || holds(raw, "_load_in_4bit"), holds(raw, "load_in_8bit") || holds(raw, "_load_in_8bit")
	if q.Method == "" && (four || eight) || q.Method == "bitsandbytes_4bit" || q.Method == "bitsandbytes_8bit" {
		four, eight = four || q.Method == "bitsandbytes_4bit", eight || q.Method == "bitsandbytes_8bit"
		q.Method = "bitsandbytes"
	}
	switch {
	case q.Method == "bitsandbytes" && four:
		q.FourBit = true
		kind := text(raw, "bnb_4bit_quant_type")
		if kind == "" {
			kind = nf4.FP4.String()
		}
		q.Label = "bitsandbytes 4-bit (" + clip(kind) + ")"
	case q.Method == "bitsandbytes" && eight:
		q.Label = "bitsandbytes 8-bit"
	case q.Method == "bitsandbytes":
		q.Label = "bitsandbytes with neither load_in_4bit nor load_in_8bit"
	case q.Method == "":
		q.Method, q.Label = "unknown", "an unnamed method"
	default:
		label, ok := labels[strings.ToLower(q.Method)]
		if !ok {
			label = fmt.Sprintf("%q", clip(q.Method))
		}
		q.Label = label + bits(raw)
	}
	return q
}

// bits is " N-bit" if the object gives a small whole number of bits.
func bits(raw []byte) string {
	for _, key := range []string{"bits", "w_bit", "nbits", "weight_bits"} {
		if v := find(raw, key); v.Kind() == '0' && len(v) <= 2 {
			return " " + string(v) + "-bit"
		}
	}
	return ""
}

// find returns the last member of that name, as Python's json does.
func find(raw []byte, name string) (v jsontext.Value) {
	for _, m := range members(raw) {
		if m.name == name {
			v = m.value
		}
	}
	return v
}

func text(raw []byte, name string) string {
	v := find(raw, name)
	if v.Kind() != '"' {
		return ""
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(s)
}

func isTrue(raw []byte, name string) bool { return find(raw, name).Kind() == 't' }

// holds is Python's truth of the member, by which transformers chooses between 4 and 8 bits before it looks at types
// (quantizers/auto.py).
func holds(raw []byte, name string) bool {
	v := find(raw, name)
	switch v.Kind() {
	case 't', '{', '[':
		return len(v) > len("{}")
	case '"':
		return text(raw, name) != ""
	case '0':
		return strings.ContainsAny(string(v), "123456789")
	}
	return false
}

// DetectTensors recognizes a quantized checkpoint by its tensors, for a file without a config. It returns nil if no
// known trace is found.
func DetectTensors(tensors []Tensor) *Quantized {
	names := make(map[string]safetensors.DType, len(tensors))
	for _, t := range tensors {
		names[t.Name] = t.DType
	}
	for _, t := range tensors {
		if q := detectTensor(t, names); q != nil {
			q.Where = t.Name
			if t.Shard != "" {
				q.Where = t.Shard + ": " + t.Name
			}
			return q
		}
	}
	return nil
}

func detectTensor(t Tensor, names map[string]safetensors.DType) *Quantized {
	has := func(name string) bool { _, ok := names[name]; return ok }
	dot := strings.LastIndexByte(t.Name, '.')
	module, leaf := t.Name[:dot+1], t.Name[dot+1:] // module keeps its dot; "" for a bare name
	switch {
	case strings.Contains(t.Name, bnb.StateSuffix):
		return &Quantized{Method: "bitsandbytes", Label: "bitsandbytes 4-bit (" + t.Name[strings.LastIndex(t.Name, bnb.StateSuffix)+len(bnb.StateSuffix):] + ")", FourBit: true}
	case leaf == "SCB" && has(module+"weight"):
		return &Quantized{Method: "bitsandbytes", Label: "bitsandbytes 8-bit"}
	case leaf == "qweight" && has(module+"qzeros") && has(module+"g_idx"):
		return &Quantized{Method: "gptq", Label: "GPTQ"}
	case leaf == "qweight" && has(module+"scales"):
		return &Quantized{Method: "awq", Label: "AWQ or GPTQ"}
	case leaf == "weight_packed" && (has(module+"weight_scale") || has(module+"weight_shape")):
		return &Quantized{Method: "compressed-tensors", Label: "compressed-tensors"}
	case leaf == "W_q" && (has(module+"meta") || has(module+"scale")):
		return &Quantized{Method: "hqq", Label: "HQQ"}
	case leaf == "codebooks" && has(module+"codes"):
		return &Quantized{Method: "aqlm", Label: "AQLM"}
	case leaf == "_data" && has(module+"_scale"):
		return &Quantized{Method: "quanto", Label: "Quanto"}
	case strings.HasSuffix(leaf, "_blocks") && t.DType == safetensors.U8 && has(module+strings.TrimSuffix(leaf, "_blocks")+"_scales"):
		return &Quantized{Method: "mxfp4", Label: "MXFP4"}
	case leaf == "weight" && t.DType == safetensors.U32 && has(module+"scales"):
		return &Quantized{Method: "mlx", Label: "MLX"}
	case leaf == "weight" && t.DType == safetensors.U8 && has(module+"weight_scale_2"):
		return &Quantized{Method: "nvfp4", Label: "NVFP4"}
	case leaf == "weight" && t.DType == safetensors.U8 && has(module+"weight_scale"):
		return &Quantized{Method: "packed", Label: "a method that packs weights into bytes"}
	case leaf == "weight" && t.DType == safetensors.I8 && (has(module+"weight_scale") || has(module+"weight_scales")):
		return &Quantized{Method: "int8", Label: "an 8-bit integer method"}
	case isF8(t.DType) && (has(t.Name+"_scale_inv") || has(t.Name+"_scale") || leaf == "weight"):
		return &Quantized{Method: "fp8", Label: "FP8"}
	}
	return nil
}

// LeavesTraces reports whether weights that the method has quantized cannot look plain, so that plain ones contradict
// it. BitNet's do: they are quantized whenever they are used. Of an unnamed method nobody knows.
func (q *Quantized) LeavesTraces() bool {
	_, known := labels[strings.ToLower(q.Method)]
	return (known || q.Method == "bitsandbytes") && q.Method != "bitnet"
}

// Plain reports whether no tensor looks like a part of a quantized weight: codes in integers or in floats of 8 bits and
// less, or scales and zero points beside a weight.
func Plain(tensors []Tensor) bool {
	return !slices.ContainsFunc(tensors, func(t Tensor) bool {
		leaf := t.Name[strings.LastIndexByte(t.Name, '.')+1:]
		switch {
		case t.DType.Bits() <= 8 && t.DType != safetensors.BOOL && len(t.Shape) > 0 && len(t.Shape) < 4: // GPT-2's causal masks have four
			return true
		case leaf == "weight" || len(t.Shape) == 2 && strings.Contains(leaf, "weight"):
			return !isFloat(t.DType)
		}
		return companion[leaf]
	})
}

// companion are leaves that stand beside the weights of many methods and mean nothing without them.
var companion = map[string]bool{"qweight": true, "qzeros": true, "g_idx": true, "SCB": true, "absmax": true, "scales": true, "zeros": true, "biases": true,
	"weight_scale": true, "weight_scale_inv": true, "weight_zero_point": true, "input_scale": true, "weight_packed": true, "W_q": true, "codebooks": true}

func isFloat(d safetensors.DType) bool {
	switch d {
	case safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16:
		return true
	}
	return false
}

func isF8(d safetensors.DType) bool {
	switch d {
	case safetensors.F8_E4M3, safetensors.F8_E5M2, safetensors.F8_E4M3FNUZ, safetensors.F8_E5M2FNUZ:
		return true
	}
	return false
}

func clip(s string) string {
	const limit = 60
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
