package memplan

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Method is how a model is trained.
type Method string

// The methods.
const (
	Full  Method = "full"  // every parameter
	LoRA  Method = "lora"  // adapters on a 16-bit (or 32-bit) base
	QLoRA Method = "qlora" // adapters on a 4-bit base
	Norms Method = "norms" // only the weights of the norms (LN tuning)
)

// DType is a floating-point type by the name PyTorch gives it.
type DType string

// The dtypes.
const (
	BF16 DType = "bfloat16"
	F16  DType = "float16"
	F32  DType = "float32"
)

// Size is the bytes of one element.
func (d DType) Size() int64 {
	if d == F32 {
		return 4
	}
	return 2
}

// Precision is how weights are kept and products computed. Adapters know
// autocast or not.
type Precision string

// The precisions.
const (
	Mixed    Precision = "mixed"    // weights and gradients in 16 bits, a float32 master copy in the optimizer (Micikevicius et al. 2018; DeepSpeed, Megatron, apex O2)
	Pure     Precision = "pure"     // one copy, in the base dtype
	Autocast Precision = "autocast" // under torch.autocast (TrainingArguments bf16=True); of full fine-tuning, float32 weights
)

// Attention is the kernel that computes attention.
type Attention string

// The kernels.
const (
	SDPA  Attention = "sdpa"  // flash or memory-efficient: the T x T scores never exist
	Eager Attention = "eager" // they do
)

// Loss is how the cross-entropy over the vocabulary is computed.
type Loss string

// The losses.
const (
	StandardLoss Loss = "standard" // all logits at once, in float32
	ChunkedLoss  Loss = "chunked"  // torchtune's CEWithChunkedOutputLoss
	FusedLoss    Loss = "fused"    // fused with the output projection (Liger): logits of one chunk at a time
	InPlaceLoss  Loss = "inplace"  // a kernel that puts the gradient where the logits were (Unsloth's, fms-acceleration's)
)

// Sharding is how the training state is spread over data-parallel ranks.
type Sharding string

// The shardings.
const (
	NoSharding Sharding = "none"  // plain data parallelism (DDP) if there are several GPUs
	ZeRO1      Sharding = "zero1" // optimizer states
	ZeRO2      Sharding = "zero2" // and gradients
	ZeRO3      Sharding = "zero3" // and weights
	FSDP       Sharding = "fsdp"  // the same as ZeRO-3, by PyTorch
)

// Task is what the loss compares.
type Task string

// The tasks.
const (
	SFT  Task = "sft"  // next tokens
	DPO  Task = "dpo"  // a chosen and a rejected sequence, under the model and a reference (Rafailov et al. 2023)
	GRPO Task = "grpo" // sequences that the model itself generates (Shao et al. 2024)
)

