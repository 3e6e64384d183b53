package arch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Target is a set of loaders that a checkpoint is meant for.
type Target uint8

// The targets. Transformers5 and Transformers4 decide which modules are
// quantized (see [Class.Quantize]); all of them decide which match rules a
// skip list has to satisfy (see [CheckSkip]).
const (
	Transformers5 Target = 1 << iota // transformers 5.0 and later
	Transformers4                    // transformers 4.57
	VLLM                             // vLLM with its bitsandbytes plugin
	SGLang                           // SGLang
	Diffusers                        // diffusers
	Unsloth                          // transformers 5 as unsloth_zoo patches it, which packs routed experts
)

// targetNames are the names that the command line uses, by bit.
var targetNames = []string{"transformers5", "transformers4", "vllm", "sglang", "diffusers", "unsloth"}

// TargetNames lists the names of the targets.
func TargetNames() []string { return slices.Clone(targetNames) }

// ParseTarget returns the target of that name.
func ParseTarget(name string) (Target, error) {
	i := slices.Index(targetNames, name)
	if i < 0 {
		return 0, fmt.Errorf("%q: want one of %s", name, strings.Join(targetNames, ", "))
	}
	return 1 << i, nil
}

// String lists the targets by the names the command line uses.
func (t Target) String() string { return strings.Join(t.Names(), ",") }

// Names are the names that the command line uses for the targets.
func (t Target) Names() []string {
	on := []string{}
	for i, name := range targetNames {
		if t&(1<<i) != 0 {
			on = append(on, name)
		}
	}
	return on
}

// Query is what config.json says about the architecture. [ParseConfig] fills it.
type Query struct {
	ModelType     string            // model_type, or the _class_name that diffusers writes in its place
	Diffusers     bool              // it is a _class_name
	Architectures []string          // architectures; only the first is used
	Sub           map[string]string // model_type of each nested config, by key: "text_config", "decoder", ...
	Tied          bool              // tie_word_embeddings
	TiedSet       bool              // tie_word_embeddings is present; else the class's default holds
	TextTied      *bool             // that of text_config, which 4.57 goes by in a composite
	DecoderTied   *bool             // that of the decoder of an encoder-decoder pair, which ties its head by its own config
	CustomCode    bool              // auto_map is present: the modeling code travels with the checkpoint
}

// ParseConfig reads a [Query] from the text of a config.json.
func ParseConfig(config []byte) (Query, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(config, &top); err != nil {
		return Query{}, fmt.Errorf("parse config: %w", err)
	}
	q := Query{Sub: map[string]string{}}
	str := func(raw json.RawMessage) string {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	}
	q.ModelType = str(top["model_type"])
	if class := str(top["_class_name"]); class != "" && q.ModelType == "" {
		q.ModelType, q.Diffusers = class, true
	}
	// A value of another type is treated as absent: transformers would too,
	// or fail with its own message.
	if json.Unmarshal(top["architectures"], &q.Architectures) != nil {
		q.Architectures = nil
	}
	if raw, ok := top["auto_map"]; ok && string(raw) != "null" {
		q.CustomCode = true
	}
	q.TiedSet = json.Unmarshal(top["tie_word_embeddings"], &q.Tied) == nil && len(top["tie_word_embeddings"]) > 0
	for key, raw := range top {
		var sub struct {
			ModelType string `json:"model_type"`
			Tied      *bool  `json:"tie_word_embeddings"`
		}
		if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &sub) != nil {
			continue
		}
		if sub.ModelType != "" {
			q.Sub[key] = sub.ModelType
		}
		switch {
		case key == "text_config" && sub.Tied != nil:
			q.TextTied = sub.Tied
		case key == "decoder" && strings.HasSuffix(q.ModelType, pairSuffix):
			q.DecoderTied = sub.Tied
			if t := lookupType(sub.ModelType); sub.Tied == nil && t != nil {
				q.DecoderTied = &t.tied[V5]
			}
		}
	}
	if q.TextTied != nil && !q.TiedSet {
		q.Tied, q.TiedSet = *q.TextTied, true
	}
	return q, nil
}

// Class says what one tensor of a checkpoint is and who would quantize it.
type Class struct {
	Known  bool // the table has a row for the name: a Linear, an embedding, a router or experts
	Module bool // the weight of an nn.Linear or Conv1D in at least one version
	Conv1D bool // stored [in, out]; must be transposed before it is quantized

	In     [NumVersions]bool // the version has the model's class at all
	Linear [NumVersions]bool // the version would convert the module (or the modules it is split into) unless its skip list names it
	Quant  [NumVersions]bool // BitsAndBytesConfig(load_in_4bit=True) quantizes it there, with a null skip list

	// Module paths, without ".weight". Paths are those under which a version
	// looks for the module: in the class of the checkpoint first, then in the
	// bare base model (AutoModel). AllPaths has all of them and the
	// checkpoint's own.
	AllPaths []string
	Paths    [NumVersions][]string

	Head      bool   // output embedding or the last module of a task head
	Embedding bool   // nn.Embedding
	Router    bool   // picks experts, or weighs the shared one
	Expert    bool   // belongs to one routed expert, or to all of them (3-D)
	Tower     bool   // vision or audio encoder of a generative model
	Projector bool   // between a tower and the text model
	Fused     bool   // consumed by a WeightConverter of 5.x, so it cannot be loaded packed there
	Unlisted  bool   // quantized by both, but no skip list tells it from a kept module in all their versions, so not in the set for both
	Stack     string // of a routed expert's matrix that 5.x joins with others: the name that it gives the stack, [experts, out, in]
	Split     bool   // fused experts that a quantized checkpoint must hold one by one, transposed (Llama-4)

	Hold [NumVersions]Hold // whether the version holds it in float32, see [Class.Float32]

	Reason string // why it is not quantized by both versions, in words; "" if it is

	Stray bool // not part of the checkpoint's class, but of another that loads the same files
}

