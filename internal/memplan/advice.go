package memplan

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
