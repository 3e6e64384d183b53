package memplan

import (
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// Coefficients are a model and a run reduced to what batch, sequence and rank
// are multiplied with. [Coefficients.At] is the whole formula; the page's
// JavaScript (formula.js) has the same fields and the same steps. All numbers
// are bytes on one GPU unless a comment says otherwise.
type Coefficients struct {
	Weights   int64 `json:"weights"`   // base weights that stay
	Gathered  int64 `json:"gathered"`  // weights that sharding gathers for the layer at work
	Workspace int64 `json:"workspace"` // cuBLAS

	// Full fine-tuning: what is trained has a fixed size.
	Optimizer   int64 `json:"optimizer"`
	Paged       int64 `json:"paged"` // optimizer states in unified memory
	Grads       int64 `json:"grads"`
	HeadGrad    int64 `json:"head_grad"`    // of the output projection: the first there is
	LateGrad    int64 `json:"late_grad"`    // not yet there when backward works on the first layer's MLP
	EmbedGrad   int64 `json:"embed_grad"`   // second gradient of a tied embedding, before the two are added
	LargestGrad int64 `json:"largest_grad"` // of one tensor
	StepCopy    int64 `json:"step_copy"`    // temporaries of the optimizer's step

	// LoRA: what is trained grows with the rank.
	Adapters     []Adapter `json:"adapters"`
	AdapterSize  int64     `json:"adapter_size"` // bytes per element
	State        stateRule `json:"state"`
	StateTables  int64     `json:"state_tables"`
	StepPerElem  int64     `json:"step_per_elem"`
	ShardWeights int64     `json:"shard_weights"` // ranks that share the adapters,
	ShardGrads   int64     `json:"shard_grads"`   // their gradients,
	ShardStates  int64     `json:"shard_states"`  // their optimizer states
	Buckets      int64     `json:"buckets"`       // copies of the gradients for communication (DDP)

	// Activations, per token and summed over all layers.
	Layers       int64 `json:"layers"`
	Checkpointed bool  `json:"checkpointed"`
	Boundaries   int64 `json:"boundaries"`   // inputs of checkpointed layers on the GPU
	Boundary     int64 `json:"boundary"`     // of one of them
	SecondToken  int64 `json:"second_token"` // a second copy of the inputs that FSDP has while it goes backward
	SavedToken   int64 `json:"saved_token"`  // saved for backward
	SavedRank    int64 `json:"saved_rank"`   // and per unit of rank
	SavedSeq     int64 `json:"saved_seq"`    // and per token of the sequence (masks, scores)
	// One layer, the heaviest.
	LayerToken int64 `json:"layer_token"`
	LayerRank  int64 `json:"layer_rank"`
	LayerSeq   int64 `json:"layer_seq"`
	// Temporaries of its backward pass.
	WorkToken    int64 `json:"work_token"`    // in the MLP, per token
	DequantToken int64 `json:"dequant_token"` // while a 4-bit weight is decoded, per token
	Dequant      int64 `json:"dequant"`       // the decoded weight
	NormToken    int64 `json:"norm_token"`    // of the final norm's backward pass, per token
	LeafToken    int64 `json:"leaf_token"`    // embedding output and its gradient that checkpointing of a frozen model leaves, per token
	AttnToken    int64 `json:"attn_token"`    // eager attention: what is alive beside the scores, per token
	AttnRank     int64 `json:"attn_rank"`
	AttnSeq      int64 `json:"attn_seq"` // and per token of the sequence: the scores

	TailToken int64 `json:"tail_token"` // around the layers: final norm, labels
	TailSeq   int64 `json:"tail_seq"`   // per token of one sequence: rotary tables
	MaskSeq   int64 `json:"mask_seq"`   // per token and token of the sequence: attention mask
	TailRank  int64 `json:"tail_rank"`  // per unit of rank: autocast's copies of the adapters
	TailFixed int64 `json:"tail_fixed"`

	ForwardLoss int64 `json:"forward_loss"` // per token when the loss has been computed,
	LossToken   int64 `json:"loss_token"`   // when its gradient has,
	LossGrad    int64 `json:"loss_grad"`    // (not per token) the projection's gradient, if chunks of logits are still alive
	HeldToken   int64 `json:"held_token"`   // and while the model's outputs live on

	CacheToken int64 `json:"cache_token"` // keys and values of a generated token, of all that are generated together
	HostFixed  int64 `json:"host_fixed"`  // what training keeps on the host

	Persistent bool `json:"persistent"`  // gradients stay through the forward pass
	InBackward bool `json:"in_backward"` // one gradient at a time

	SlackBP int64 `json:"slack_bp"` // allocator slack in 1/10000
	Context int64 `json:"context"`
}

// cublasWorkspace is PyTorch's per handle and stream, ":4096:2:16:8"
// (aten/src/ATen/cuda/CublasHandlePool.cpp): 2 x 4096 KiB + 8 x 16 KiB.
const cublasWorkspace = 8320 << 10

// zeroBucket is DeepSpeed's reduce_bucket_size, in elements.
const zeroBucket = 500_000_000

// Prepare reduces a model and a run to coefficients. The run must be valid.
func Prepare(m *modelshape.Model, r Run) *Coefficients {
	r = r.withDefaults()
	k := &Coefficients{
		Workspace: cublasWorkspace, Context: r.Context, SlackBP: int64(r.Slack*10000 + 0.5),
		ShardWeights: 1, ShardGrads: 1, ShardStates: 1,
		Persistent: r.Accumulate > 1, InBackward: r.InBackward,
	}
	switch r.Sharding {
	case ZeRO3, FSDP:
		k.ShardWeights = r.GPUs
		fallthrough
	case ZeRO2:
		k.ShardGrads = r.GPUs
		fallthrough
	case ZeRO1:
		k.ShardStates = r.GPUs
	case NoSharding:
		if r.GPUs > 1 {
			k.Buckets = 1 // DistributedDataParallel without gradient_as_bucket_view
		}
	}
	k.weights(m, r)
	k.trained(m, r)
	k.activations(m, r)
	k.loss(m, r) // after trained, whose gradients it looks at
	k.task(m, r)
	k.onHost(r)
	return k
}

func (k *Coefficients) weights(m *modelshape.Model, r Run) {
	w := r.weights(m)
	k.Weights = ceilDiv(w.Device, k.ShardWeights)
	if r.shardsMasters() {
		k.Weights = ceilDiv(4*w.Params, k.ShardWeights)
	}
	if k.ShardWeights == 1 {
		return
	}
	// Two layers, the one at work and the one prefetched, and the embedding.
	var inLayers, outside int64
	for _, g := range m.Groups {
		size := g.Params() * r.keptSize()
		if r.quantized(g) {
			_, d := r.quantBytes(g)
			size = g.Count * d
		}
		if strings.Contains(g.Name, "*") {
			inLayers += size
		} else {
			outside = max(outside, size)
		}
	}
	k.Gathered = 2*inLayers/max(m.Stack.Layers, 1) + outside
}

// shardsMasters reports whether the weights that are sharded are the float32 master copies, from which FSDP casts what
// it gathers, and their gradients float32 too.
func (r Run) shardsMasters() bool {
	return r.Method == Full && r.Precision == Mixed && r.Sharding == FSDP
}

// trained sets what gradients and optimizer states cost.
func (k *Coefficients) trained(m *modelshape.Model, r Run) {
	if r.Method == LoRA || r.Method == QLoRA {
		k.Adapters = r.adapters(m)
		k.AdapterSize = r.AdapterDType.Size()
		defer k.beside(m, r)
		k.State = r.Optimizer.rule(k.AdapterSize)
		k.StateTables = k.State.tables()
		if r.Foreach && r.Optimizer.torchAdam() {
			k.StepPerElem = k.State.PerElem / 2
		}
		return
	}
	size := r.keptSize() // of a parameter and of its gradient
	param := size
	master := r.Method == Full && r.Precision == Mixed
	if master {
		param = 4 // the optimizer works on the master copy
	}
	k.State = r.Optimizer.rule(param)
	switch {
	case r.shardsMasters():
		size = 4
	case master:
		k.State.Master = 4
	}
	var trained, largest, layer int64
	for _, g := range m.Groups {
		if r.Method == Norms && !isNorm(g) {
			continue
		}
		trained += g.Params()
		rows, cols := g.Elems(), int64(1)
		if len(g.Shape) > 1 {
			cols = g.Shape[len(g.Shape)-1]
			rows = g.Elems() / max(cols, 1)
		}
		device, paged := k.State.stateBytes(rows, cols)
		if r.Optimizer == GaLore && (g.Kind == modelshape.Linear || g.Kind == modelshape.Kept) {
			device = galoreBytes(rows, cols, param)
		}
		k.Optimizer += g.Count * device
		k.Paged += g.Count * paged
		k.Grads += g.Params() * size
		largest = max(largest, g.Elems())
		switch {
		case g.Kind == modelshape.Head:
			k.HeadGrad += g.Params() * size
		case g.Kind == modelshape.Embedding && m.Tied:
			k.HeadGrad += g.Params() * size
			k.EmbedGrad += g.Params() * size
		case g.Kind == modelshape.Embedding:
			k.LateGrad += g.Params() * size
		case strings.Contains(g.Name, "*") && roleOf(modulePath(g.Name)) != mlpDown:
			layer += g.Params() * size
		}
	}
	k.Optimizer, k.Paged = ceilDiv(k.Optimizer, k.ShardStates)+k.State.tables(), ceilDiv(k.Paged, k.ShardStates)
	k.LargestGrad = largest * size
	k.LateGrad += layer / max(m.Stack.Layers, 1)
	total := k.Grads
	k.Grads = ceilDiv(total, k.ShardGrads)
	switch {
	case k.ShardGrads > 1:
		k.HeadGrad, k.LateGrad, k.EmbedGrad = ceilDiv(k.HeadGrad, k.ShardGrads), 0, 0
		if r.Sharding != FSDP { // which reduces layer by layer
			k.Workspace += min(total, zeroBucket*size)
		}
	case k.Buckets > 0:
		k.Workspace += total
	}
	switch {
	case r.Optimizer.base() == Adafactor: // a float32 update and its square for the tensor at work
		k.StepCopy = 2 * 4 * largest
	case r.Foreach && r.Optimizer.torchAdam():
		k.StepCopy = ceilDiv(trained*k.State.PerElem/2, k.ShardStates)
		if r.InBackward {
			k.StepCopy = largest * k.State.PerElem / 2
		}
	}
}

// isNorm reports whether the group is the weight or bias of a norm.
func isNorm(g modelshape.Group) bool {
	return g.Kind == modelshape.Other && len(g.Shape) == 1 &&
		(strings.Contains(strings.ToLower(g.Name), "norm") || strings.Contains(g.Name, "ln_"))
}

// loss sets the bytes per token around the output projection. The logits of a
// 16-bit head are cast to float32; log_softmax saves its result; its backward
// pass holds the gradient it gets and the one it makes: 2+4+4+4 bytes per word
// of the vocabulary, 4+4+4+4 where the head is float32 already
// (transformers/loss/loss_utils.py, ForCausalLMLoss). Without the outputs held:
// 4+4+4. The constants of torch.compile and of the chunked loss are fitted to
// torchtune's README.
func (k *Coefficients) loss(m *modelshape.Model, r Run) {
	v := m.Stack.Vocab
	logit := r.computeSize()
	if r.Precision == Autocast {
		logit = 2
	}
	held := logit * v
	if r.DropOutputs {
		held = 0
	}
	cast := int64(4)
	if logit == 4 {
		cast = 0 // .float() of float32 is the same tensor
	}
	k.ForwardLoss = logit*v + cast*v + 4*v
	switch r.Loss {
	case StandardLoss:
		k.LossToken, k.HeldToken = held+12*v, held
		if r.Compile {
			k.LossToken = 12 * v
		}
	case ChunkedLoss:
		k.LossToken = 2 * v
		if r.Method == Full {
			k.LossToken = 7 * v / 2
			k.LossGrad = k.HeadGrad
		}
		k.ForwardLoss = k.LossToken
	case InPlaceLoss: // logits and their gradient in one place, the copy that is shifted for the labels (fitted)
		k.LossToken = (4 + 2*logit) * v
		k.ForwardLoss = k.LossToken
	case FusedLoss:
		// Liger's chunks hold about as many logits as the hidden states have
		// elements; with their gradient and that of the input.
		k.LossToken = 3 * r.computeSize() * m.Stack.Hidden
		k.ForwardLoss = k.LossToken
	}
}
