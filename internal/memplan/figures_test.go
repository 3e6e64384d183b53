package memplan

import (
	"fmt"
	"math"
	"testing"

	"github.com/nf4kit/nf4kit/internal/modelshape"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

func plan(t *testing.T, model string, r Run) *Plan {
	t.Helper()
	p, err := New(builtinModel(t, model), r)
	if err != nil {
		t.Fatalf("%s: %v", model, err)
	}
	return p
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance {
		t.Errorf("%s: %.6g, want %.6g within %g", what, got, want, tolerance)
	}
}

// state is the bytes per parameter of weights, gradients and optimizer.
func state(p *Plan) float64 {
	return float64(p.Memory.Weights+p.Memory.Gradients+p.Memory.Optimizer+p.Memory.Paged) / float64(p.Weights.Params)
}

// Bytes per parameter of the usual set-ups (Rajbhandari et al. 2020, section
// 3.1, for 16; Dettmers et al. 2023 for 12; torch.optim and bitsandbytes).
func TestBytesPerParam(t *testing.T) {
	for _, c := range []struct {
		name string
		run  Run
		want float64
	}{
		{"mixed precision Adam", Run{}, 16},
		{"autocast", Run{Precision: Autocast}, 16},
		{"bfloat16", Run{Precision: Pure}, 8},
		{"bfloat16, float32 states", Run{Precision: Pure, Optimizer: AdamWF32}, 12},
		{"bfloat16, 8-bit", Run{Precision: Pure, Optimizer: AdamW8}, 6 + 2*4./256},
		{"bfloat16, paged 8-bit", Run{Precision: Pure, Optimizer: "paged-adamw-8bit"}, 6 + 2*4./256},
		{"SGD", Run{Precision: Pure, Optimizer: SGD}, 4},
		{"momentum", Run{Precision: Pure, Optimizer: Momentum}, 6},
		{"Lion", Run{Precision: Pure, Optimizer: Lion}, 6},
		{"8-bit Lion", Run{Precision: Pure, Optimizer: Lion8}, 5 + 4./256},
		{"Adafactor", Run{Precision: Pure, Optimizer: Adafactor}, 4.003},
		{"float32", Run{Precision: Pure, Base: F32}, 16},
	} {
		c.run.Method = Full
		near(t, c.name, state(plan(t, "llama-2-7b", c.run)), c.want, 0.002)
	}
}

// Figures of the article and the papers.
func TestPublishedFigures(t *testing.T) {
	// 7B at 16 bytes a parameter: "over 100 GB".
	p := plan(t, "llama-2-7b", Run{Method: Full})
	near(t, "7B full, GB", state(p)*float64(p.Weights.Params)/gb, 107.8, 0.1)
	// QLoRA's abstract: more than 780 GB for 65B, at 12 bytes; under 48 GB with QLoRA, 32.1 GiB of them weights.
	p = plan(t, "llama-1-65b", Run{Method: Full, Precision: Pure, Optimizer: AdamWF32})
	near(t, "65B full, GB", state(p)*float64(p.Weights.Params)/gb, 783.4, 1)
	p = plan(t, "llama-1-65b", Run{Rank: 64, NoKbitPrep: true, Optimizer: "paged-adamw", Seq: 512})
	near(t, "65B NF4+DQ, GiB", float64(p.Memory.Weights)/gib, 32.1, 0.02)
	if got := float64(p.Memory.Least) / gb; got > 48 {
		t.Errorf("65B QLoRA with paged states on the host: %.1f GB, want under 48", got)
	}
	// The article: 7B in 6 to 12 GB. Sequences of 512 tokens, prepared and not.
	low := plan(t, "llama-2-7b", Run{Seq: 512, NoKbitPrep: true, Loss: FusedLoss}).Memory.Process
	high := plan(t, "llama-2-7b", Run{Seq: 2048, MicroBatch: 2}).Memory.Process
	if low > 6*gb || low < 4*gb || high > 12*gb || high < 6*gb {
		t.Errorf("7B QLoRA: %.1f to %.1f GB, want about 6 to 12", float64(low)/gb, float64(high)/gb)
	}
	// LoRA, Hu et al. 2021: GPT-3 175B with rank 4 on q and v, 35 MB of adapters, 350 GB of weights.
	q := plan(t, "gpt-3-175b", Run{Method: LoRA, Base: F16, Rank: 4, Targets: "q_proj,v_proj", AdapterDType: F16})
	near(t, "GPT-3 adapters, MB", float64(q.Memory.Adapters)/1e6, 37.7, 0.1)
	near(t, "GPT-3 weights, GB", float64(q.Memory.Weights)/gb, 350, 2)
	// Double quantization saves 0.373 bits a parameter (section 3 of QLoRA).
	near(t, "double quantization, bits", bnb.Format{NoDoubleQuant: true}.BitsPerParameter()-bnb.Format{}.BitsPerParameter(), 0.373, 0.0005)
	near(t, "NF4+DQ, bits", bnb.Format{}.BitsPerParameter(), 4.126953125, 1e-12)
	// Adapter parameters of peft, rank 16 on all linear layers.
	for model, want := range map[string]int64{"llama-2-7b": 39976960, "llama-3.1-8b": 41943040, "llama-3.2-3b": 24313856, "llama-1-65b": 199884800} {
		if got := plan(t, model, Run{}).AdapterParams; got != want {
			t.Errorf("%s: %d adapter parameters, want %d", model, got, want)
		}
	}
	// peft's prepare_model_for_kbit_training on Qwen2.5-7B (fitcheck archive, weight_breakdown): MiB of codes and
	// constants, and of float32 parameters, adapters of rank 16 on attention included.
	p = plan(t, "qwen2.5-7b", Run{Base: F16, NoDoubleQuant: true, Targets: attention})
	near(t, "Qwen2.5-7B NF4, MiB", float64(p.Weights.Quantized)/mib, 3111.5+388.949462890625, 0.001)
	near(t, "Qwen2.5-7B float32, MiB", float64(p.Memory.Weights-p.Weights.Quantized+p.Memory.Adapters)/mib, 4197.771484375, 0.001)
	// KV cache of Llama-3-8B in bfloat16: 128 KiB a token, 1 GiB at 8192.
	if got := KVCache(builtinModel(t, "llama-3.1-8b").Stack, 8192, 2); got != gib {
		t.Errorf("KV cache: %d, want %d", got, gib)
	}
}

// No plan is longer than the model's context.
func TestMaxSeqIsTheContext(t *testing.T) {
	p := plan(t, "opt-125m", Run{})
	if got := p.MaxSeq(80 << 30); got != 2048 {
		t.Errorf("opt-125m: longest sequence %d, want its context of 2048", got)
	}
	if got := p.MaxSeq(2 << 30); got == 0 || got >= 2048 {
		t.Errorf("opt-125m in 2 GiB: longest sequence %d, want what fits", got)
	}
}

// Sharding divides what it says and nothing else (Rajbhandari et al. 2020,
// figure 1: 120, 31.4, 16.6 and 1.9 GB for 7.5B parameters on 64 GPUs, the
// first three of 16, 4+12/64, 2+14/64 bytes a parameter).
func TestSharding(t *testing.T) {
	const gpus = 64
	for _, c := range []struct {
		s    Sharding
		want float64
	}{{NoSharding, 16}, {ZeRO1, 4 + 12./gpus}, {ZeRO2, 2 + 14./gpus}, {ZeRO3, 16. / gpus}, {FSDP, 16. / gpus}} {
		near(t, string(c.s), state(plan(t, "llama-2-7b", Run{Method: Full, GPUs: gpus, Sharding: c.s})), c.want, 1e-6)
	}
	one := plan(t, "llama-2-7b", Run{})
	ddp := plan(t, "llama-2-7b", Run{GPUs: 2})
	if got, want := ddp.Memory.Allocated-one.Memory.Allocated, ddp.Memory.Gradients; got != want {
		t.Errorf("DDP adds %d bytes, want a copy of the gradients, %d", got, want)
	}
}

// Only tensors of 100,000 elements can be paged, and 8-bit states begin at
// 4096 (bitsandbytes/optim/optimizer.py).
func TestOptimizerThresholds(t *testing.T) {
	for _, c := range []struct {
		o             Optimizer
		rows, cols    int64
		device, paged int64
	}{
		{AdamW, 16, 4096, 8 * 65536, 0},
		{"paged-adamw", 16, 4096, 8 * 65536, 0},
		{"paged-adamw", 32, 4096, 0, 8 * 131072},
		{"paged-adamw", 1, 99_999, 8 * 99_999, 0},
		{"paged-adamw", 1, 100_000, 0, 800_000},
		{AdamW8, 1, 4095, 8 * 4095, 0},
		{AdamW8, 1, 4096, 2*4096 + 8*16, 0},
		{AdamW8, 1, 4097, 2*4097 + 8*17, 0},
		{"paged-adamw-8bit", 32, 4096, 8 * 512, 2 * 131072},
		{Lion8, 1, 4096, 4096 + 4*16, 0},
		{Adafactor, 16, 4096, 4 * 4112, 0},
		{Adafactor, 1, 4096, 4 * 4096, 0},
		{SGD, 16, 4096, 0, 0},
	} {
		d, p := c.o.rule(4).stateBytes(c.rows, c.cols)
		if d != c.device || p != c.paged {
			t.Errorf("%s %dx%d: %d and %d paged, want %d and %d", c.o, c.rows, c.cols, d, p, c.device, c.paged)
		}
	}
	// The adapters of rank 16 on a 7B model: only those of the MLP's width are large enough.
	p := plan(t, "llama-2-7b", Run{Optimizer: "paged-adamw"})
	want := int64(32 * 3 * 16 * 11008 * 8)
	if p.Memory.Paged != want {
		t.Errorf("7B rank 16: %d bytes can be paged, want %d", p.Memory.Paged, want)
	}
}

func TestNF4Bytes(t *testing.T) {
	for _, c := range []struct {
		n, block     int64
		dq           bool
		file, device int64
	}{
		{4096 * 4096, 64, false, 8388608 + 4*262144 + 64 + 256, 8388608 + 4*262144 + 64},
		{4096 * 4096, 64, true, 8388608 + 262144 + 4096 + 64 + 1024 + 256, 8388608 + 262144 + 4096 + 64 + 1024 + 4},
		{1, 64, true, 1 + 1 + 4 + 64 + 1024 + 256, 1 + 1 + 4 + 64 + 1024 + 4},
		{65, 64, false, 33 + 8 + 64 + 256, 33 + 8 + 64},
		{64*256 + 1, 64, true, 8193 + 257 + 8 + 64 + 1024 + 256, 8193 + 257 + 8 + 64 + 1024 + 4},
	} {
		f, d := NF4Bytes(c.n, c.block, c.dq)
		if f != c.file || d != c.device {
			t.Errorf("NF4Bytes(%d, %d, %t): %d, %d; want %d, %d", c.n, c.block, c.dq, f, d, c.file, c.device)
		}
	}
}

// More of anything takes more memory, and the search finds the last that fits.
func TestMonotonic(t *testing.T) {
	for _, r := range []Run{{}, {Method: Full, GPUs: 4, Sharding: ZeRO2}, {Method: LoRA, NoCheckpointing: true, Padded: true, Dropout: 0.1},
		{Attention: Eager, Optimizer: "paged-adamw-8bit"}, {Method: Full, InBackward: true, Precision: Pure, Loss: ChunkedLoss, Compile: true}} {
		for _, model := range []string{"llama-3.1-8b", "mixtral-8x7b", "gpt2", "qwen3-next-80b-a3b", "deepseek-v3", "bert-base", "t5-base", "gemma-3-4b"} {
			p := plan(t, model, r)
			k := p.Coefficients
			x := k.At(2, 100, 8)
			for _, y := range []Memory{k.At(3, 100, 8), k.At(2, 101, 8)} {
				if y.Process < x.Process { // equal where the optimizer's step is the peak
					t.Errorf("%s %s: more tokens, %d bytes after %d", model, r.Method, y.Process, x.Process)
				}
			}
			if y := k.At(2, 100, 9); r.Method != Full && y.Process < x.Process {
				t.Errorf("%s %s: higher rank, %d bytes after %d", model, r.Method, y.Process, x.Process)
			}
			usable := 2 * p.Memory.Process
			b, s := p.MaxBatch(usable), p.MaxSeq(usable)
			if b < 1 || s < min(p.Run.Seq, p.context) {
				t.Errorf("%s %s: largest batch %d, sequence %d", model, r.Method, b, s)
				continue
			}
			if k.At(b, p.Run.Seq, p.Run.Rank).Process > usable || k.At(b+1, p.Run.Seq, p.Run.Rank).Process <= usable {
				t.Errorf("%s %s: batch %d is not the largest", model, r.Method, b)
			}
			if k.At(1, s, p.Run.Rank).Process > usable || s != p.context && k.At(1, s+1, p.Run.Rank).Process <= usable {
				t.Errorf("%s %s: sequence %d is not the longest", model, r.Method, s)
			}
			if p.MaxBatch(0) != 0 || p.MaxSeq(1<<20) != 0 {
				t.Errorf("%s %s: something fits into nothing", model, r.Method)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	m := builtinModel(t, "llama-3.1-8b")
	p := plan(t, "llama-3.1-8b", Run{Method: Full, Attention: Eager, MicroBatch: 4, Foreach: true})
	g, err := FindGPU("RTX 4090")
	if err != nil {
		t.Fatal(err)
	}
	all, chain := p.Changes(m, g.Usable())
	if len(all) < 8 {
		t.Errorf("%d changes, want at least 8", len(all))
	}
	for i, c := range all {
		if c.Saved <= 0 || c.After != p.Memory.Process-c.Saved {
			t.Errorf("%s: saves %d, %d left of %d", c.What, c.Saved, c.After, p.Memory.Process)
		}
		if i > 0 && c.Saved*all[i-1].Weight > all[i-1].Saved*c.Weight {
			t.Errorf("%s is ranked below %s", c.What, all[i-1].What)
		}
	}
	if len(chain) == 0 || chain[len(chain)-1].After > g.Usable() {
		t.Errorf("no way to fit a 4090: %+v", chain)
	}
	for _, c := range chain[:len(chain)-1] {
		if c.After <= g.Usable() {
			t.Errorf("%s fits already", c.What)
		}
	}
	if _, chain := plan(t, "smollm2-135m", Run{}).Changes(builtinModel(t, "smollm2-135m"), g.Usable()); chain != nil {
		t.Errorf("changes for a plan that fits: %v", chain)
	}
}

func TestValidate(t *testing.T) {
	if err := (Run{}).Validate(); err != nil {
		t.Errorf("zero value: %v", err)
	}
	for _, r := range []Run{
		{Method: "dora"}, {Rank: -1}, {Rank: 1 << 20}, {MicroBatch: -1}, {Seq: 1 << 40}, {BlockSize: 48}, {BlockSize: 16}, {BlockSize: 8192},
		{Targets: ","}, {Targets: "re:("}, {Optimizer: "adam"}, {Optimizer: "paged-sgd"}, {Sharding: ZeRO1}, {GPUs: -2}, {Dropout: 1},
		{Dropout: math.NaN()}, {Slack: math.NaN()}, {Slack: 11}, {Context: -1}, {Offload: true, NoCheckpointing: true}, {Base: "int8"},
		{InBackward: true, Accumulate: 2}, {Method: QLoRA, Base: F32}, {Method: Full, Base: F32}, {Attention: "flash"}, {Loss: "x"},
		{Precision: "x"}, {Method: LoRA, Base: F32, Precision: Autocast}, {AdapterDType: "x"}, {Sharding: "x"}, {Accumulate: -1},
	} {
		if err := r.Validate(); err == nil {
			t.Errorf("%+v is valid", r)
		}
	}
	if _, err := New(builtinModel(t, "llama-3.1-405b"), Run{Seq: 1 << 24, MicroBatch: 1 << 24}); err == nil {
		t.Error("2^48 tokens are accepted")
	}
	if b := plan(t, "llama-3.1-405b", Run{Attention: Eager}).MaxBatch(math.MaxInt64); b < 1 {
		t.Errorf("largest batch for all memory: %d", b)
	}
	if _, err := New(builtinModel(t, "gpt2"), Run{Targets: "q_proj"}); err == nil {
		t.Error("targets that match nothing are accepted")
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		model, spec string
		params      int64 // of rank 1
	}{
		{"llama-2-7b", "all-linear", 39976960 / 16},
		{"llama-2-7b", "attention,mlp", 39976960 / 16},
		{"llama-2-7b", "q,v", 32 * 2 * 8192},
		{"llama-2-7b", "q_proj, v_proj", 32 * 2 * 8192},
		{"llama-2-7b", "self_attn.q_proj", 32 * 8192},
		{"llama-2-7b", `re:model\.layers\.\d+\.mlp\.(gate|up)_proj`, 32 * 2 * (4096 + 11008)},
		{"gpt2", "attention", 12 * (768 + 2304 + 768 + 768)},
		{"gpt2", "mlp", 12 * 2 * (768 + 3072)},
		{"bert-base", "attention", 12 * 4 * 1536},
		{"bert-base", "mlp", 12 * 2 * (768 + 3072)},
		{"mixtral-8x7b", "all-linear", 32 * (2*8192 + 2*(4096+1024))},
	} {
		if got := plan(t, c.model, Run{Method: LoRA, Rank: 1, Targets: c.spec}).AdapterParams; got != c.params {
			t.Errorf("%s %s: %d parameters at rank 1, want %d", c.model, c.spec, got, c.params)
		}
	}
}

func TestGPUs(t *testing.T) {
	var last int64
	for _, g := range GPUs() {
		if g.MiB < last {
			t.Errorf("%s is out of order", g.Name)
		}
		last = g.MiB
		if got, err := FindGPU(g.Name); err != nil || got != g {
			t.Errorf("FindGPU(%q): %v, %v", g.Name, got, err)
		}
		if g.Source == "" || g.Usable() <= 0 || g.Usable() >= g.MiB<<20 {
			t.Errorf("%s: usable %d, source %q", g.Name, g.Usable(), g.Source)
		}
	}
	for name, want := range map[string]string{"rtx4090": "RTX 4090", "4090": "RTX 4090", "NVIDIA GeForce RTX 3090": "RTX 3090", "a100-80gb": "A100 80GB", "h200": "H200"} {
		if g, err := FindGPU(name); err != nil || g.Name != want {
			t.Errorf("FindGPU(%q): %q, %v; want %q", name, g.Name, err, want)
		}
	}
	for _, name := range []string{"", "a100", "quantum"} {
		if g, err := FindGPU(name); err == nil {
			t.Errorf("FindGPU(%q): %v", name, g)
		}
	}
}

// Whatever a config.json says, a plan is an error or sizes that make sense.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"model_type":"llama","num_attention_heads":2000000000,"num_hidden_layers":2000000000,"hidden_size":1,"intermediate_size":1,"vocab_size":1}`), uint8(0))
	f.Add([]byte(`{"model_type":"mixtral","num_experts_per_tok":1000000000}`), uint8(7))
	f.Add([]byte(`{"model_type":"qwen3_next","linear_num_value_heads":0}`), uint8(3))
	f.Add([]byte(`{"model_type":"gpt2","n_head":4096}`), uint8(1))
	f.Fuzz(func(t *testing.T, config []byte, bits uint8) {
		m, err := modelshape.FromConfig(config)
		if err != nil {
			return
		}
		r := Run{Method: []Method{QLoRA, LoRA, Full, Norms}[bits&3], NoCheckpointing: bits&4 != 0, Padded: bits&32 != 0, QuantExperts: bits&64 != 0}
		if bits&8 != 0 {
			r.Attention = Eager
		}
		if bits&16 != 0 {
			r.GPUs, r.Sharding = 3, FSDP
		}
		p, err := New(m, r)
		if err != nil {
			return
		}
		x := p.Memory
		for _, v := range []int64{x.Weights, x.Adapters, x.Optimizer, x.Paged, x.Workspace, x.Gradients, x.Saved, x.Allocated, x.Reserved - x.Allocated, x.Process - x.Reserved, x.Least, x.Host} {
			if v < 0 {
				t.Fatalf("negative size in %+v", x)
			}
		}
		for _, ph := range x.Phases {
			if ph.Gradients < 0 || ph.Activations < 0 || ph.Work < 0 || ph.Logits < 0 || ph.Allocated < 0 || ph.Allocated > x.Allocated {
				t.Fatalf("phase %+v of %+v", ph, x)
			}
		}
		p.MaxBatch(1 << 40)
		p.MaxSeq(1 << 40)
	})
}

func ExamplePlan() {
	m, err := modelshape.Builtin("llama-2-7b")
	if err != nil {
		panic(err)
	}
	p, err := New(m, Run{Method: QLoRA, Rank: 16, Seq: 1024})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d adapter parameters, %.2f GB of weights, %.2f GB at the peak (%s)\n",
		p.AdapterParams, float64(p.Memory.Weights)/1e9, float64(p.Memory.Allocated)/1e9, p.Memory.Peak)
	// Output: 39976960 adapter parameters, 4.39 GB of weights, 5.96 GB at the peak (last layer)
}