// Quantize reports whether the tensor belongs to the default set for the
// targets: what 5.x quantizes, what 4.57 quantizes, or, for both, what both
// do. A version that does not have the class has no say. Targets other than
// these two do not choose.
func (c Class) Quantize(t Target) bool {
	t &= Transformers5 | Transformers4
	if t == 0 {
		t = Transformers5 | Transformers4
	}
	if t == Transformers5|Transformers4 {
		switch {
		case !c.In[V4]:
			t = Transformers5
		case !c.In[V5]:
			t = Transformers4
		}
	}
	switch t {
	case Transformers5:
		return c.Quant[V5]
	case Transformers4:
		return c.Quant[V4]
	default:
		return c.Quant[V5] && c.Quant[V4] && !c.Unlisted
	}
}

// Unloadable returns those of the targets that cannot load the tensor packed
// into 4 bits, and why: they have no Linear there to convert, or move its
// weights about while loading. vLLM and SGLang have modules of their own, of
// which the table says nothing.
func (c Class) Unloadable(t Target) (by Target, why string) {
	if c.Embedding {
		return t, "an embedding is never packed"
	}
	if t&Transformers5 != 0 && !(c.Expert && t&Unsloth != 0) && c.In[V5] && (c.Fused || len(c.Paths[V5]) > 0 && !c.Linear[V5]) {
		by |= Transformers5
	}
	if four := t & (Transformers4 | Diffusers); c.In[V4] && len(c.Paths[V4]) > 0 && !c.Linear[V4] {
		by |= four
	}
	if by != 0 {
		why = c.Reason
	}
	return by, why
}

// Renamed reports whether the name is one that transformers 5 gave the module, under which 4.57, which has it too, does not look
// for it: CLIP's tower is encoder in 5.x, and vision_model.encoder in 4.57.
func (c Class) Renamed() bool {
	return c.Known && c.In[V4] && c.Linear[V5] && len(c.Paths[V4]) == 0
}

// Model is the entry of the table chosen for one checkpoint.
type Model struct {
	Type      string            // model_type, or the class of diffusers
	Class     string            // the transformers class whose naming the checkpoint has
	Diffusers bool              // the model is one of diffusers'
	Custom    bool              // no entry: classified by the rules for unknown architectures
	In        [NumVersions]bool // the version of transformers has the class; diffusers stands for 4.57
	Notes     []string          // what a user should be told about this model type

	entry *entry // nil if Custom
}

// Targets returns the loaders that a checkpoint of the model is meant for: t,
// or for 0 those that can load it, diffusers for its own classes and
// transformers 5 and 4 for all others. The error is for a loader that has no
// such class.
func (m *Model) Targets(t Target) (Target, error) {
	switch {
	case m.Diffusers && t&^Diffusers != 0:
		return 0, fmt.Errorf("%s cannot load %s, a class of diffusers; --target diffusers can", t&^Diffusers, m.Type)
	case m.Diffusers:
		return Diffusers, nil
	case t == 0:
		return Transformers5 | Transformers4, nil
	case t&Unsloth != 0 && t&^(Unsloth|Transformers5) != 0:
		return 0, fmt.Errorf("%s cannot load the experts that are packed for unsloth; --target unsloth stands alone", t&^(Unsloth|Transformers5))
	case t&Unsloth != 0:
		if !m.In[V5] {
			return 0, fmt.Errorf("unsloth patches transformers 5, which does not have %s", m.Type)
		}
		return Unsloth | Transformers5, nil // all but the experts is transformers'
	}
	return t, nil
}

// ClassifyTensor is [Model.Classify] for a tensor with that many dimensions.
// In diffusers, a name may be that of a convolution in one checkpoint and of a
// Linear in another of the same class (proj_in, by use_linear_projection).
func (m *Model) ClassifyTensor(name string, dims int) Class {
	c := m.Classify(name)
	if m.Diffusers && dims != 2 {
		return Class{In: only(V4, true), Hold: only(V4, c.Hold[V4]), Reason: "not a matrix"}
	}
	return c
}

// Classify says what the tensor is. name is a tensor name of the checkpoint,
// as "model.layers.0.self_attn.q_proj.weight"; any string is allowed.
func (m *Model) Classify(name string) Class {
	if m.entry == nil {
		if m.Diffusers {
			return classifyComponent(name)
		}
		return classifyUnknown(name)
	}
	return m.entry.classify(name)
}

// UnknownError reports a model_type the table does not have.
type UnknownError struct {
	ModelType string
	Diffusers bool     // it is a _class_name of diffusers
	Near      []string // known model types with similar names
}

func (e *UnknownError) Error() string {
	if e.ModelType == "" {
		return "config has no model_type"
	}
	msg := fmt.Sprintf("unknown model_type %q", e.ModelType)
	if e.Diffusers {
		msg = fmt.Sprintf("unknown class %q of diffusers", e.ModelType)
	}
	if len(e.Near) > 0 {
		msg += " (near: " + strings.Join(e.Near, ", ") + ")"
	}
	return msg
}

func distinct(paths ...string) []string {
	var out []string
	for _, p := range paths {
		if p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}
