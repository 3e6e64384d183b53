package memplan

import (
	"fmt"
	"strings"
)

// optimizer is how a script names an optimizer.
type optimizer struct {
	optim, args string // TrainingArguments.optim (transformers/training_args.py, OptimizerNames) and optim_args; "" if it has none
	call        string // the same for a list of parameters
	imports     string // what call needs beside torch
}

const importBnb = "import bitsandbytes as bnb"

// optimizerOf is the optimizer of a run whose trained parameters have the given element size. torch keeps states in the
// parameter's dtype; bitsandbytes' 32-bit ones are float32 whatever it is.
func (r Run) optimizerOf(paramSize int64) optimizer {
	torch := optimizer{"adamw_torch_fused", "", "torch.optim.AdamW(%s, lr=LR, fused=True)", ""}
	if r.Foreach {
		torch = optimizer{"adamw_torch", "", "torch.optim.AdamW(%s, lr=LR, foreach=True)", ""}
	}
	switch r.Optimizer {
	case AdamWF32:
		if paramSize == 2 {
			return optimizer{"", "", "bnb.optim.AdamW(%s, lr=LR, optim_bits=32)", importBnb}
		}
	case AdamWBF16:
		if paramSize == 4 {
			return optimizer{"adamw_anyprecision", "momentum_dtype=bfloat16,variance_dtype=bfloat16",
				"AnyPrecisionAdamW(%s, lr=LR, momentum_dtype=torch.bfloat16, variance_dtype=torch.bfloat16)", "from torchdistx.optimizers import AnyPrecisionAdamW"}
		}
	case AdamW8:
		return optimizer{"adamw_8bit", "", "bnb.optim.AdamW8bit(%s, lr=LR)", importBnb}
	case SGD:
		return optimizer{"sgd", "", "torch.optim.SGD(%s, lr=LR)", ""}
	case Momentum:
		return optimizer{"sgd", "momentum=0.9", "torch.optim.SGD(%s, lr=LR, momentum=0.9)", ""}
	case Adafactor:
		return optimizer{"adafactor", "", "Adafactor(%s, lr=LR, relative_step=False, scale_parameter=False)", "from transformers.optimization import Adafactor"}
	case Lion:
		if paramSize == 2 {
			return optimizer{"", "", "Lion(%s, lr=LR)", "from lion_pytorch import Lion"}
		}
		return optimizer{"lion_32bit", "", "bnb.optim.Lion(%s, lr=LR)", importBnb}
	case GaLore:
		return optimizer{"galore_adamw", "rank=128", "GaLoreAdamW([{\"params\": [p for p in %[1]s if p.dim() < 2]},\n    {\"params\": [p for p in %[1]s if p.dim() == 2], \"rank\": 128,\n     \"update_proj_gap\": 200, \"scale\": 0.25, \"proj_type\": \"std\"}], lr=LR)", "from galore_torch import GaLoreAdamW"}
	case Lion8:
		return optimizer{"lion_8bit", "", "bnb.optim.Lion8bit(%s, lr=LR)", importBnb}
	case pagedPrefix + AdamW:
		return optimizer{"paged_adamw_32bit", "", "bnb.optim.PagedAdamW32bit(%s, lr=LR)", importBnb}
	case pagedPrefix + AdamW8:
		return optimizer{"paged_adamw_8bit", "", "bnb.optim.PagedAdamW8bit(%s, lr=LR)", importBnb}
	case pagedPrefix + Lion:
		return optimizer{"paged_lion_32bit", "", "bnb.optim.PagedLion32bit(%s, lr=LR)", importBnb}
	case pagedPrefix + Lion8:
		return optimizer{"paged_lion_8bit", "", "bnb.optim.PagedLion8bit(%s, lr=LR)", importBnb}
	}
	return torch
}

