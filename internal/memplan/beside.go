package memplan

import (
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// beside adds what is trained beside A and B at a size of its own: DoRA's magnitudes, and copies of embeddings and head
// that are trained whole, while the originals stay (peft/utils/other.py, ModulesToSaveWrapper).
func (k *Coefficients) beside(m *modelshape.Model, r Run) {
	var params, states int64
	add := func(rows, cols, count, size int64) (bytes int64) {
		device, paged := r.Optimizer.rule(size).stateBytes(rows, cols)
		states += count * device
		k.Paged += ceilDiv(count*paged, k.ShardStates)
		bytes = count * rows * cols * size
		params += bytes
		k.LargestGrad = max(k.LargestGrad, rows*cols*size)
		return bytes
	}
	if r.DoRA {
		for _, a := range k.Adapters {
			add(a.Out, 1, a.Count, k.AdapterSize)
		}
	}
	for _, g := range m.Groups {
		if !r.whole(g) {
			continue
		}
		rows := g.Shape[0]
		grad := ceilDiv(add(rows, g.Elems()/max(rows, 1), g.Count, r.keptSize()), k.ShardGrads)
		if g.Kind == modelshape.Head || m.Tied {
			k.HeadGrad += grad
		}
		if g.Kind == modelshape.Embedding && m.Tied {
			k.EmbedGrad += grad
		}
	}
	k.Weights += ceilDiv(params, k.ShardWeights)
	k.Grads += ceilDiv(params, k.ShardGrads)
	k.Optimizer += ceilDiv(states, k.ShardStates)
	k.Workspace += k.Buckets * params
}

// whole reports whether the group is trained whole beside adapters.
func (r Run) whole(g modelshape.Group) bool {
	return r.Embeddings && len(g.Shape) == 2 && (g.Kind == modelshape.Head || g.Kind == modelshape.Embedding)
}

// besideParams is the number of parameters that beside adds.
func (r Run) besideParams(m *modelshape.Model, adapters []Adapter) (n int64) {
	if r.DoRA {
		for _, a := range adapters {
			n += a.Count * a.Out
		}
	}
	for _, g := range m.Groups {
		if r.whole(g) {
			n += g.Params()
		}
	}
	return n
}

// task sets what a loss over pairs or over generated sequences adds. DPO has two sequences where SFT has one, and full
// fine-tuning a reference model beside the one that is trained; with adapters the reference is the base without them.
// GRPO generates before it trains: keys and values of every sequence of the step. Their losses take the projection in
// chunks (trl/trainer/utils.py, add_fused_lm_head).
func (k *Coefficients) task(m *modelshape.Model, r Run) {
	if r.Task == SFT {
		return
	}
	k.LossToken = 3 * r.computeSize() * m.Stack.Hidden
	k.ForwardLoss, k.HeldToken = k.LossToken, 0
	if r.Task == DPO {
		if r.Method == Full {
			k.Weights += ceilDiv(m.Params()*r.Base.Size(), k.ShardWeights)
		}
		for _, v := range []*int64{&k.Boundary, &k.Boundaries, &k.SecondToken, &k.SavedToken, &k.SavedRank, &k.SavedSeq, &k.LayerToken, &k.LayerRank, &k.LayerSeq,
			&k.WorkToken, &k.DequantToken, &k.NormToken, &k.LeafToken, &k.AttnToken, &k.AttnRank, &k.AttnSeq, &k.TailToken, &k.MaskSeq,
			&k.ForwardLoss, &k.LossToken} {
			*v *= 2
		}
		return
	}
	k.CacheToken = r.Accumulate * KVCache(m.Stack, 1, r.Base.Size())
}

// onHost takes from the GPU what DeepSpeed's and FSDP's offload keep on the host: states and gradients, and weights where
// they are sharded. A layer at work is gathered as before; gradients leave in buckets.
func (k *Coefficients) onHost(r Run) {
	if !r.OnHost {
		return
	}
	k.HostFixed = k.Optimizer + k.Paged + k.Grads
	k.Optimizer, k.Paged, k.Grads, k.StepCopy, k.StepPerElem, k.EmbedGrad, k.LossGrad = 0, 0, 0, 0, 0, 0, 0
	k.HeadGrad, k.LateGrad = 0, 0
	k.State, k.StateTables = stateRule{}, 0
	if k.ShardWeights > 1 {
		k.HostFixed += k.Weights
		k.Weights = 0
	}
}

// besideTargets are the modules that are trained whole, by their names in the model.
func besideTargets(m *modelshape.Model, r Run) (names []string) {
	for _, g := range m.Groups {
		if r.whole(g) {
			path := modulePath(g.Name)
			names = append(names, path[strings.LastIndexByte(path, '.')+1:])
		}
	}
	return names
}