// Run says what is trained and how. The zero value is QLoRA as the paper did
// it and peft does it: rank 16 on all linear layers, adapters in float32,
// AdamW, NF4 with double quantization, gradient checkpointing, one sequence of
// 2048 tokens.
type Run struct {
	Method Method
	Base   DType // dtype of the base weights and of the matrix products; "" is bfloat16

	Task Task // "" is sft

	Precision Precision // "" is mixed, which for adapters means without autocast

	Rank         int64   // LoRA rank; 0 is 16
	Targets      string  // see [ParseTargets]; "" is all-linear
	AdapterDType DType   // "" is float32, as peft casts them
	Dropout      float64 // LoRA dropout; above 0 each adapted layer keeps its own input and mask

	DoRA       bool // a trained magnitude of each output beside A and B (Liu et al. 2024)
	Embeddings bool // embeddings and head are trained whole beside the adapters (peft's modules_to_save)

	Bits          int64 // QLoRA: of a base weight, 4 or 8 (LLM.int8); 0 is 4
	NoDoubleQuant bool  // QLoRA: scales in float32
	BlockSize     int64 // QLoRA: elements per scale; 0 is 64
	NoKbitPrep    bool  // QLoRA: without prepare_model_for_kbit_training, which makes what is not 4-bit float32
	QuantExperts  bool  // QLoRA: routed experts in 4 bits too (transformers 4.57 and vLLM layouts)
	QuantTowers   bool  // QLoRA: vision towers and projectors too

	Optimizer  Optimizer // "" is adamw
	Foreach    bool      // torch's for-each step, which makes one more copy of a state; else a fused step
	InBackward bool      // step each parameter in the backward pass: gradients of one at a time

	MicroBatch int64 // sequences per GPU and step; 0 is 1
	Seq        int64 // tokens per sequence; 0 is 2048
	Accumulate int64 // micro-batches per optimizer step; 0 is 1
	Padded     bool  // batches with padding, hence an attention mask

	NoCheckpointing bool // keep all activations
	Offload         bool // checkpointed activations wait in host memory
	Attention       Attention
	Loss            Loss
	Compile         bool // torch.compile
	DropOutputs     bool // the training loop lets go of the model's outputs before backward, as the Hugging Face Trainer does

	GPUs     int64 // data-parallel ranks; 0 is 1
	Sharding Sharding
	OnHost   bool // optimizer states and gradients on the host, with ZeRO-3 and FSDP weights too

	Slack   float64 // reserved over allocated, less 1; 0 is DefaultSlack, negative is none
	Context int64   // bytes outside the allocator; 0 is DefaultContext
}

// The defaults of [Run], where zero stands for them.
const (
	DefaultRank      = 16
	DefaultSeq       = 2048
	DefaultBlockSize = 64
	DefaultSlack     = 0.05
	DefaultContext   = 512 << 20
)

// limit bounds batch, sequence and rank, so that no product leaves int64.
const limit = 1 << 24

// OptionError reports a field of [Run] with a value that is not allowed.
type OptionError struct{ Option, Msg string }

func (e *OptionError) Error() string { return e.Option + ": " + e.Msg }

