package memplan

import "fmt"

// amp is the name of the 16-bit type that the framework casts to, "" if it does not.
func (s *script) amp() string {
	if s.r.Precision == Autocast || s.r.Method == Full && s.r.Precision == Mixed {
		if s.r.Base == F16 {
			return "fp16"
		}
		return "bf16"
	}
	return ""
}

func (s *script) rate() string {
	if s.lora() {
		return "2e-4"
	}
	return "2e-5"
}

// trainer ends the script with TrainingArguments and Trainer.
func (s *script) trainer() {
	r, o := s.r, s.optimizer()
	args := []string{`output_dir="out"`, "learning_rate=" + s.rate(), "per_device_train_batch_size=BATCH",
		fmt.Sprintf("gradient_accumulation_steps=%d", r.Accumulate), "gradient_checkpointing=" + py(!r.NoCheckpointing)}
	if o.optim != "" {
		args = append(args, fmt.Sprintf("optim=%q", o.optim))
	}
	if o.args != "" {
		args = append(args, fmt.Sprintf("optim_args=%q", o.args))
	}
	if r.Optimizer == GaLore {
		args = append(args, `optim_target_modules=["attn", "mlp"]`)
	}
	if amp := s.amp(); amp != "" {
		args = append(args, amp+"=True")
	}
	switch r.Loss {
	case FusedLoss:
		args = append(args, "use_liger_kernel=True")
	case InPlaceLoss:
		s.line("liger = {\"cross_entropy\": True, \"fused_linear_cross_entropy\": False}")
		args = append(args, "use_liger_kernel=True", "liger_kernel_config=liger")
	}
	args = append(args, s.taskArgs()...)
	if r.Compile {
		args = append(args, "torch_compile=True")
	}
	switch d := s.deepspeed(); {
	case r.Sharding == FSDP:
		args = append(args, "fsdp=True")
		if r.OnHost {
			args = append(args, `fsdp_config={"cpu_offload": True}`)
		}
	case d != "":
		s.line("deepspeed = %s", d)
		args = append(args, "deepspeed=deepspeed")
	}
	trainer, config := s.trainerNames()
	s.call("args = "+config+"(", args...)
	set := []string{"model", "args=args", "train_dataset=data"}
	if r.Task == GRPO {
		set = append(set, "reward_funcs=reward")
	}
	if o.optim == "" {
		s.line("LR = args.learning_rate")
		s.line("params = [p for p in model.parameters() if p.requires_grad]")
		set = append(set, "optimizers=("+fmt.Sprintf(o.call, "params")+", None)")
	}
	s.call("trainer = "+trainer+"(", set...)
	if r.Offload {
		s.line("with get_act_offloading_ctx_manager(model):")
		s.line("    trainer.train()")
		return
	}
	s.line("trainer.train()")
}

// trainerNames are the classes of the task.
func (s *script) trainerNames() (trainer, config string) {
	switch s.r.Task {
	case DPO:
		return "DPOTrainer", "DPOConfig"
	case GRPO:
		return "GRPOTrainer", "GRPOConfig"
	}
	return "Trainer", "TrainingArguments"
}

// taskArgs are what the configuration of TRL has of its own.
func (s *script) taskArgs() []string {
	var args []string
	switch s.r.Task {
	case SFT:
		return nil
	case DPO:
		args = append(args, "max_length=SEQ")
	case GRPO:
		args = append(args, "max_completion_length=SEQ // 2")
	}
	if s.amp() == "" { // TRL's default is True
		args = append(args, "bf16=False")
	}
	return args
}

// deepspeed is the configuration that keeps a float32 master copy or shards; "" if the run has neither.
func (s *script) deepspeed() string {
	r := s.r
	stage, ok := map[Sharding]int{ZeRO1: 1, ZeRO2: 2, ZeRO3: 3}[r.Sharding]
	if !ok {
		if r.Method != Full || r.Precision != Mixed || r.Sharding == FSDP {
			return ""
		}
		stage = 1 // of one rank: nothing is sharded
	}
	half := ""
	switch amp := s.amp(); {
	case amp != "" && r.Precision == Mixed:
		half = fmt.Sprintf(",\n    %q: {\"enabled\": True}", amp)
	case r.Precision == Pure && r.Base == BF16:
		half = ",\n    \"bf16\": {\"enabled\": True, \"bf16_master_weights_and_grads\": True,\n             \"bf16_optimizer_states\": True}"
	}
	offload := ""
	if r.OnHost {
		offload = ",\n    \"offload_optimizer\": {\"device\": \"cpu\"}"
		if r.Sharding == ZeRO3 {
			offload += ",\n    \"offload_param\": {\"device\": \"cpu\"}"
		}
	}
	return fmt.Sprintf("{\"zero_optimization\": {\"stage\": %d%s}%s,\n    \"train_micro_batch_size_per_gpu\": \"auto\",\n    \"gradient_accumulation_steps\": \"auto\"}", stage, offload, half)
}
