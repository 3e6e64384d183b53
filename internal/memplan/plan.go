package memplan

import (
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// Phase is a moment of a training step at which memory may peak.
type Phase struct {
	Name        string `json:"name"`
	Gradients   int64  `json:"gradients"`
	Activations int64  `json:"activations"`
	Work        int64  `json:"work"`   // one layer computed again and its temporaries, or copies of the optimizer's step
	Logits      int64  `json:"logits"` // the loss, or outputs held
	Allocated   int64  `json:"allocated"`
}

// The phases, in the order of a step.
const (
	PhaseForward   = "forward"    // the loss is computed
	PhaseLoss      = "loss"       // its gradient by the logits is
	PhaseLastLayer = "last layer" // backward through the last layer: all earlier ones still hold what they saved
	PhaseFirst     = "first layer"
	PhaseEmbedding = "embedding"
	PhaseStep      = "optimizer"
	PhaseGenerate  = "generation" // of GRPO's sequences, before the step
)

// Memory is the result for one batch, sequence and rank, in bytes on one GPU.
type Memory struct {
	Weights   int64 `json:"weights"`
	Adapters  int64 `json:"adapters"`
	Optimizer int64 `json:"optimizer"`       // in GPU memory whatever happens
	Paged     int64 `json:"optimizer_paged"` // in unified memory: on the GPU if there is room, else on the host
	Workspace int64 `json:"workspace"`       // cuBLAS, communication, gathered weights
	Gradients int64 `json:"gradients"`       // when complete
	Saved     int64 `json:"activations"`     // saved for backward at its start; with checkpointing the layers' inputs

	Phases    []Phase `json:"phases"` // each with what it has beside the first five
	Peak      string  `json:"peak_phase"`
	Allocated int64   `json:"allocated"` // the highest phase: torch.cuda.max_memory_allocated()
	Reserved  int64   `json:"reserved"`  // with the allocator's slack: max_memory_reserved()
	Process   int64   `json:"process"`   // with the CUDA context and all paged states: what the run needs
	Least     int64   `json:"least"`     // Process with every paged state on the host
	Host      int64   `json:"host"`      // pageable states and offloaded activations
}

// inRange reports whether no term of At leaves int64: a bound in float64 on
// the sum of all of them.
func (k *Coefficients) inRange(batch, seq, rank int64) bool {
	b, s, r := float64(batch), float64(seq), float64(rank)
	var params float64
	for _, a := range k.Adapters {
		params += float64(a.Count) * r * (float64(a.In) + float64(a.Out))
	}
	sum := func(v ...int64) (f float64) {
		for _, x := range v {
			f += float64(x)
		}
		return f
	}
	perToken := sum(k.Boundaries, k.Boundary*k.Layers, k.SecondToken, k.SavedToken, k.LayerToken, k.WorkToken, k.DequantToken, k.NormToken, k.LeafToken, k.AttnToken,
		k.TailToken, k.ForwardLoss, k.LossToken, k.HeldToken, k.CacheToken) + r*sum(k.SavedRank, k.LayerRank, k.AttnRank) +
		s*sum(k.SavedSeq, k.LayerSeq, k.AttnSeq, k.MaskSeq)
	fixed := sum(k.Weights, k.Gathered, k.Workspace, k.Optimizer, k.Paged, k.Grads, k.LargestGrad, k.StepCopy, k.TailFixed, k.Dequant, k.Context)
	return 2*(b*s*perToken+s*float64(k.TailSeq)+fixed+64*params)*(1+float64(k.SlackBP)/10000) < 1<<62
}

// At evaluates the formula for one micro-batch of sequences of seq tokens
// with adapters of the rank. It is monotonic in all three. The caller sees to
// it that the numbers are not absurd; [New] and the searches do.
func (k *Coefficients) At(batch, seq, rank int64) Memory {
	n := batch * seq
	var params, opt, paged int64
	for _, a := range k.Adapters {
		params += a.Count * rank * (a.In + a.Out)
		d1, p1 := k.State.stateBytes(rank, a.In)
		d2, p2 := k.State.stateBytes(a.Out, rank)
		opt += a.Count * (d1 + d2)
		paged += a.Count * (p1 + p2)
	}
	grads := ceilDiv(params*k.AdapterSize, k.ShardGrads)
	x := Memory{
		Weights:   k.Weights,
		Adapters:  ceilDiv(params*k.AdapterSize, k.ShardWeights),
		Optimizer: k.Optimizer + ceilDiv(opt, k.ShardStates) + k.StateTables,
		Paged:     k.Paged + ceilDiv(paged, k.ShardStates),
		Gradients: k.Grads + grads,
		Workspace: k.Workspace + k.Buckets*grads,
	}
	static := x.Weights + x.Adapters + x.Optimizer + x.Workspace // paged states are not the allocator's
	total := x.Gradients
	if k.InBackward {
		total = k.LargestGrad + grads
	}

	layer := n * (k.LayerToken + k.LayerRank*rank + k.LayerSeq*seq)
	saved := n * (k.SavedToken + k.SavedRank*rank + k.SavedSeq*seq)
	last := layer // what is left of saved when backward reaches the first layer
	again := int64(0)
	if k.Checkpointed {
		saved, last, again = n*k.Boundaries, min(n*k.Boundary, n*k.Boundaries), layer
	}
	always := k.TailFixed + rank*k.TailRank + seq*k.TailSeq + n*seq*k.MaskSeq
	tail := n * k.TailToken
	x.Saved = saved + tail + always

	work := max(n*k.WorkToken, n*k.DequantToken+k.Dequant)
	layerWork := again + work
	if k.AttnSeq > 0 { // in place of the MLP's part
		layerWork = max(layerWork, again-layer+n*(k.AttnToken+k.AttnRank*rank+k.AttnSeq*seq))
	}
	held := n * k.HeldToken

	before, start, end := int64(0), min(k.HeadGrad, total), max(total-k.LateGrad, 0)
	if k.Persistent || k.InBackward {
		start, end = total, total
	}
	if k.Persistent {
		before = total
	}
	x.Phases = []Phase{
		{PhaseForward, before, x.Saved, 0, n * k.ForwardLoss, 0},
		{PhaseLoss, max(before, min(k.LossGrad, total)), x.Saved, 0, n * k.LossToken, 0},
		{PhaseLastLayer, start, saved + n*k.SecondToken + always, max(layerWork, n*k.NormToken), held, 0},
		{PhaseFirst, end, last + always, layerWork, held, 0},
		{PhaseEmbedding, total + min(k.EmbedGrad, total), always, 0, held, 0},
		{PhaseStep, total, n * k.LeafToken, k.StepCopy + ceilDiv(params*k.StepPerElem, k.ShardStates), held, 0},
	}
	if k.CacheToken > 0 {
		x.Phases = append(x.Phases, Phase{PhaseGenerate, before, n * k.CacheToken, n * k.TailToken, 0, 0})
	}
	for i := range x.Phases {
		p := &x.Phases[i]
		if p.Name != PhaseStep {
			p.Work += k.Gathered
		}
		p.Allocated = static + p.Gradients + p.Activations + p.Work + p.Logits
		if p.Allocated >= x.Allocated { // of equals the later
			x.Peak, x.Allocated = p.Name, p.Allocated
		}
	}
	x.Reserved = x.Allocated + x.Allocated/10000*k.SlackBP
	x.Process = x.Reserved + x.Paged + k.Context
	x.Least = x.Process - x.Paged
	x.Host = x.Paged + k.HostFixed
	if k.Checkpointed && k.Boundaries == 0 && k.Boundary > 0 {
		x.Host += n * k.Boundary * k.Layers
	}
	return x
}

// Shown is what nvidia-smi will probably show on a GPU with usable bytes: the allocator keeps what it once had, and its
// cache grows while there is room. In 173 runs with Hugging Face's Trainer it showed a median of 27 % above allocated,
// in nine of ten at most 54 % (docs/plan.md).
func (x Memory) Shown(usable int64) (median, high int64) {
	clip := func(percent int64) int64 {
		return max(x.Process, min(x.Allocated/100*(100+percent), usable))
	}
	return clip(27), clip(54)
}

// PeakPhase is the phase of the peak.
func (x Memory) PeakPhase() Phase {
	for _, p := range x.Phases {
		if p.Name == x.Peak {
			return p
		}
	}
	return Phase{}
}

// Plan is a run on a model, evaluated.
type Plan struct {
	Run           Run
	Weights       Weights
	Memory        Memory
	AdapterParams int64
	Trained       int64 // trained parameters
	Coefficients  *Coefficients

	towers           []string // modules beside the language model; see [Plan.Snippet]
	whole            []string // modules that are trained whole beside adapters
	seq2seq, experts bool
	tied             bool
	context          int64 // the model's, 0 if it is not known
}

// New evaluates a run. The error is an [*OptionError].
func New(m *modelshape.Model, r Run) (*Plan, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	r = r.withDefaults()
	k := Prepare(m, r)
	p := &Plan{Run: r, Weights: r.weights(m), Coefficients: k, AdapterParams: AdapterParams(k.Adapters, r.Rank)}
	p.facts(m)
	switch r.Method {
	case LoRA, QLoRA:
		if idle := r.idleTarget(m); idle != "" {
			return nil, &OptionError{"targets", fmt.Sprintf("%q matches no linear layer of the model; it has %s", idle, strings.Join(r.linearNames(m), ", "))}
		}
		if p.Trained = p.AdapterParams + r.besideParams(m, k.Adapters); p.AdapterParams == 0 {
			return nil, &OptionError{"targets", "match no linear layer of the model: " + r.Targets}
		}
	default:
		for _, g := range m.Groups {
			if r.Method == Full || isNorm(g) {
				p.Trained += g.Params()
			}
		}
	}
	if !k.inRange(r.MicroBatch, r.Seq, r.Rank) {
		return nil, &OptionError{"micro-batch, seq", fmt.Sprintf("%d sequences of %d tokens on this model are beyond all memory", r.MicroBatch, r.Seq)}
	}
	p.Memory = k.At(r.MicroBatch, r.Seq, r.Rank)
	return p, nil
}