// withDefaults fills the zero fields.
func (r Run) withDefaults() Run {
	def(&r.Method, QLoRA)
	def(&r.Task, SFT)
	def(&r.Bits, 4)
	def(&r.Base, BF16)
	def(&r.Precision, Mixed)
	def(&r.Rank, DefaultRank)
	def(&r.Targets, "all-linear")
	def(&r.AdapterDType, F32)
	def(&r.BlockSize, DefaultBlockSize)
	def(&r.Optimizer, AdamW)
	def(&r.MicroBatch, 1)
	def(&r.Seq, DefaultSeq)
	def(&r.Accumulate, 1)
	def(&r.Attention, SDPA)
	def(&r.Loss, StandardLoss)
	def(&r.GPUs, 1)
	def(&r.Sharding, NoSharding)
	def(&r.Context, DefaultContext)
	if r.Slack == 0 {
		r.Slack = DefaultSlack
	} else if r.Slack < 0 {
		r.Slack = 0
	}
	return r
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first field that is out of range or contradicts
// another, as an [*OptionError].
func (r Run) Validate() error {
	d := r.withDefaults()
	for _, f := range []struct {
		name string
		v    int64
		max  int64
	}{
		{"rank", d.Rank, 1 << 16}, {"micro-batch", d.MicroBatch, limit}, {"seq", d.Seq, limit},
		{"accumulate", d.Accumulate, limit}, {"gpus", d.GPUs, 1 << 20},
	} {
		if f.v < 1 || f.v > f.max {
			return &OptionError{f.name, fmt.Sprintf("%d is outside 1 to %d", f.v, f.max)}
		}
	}
	for _, f := range []struct {
		name, v string
		ok      []string
	}{
		{"method", string(d.Method), []string{"full", "lora", "qlora", "norms"}},
		{"dtype", string(d.Base), []string{"bfloat16", "float16", "float32"}},
		{"precision", string(d.Precision), []string{"mixed", "pure", "autocast"}},
		{"adapter-dtype", string(d.AdapterDType), []string{"float32", "bfloat16", "float16"}},
		{"attention", string(d.Attention), []string{"sdpa", "eager"}},
		{"loss", string(d.Loss), []string{"standard", "inplace", "chunked", "fused"}},
		{"task", string(d.Task), []string{"sft", "dpo", "grpo"}},
		{"sharding", string(d.Sharding), []string{"none", "zero1", "zero2", "zero3", "fsdp"}},
		{"optimizer", string(d.Optimizer), Optimizers()},
	} {
		if !slices.Contains(f.ok, f.v) {
			return &OptionError{f.name, fmt.Sprintf("%q: want %s", f.v, strings.Join(f.ok, ", "))}
		}
	}
	if b := d.BlockSize; b < 32 || b > 4096 || b&(b-1) != 0 {
		return &OptionError{"block-size", fmt.Sprintf("%d: want a power of two from 32 to 4096", b)}
	}
	if math.IsNaN(d.Slack) || d.Slack > 10 {
		return &OptionError{"overhead", fmt.Sprintf("%v: want at most 10", d.Slack)}
	}
	if d.Context < 0 || d.Context > 1<<50 {
		return &OptionError{"context", fmt.Sprintf("%d bytes is out of range", d.Context)}
	}
	if math.IsNaN(d.Dropout) || d.Dropout < 0 || d.Dropout >= 1 {
		return &OptionError{"dropout", fmt.Sprintf("%v: want 0 to below 1", d.Dropout)}
	}
	if _, err := ParseTargets(d.Targets); err != nil {
		return err
	}
	return d.contradiction()
}

// contradiction is the first of two fields that do not go together.
func (d Run) contradiction() error {
	adapters := d.Method == LoRA || d.Method == QLoRA
	switch {
	case d.Bits != 4 && d.Bits != 8:
		return &OptionError{"bits", fmt.Sprintf("%d: want 4 or 8", d.Bits)}
	case d.DoRA && !adapters:
		return &OptionError{"dora", "is a kind of LoRA"}
	case d.Embeddings && !adapters:
		return &OptionError{"train-embeddings", "goes with adapters; full fine-tuning trains them anyway"}
	case d.Optimizer == GaLore && (d.Method != Full || d.Sharding != NoSharding || d.Precision == Mixed):
		return &OptionError{"optimizer", "galore projects the gradients of full fine-tuning on one GPU without a master copy"}
	case d.OnHost && d.Sharding != ZeRO2 && d.Sharding != ZeRO3 && d.Sharding != FSDP:
		return &OptionError{"cpu-offload", "is of --sharding zero2, zero3 or fsdp"}
	case d.Task != SFT && (d.Loss != StandardLoss || d.InBackward):
		return &OptionError{"task", fmt.Sprintf("%s has a loss and a loop of its own", d.Task)}
	case d.Sharding != NoSharding && d.GPUs == 1:
		return &OptionError{"sharding", fmt.Sprintf("%s needs more than one GPU", d.Sharding)}
	case d.Offload && d.NoCheckpointing:
		return &OptionError{"offload", "offloads checkpointed activations, and checkpointing is off"}
	case d.InBackward && d.Accumulate > 1:
		return &OptionError{"optimizer-in-backward", "cannot accumulate gradients"}
	case d.InBackward && d.GPUs > 1:
		return &OptionError{"optimizer-in-backward", "is not modelled on several GPUs"}
	case d.Method == QLoRA && d.Base == F32:
		return &OptionError{"dtype", "a 4-bit base computes in bfloat16 or float16"}
	case d.Method != Full && d.Precision == Autocast && d.Base == F32:
		return &OptionError{"precision", "autocast over a frozen float32 base is not modelled"}
	case d.Method == Full && d.Precision == Mixed && d.Base == F32:
		return &OptionError{"precision", "mixed keeps 16-bit weights; use pure for float32 weights"}
	}
	return nil
}
