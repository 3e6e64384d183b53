package weights

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// usualHead is the output head of transformers' causal language models.
const usualHead = "lm_head"

// headed are the endings of the classes that have an output head of that name, whether the table has them or not.
var headed = []string{"ForCausalLM", "LMHeadModel", "ForConditionalGeneration"}

// heads are the paths of output heads that may share the embeddings, the usual one first.
var heads = []string{usualHead, "cls.predictions.decoder", "lm_head.decoder", "predictions.decoder", "decoder", "vocab_projector", "generator_lm_head",
	"output_projection", "lm_loss", "embed_out", "proj_out", "lm_head.out_proj", "language_model.lm_head", "text_decoder.cls.predictions.decoder",
	"pred_layer.proj", "mlm_score.decoder", "head", "text_model.lm_head", "text_decoder_postnet.lm_head", "decoder.output_projection"}

// biasless are the types whose head adds the other module's bias by itself.
var biasless = []string{"bridgetower", "esm", "lxmert"}

// HeadName is the name that the weight of the output head has if it is stored; "" where the model's class has no head that is known.
func (m *Model) HeadName() string {
	if m.Arch == nil {
		return ""
	}
	list := heads
	if t := Embeddings(m.Tensors); t != nil && strings.HasPrefix(t.Name, "language_model.model.") {
		list = append([]string{"language_model." + usualHead}, heads...) // as a composite stores what it has at its top in memory
	}
	for _, path := range list {
		if c := m.Arch.Classify(path + ".weight"); c.Known && c.Head && !c.Stray {
			return path + ".weight"
		}
	}
	if slices.ContainsFunc(headed, func(s string) bool { return strings.HasSuffix(m.Arch.Class, s) }) {
		return usualHead + ".weight"
	}
	return ""
}

// TiedHead is the embeddings that the output head of a language model shares; nil where the head is stored, or the model
// has none that is known.
func (m *Model) TiedHead() *Tensor {
	name := m.HeadName()
	if name == "" || m.Query.TiedSet && !m.Query.Tied {
		return nil
	}
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if t.Class.Head && (strings.HasSuffix(t.Name, name) || strings.HasSuffix(name, t.Name)) { // a head may be of several Linears
			return nil
		}
	}
	tied := Embeddings(m.Tensors)
	if tied != nil && strings.HasSuffix(tied.Name, "shared.weight") {
		return nil // an encoder and a decoder share them too, and would have to get their own
	}
	return tied
}

// embeddings are the names of the modules that input embeddings are in.
var embeddings = []string{"embed_tokens", "shared", "word_embeddings", "wte", "tok_embeddings", "embeddings", "embed_in", "word_embedding", "tokens_embed", "w"}

// Embeddings are the input embeddings of a model, nil if there are none: among those of a usual name, else among all, the largest. Positions
// are embeddings too, and those of each layer in Gemma 3n, and of what Janus draws with, have more elements than those of its text.
func Embeddings(tensors []Tensor) (found *Tensor) {
	usual := false
	for i := range tensors {
		t := &tensors[i]
		if !t.Class.Embedding || len(t.Shape) != 2 {
			continue
		}
		path := strings.TrimSuffix(t.Name, ".weight")
		named := slices.Contains(embeddings, path[strings.LastIndexByte(path, '.')+1:])
		if found == nil || named && !usual || named == usual && t.Elems() > found.Elems() {
			found, usual = t, named
		}
	}
	return found
}

// Untie is the model with an output head of its own, equal to the embeddings that it shared. BERT's and those like it have a bias, which
// is another module's too: they get theirs, since transformers ties neither or both.
func (m *Model) Untie() (*Model, error) {
	tied := m.TiedHead()
	if tied == nil {
		return nil, fmt.Errorf("weights: internal error: no tied head in %s", m.Source.Path)
	}
	src, out := *m.Source, *m
	edits := []checkpoint.Edit{checkpoint.Set("tie_word_embeddings", []byte("false"))}
	if m.Query.Sub["text_config"] != "" { // where transformers 4.57 reads it
		edits = append(edits, checkpoint.Edit{Path: []string{"text_config", "tie_word_embeddings"}, Value: []byte("false")})
	}
	var err error
	if src.Config, err = checkpoint.EditConfig(src.Config, edits...); err != nil {
		return nil, err
	}
	head := *tied
	head.Name = m.HeadName()
	out.Source, out.Tensors = &src, append(slices.Clone(m.Tensors), head)
	if outer, ok := strings.CutSuffix(head.Name, "decoder.weight"); ok && !slices.Contains(biasless, m.Query.ModelType) {
		if i := slices.IndexFunc(m.Tensors, func(t Tensor) bool { return t.Name == outer+"bias" }); i >= 0 {
			bias := m.Tensors[i]
			bias.Name = outer + "decoder.bias"
			out.Tensors = append(out.Tensors, bias)
		}
	}
	if err := out.resolve(); err != nil {
		return nil, err
	}
	for i := range out.Tensors {
		if t := &out.Tensors[i]; t.Parts == nil {
			t.Class = out.Arch.ClassifyTensor(t.Name, len(t.Shape))
		}
	}
	if head := &out.Tensors[len(m.Tensors)]; !head.Class.Head || out.Query.Tied {
		return nil, &SourceError{Path: src.Path, Tensor: tied.Name, Msg: "it is the output head too, and how to give the model one of its own is not known",
			Hint: "load it with transformers, set tie_word_embeddings to false, save it, and take that"}
	}
	return &out, nil
}
