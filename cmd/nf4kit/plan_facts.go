package main

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// subtitle is the model in a line.
func (p *planned) subtitle() string {
	m := p.src.Model
	s := billions(m.Params()) + " parameters"
	if a := m.ActiveParams(); a != m.Params() {
		s += fmt.Sprintf(", %s active per token", billions(a))
	}
	if k := m.Stack; k.Layers > 0 {
		s += fmt.Sprintf("; %d layers of width %d", k.Layers, k.Hidden)
	}
	if m.Tied {
		s += ", embedding tied"
	}
	return s + "; from " + p.src.From
}

// facts are what the figures rest on.
func (p *planned) facts() []string {
	r := p.plan.Run
	out := []string{fmt.Sprintf("%s, base weights in %s, %s, %s attention, %s loss", r.Method, r.Base, r.Optimizer, r.Attention, r.Loss)}
	switch r.Method {
	case memplan.Full:
		out[0] = fmt.Sprintf("full fine-tuning, %s precision, %s, %s attention, %s loss", r.Precision, r.Optimizer, r.Attention, r.Loss)
	case memplan.LoRA, memplan.QLoRA:
		auto := ""
		if r.Precision == memplan.Autocast {
			auto = ", under autocast"
		}
		out = append(out, fmt.Sprintf("rank %d on %s, adapters in %s%s", r.Rank, r.Targets, r.AdapterDType, auto))
	}
	switch {
	case r.Task == memplan.DPO && r.Method == memplan.Full:
		out = append(out, "DPO: micro-batches of pairs, and a reference model beside the one that is trained")
	case r.Task == memplan.DPO:
		out = append(out, "DPO: micro-batches of pairs; the reference is the model without its adapters")
	case r.Task == memplan.GRPO:
		out = append(out, "GRPO: the sequences of a step are generated together, with a KV cache, before it")
	}
	if r.DoRA {
		out = append(out, "DoRA's magnitudes; its activations are an estimate")
	}
	if r.Embeddings {
		out = append(out, "embeddings and head are trained whole, beside the frozen originals")
	}
	if r.OnHost {
		out = append(out, "optimizer states and gradients are on the host")
	}
	if r.Method == memplan.QLoRA {
		prep := "embeddings, norms and head made float32 by prepare_model_for_kbit_training"
		if r.NoKbitPrep {
			prep = "embeddings, norms and head left in 16 bits"
		}
		out = append(out, prep)
	}
	if r.NoCheckpointing {
		out = append(out, "no gradient checkpointing")
	} else {
		out = append(out, "gradient checkpointing of every layer")
	}
	if r.Accumulate > 1 {
		out = append(out, fmt.Sprintf("%d micro-batches per optimizer step", r.Accumulate))
	}
	if r.GPUs > 1 {
		out = append(out, fmt.Sprintf("%d GPUs, sharding %s; figures are of one GPU", r.GPUs, r.Sharding))
	}
	out = append(out, fmt.Sprintf("allocator slack %.0f %%, CUDA context %s", 100*r.Slack, gibText(r.Context)))
	m := p.src.Model
	out = append(out, m.Notes...)
	if w := p.largerThanLoRA(); w != "" {
		out = append(out, w)
	}
	if preset, ok := memplan.FindPreset(p.opts.Preset); ok {
		out = append(out, "defaults of "+preset.Source)
	}
	for _, n := range []struct {
		on   bool
		text string
	}{
		{m.Stack.Experts > 0 && r.Method == memplan.QLoRA && !r.QuantExperts,
			"routed experts stay out of 4 bits, as in transformers 5" + map[bool]string{true: "", false: ", and kbit preparation makes them float32"}[r.NoKbitPrep]},
		{m.Context > 0 && r.Seq > m.Context, fmt.Sprintf("%s tokens are more than the model's context of %s", countText(r.Seq), countText(m.Context))},
		{m.Stack.Experts > 0, "activations of routed experts are an estimate"},
		{m.Stack.LinearLayers > 0, "layers with linear attention are counted as plain attention: an estimate"},
		{hasPart(m, modelshape.Encoder), "activations of the encoder are left out"},
		{hasPart(m, modelshape.Tower), "activations of vision and audio towers are left out"},
		{!m.Stack.RMSNorm && m.Stack.Layers > 0, "activations are exact for Llama's layers; with LayerNorm and other MLPs an estimate"},
	} {
		if n.on {
			out = append(out, n.text)
		}
	}
	return out
}

// largerThanLoRA is the warning that 4 bits make the run larger: kept experts are most of the model, and what peft
// prepares is float32.
func (p *planned) largerThanLoRA() string {
	r := p.plan.Run
	if r.Method != memplan.QLoRA || r.QuantExperts || p.src.Model.Stack.Experts == 0 {
		return ""
	}
	var lora int64
	for _, v := range p.usual {
		if v.plan.Run.Method == memplan.LoRA {
			lora = v.plan.Memory.Process
		}
	}
	if lora == 0 || p.plan.Memory.Process < lora {
		return ""
	}
	return fmt.Sprintf("QLoRA is the larger run here, %s beside LoRA's %s: the experts stay in 16 bits; --kbit-prep=false, --experts quantize or --method lora changes that",
		gibText(p.plan.Memory.Process), gibText(lora))
}

func hasPart(m *modelshape.Model, part modelshape.Part) bool {
	for _, g := range m.Groups {
		if g.Part == part {
			return true
		}
	}
	return false
}

// part is a row of the table of what is in memory at the peak.
type part struct {
	name  string
	bytes int64
	note  string
}

func (p *planned) parts() []part {
	x, r, w := p.plan.Memory, p.plan.Run, p.plan.Weights
	peak := x.PeakPhase()
	weights := fmt.Sprintf("%s in %s", billions(w.Params), r.Base)
	if r.Method == memplan.QLoRA {
		weights = fmt.Sprintf("%s in 4 bits take %s, the rest %s", billions(w.QuantParams), gibText(w.Quantized), gibText(w.Device-w.Quantized))
	}
	if r.Sharding == memplan.ZeRO3 || r.Sharding == memplan.FSDP {
		weights += fmt.Sprintf(", over %d GPUs", r.GPUs)
	}
	out := []part{{"weights", x.Weights, weights}}
	if p.plan.AdapterParams > 0 {
		out = append(out, part{"adapters", x.Adapters, fmt.Sprintf("%s parameters in %s", countText(p.plan.AdapterParams), r.AdapterDType)})
	}
	states := string(r.Optimizer)
	if x.Paged > 0 {
		states += ", what is not paged"
	}
	grads := ""
	if peak.Gradients < x.Gradients {
		grads = gibText(x.Gradients) + " when complete"
	}
	work := "one layer in backward"
	if x.Peak == memplan.PhaseStep {
		work = "copies of the step"
	}
	acts := "saved for backward"
	if !r.NoCheckpointing {
		acts = "inputs of the checkpointed layers"
		if r.Offload {
			acts = "the layers' inputs are on the host"
		}
	}
	return append(out,
		part{"optimizer", x.Optimizer, states},
		part{"gradients", peak.Gradients, grads},
		part{"activations", peak.Activations, acts},
		part{"layer at work", peak.Work, work},
		part{"logits", peak.Logits, fmt.Sprintf("%s words of vocabulary", countText(p.src.Model.Stack.Vocab))},
		part{"workspace", x.Workspace, "cuBLAS, communication"})
}
