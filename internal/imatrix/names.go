package imatrix

import (
	_ "embed" // the table of names
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed names.txt
var table string

// mapping is llama.cpp's names of the matrix that a module becomes, without ".weight" and with '#' for the number of the
// layer: several where it depends on the architecture, in the order of the table.
var mapping = sync.OnceValue(func() map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(table) {
		name, modules, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		for module := range strings.FieldsSeq(modules) {
			m[module] = append(m[module], name)
		}
	}
	return m
})

// siblings are matrices that are given the same input: where a file lacks one, since the model's parts were put together or
// taken apart for llama.cpp, another stands for it.
var siblings = [][]string{
	{"attn_q", "attn_k", "attn_v", "attn_qkv"},
	{"ffn_gate", "ffn_up"},
	{"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"},
	{"ffn_gate_shexp", "ffn_up_shexp"},
	{"attn_q_a", "attn_kv_a_mqa"},
	{"ssm_in", "ssm_ba", "ssm_alpha", "ssm_beta", "attn_qkv", "attn_gate"},
}

// name is a weight's name in a checkpoint of Hugging Face, taken apart.
type name struct {
	tensor string
	module []string // the components, without ".weight" and the number of an expert, '#' for that of the layer
	layer  string
	expert int64 // the number of the expert, 0 if it is none's
}

func nameOf(tensor string) name {
	n := name{tensor: tensor}
	parts := strings.Split(strings.TrimSuffix(tensor, ".weight"), ".")
	for i, p := range parts {
		number, err := strconv.ParseUint(p, 10, 31)
		switch {
		case err == nil && i > 0 && parts[i-1] == "experts":
			n.expert = int64(number)
			continue
		case err == nil && n.layer == "":
			n.layer, p = p, "#"
		}
		n.module = append(n.module, p)
	}
	return n
}

// prefixes are components that a module's path has in front in one class or version of transformers and not in another; what is
// left is looked up as it stands, and under those that the table has.
var prefixes = []string{"model", "language_model", "transformer", "text_model", "decoder", "bert", "roberta", "distilbert", "base_model",
	"thinker", "llm", "backbone", "gpt_neox"}

// candidates are the names that the weight may have in llama.cpp, the likeliest first.
func (n *name) candidates() []string {
	var out []string
	add := func(module string) {
		for _, llama := range mapping()[module] {
			llama = strings.Replace(llama, "#", n.layer, 1) + ".weight"
			if !slices.Contains(out, llama) {
				out = append(out, llama)
			}
		}
	}
	for m := n.module; len(m) > 0; m = m[1:] {
		rest := strings.Join(m, ".")
		for _, p := range []string{"", "model.", "transformer.", "encoder.", "backbone."} {
			add(p + rest)
		}
		if !slices.Contains(prefixes, m[0]) {
			break
		}
	}
	return out
}

// find returns the entry of a weight and its name: the first candidate that the file has with a fitting number of columns, else
// a sibling of one, else a candidate of another width. A file made for a checkpoint's own names is taken at its word.
func (m *Matrix) find(n name, columns int64) (e *entry, base string) {
	if e = m.entries[n.tensor]; e != nil {
		return e, n.tensor
	}
	names := n.candidates()
	for _, list := range [][]string{names, siblingsOf(names)} {
		for _, c := range list {
			if e := m.entries[c]; e != nil && e.fits(columns, c) {
				return e, c
			}
		}
	}
	for _, c := range names {
		if e := m.entries[c]; e != nil {
			return e, c
		}
	}
	return nil, ""
}

// fits tells whether an entry may be of matrices of so many columns. The older format has those of all experts in one row.
func (e *entry) fits(columns int64, base string) bool {
	return e.columns == columns || e.matrices == 1 && columns > 0 && e.columns%columns == 0 && strings.HasSuffix(base, "_exps.weight")
}

// siblingsOf are the names of the siblings of each, in order.
func siblingsOf(names []string) []string {
	var out []string
	for _, c := range names {
		at := strings.LastIndexByte(strings.TrimSuffix(c, ".weight"), '.') + 1
		leaf := strings.TrimSuffix(c[at:], ".weight")
		for _, group := range siblings {
			if !slices.Contains(group, leaf) {
				continue
			}
			for _, s := range group {
				if s != leaf {
					out = append(out, c[:at]+s+".weight")
				}
			}
		}
	}
	return out
}
