package arch

import "strings"

// Leaf names of the projections inside the attention and MLP blocks of text
// decoders. Only these are quantized where no table entry exists.
var decoderLeaves = setOf(
	"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "query_key_value", "qkv", "Wqkv", "W_pack",
	"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "kv_a_proj", "wq", "wk", "wv", "wqkv",
	"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "fc1", "fc2", "fc_in", "fc_out",
	"c_attn", "c_proj", "c_fc", "query", "key", "value", "dense", "dense_h_to_4h", "dense_4h_to_h",
	"attention_wo", "attn_out", "q", "k", "v", "o",
)

var headLeaves = setOf("lm_head", "embed_out", "output", "score", "classifier", "qa_outputs", "output_layer")

var embeddingLeaves = setOf("embed_tokens", "wte", "wpe", "tok_embeddings", "word_embeddings", "position_embeddings",
	"token_type_embeddings", "embed_in", "embed_positions", "embeddings", "shared", "embedding")

var routerLeaves = setOf("gate", "router", "wg", "shared_expert_gate")

// Components that put a tensor outside the text decoder: the vocabulary of
// names that vision-language checkpoints use.
var towerParts = setOf("visual", "vision_tower", "vision_model", "vision_encoder", "vit", "vision", "audio_tower",
	"audio_model", "audio_encoder", "speech_encoder", "image_encoder", "vpm", "apm", "siglip", "vision_backbone")

var projectorParts = setOf("multi_modal_projector", "mm_projector", "merger", "modality_projection", "connector",
	"vision_embedder", "embed_vision", "embed_audio", "projector", "resampler", "aligner", "mlp1", "vision_proj")

// Unknown classifies the tensors of an architecture that the table does not
// have, or whose modeling code travels with the checkpoint, by name alone:
// 2-D ".weight" tensors with a known projection name, inside numbered layers
// and outside every tower, are quantized, routed experts for 4.57 alone;
// everything else is kept. The caller
// must check that the tensor has two dimensions, and should say that it used
// these rules. Conv1D cannot be told by name; the weights are taken as stored
// [out, in].
//
// Of a class of diffusers, the projections of attention and feed-forward
// layers in numbered blocks are quantized.
func Unknown(q Query) *Model {
	return &Model{Type: q.ModelType, Diffusers: q.Diffusers, Custom: true, In: [NumVersions]bool{V5: !q.Diffusers, V4: true}}
}

// componentLeaves are names of the projections inside the blocks of diffusers'
// transformers and UNets (diffusers models/attention.py).
var componentLeaves = setOf(
	"to_q", "to_k", "to_v", "to_qkv", "to_out", "to_add_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_added_qkv", "proj_mlp",
)

// renamedAttention is the path of a projection that the attention blocks of the
// first autoencoders and UNets called otherwise, or "". diffusers renames the
// weight while it loads, but not what lies beside a packed one (models/
// modeling_utils.py, _fix_state_dict_keys_on_load).
func renamedAttention(path string) string {
	i := strings.LastIndexByte(path, '.') + 1
	if now := map[string]string{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[path[i:]]; now != "" {
		return path[:i] + now
	}
	return ""
}

// classifyComponent is for classes of diffusers that the table does not have.
// Every matrix is a module to it, so that the skip list names all that is kept.
func classifyComponent(name string) Class {
	path, ok := strings.CutSuffix(name, ".weight")
	if !ok {
		return Class{In: only(V4, true), Reason: "not a weight"}
	}
	paths := distinct(path, renamedAttention(path))
	c := Class{In: only(V4, true), Module: true, Linear: only(V4, true), AllPaths: paths, Paths: only(V4, paths)}
	parts := strings.Split(path, ".")
	inBlock := false
	for i, p := range parts {
		inBlock = inBlock || i > 0 && i < len(parts)-1 && isDigits(p)
		if inBlock && len(paths) == 1 && !isDigits(p) && (componentLeaves[p] || decoderLeaves[p] || hasComponents(strings.Join(parts[i:], "."), "ff.net")) {
			c.Quant[V4] = true
		}
	}
	if !c.Quant[V4] {
		c.Reason = "not a projection name known for the blocks of diffusers"
	}
	return c
}

func classifyUnknown(name string) Class {
	path, ok := strings.CutSuffix(name, ".weight")
	if !ok {
		return Class{In: all, Reason: "not a weight"}
	}
	parts := strings.Split(path, ".")
	leaf := parts[len(parts)-1]
	paths := unknownPaths(path)
	c := Class{In: all, AllPaths: paths, Paths: each(func(Version) []string { return paths })}
	inLayer, expert := false, false
	for i, p := range parts {
		switch {
		case towerParts[p]:
			c.Tower = true
		case projectorParts[p]:
			c.Projector = true
		}
		if i > 0 && isDigits(p) {
			if parts[i-1] == "experts" {
				expert = true
			} else {
				inLayer = true
			}
		}
	}
	c.Expert = expert || leaf == "experts"
	c.Head = headLeaves[leaf] && !inLayer
	c.Embedding = embeddingLeaves[leaf] && !inLayer
	c.Router = routerLeaves[leaf]
	switch {
	case c.Tower:
		c.Reason = "vision or audio tower"
	case c.Projector:
		c.Reason = "projector between a tower and the text model"
	case c.Head:
		c.Reason = "output head"
	case c.Embedding:
		c.Reason = "embedding"
	case c.Router:
		c.Reason = "router"
	case strings.Contains(leaf, "norm") || strings.Contains(leaf, "conv"):
		c.Reason = "norm or convolution"
		return c
	case !inLayer || !decoderLeaves[leaf]:
		c.Reason = "not a projection name known for text decoders"
	case c.Expert:
		// Of the versions, 4.57 alone has them as Linears.
		c.Quant[V4], c.Reason = true, "a routed expert, which transformers 5 fuses"
	default:
		c.Quant = all
	}
	if !c.Embedding {
		// It may be an nn.Linear, and a loader would then convert it unless
		// it is listed.
		c.Module, c.Linear = true, all
	}
	return c
}

// projection reports whether the last component of a module path is one that
// Linears have, in text decoders or in towers.
func projection(leaf string) bool {
	return decoderLeaves[leaf] || strings.HasSuffix(leaf, "proj") || strings.Contains(leaf, "linear")
}

// unknownPaths lists where the versions may hold the module: vision-language
// models moved their parts under "model." in 4.52, and read the older names.
func unknownPaths(path string) []string {
	paths := []string{path}
	if rest, ok := strings.CutPrefix(path, "language_model."); ok {
		if text, ok := strings.CutPrefix(rest, "model."); ok {
			paths = append(paths, "model.language_model."+text)
		} else {
			paths = append(paths, rest)
		}
	}
	if !strings.HasPrefix(path, "model.") {
		paths = append(paths, "model."+path)
	}
	return paths
}

func setOf(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

func isDigits(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// hasComponents reports whether path has sub as a run of whole components.
func hasComponents(path, sub string) bool {
	for i := 0; sub != ""; {
		j := strings.Index(path[i:], sub)
		if j < 0 {
			return false
		}
		j += i
		end := j + len(sub)
		if (j == 0 || path[j-1] == '.') && (end == len(path) || path[end] == '.') {
			return true
		}
		i = j + 1
	}
	return false
}
