package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/memplan"
)

// planValues are the words that flags take.
var planValues = map[string][]string{
	"method":        {"qlora", "lora", "full", "norms"},
	"task":          {"sft", "dpo", "grpo"},
	"preset":        memplan.PresetNames(),
	"dtype":         {"auto", "bfloat16", "float16", "float32"},
	"precision":     {"auto", "pure", "mixed", "autocast"},
	"adapter-dtype": {"float32", "bfloat16", "float16"},
	"experts":       {"keep", "quantize"},
	"towers":        {"keep", "quantize"},
	"optimizer":     memplan.Optimizers(),
	"attention":     {"sdpa", "eager"},
	"loss":          {"standard", "inplace", "chunked", "fused"},
	"sharding":      {"none", "zero1", "zero2", "zero3", "fsdp"},
}

// flags are the flags as the command takes them, in the words of other programs too.
func (o *PlanOptions) flags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	spell(fs, trainerWord, "optimizer", "attention")
	spell(fs, tokenCount, tokenFlags...)
	spell(fs, targetWord, "targets")
	spell(fs, gpuMemory, "vram")
}

// AddFlags declares the flags with their defaults.
func (o *PlanOptions) AddFlags(fs *pflag.FlagSet) {
	list := func(flag string) string { return strings.Join(planValues[flag], ", ") }
	fs.StringVar(&o.Method, "method", "qlora", "what is trained: "+list("method"))
	fs.StringVar(&o.Preset, "preset", "", "defaults of a trainer, for flags that are not given: "+list("preset"))
	fs.StringVar(&o.Task, "task", "sft", "sft; dpo, with pairs of sequences and a reference model; grpo, which generates first")
	fs.Int64Var(&o.Bits, "bits", 4, "QLoRA: of a base weight, 4, or 8 for LLM.int8")
	fs.BoolVar(&o.DoRA, "dora", false, "adapters with trained magnitudes (DoRA)")
	fs.BoolVar(&o.Embeddings, "train-embeddings", false, "train embeddings and head whole beside the adapters")
	fs.StringVar(&o.DType, "dtype", "auto", "dtype of the base weights and of the products: auto is config.json's, else bfloat16")
	fs.StringVar(&o.Precision, "precision", "auto", "full fine-tuning: pure (one copy of the weights, as Trainer has it), mixed (a float32 master copy beside it, as DeepSpeed and FSDP have it), autocast (float32 weights); auto is pure, or mixed with --sharding; adapters: autocast for a loop that uses it (bf16=True)")
	fs.Int64Var(&o.Rank, "rank", memplan.DefaultRank, "LoRA rank")
	fs.StringVar(&o.Targets, "targets", "all-linear", "layers with an adapter: all-linear, attention, mlp, a list such as q_proj,v_proj, or re:REGEX on the whole path")
	fs.StringVar(&o.AdapterDType, "adapter-dtype", "float32", "dtype of the adapters: "+list("adapter-dtype"))
	fs.Float64Var(&o.Dropout, "dropout", 0, "LoRA dropout")
	fs.BoolVar(&o.DoubleQuant, "double-quant", true, "QLoRA: scales in 8 bits")
	fs.Int64Var(&o.BlockSize, "block-size", memplan.DefaultBlockSize, "QLoRA: weights per scale")
	fs.BoolVar(&o.KbitPrep, "kbit-prep", true, "QLoRA: peft's prepare_model_for_kbit_training, which makes embeddings, norms and head float32")
	fs.StringVar(&o.Experts, "experts", "keep", "QLoRA: routed experts in 16 bits, as transformers 5 has them, or quantize")
	fs.StringVar(&o.Towers, "towers", "keep", "QLoRA: vision and audio towers in 16 bits, as convert keeps them, or quantize")
	fs.StringVar(&o.Optimizer, "optimizer", "adamw", list("optimizer"))
	fs.BoolVar(&o.Foreach, "foreach", false, "torch's for-each optimizer step, which copies a state; the default is a fused one")
	fs.BoolVar(&o.InBackward, "optimizer-in-backward", false, "step each parameter as soon as it has its gradient")
	fs.Int64Var(&o.MicroBatch, "micro-batch", 1, "sequences per GPU and step")
	fs.Int64Var(&o.Seq, "seq", memplan.DefaultSeq, "tokens per sequence")
	fs.Int64Var(&o.Accumulate, "accumulate", 1, "micro-batches per optimizer step")
	fs.BoolVar(&o.Padded, "padded", false, "batches with padding, hence an attention mask")
	fs.BoolVar(&o.Checkpointing, "checkpointing", true, "gradient checkpointing")
	fs.BoolVar(&o.Offload, "offload", false, "checkpoints wait in host memory")
	fs.StringVar(&o.Attention, "attention", "sdpa", "sdpa (flash or memory-efficient) or eager, which holds the scores")
	fs.StringVar(&o.Loss, "loss", "standard", "cross-entropy: standard; inplace, its gradient where the logits were; chunked; or fused with the output projection (Liger)")
	fs.BoolVar(&o.Compile, "compile", false, "torch.compile")
	fs.BoolVar(&o.DropOutputs, "drop-outputs", true, "let go of the model's outputs before backward, as Trainer does; false for a loop that holds them")
	fs.Int64Var(&o.GPUs, "gpus", 1, "data-parallel GPUs; figures are of one of them")
	fs.StringVar(&o.Sharding, "sharding", "none", "over the GPUs: "+list("sharding"))
	fs.BoolVar(&o.OnHost, "cpu-offload", false, "optimizer states and gradients on the host, with zero3 and fsdp weights too")
	fs.StringVar(&o.Overhead, "overhead", "5%", "what the allocator reserves beyond what is allocated (not in the script)")
	fs.StringVar(&o.Context, "context", "512MiB", "memory of the CUDA context (not in the script)")
	fs.Int64Var(&o.Generate, "generate", 0, "also plan generation with a KV cache for `TOKENS` per sequence (not in the script)")
	fs.StringVar(&o.GPU, "gpu", "", "say how it fits this GPU, such as \"RTX 4090\", and what to change (not in the script)")
	fs.StringVar(&o.VRAM, "vram", "", "the same for a GPU with this much memory, such as 24GiB (not in the script)")
	fs.BoolVar(&o.MustFit, "must-fit", false, "exit with 4 if the plan does not fit --gpu or --vram (not in the script)")
	fs.BoolVar(&o.NoAdvice, "no-advice", false, "without guidance from the literature (not in the script)")
	fs.BoolVar(&o.Brief, "brief", false, "print the sums and the table of methods alone (not in the script)")
	fs.StringArrayVar(&o.Sweep, "sweep", nil, "compare all combinations of flag values, such as `FLAG=VALUE,VALUE`; + joins a list of targets; more may follow SRC (not in the script)")
	fs.StringVar(&o.HTML, "html", "", "also write a page with sliders to `FILE` (not in the script)")
}
