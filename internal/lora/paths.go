package lora

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/weights"
)

// learn notes how the paths of a Linear differ in memory and in the checkpoint, from their beginning to the number of the layer: what
// else is in that layer, which the table of architectures does not have, moves with it.
func (b *base) learn(t *weights.Tensor) {
	own, ok := strings.CutSuffix(t.Name, ".weight")
	if !ok || len(t.Class.AllPaths) < 2 {
		return
	}
	stored := numbered(own)
	for _, p := range t.Class.AllPaths {
		from, to := trimShared(numbered(p), stored)
		if from != to && from != "" && to != "" && !slices.Contains(b.moved[from], to) {
			b.moved[from] = append(b.moved[from], to)
		}
	}
}

// numbered is a path up to its last number.
func numbered(path string) string {
	for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		last := path[strings.LastIndexByte(path[:end], '.')+1 : end]
		if last != "" && strings.Trim(last, "0123456789") == "" {
			return path[:end]
		}
	}
	return ""
}

// trimShared takes the components off the ends of two paths that they share, but for the first.
func trimShared(x, y string) (string, string) {
	for {
		i, j := strings.LastIndexByte(x, '.'), strings.LastIndexByte(y, '.')
		if i < 0 || j < 0 || x[i:] != y[j:] {
			return x, y
		}
		x, y = x[:i], y[:j]
	}
}

// spellings lists the names under which a path may be stored in this base, the likeliest first.
func (b *base) spellings(path string) []string {
	var moved []string
	for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		for _, to := range b.moved[path[:end]] {
			moved = append(moved, to+path[end:])
		}
	}
	return append(spellings(path), mixtures(moved)...)
}

// mixtures adds the names that the module of a layer's experts may have.
func mixtures(paths []string) []string {
	out := slices.Clone(paths)
	for _, p := range paths {
		for _, moe := range [][2]string{{".mlp.", ".block_sparse_moe."}, {".block_sparse_moe.", ".mlp."}, {".mlp.", ".moe."}} {
			if swapped := strings.Replace(p, moe[0], moe[1], 1); !slices.Contains(out, swapped) {
				out = append(out, swapped)
			}
		}
	}
	return out
}

// renames are the ways in which a path in memory and one on the disk differ at their beginnings and at the names of some
// modules, where the table of architectures does not tell: a checkpoint of the bare model or of a task's, a composite's text
// model, a bare file. Each is from what PEFT has to what may be stored.
var renames = []struct{ from, to string }{
	{"", ""}, {"model.", ""}, {"transformer.", ""}, {"", "model."}, {"", "transformer."},
	{"model.language_model.", "language_model.model."}, {"language_model.model.", "model.language_model."},
	{"model.language_model.", "model."}, {"language_model.model.", "model."}, {"model.", "model.language_model."}, {"model.", "language_model.model."},
	{"unet.", ""}, {"text_encoder.", ""}, {"text_encoder.", "text_model."}, {"transformer.", "model."}, {"base_model.", ""},
	{"bert.", ""}, {"roberta.", ""}, {"", "bert."}, {"", "roberta."}, {"gpt_neox.", ""}, {"", "gpt_neox."},
}

// spellings lists the names under which a path may be stored, the likeliest first.
func spellings(path string) []string {
	out := []string{path}
	add := func(p string) {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, r := range renames {
		if rest, ok := strings.CutPrefix(path, r.from); ok {
			add(r.to + rest)
		}
	}
	return mixtures(out)
}

// heads are the ends of the paths of output heads that share the embeddings where they are not stored: BERT's and those of what is
// made like it, DistilBERT's, ConvBERT's, BioGPT's, XLNet's, T5Gemma's, XLM's.
var heads = []string{"lm_head", "embed_out", "predictions.decoder", "lm_head.decoder", "vocab_projector", "generator_lm_head", "output_projection", "lm_loss", "lm_head.out_proj",
	"pred_layer.proj", "mlm_score.decoder"}

// isHead reports whether a path is that of such a head; proj_out is Whisper's, decoder ModernBERT's, head RWKV's.
func isHead(path string) bool {
	return endsIn(path, heads) || path == "proj_out" || path == "decoder" || path == "head"
}

// sharedIn is the place of a module among those that share the embeddings of an encoder and a decoder, in the order in which
// transformers registers them: 0 for another.
func sharedIn(path string) int {
	switch {
	case strings.HasSuffix(path, "encoder.embed_tokens"):
		return 1
	case strings.HasSuffix(path, "decoder.embed_tokens"):
		return 2
	}
	return 0
}

// sharedPath is a module of the blocks that layers of Zamba share, of which the first layers alone are stored.
var sharedPath = regexp.MustCompile(`^(.*layers\.)(\d{1,4})(\.shared_transf(?:ormer)?\..*)$`)

// shared finds the weight of such a module in the layer that has it: layers with a block, which have a Linear beside it, go through
// the stored ones by turns.
func (b *base) shared(path string) *weights.Tensor {
	m := sharedPath.FindStringSubmatch(path)
	if m == nil {
		return nil
	}
	var layers, stored []int
	n, _ := strconv.Atoi(m[2]) // a few digits, by the expression
	for i := range n + 1 {
		at := m[1] + strconv.Itoa(i)
		if b.byPath[at+".linear"] == nil {
			continue
		}
		layers = append(layers, i)
		if b.byPath[at+m[3]] != nil {
			stored = append(stored, i)
		}
	}
	if len(stored) == 0 || layers[len(layers)-1] != n {
		return nil
	}
	return b.byPath[m[1]+strconv.Itoa(stored[(len(layers)-1)%len(stored)])+m[3]]
}
