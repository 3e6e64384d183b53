package memplan

import (
	"cmp"
	"slices"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// largest is the greatest n up to limit for which ok holds, 0 if it does not
// hold for 1; ok must not become true again above the first false.
func largest(ok func(int64) bool) int64 {
	if !ok(1) {
		return 0
	}
	lo, hi := int64(1), int64(2)
	for hi < limit && ok(hi) {
		lo, hi = hi, 2*hi
	}
	for lo+1 < hi {
		if mid := (lo + hi) / 2; ok(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// MaxBatch is the largest micro-batch of the run that fits into usable bytes,
// MaxSeq the longest sequence at its micro-batch, no longer than the model's
// context where that is known; 0 if none does. The whole formula is evaluated for
// each try.
func (p *Plan) MaxBatch(usable int64) int64 {
	return largest(func(n int64) bool { return p.fits(n, p.Run.Seq, usable) })
}

// MaxSeq is described at [Plan.MaxBatch].
func (p *Plan) MaxSeq(usable int64) int64 {
	n := largest(func(n int64) bool { return p.fits(p.Run.MicroBatch, n, usable) })
	if p.context > 0 {
		n = min(n, p.context)
	}
	return n
}

func (p *Plan) fits(batch, seq, usable int64) bool {
	k := p.Coefficients
	return k.inRange(batch, seq, p.Run.Rank) && k.At(batch, seq, p.Run.Rank).Process <= usable
}

// Change is one thing to do about a plan that is too large.
type Change struct {
	What   string `json:"change"`
	Flag   string `json:"flag"` // of the plan command
	Price  string `json:"price"`
	Weight int64  `json:"price_weight"` // 1: free, 2: little, 4: a third of the speed, 8: another result, 16: hardware
	Saved  int64  `json:"saved_bytes"`
	After  int64  `json:"process_after"`
	Plan   *Plan  `json:"-"`
}

// hardware is the weight of what money buys; the way down takes it last.
const hardware = 16

// edit is a candidate change; apply reports whether it changes anything.
type edit struct {
	what, flag, price string
	weight            int64
	apply             func(*Run) bool
}

// edits are the candidates for a run: one table, as long as they are many.
func edits(r Run) []edit {
	adapters := r.Method == LoRA || r.Method == QLoRA
	return []edit{
		{"attention that keeps no scores", "--attention sdpa", "none; it is faster too (Dao et al. 2022)", 1, func(r *Run) bool {
			old := r.Attention
			r.Attention = SDPA
			return old == Eager
		}},
		{"cross-entropy fused with the output projection", "--loss fused", "none measured (Liger Kernel, Hsu et al. 2024)", 1, func(r *Run) bool {
			old := r.Loss
			r.Loss = FusedLoss
			return old != FusedLoss
		}},
		{"let go of the outputs before backward", "--drop-outputs", "none; the Hugging Face Trainer does", 1, func(r *Run) bool {
			old := r.DropOutputs
			r.DropOutputs = true
			return !old && r.Loss == StandardLoss
		}},
		{"double quantization", "--double-quant", "none measured (Dettmers et al. 2023)", 1, func(r *Run) bool {
			old := r.NoDoubleQuant
			r.NoDoubleQuant = false
			return old && r.Method == QLoRA
		}},
		{"a fused optimizer step", "--foreach=false", "none; the Hugging Face default since torch 2.8", 1, func(r *Run) bool {
			old := r.Foreach
			r.Foreach = false
			return old
		}},
		{"routed experts in 4 bits", "--experts quantize", "a layout of transformers 4.57 and vLLM that 5.x does not load", 4, func(r *Run) bool {
			old := r.QuantExperts
			r.QuantExperts = true
			return !old && r.Method == QLoRA
		}},
		{"optimizer states in 8 bits", "--optimizer adamw-8bit", "none measured (Dettmers et al. 2022)", 2, func(r *Run) bool {
			old := r.Optimizer
			r.Optimizer = AdamW8
			return old == AdamW || old == AdamWF32 || old == AdamWBF16
		}},
		{"half the micro-batch, twice the accumulation", "--micro-batch, --accumulate", "smaller products; the same gradient", 2, func(r *Run) bool {
			old := r.MicroBatch
			r.MicroBatch = (old + 1) / 2
			if !r.InBackward {
				r.Accumulate *= 2
			}
			return old > 1
		}},
		{"keep embeddings, norms and head in 16 bits", "--kbit-prep=false", "less precise norms and logits; not what peft prepares", 3, func(r *Run) bool {
			old := r.NoKbitPrep
			r.NoKbitPrep = true
			return !old && r.Method == QLoRA
		}},
		{"checkpoint activations", "--checkpointing", "one more forward pass, a fifth to a third of the speed (Chen et al. 2016; torchtune README)", 4, func(r *Run) bool {
			old := r.NoCheckpointing
			r.NoCheckpointing = false
			return old
		}},
		{"step in the backward pass", "--optimizer-in-backward", "no accumulation, no clipping of the whole gradient", 4, func(r *Run) bool {
			old := r.InBackward
			r.InBackward, r.Accumulate = true, 1
			return !old && r.Method == Full && r.Sharding == NoSharding && r.GPUs == 1
		}},
		{"checkpoints in host memory", "--offload", "transfers over PCIe", 4, func(r *Run) bool {
			old := r.Offload
			r.Offload = true
			return !old && !r.NoCheckpointing
		}},
		{"one copy of the weights", "--precision pure", "updates rounded to 16 bits", 6, func(r *Run) bool {
			old := r.Precision
			r.Precision = Pure
			return old == Mixed && r.Method == Full
		}},
		{"adapters and their optimizer states in bfloat16", "--adapter-dtype bfloat16", "updates rounded to 16 bits", 6, func(r *Run) bool {
			old := r.AdapterDType
			r.AdapterDType = BF16
			return old == F32 && adapters
		}},
		{"half the rank", "--rank", "less capacity", 6, func(r *Run) bool {
			old := r.Rank
			r.Rank = max(old/2, 1)
			return adapters && old > 1
		}},
		{"4-bit base weights", "--method qlora", "slower steps; accuracy of 16-bit LoRA in the paper's tests (Dettmers et al. 2023)", 6, func(r *Run) bool {
			old := r.Method
			r.Method = QLoRA
			return old == LoRA && r.Base != F32
		}},
		{"adapters instead of all parameters", "--method lora", "learns less, forgets less (Biderman et al. 2024)", 8, func(r *Run) bool {
			old := r.Method
			r.Method = LoRA
			return old == Full
		}},
		{"half the sequence length", "--seq", "other data", 8, func(r *Run) bool {
			old := r.Seq
			r.Seq = old / 2
			return old >= 256
		}},
		{"twice the GPUs, everything sharded", "--gpus, --sharding fsdp", "hardware", hardware, func(r *Run) bool {
			r.GPUs *= 2
			r.Sharding = FSDP
			return !r.InBackward && r.GPUs <= 1<<16
		}},
	}
}

// Changes lists what would make the plan smaller, most bytes saved per price
// first. chain is one way to usable bytes: the first change of that list, then the
// first of the list it leads to, and so on until the plan fits; without hardware
// if that suffices. It is nil if the plan fits already or none of it suffices.
func (p *Plan) Changes(m *modelshape.Model, usable int64) (all, chain []Change) {
	all = p.changes(m)
	if p.Memory.Process <= usable {
		return all, nil
	}
	for _, most := range []int64{hardware - 1, hardware} {
		if chain = p.wayDown(m, usable, most); chain != nil {
			return all, chain
		}
	}
	return all, nil
}

// wayDown takes no change of a weight above most, and at most 64.
func (p *Plan) wayDown(m *modelshape.Model, usable, most int64) []Change {
	var chain []Change
	for cur := p; len(chain) < 64; {
		next := cur.changes(m)
		i := slices.IndexFunc(next, func(c Change) bool { return c.Weight <= most })
		if i < 0 {
			return nil
		}
		chain = append(chain, next[i])
		if cur = next[i].Plan; cur.Memory.Process <= usable {
			return chain
		}
	}
	return nil
}

// changes are the alternatives that save something.
func (p *Plan) changes(m *modelshape.Model) []Change {
	out := slices.DeleteFunc(p.Alternatives(m), func(c Change) bool { return c.Saved <= 0 })
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Compare(b.Saved*a.Weight, a.Saved*b.Weight)
	})
	return out
}

// Alternatives are all changes that the run allows, those that save nothing at its size too.
func (p *Plan) Alternatives(m *modelshape.Model) []Change {
	var out []Change
	for _, e := range edits(p.Run) {
		r := p.Run
		if !e.apply(&r) {
			continue
		}
		if r.Slack == 0 {
			r.Slack = -1 // withDefaults has been here
		}
		q, err := New(m, r)
		if err != nil {
			continue
		}
		out = append(out, Change{e.what, e.flag, e.price, e.weight, p.Memory.Process - q.Memory.Process, q.Memory.Process, q})
	}
	return out
}
