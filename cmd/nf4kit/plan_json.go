package main

import (
	"github.com/nf4kit/nf4kit/internal/memplan"
)

// planJSON is the schema of plan --json. Sizes are bytes on one GPU.
type planJSON struct {
	Schema  string           `json:"schema"`
	Model   planModelJSON    `json:"model"`
	Run     planRunJSON      `json:"run"`
	Weights memplan.Weights  `json:"weights"`
	Memory  memplan.Memory   `json:"memory"`
	Shown   planShownJSON    `json:"nvidia_smi"`
	Trained int64            `json:"trained_parameters"`
	Adapter planAdapterJSON  `json:"adapter"`
	Methods []planMethodJSON `json:"methods"`
	GPUs    []planGPUJSON    `json:"gpus"`
	Target  *planGPUJSON     `json:"target,omitempty"`
	Changes []memplan.Change `json:"changes,omitempty"`
	Chain   []memplan.Change `json:"one_way_down,omitempty"`
	KV      *planKVJSON      `json:"generation,omitempty"`
	Advice  []memplan.Advice `json:"advice,omitempty"`
	Snippet string           `json:"snippet"`
	Assumed []string         `json:"assumed"`
}

type planModelJSON struct {
	Name      string `json:"name"`
	Type      string `json:"model_type,omitempty"`
	From      string `json:"from"`
	Params    int64  `json:"parameters"`
	Active    int64  `json:"active_parameters"`
	Quantized int64  `json:"quantizable_parameters"`
	Tied      bool   `json:"tied_embeddings"`
	Layers    int64  `json:"layers"`
	Hidden    int64  `json:"hidden_size"`
	Vocab     int64  `json:"vocab_size"`
	Context   int64  `json:"context,omitempty"`
}

type planRunJSON struct {
	Method        memplan.Method    `json:"method"`
	DType         memplan.DType     `json:"dtype"`
	Precision     memplan.Precision `json:"precision,omitempty"`
	Rank          int64             `json:"rank,omitempty"`
	Targets       string            `json:"targets,omitempty"`
	AdapterDType  memplan.DType     `json:"adapter_dtype,omitempty"`
	DoubleQuant   bool              `json:"double_quant"`
	BlockSize     int64             `json:"block_size"`
	KbitPrep      bool              `json:"kbit_prep"`
	Optimizer     memplan.Optimizer `json:"optimizer"`
	MicroBatch    int64             `json:"micro_batch"`
	Seq           int64             `json:"seq"`
	Accumulate    int64             `json:"accumulate"`
	Checkpointing bool              `json:"checkpointing"`
	Attention     memplan.Attention `json:"attention"`
	Loss          memplan.Loss      `json:"loss"`
	GPUs          int64             `json:"gpus"`
	Sharding      memplan.Sharding  `json:"sharding"`
	Task          memplan.Task      `json:"task"`
	Bits          int64             `json:"bits,omitempty"`
	Preset        string            `json:"preset,omitempty"`
}

// planShownJSON is what nvidia-smi will probably show.
type planShownJSON struct {
	Median int64 `json:"median"`
	High   int64 `json:"p90"`
}

type planAdapterJSON struct {
	Params int64             `json:"parameters"`
	File   int64             `json:"file_bytes"`
	Layers []memplan.Adapter `json:"layers,omitempty"`
}

type planMethodJSON struct {
	Name      string  `json:"method"`
	File      int64   `json:"weights_file_bytes"`
	Bits      float64 `json:"bits_per_parameter"`
	Trained   int64   `json:"trained_parameters"`
	Share     float64 `json:"trained_share"`
	Adapter   int64   `json:"adapter_file_bytes,omitempty"`
	Allocated int64   `json:"allocated"`
	Process   int64   `json:"process"`
}

type planGPUJSON struct {
	Name       string          `json:"gpu"`
	MiB        int64           `json:"mib"`
	Source     string          `json:"source,omitempty"`
	Usable     int64           `json:"usable"`
	Verdict    memplan.Verdict `json:"verdict"`
	Left       int64           `json:"left"`
	MicroBatch int64           `json:"largest_micro_batch"`
	Seq        int64           `json:"longest_sequence"`
}

type planKVJSON struct {
	Tokens  int64 `json:"tokens"`
	Token   int64 `json:"kv_bytes_per_token"`
	Cache   int64 `json:"kv_cache"`
	Plain   int64 `json:"weights_16_bit"`
	Weights int64 `json:"weights_nf4"`
}

// json is the report for programs.
func (p *planned) json() planJSON {
	m, r := p.src.Model, p.plan.Run
	out := planJSON{
		Schema: "nf4kit.plan/1",
		Model: planModelJSON{m.Name, m.Type, p.src.From, m.Params(), m.ActiveParams(), m.Quantizable(), m.Tied,
			m.Stack.Layers, m.Stack.Hidden, m.Stack.Vocab, m.Context},
		Run: planRunJSON{Method: r.Method, DType: r.Base, DoubleQuant: !r.NoDoubleQuant && r.Method == memplan.QLoRA, BlockSize: r.BlockSize,
			KbitPrep: !r.NoKbitPrep && r.Method == memplan.QLoRA, Optimizer: r.Optimizer, MicroBatch: r.MicroBatch, Seq: r.Seq, Accumulate: r.Accumulate,
			Checkpointing: !r.NoCheckpointing, Attention: r.Attention, Loss: r.Loss, GPUs: r.GPUs, Sharding: r.Sharding, Task: r.Task, Preset: p.opts.Preset},
		Weights: p.plan.Weights, Memory: p.plan.Memory, Trained: p.plan.Trained,
		Adapter: planAdapterJSON{p.plan.AdapterParams, p.file, p.plan.Coefficients.Adapters},
		Changes: p.changes, Chain: p.chain, Snippet: p.plan.Snippet(p.src.Load), Assumed: p.facts(),
	}
	out.Shown.Median, out.Shown.High = p.shown()
	if p.plan.AdapterParams > 0 {
		out.Run.Rank, out.Run.Targets, out.Run.AdapterDType = r.Rank, r.Targets, r.AdapterDType
	} else {
		out.Adapter.File = 0
	}
	if r.Method == memplan.QLoRA {
		out.Run.Bits = r.Bits
	}
	if r.Method == memplan.Full || r.Precision == memplan.Autocast {
		out.Run.Precision = r.Precision
	}
	if !p.opts.NoAdvice {
		out.Advice = p.plan.Guidance()
	}
	for _, v := range p.usual {
		q := v.plan
		out.Methods = append(out.Methods, planMethodJSON{v.name, q.Weights.File, q.Weights.Bits(), q.Trained,
			float64(q.Trained) / float64(q.Weights.Params+q.AdapterParams), v.file, q.Memory.Allocated, q.Memory.Process})
	}
	gpu := func(name string, mib int64, source string, usable int64) planGPUJSON {
		f := p.fit(usable)
		return planGPUJSON{name, mib, source, usable, f.Verdict, f.Left, f.MicroBatch, f.Seq}
	}
	for _, g := range memplan.GPUs() {
		out.GPUs = append(out.GPUs, gpu(g.Name, g.MiB, g.Source, g.Usable()))
	}
	if t := p.target; t != nil {
		g := gpu(t.name, t.usable>>20, "", t.usable)
		out.Target = &g
	}
	if p.opts.Generate > 0 {
		token, total := p.cache()
		plain, quantized := p.generationWeights()
		out.KV = &planKVJSON{p.opts.Generate, token, total, plain, quantized}
	}
	return out
}
