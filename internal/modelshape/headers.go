package modelshape

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Tensor is one tensor of a checkpoint, with its logical shape.
type Tensor struct {
	Name  string
	Shape []int64
}

// Classifier says what a tensor is. ok is false where it does not know.
type Classifier func(name string) (kind Kind, part Part, ok bool)

// FromTensors builds the shape from a checkpoint's tensor list, which makes
// the counts exact for any architecture. config is the text of its
// config.json or nil; classify may be nil.
//
// The stack comes from the config where its family is known. Without, it is
// read off the names and shapes that Llama-like decoders have, and the notes
// say what was assumed.
func FromTensors(tensors []Tensor, config []byte, classify Classifier) (*Model, error) {
	if len(tensors) == 0 {
		return nil, fmt.Errorf("no tensors")
	}
	m := &Model{Exact: true}
	known := map[string]Group{}
	if config != nil {
		ref, err := FromConfig(config)
		switch err := err.(type) {
		case nil:
			m.Type, m.Class, m.Tied, m.Stack, m.Context = ref.Type, ref.Class, ref.Tied, ref.Stack, ref.Context
			for _, g := range ref.Groups {
				known[pattern(g.Name)] = g
			}
		case *UnknownError:
			m.Type = err.ModelType
			if s, ok := genericStack(config); ok {
				m.Stack = s
				m.Notes = append(m.Notes, fmt.Sprintf("no family is known for model_type %q: activations are those of a Llama-like layer of its sizes", err.ModelType))
			}
		default:
			return nil, err
		}
	}
	m.Groups = group(tensors, known, classify)
	if m.Stack.Layers == 0 {
		m.readStack()
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// pattern replaces every number that stands alone between dots.
func pattern(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p != "" && strings.Trim(p, "0123456789") == "" {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, ".")
}

func group(tensors []Tensor, known map[string]Group, classify Classifier) []Group {
	type key struct {
		name, shape string
		kind        Kind
		part        Part
	}
	index := map[key]int{}
	var out []Group
	for _, t := range tensors {
		name := pattern(t.Name)
		kind, part, ok := Other, Text, false
		if classify != nil {
			kind, part, ok = classify(t.Name)
		}
		if ref, has := known[name]; !ok && has {
			kind, part, ok = ref.Kind, ref.Part, true
		}
		if !ok {
			kind, part = guess(t.Name, t.Shape)
		}
		k := key{name, fmt.Sprint(t.Shape), kind, part}
		if i, ok := index[k]; ok {
			out[i].Count++
			continue
		}
		index[k] = len(out)
		out = append(out, Group{Name: name, Shape: t.Shape, Count: 1, Kind: kind, Part: part})
	}
	slices.SortStableFunc(out, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// guess classifies by name alone, for architectures nobody described: a 2-D
// ".weight" inside a numbered layer is a Linear unless its name says otherwise.
func guess(name string, shape []int64) (Kind, Part) {
	part := Text
	for _, s := range []string{"vision_tower", "vision_model", "visual.", "audio_tower", "vit."} {
		if strings.Contains(name, s) {
			part = Tower
		}
	}
	if strings.Contains(name, "projector") || strings.Contains(name, "connector.") {
		part = Projector
	}
	leaf := strings.TrimSuffix(name, ".weight")
	last := leaf[strings.LastIndexByte(leaf, '.')+1:]
	switch {
	case strings.Contains(name, ".experts."):
		return Expert, part
	case len(shape) != 2 || leaf == name:
		return Other, part
	case strings.Contains(last, "embed") || last == "wte" || last == "word_embeddings" || last == "shared":
		return Embedding, part
	case strings.Contains(last, "norm") || last == "wpe" || strings.Contains(last, "position"):
		return Other, part
	case last == "lm_head" || last == "embed_out" || last == "output" || last == "score" || last == "classifier":
		return Head, part
	case last == "gate" || last == "router":
		return Router, part
	case pattern(name) == name: // outside the layers
		return Kept, part
	}
	return Linear, part
}

// genericStack reads the sizes under the names most configs use.
func genericStack(config []byte) (Stack, bool) {
	c, err := parseConfig(config)
	if err != nil {
		return Stack{}, false
	}
	if _, ok := c.keys["text_config"]; ok && c.opt("hidden_size") == 0 {
		c = c.sub("text_config", "")
	}
	if c.opt("hidden_size", "n_embd", "d_model") <= 0 || c.opt("num_hidden_layers", "n_layer", "n_layers", "num_layers") <= 0 ||
		c.opt("num_attention_heads", "n_head", "n_heads", "num_heads") <= 0 || c.opt("vocab_size") <= 0 || *c.err != nil {
		return Stack{}, false
	}
	b := &builder{m: &Model{}, count: 1}
	s := b.stack(c)
	if s.Inter == 0 {
		s.Inter = 4 * s.Hidden
	}
	s.Experts = c.opt("num_experts", "num_local_experts", "n_routed_experts")
	if s.Experts > 0 {
		s.TopK = c.opt("num_experts_per_tok")
		s.ExpertInter = c.opt("moe_intermediate_size")
		if s.ExpertInter == 0 {
			s.ExpertInter = s.Inter
		}
		s.MoELayers = s.Layers
	}
	return *s, *c.err == nil
}

// readStack infers the sizes from Llama's tensor names.
func (m *Model) readStack() {
	s := &m.Stack
	find := func(suffix string) (rows, cols, count int64) {
		for _, g := range m.Groups {
			if g.Part == Text && strings.HasSuffix(g.Name, suffix) && len(g.Shape) == 2 && g.Count > count {
				rows, cols, count = g.Shape[0], g.Shape[1], g.Count
			}
		}
		return rows, cols, count
	}
	vocab, _, _ := find("embed_tokens.weight")
	q, h, layers := find("self_attn.q_proj.weight")
	kv, _, _ := find("self_attn.k_proj.weight")
	inter, _, n := find("mlp.up_proj.weight")
	_, _, gates := find("mlp.gate_proj.weight")
	if layers == 0 || kv == 0 || h == 0 {
		m.Notes = append(m.Notes, "neither a config.json of a known model type nor names like Llama's: activations are left out")
		return
	}
	*s = Stack{Layers: layers, Hidden: h, Vocab: vocab, Inter: inter, Gated: n > 0 && gates == n, RMSNorm: true, Norms: 2}
	for _, d := range []int64{128, 64, 96, 80, 256, 32, 16} {
		if q%d == 0 && kv%d == 0 {
			s.HeadDim, s.ValDim, s.Heads, s.KVHeads = d, d, q/d, kv/d
			break
		}
	}
	if s.HeadDim == 0 {
		s.HeadDim, s.ValDim, s.Heads, s.KVHeads = q, q, 1, max(kv/max(q, 1), 1)
	}
	if _, _, n := find("lm_head.weight"); n == 0 {
		m.Tied = true
	}
	m.Notes = append(m.Notes, fmt.Sprintf("no config.json: sizes read off the tensors, head dimension %d assumed", s.HeadDim))
}
