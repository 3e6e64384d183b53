package memplan

import "slices"

// Preset is what a trainer does unless it is told otherwise, as flags of the plan command.
type Preset struct {
	Name   string
	Source string // where the values are written down
	Flags  [][2]string
	Full   [][2]string // with full fine-tuning besides, over Flags
}

// Presets lists them, each value as in the source that it names.
func Presets() []Preset { return slices.Clone(presets) }

// PresetNames lists their names.
func PresetNames() []string {
	var out []string
	for _, p := range presets {
		out = append(out, p.Name)
	}
	return out
}

var presets = []Preset{
	{"trl", "TRL 1.16.0: trainer/sft_config.py, base_config.py and model_config.py with --use_peft --load_in_4bit; sft_trainer.py makes the adapters bfloat16", [][2]string{
		{"rank", "16"}, {"targets", "q_proj,v_proj"}, {"dropout", "0.05"}, {"adapter-dtype", "bfloat16"}, {"double-quant", "false"}, {"kbit-prep", "false"},
		{"precision", "autocast"}, {"seq", "1024"}, {"micro-batch", "8"}, {"accumulate", "1"}, {"padded", "true"}, {"checkpointing", "true"}, {"optimizer", "adamw"},
		{"loss", "standard"},
	}, [][2]string{{"precision", "autocast"}}},
	{"axolotl", "axolotl 20d0427: examples/llama-3/qlora.yml", [][2]string{
		{"rank", "32"}, {"targets", "all-linear"}, {"dropout", "0.05"}, {"double-quant", "true"}, {"kbit-prep", "true"}, {"precision", "autocast"},
		{"seq", "4096"}, {"micro-batch", "2"}, {"accumulate", "4"}, {"padded", "false"}, {"checkpointing", "true"}, {"optimizer", "paged-adamw"},
		{"loss", "standard"},
	}, [][2]string{{"precision", "pure"}}},
	{"unsloth", "Unsloth 2026.10.9: models/loader.py and llama.py, get_peft_model; batch and optimizer of its notebooks", [][2]string{
		{"rank", "16"}, {"targets", "all-linear"}, {"dropout", "0"}, {"double-quant", "true"}, {"kbit-prep", "false"}, {"precision", "autocast"},
		{"seq", "2048"}, {"micro-batch", "2"}, {"accumulate", "4"}, {"padded", "false"}, {"checkpointing", "true"}, {"offload", "true"},
		{"optimizer", "adamw-8bit"}, {"loss", "fused"},
	}, [][2]string{{"precision", "pure"}}},
	{"torchtune", "torchtune 0.6.1: recipes/configs/llama3_1/8B_qlora_single_device.yaml; full: 8B_full_single_device.yaml", [][2]string{
		{"rank", "8"}, {"targets", "q_proj,v_proj,o_proj,mlp"}, {"dropout", "0"}, {"adapter-dtype", "bfloat16"}, {"double-quant", "true"}, {"kbit-prep", "false"},
		{"precision", "pure"}, {"micro-batch", "2"}, {"accumulate", "8"}, {"padded", "true"}, {"checkpointing", "true"}, {"optimizer", "adamw"},
		{"loss", "chunked"}, {"compile", "false"},
	}, [][2]string{{"accumulate", "1"}, {"optimizer", "paged-adamw-8bit"}, {"optimizer-in-backward", "true"}}},
	{"litgpt", "LitGPT 0.5.13: finetune/lora.py, setup, with --quantize bnb.nf4 and bf16-true", [][2]string{
		{"rank", "8"}, {"targets", "q_proj,v_proj"}, {"dropout", "0.05"}, {"adapter-dtype", "bfloat16"}, {"double-quant", "false"}, {"kbit-prep", "false"},
		{"precision", "pure"}, {"micro-batch", "1"}, {"accumulate", "16"}, {"padded", "true"}, {"checkpointing", "false"}, {"optimizer", "adamw"},
		{"loss", "chunked"},
	}, nil},
	{"llamafactory", "LLaMA-Factory 0.9.5: hparams, examples/train_qlora/qwen3_lora_sft_otfq.yaml", [][2]string{
		{"rank", "8"}, {"targets", "all-linear"}, {"dropout", "0"}, {"double-quant", "true"}, {"kbit-prep", "false"}, {"precision", "autocast"},
		{"seq", "2048"}, {"micro-batch", "1"}, {"accumulate", "8"}, {"padded", "true"}, {"checkpointing", "true"}, {"optimizer", "adamw"},
		{"loss", "standard"},
	}, [][2]string{{"precision", "autocast"}}},
}

// FindPreset is the preset of a name.
func FindPreset(name string) (Preset, bool) {
	for _, p := range presets {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}

// Values are the flags of a preset with a method.
func (p Preset) Values(m Method) [][2]string {
	if m != Full {
		return p.Flags
	}
	out := slices.Clone(p.Flags)
	for _, v := range p.Full {
		if i := slices.IndexFunc(out, func(w [2]string) bool { return w[0] == v[0] }); i >= 0 {
			out[i] = v
		} else {
			out = append(out, v)
		}
	}
	return slices.DeleteFunc(out, func(v [2]string) bool { // what adapters alone have
		return slices.Contains([]string{"rank", "targets", "dropout", "adapter-dtype", "double-quant", "kbit-prep"}, v[0])
	})
}
