package memplan

import (
	"fmt"
	"strings"
)

// Advice is a sentence and who found it.
type Advice struct {
	Text   string `json:"text"`
	Source string `json:"source"`
}

// Guidance is what the literature supports about the run.
func (p *Plan) Guidance() []Advice {
	r := p.Run
	dettmers := "Dettmers et al. 2023, arXiv 2305.14314"
	biderman := "Biderman et al. 2024, arXiv 2405.09673"
	var out []Advice
	if r.Method == Full {
		return append(out,
			Advice{"Full fine-tuning pays for continued pretraining and for large sets of code or mathematics; for instruction tuning LoRA comes close and forgets less of the base model.", biderman},
			Advice{"Its best learning rate is about a tenth of LoRA's.", biderman})
	}
	if r.Method == Norms {
		return nil
	}
	if r.Targets != "all-linear" {
		out = append(out, Advice{"Adapt all linear layers before raising the rank: that is what matched full fine-tuning, the rank hardly mattered.", dettmers + ", section 4"})
	} else {
		out = append(out, Advice{"All linear layers, as here, is what matched full fine-tuning; the rank hardly mattered.", dettmers + ", section 4"})
	}
	out = append(out,
		Advice{"Start the learning rate at 2e-4 (1e-4 from 33B up), about ten times that of full fine-tuning.", dettmers + ", appendix B; " + biderman})
	if r.Method == QLoRA {
		out = append(out, Advice{"NF4 rather than FP4: mean 5-shot MMLU 53.1 with NF4 and double quantization, 52.2 with FP4, 53.0 in bfloat16.", dettmers + ", table 4"})
		if p.Memory.Paged == 0 && r.Optimizer.Paged() {
			out = append(out, Advice{"The paged optimizer pages nothing here: every adapter tensor has fewer than 100,000 elements.", "bitsandbytes optim/optimizer.py, get_state_buffer"})
		}
	}
	return append(out,
		Advice{"Full fine-tuning is worth its memory for continued pretraining and for large sets of code or mathematics, where LoRA stays behind.", biderman})
}

// py spells a Go value as Python.
func py(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// optimNames are TrainingArguments.optim (transformers/training_args.py,
// OptimizerNames).
var optimNames = map[Optimizer]string{
	AdamW: "adamw_torch_fused", AdamWF32: "adamw_torch_fused", AdamWBF16: "adamw_torch_fused", AdamW8: "adamw_8bit", SGD: "sgd", Momentum: "sgd",
	Adafactor: "adafactor", Lion: "lion_32bit", Lion8: "lion_8bit",
	"paged-adamw": "paged_adamw_32bit", "paged-adamw-8bit": "paged_adamw_8bit", "paged-lion": "paged_lion_32bit", "paged-lion-8bit": "paged_lion_8bit",
}

// Snippet is the Python that sets the run up with transformers and peft.
// model is what from_pretrained is given.
func (p *Plan) Snippet(model string) string {
	r := p.Run
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	imports := []string{"AutoModelForCausalLM", "TrainingArguments"}
	if r.Method == QLoRA {
		imports = append(imports, "BitsAndBytesConfig")
	}
	line("import torch")
	line("from transformers import %s", strings.Join(imports, ", "))
	if r.Method == LoRA || r.Method == QLoRA {
		prep := ""
		if r.Method == QLoRA && !r.NoKbitPrep {
			prep = ", prepare_model_for_kbit_training"
		}
		line("from peft import LoraConfig, get_peft_model%s", prep)
	}
	line("")
	load := r.Base
	if r.Method == Full && r.Precision == Autocast {
		load = F32
	}
	if r.Method == QLoRA {
		line("bnb = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=\"nf4\", bnb_4bit_use_double_quant=%s,", py(!r.NoDoubleQuant))
		line("                         bnb_4bit_compute_dtype=torch.%s)  # leave out for a checkpoint that is NF4 already", r.Base)
		line("model = AutoModelForCausalLM.from_pretrained(%q, dtype=torch.%s, quantization_config=bnb, attn_implementation=%q)", model, load, r.Attention)
	} else {
		line("model = AutoModelForCausalLM.from_pretrained(%q, dtype=torch.%s, attn_implementation=%q)", model, load, r.Attention)
	}
	if r.Method == QLoRA && !r.NoKbitPrep {
		line("model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=%s)", py(!r.NoCheckpointing))
	}
	switch r.Method {
	case LoRA, QLoRA:
		cast := ""
		if r.AdapterDType != F32 {
			cast = ", autocast_adapter_dtype=False"
		}
		line("model = get_peft_model(model, LoraConfig(task_type=\"CAUSAL_LM\", r=%d, lora_alpha=%d, lora_dropout=%g,", r.Rank, 2*r.Rank, r.Dropout)
		line("                                         target_modules=%s)%s)", pyTargets(r.Targets, p.Coefficients.Adapters), cast)
	case Norms:
		line("for name, param in model.named_parameters():")
		line("    param.requires_grad = \"norm\" in name")
	}
	args := []string{fmt.Sprintf("per_device_train_batch_size=%d", r.MicroBatch), fmt.Sprintf("gradient_accumulation_steps=%d", r.Accumulate),
		fmt.Sprintf("gradient_checkpointing=%s", py(!r.NoCheckpointing)), fmt.Sprintf("optim=%q", optimNames[r.Optimizer])}
	if r.Precision == Autocast || r.Method == Full && r.Precision == Mixed {
		if r.Base == F16 {
			args = append(args, "fp16=True")
		} else {
			args = append(args, "bf16=True")
		}
	}
	if r.Method == LoRA || r.Method == QLoRA {
		args = append(args, "learning_rate=2e-4")
	}
	if r.Loss == FusedLoss {
		args = append(args, "use_liger_kernel=True")
	}
	line("args = TrainingArguments(output_dir=\"out\", %s)", strings.Join(args, ", "))
	line("# sequences of at most %d tokens", r.Seq)
	return b.String()
}

// pyTargets spells the targets for LoraConfig: by the leaf names they matched,
// unless all linear layers did.
func pyTargets(spec string, adapters []Adapter) string {
	if spec == "all-linear" {
		return `"all-linear"`
	}
	if re, ok := strings.CutPrefix(spec, "re:"); ok {
		if strings.ContainsAny(re, "\"\n\r") {
			return fmt.Sprintf("%q", re)
		}
		return `r"` + re + `"`
	}
	seen := map[string]bool{}
	var names []string
	for _, a := range adapters {
		path := modulePath(a.Name)
		leaf := path[strings.LastIndexByte(path, '.')+1:]
		if !seen[leaf] {
			seen[leaf] = true
			names = append(names, fmt.Sprintf("%q", leaf))
		}
	}
	return "[" + strings.Join(names, ", ") + "]"
}