// loop ends the script with a loop of its own.
func (s *script) loop() {
	r, o := s.r, s.optimizer()
	s.line("LR = %s", s.rate())
	if !r.NoCheckpointing {
		s.line("model.gradient_checkpointing_enable({\"use_reentrant\": False})")
		if s.lora() {
			s.line("model.enable_input_require_grads()")
		}
	}
	base := "model"
	if s.lora() {
		base = "model.get_base_model()"
	}
	if r.Loss == FusedLoss || r.Loss == InPlaceLoss {
		kind := ""
		if r.Loss == InPlaceLoss {
			kind = ",\n    cross_entropy=True, fused_linear_cross_entropy=False"
		}
		s.line("_apply_liger_kernel_to_instance(model=%s%s)", base, kind)
	}
	if r.Loss == ChunkedLoss {
		s.line("base = %s", base)
		s.line("chunked = CEWithChunkedOutputLoss()")
	}
	if r.Compile {
		s.line("model.compile()")
	}
	s.line("model.train()")
	s.line("params = [p for p in model.parameters() if p.requires_grad]")
	switch {
	case s.masters():
		s.line("masters = {p: p.detach().float().requires_grad_() for p in params}")
		s.line("optimizers = {\n    p: %s\n    for p in params}", fmt.Sprintf(o.call, "[masters[p]]"))
		s.line("def step(p):")
		s.line("    masters[p].grad = p.grad.float()")
		s.line("    optimizers[p].step()")
		s.line("    p.data.copy_(masters[p])")
		s.line("    p.grad = masters[p].grad = None")
	case r.InBackward:
		s.line("optimizers = {\n    p: %s\n    for p in params}", fmt.Sprintf(o.call, "[p]"))
		s.line("def step(p):")
		s.line("    optimizers[p].step()")
		s.line("    optimizers[p].zero_grad()")
	default:
		s.line("optimizer = %s", fmt.Sprintf(o.call, "params"))
	}
	if r.InBackward {
		s.line("for p in params:")
		s.line("    p.register_post_accumulate_grad_hook(step)")
	}
	s.line("loader = torch.utils.data.DataLoader(data, batch_size=BATCH)")
	if r.GPUs > 1 {
		s.accelerate()
	}
	s.steps()
}

// accelerate spreads the loop over the GPUs.
func (s *script) accelerate() {
	var args []string
	if amp := s.amp(); amp != "" {
		args = append(args, fmt.Sprintf("mixed_precision=%q", amp))
	}
	switch s.r.Sharding {
	case FSDP:
		s.line("fsdp = FullyShardedDataParallelPlugin(fsdp_version=2%s)", map[bool]string{true: ", cpu_offload=True"}[s.r.OnHost])
		args = append(args, "fsdp_plugin=fsdp")
	case ZeRO1, ZeRO2, ZeRO3:
		s.line("deepspeed = %s", s.deepspeed())
		args = append(args, "deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=deepspeed)")
	}
	s.line("accelerator = Accelerator(%s)", strings.Join(args, ", "))
	what := "model, optimizer, loader"
	if s.masters() {
		what = "model, loader"
	}
	s.line("%s = accelerator.prepare(%s)", what, what)
}

// steps is the loop over the data.
func (s *script) steps() {
	r := s.r
	s.line("for i, batch in enumerate(loader):")
	in := "    "
	if r.GPUs == 1 {
		s.line("%sbatch = {k: v.to(model.device) for k, v in batch.items()}", in)
	}
	if r.Precision == Autocast && r.GPUs == 1 {
		s.line("%swith torch.autocast(model.device.type, torch.%s):", in, r.Base)
		in += "    "
	}
	if r.Offload {
		s.line("%swith get_act_offloading_ctx_manager(model):", in)
		in += "    "
	}
	switch {
	case r.Loss == ChunkedLoss:
		s.line("%slabels = batch.pop(\"labels\")[:, 1:]", in)
		s.line("%slabels = torch.nn.functional.pad(labels, (0, 1), value=-100)", in)
		s.line("%shidden = base.base_model(**batch).last_hidden_state", in)
		s.line("%schunks = hidden.chunk(chunked.num_output_chunks, dim=1)", in)
		s.line("%shead = base.get_output_embeddings()", in)
		s.line("%sloss = chunked([head(c) for c in chunks], labels)", in)
	case r.DropOutputs:
		s.line("%sloss = model(**batch).loss", in)
	default:
		s.line("%soutputs = model(**batch)  # held until the next step", in)
		s.line("%sloss = outputs.loss", in)
	}
	backward := "loss%s.backward()"
	if r.GPUs > 1 {
		backward = "accelerator.backward(loss%s)"
	}
	share := ""
	if r.Accumulate > 1 {
		share = fmt.Sprintf(" / %d", r.Accumulate)
		if r.GPUs == 1 {
			backward = "(loss%s).backward()"
		}
	}
	s.line("    "+backward, share)
	in = "    "
	if r.Accumulate > 1 {
		s.line("    if i %% %d == %d:", r.Accumulate, r.Accumulate-1)
		in += "    "
	}
	switch {
	case r.InBackward:
	case s.masters():
		s.line("%sfor p in params:", in)
		s.line("%s    step(p)", in)
	default:
		s.line("%soptimizer.step()", in)
		s.line("%soptimizer.zero_grad()", in)
	}
}
