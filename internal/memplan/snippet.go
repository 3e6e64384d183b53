package memplan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// DefaultPrecision is how the usual script of a method keeps its weights: one 16-bit copy where from_pretrained loads
// the checkpoint's dtype and Trainer steps it, a float32 master copy under DeepSpeed (bf16_optimizer.py) and under
// FSDP with bf16=True (accelerate makes the sharded parameters float32).
func DefaultPrecision(m Method, s Sharding) Precision {
	if m == Full && (s == NoSharding || s == "") {
		return Pure
	}
	return Mixed
}

// width is the columns of a line of Python.
const width = 80

// script writes Python.
type script struct {
	strings.Builder
	p *Plan
	r Run
}

func (s *script) line(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

// call writes a call whose arguments go on over lines of at most 80 columns.
func (s *script) call(open string, args ...string) { s.wrap(open, ")", args) }

func (s *script) wrap(open, last string, args []string) {
	col := len(open)
	s.WriteString(open)
	for i, a := range args {
		end := ","
		if i == len(args)-1 {
			end = last
		}
		if col+1+len(a)+len(end) > width {
			s.WriteString("\n    ")
			col = 4
		} else if i > 0 {
			s.WriteByte(' ')
			col++
		}
		s.WriteString(a + end)
		col += len(a) + len(end)
	}
	s.WriteByte('\n')
}

// py spells a Go value as Python.
func py(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// Snippet is the Python that makes the planned run with transformers and peft, on one GPU or by the command in its
// first line. model is what from_pretrained is given. What Trainer has no argument for is a loop of its own: a step in
// the backward pass, torchtune's chunked loss, outputs that are held.
func (p *Plan) Snippet(model string) string {
	s := &script{p: p, r: p.Run}
	if s.r.GPUs > 1 {
		s.line("# torchrun --nproc_per_node %d train.py", s.r.GPUs)
	}
	s.imports()
	s.line("")
	s.model(model)
	s.adapters()
	s.line("")
	switch {
	case s.r.Task == DPO:
		s.line("data = ...  # prompt, chosen and rejected, at most SEQ tokens together")
	case s.r.Task == GRPO:
		s.line("data = ...  # prompts; with what is generated at most SEQ tokens")
		s.line("reward = ...  # a function of prompts and completions")
	case s.r.Padded:
		s.line("data = ...  # dicts of input_ids, attention_mask and labels, padded to SEQ")
	default:
		s.line("data = ...  # dicts of input_ids and labels, SEQ tokens each, packed")
	}
	if s.loops() {
		s.loop()
	} else {
		s.trainer()
	}
	return s.String()
}

// loops reports whether the run is one that Trainer does not do.
func (s *script) loops() bool {
	return s.r.Task == SFT && (s.r.InBackward || s.r.Loss == ChunkedLoss || !s.r.DropOutputs && s.r.Loss == StandardLoss)
}

// masters reports whether the loop itself keeps float32 copies of the weights.
func (s *script) masters() bool {
	return s.loops() && s.r.Method == Full && s.r.Precision == Mixed && s.r.Sharding == NoSharding
}

// optimizer is the run's, for the dtype that it steps.
func (s *script) optimizer() optimizer {
	size := s.r.keptSize()
	switch {
	case s.lora():
		size = s.r.AdapterDType.Size()
	case s.r.Method == Full && s.r.Precision == Mixed:
		size = 4
	}
	return s.r.optimizerOf(size)
}

func (s *script) lora() bool { return s.r.Method == LoRA || s.r.Method == QLoRA }

// stored reports whether the 4-bit weights are of a kind that only a converted checkpoint has.
func (s *script) stored() bool {
	return s.r.Method == QLoRA && s.r.Bits == 4 && (s.r.BlockSize != DefaultBlockSize || s.r.QuantExperts && s.p.experts)
}

func (s *script) auto() string {
	switch {
	case s.p.seq2seq:
		return "AutoModelForSeq2SeqLM"
	case len(s.p.towers) > 0:
		return "AutoModelForImageTextToText"
	}
	return "AutoModelForCausalLM"
}

func (s *script) imports() {
	r, o := s.r, s.optimizer()
	s.line("import torch")
	var more []string
	if s.loops() && r.GPUs > 1 {
		plugin := map[Sharding]string{NoSharding: "", FSDP: ", FullyShardedDataParallelPlugin"}
		name, ok := plugin[r.Sharding]
		if !ok {
			name = ", DeepSpeedPlugin"
		}
		more = append(more, "from accelerate import Accelerator"+name)
	}
	if o.imports != "" && (s.loops() || o.optim == "") {
		more = append(more, o.imports)
	}
	if s.loops() && (r.Loss == FusedLoss || r.Loss == InPlaceLoss) {
		more = append(more, "from liger_kernel.transformers import _apply_liger_kernel_to_instance")
	}
	if s.lora() {
		prep := ""
		if r.Method == QLoRA && !r.NoKbitPrep {
			prep = ", prepare_model_for_kbit_training"
		}
		more = append(more, "from peft import LoraConfig, get_peft_model"+prep)
	}
	if r.Loss == ChunkedLoss {
		more = append(more, "from torchtune.modules.loss import CEWithChunkedOutputLoss")
	}
	names := []string{s.auto()}
	if r.Method == QLoRA && !s.stored() {
		names = append(names, "BitsAndBytesConfig")
	}
	if !s.loops() && r.Task == SFT {
		names = append(names, "Trainer", "TrainingArguments")
	}
	if line := "from transformers import " + strings.Join(names, ", "); len(line) <= width {
		more = append(more, line)
	} else {
		more = append(more, "from transformers import (\n    "+strings.Join(names, ", ")+")")
	}
	if r.Task != SFT {
		trainer, config := s.trainerNames()
		more = append(more, fmt.Sprintf("from trl import %s, %s", config, trainer))
	}
	if r.Offload {
		more = append(more, "from trl.models.activation_offloading import get_act_offloading_ctx_manager")
	}
	for _, m := range more {
		s.line("%s", m)
	}
}

func (s *script) model(model string) {
	r := s.r
	if s.stored() {
		var flags []string
		if r.BlockSize != DefaultBlockSize {
			flags = append(flags, fmt.Sprintf("--block-size %d", r.BlockSize))
		}
		if r.NoDoubleQuant {
			flags = append(flags, "--double-quant=false")
		}
		if r.QuantExperts && s.p.experts {
			flags = append(flags, "--moe per-expert --target transformers4")
		}
		s.line("# nf4kit convert %s %s-nf4 %s", model, model, strings.Join(flags, " "))
		if r.QuantExperts && s.p.experts {
			s.line("# with transformers 4.57: 5.x has no packed experts")
		}
		model += "-nf4"
	}
	s.line("MODEL = %q", model)
	s.line("BATCH = %d", r.MicroBatch)
	s.line("SEQ = %d", r.Seq)
	if s.lora() {
		s.line("RANK = %d", r.Rank)
	}
	s.line("")
	load := r.Base
	if r.Method == Full && (r.Precision == Autocast || r.Precision == Mixed && r.Sharding == FSDP) {
		load = F32
	}
	args := []string{"MODEL", "dtype=torch." + string(load), fmt.Sprintf("attn_implementation=%q", r.Attention)}
	if r.Method == QLoRA && !s.stored() {
		conf := []string{"load_in_4bit=True", `bnb_4bit_quant_type="nf4"`, "bnb_4bit_use_double_quant=" + py(!r.NoDoubleQuant),
			"bnb_4bit_compute_dtype=torch." + string(r.Base)}
		if r.Bits == 8 {
			conf = []string{"load_in_8bit=True"}
		} else if r.Sharding == FSDP || r.Sharding == ZeRO3 { // FSDP shards what has one dtype only
			conf = append(conf, "bnb_4bit_quant_storage=torch."+string(r.Base))
		}
		if len(s.p.towers) > 0 && !r.QuantTowers {
			conf = append(conf, "llm_int8_skip_modules="+pyList(append([]string{"lm_head"}, s.p.towers...)))
		}
		if r.Bits == 4 {
			s.line("# without quantization_config for a checkpoint that is NF4 already")
		}
		s.call("bnb_config = BitsAndBytesConfig(", conf...)
		args = append(args, "quantization_config=bnb_config")
	}
	if s.loops() {
		args = append(args, `device_map="cuda"`)
	}
	s.call(fmt.Sprintf("model = %s.from_pretrained(", s.auto()), args...)
}

func (s *script) adapters() {
	r := s.r
	if r.Method == QLoRA && !r.NoKbitPrep {
		s.call("model = prepare_model_for_kbit_training(", "model", "use_gradient_checkpointing="+py(!r.NoCheckpointing))
	}
	switch r.Method {
	case LoRA, QLoRA:
		task := "CAUSAL_LM"
		if s.p.seq2seq {
			task = "SEQ_2_SEQ_LM"
		}
		conf := []string{fmt.Sprintf("task_type=%q", task), "r=RANK", "lora_alpha=2 * RANK", fmt.Sprintf("lora_dropout=%g", r.Dropout),
			"target_modules=" + s.targets()}
		if r.DoRA {
			conf = append(conf, "use_dora=True")
		}
		if len(s.p.whole) > 0 {
			conf = append(conf, "modules_to_save="+pyList(s.p.whole))
			if s.p.tied {
				conf = append(conf, "ensure_weight_tying=True")
			}
		}
		s.call("lora = LoraConfig(", conf...)
		args := []string{"model", "lora"}
		if r.AdapterDType != F32 {
			args = append(args, "autocast_adapter_dtype=False")
		}
		s.call("model = get_peft_model(", args...)
		if r.AdapterDType != F32 && r.AdapterDType != r.Base {
			s.line("for name, param in model.named_parameters():")
			s.line("    if \"lora_\" in name:")
			s.line("        param.data = param.data.to(torch.%s)", r.AdapterDType)
		}
	case Norms:
		s.line("for name, param in model.named_parameters():")
		s.line("    param.requires_grad = \"norm\" in name")
	}
}

func pyList(names []string) string {
	var quoted []string
	for _, n := range names {
		quoted = append(quoted, strconv.Quote(n))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// targets is what LoraConfig is given as target_modules: a name for a list that is too long to stand there.
func (s *script) targets() string {
	t := pyTargets(s.r.Targets, s.p.Coefficients.Adapters)
	if list, ok := strings.CutPrefix(t, "["); ok && len(t) > 55 {
		s.wrap("targets = [", "]", strings.Split(strings.TrimSuffix(list, "]"), ", "))
		return "targets"
	}
	return t
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
	var names []string
	for _, a := range adapters {
		path := modulePath(a.Name)
		leaf := path[strings.LastIndexByte(path, '.')+1:]
		if !slices.Contains(names, leaf) {
			names = append(names, leaf)
		}
	}
	return pyList(names)
}

// facts sets what the script has to know of the model.
func (p *Plan) facts(m *modelshape.Model) {
	p.context, p.tied, p.whole = m.Context, m.Tied, besideTargets(m, p.Run)
	decoder := false
	for _, g := range m.Groups {
		switch g.Part {
		case modelshape.Encoder:
			p.seq2seq = true
		case modelshape.Tower, modelshape.Projector:
			if g.Kind == modelshape.Linear || g.Kind == modelshape.Kept {
				if t := towerOf(g.Name); !slices.Contains(p.towers, t) {
					p.towers = append(p.towers, t)
				}
			}
		case modelshape.Text:
			decoder = true
		}
		p.experts = p.experts || g.Kind == modelshape.Expert
	}
	p.seq2seq = p.seq2seq && decoder
}

// towerOf is the module that holds a tensor of a tower: the first name of its path that is not the model itself.
func towerOf(name string) string {
	parts := strings.Split(modulePath(name), ".")
	for i, part := range parts {
		if part != "model" && part != "base_model" {
			return strings.Join(parts[:i+1], ".")
		}
	}
	return name
}
