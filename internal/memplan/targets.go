package memplan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// role is where a linear layer takes its input from.
type role uint8

const (
	elsewhere role = iota // its own input
	attnIn                // the normed hidden state before attention
	attnOut               // the attention's result
	mlpIn                 // the normed hidden state before the MLP
	mlpDown               // the product inside the MLP
)

var roleNames = map[role][]string{
	attnIn: {"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "qkv", "query", "key", "value",
		"q_lin", "k_lin", "v_lin", "q", "k", "v", "query_proj", "key_proj", "value_proj", "q_a_proj", "kv_a_proj_with_mqa",
		"in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "output_gate"},
	attnOut: {"o_proj", "out_proj", "out_lin", "o"},
	mlpIn: {"gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "w1", "w3", "dense_h_to_4h", "fc_in", "lin1", "wi", "wi_0", "wi_1",
		"Wi", "linear_fc1", "shared_expert_gate"},
	mlpDown: {"down_proj", "fc2", "w2", "dense_4h_to_h", "fc_out", "lin2", "wo", "linear_fc2"},
}

// roleOf reads the role off a module path.
func roleOf(path string) role {
	leaf := path[strings.LastIndexByte(path, '.')+1:]
	switch leaf { // names that mean two things
	case "c_proj", "Wo":
		if strings.Contains(path, "attn.") {
			return attnOut
		}
		return mlpDown
	case "dense":
		switch {
		case strings.Contains(path, "attention") || strings.Contains(path, "attn"):
			return attnOut
		case strings.HasSuffix(path, "intermediate.dense"):
			return mlpIn
		case strings.HasSuffix(path, "output.dense"):
			return mlpDown
		}
		return elsewhere
	}
	for r, names := range roleNames {
		if slices.Contains(names, leaf) {
			return r
		}
	}
	return elsewhere
}

// Targets decides which linear layers get an adapter.
type Targets struct {
	spec string
	re   *regexp.Regexp
}

// short are the one-word names that stand for Llama's modules in a list.
var short = map[string]string{"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}

// ParseTargets reads "all-linear", "attention", "mlp", a comma list of module
// names (each the path or its end, as peft's target_modules; q, k, v, o, gate,
// up and down stand for *_proj), or "re:" and a regular expression that must
// match the whole path.
func ParseTargets(spec string) (Targets, error) {
	t := Targets{spec: spec}
	if re, ok := strings.CutPrefix(spec, "re:"); ok {
		x, err := regexp.Compile("^(?:" + re + ")$")
		if err != nil {
			return t, &OptionError{"targets", err.Error()}
		}
		t.re = x
		return t, nil
	}
	for s := range strings.SplitSeq(spec, ",") {
		if strings.TrimSpace(s) == "" {
			return t, &OptionError{"targets", fmt.Sprintf("%q: want all-linear, attention, mlp, a list such as q_proj,v_proj, or re:REGEX", spec)}
		}
	}
	return t, nil
}

// Match reports whether the linear layer of the group gets an adapter. As
// with peft, only nn.Linear and its kin can, and all-linear spares the head.
func (t Targets) Match(g modelshape.Group) bool {
	if g.Kind != modelshape.Linear && g.Kind != modelshape.Kept || g.Part == modelshape.Tower || g.Part == modelshape.Projector {
		return false
	}
	path := modulePath(g.Name)
	if t.re != nil { // "*" stands for an index, so try one
		return t.re.MatchString(strings.ReplaceAll(path, "*", "0"))
	}
	for s := range strings.SplitSeq(t.spec, ",") {
		s = strings.TrimSpace(s)
		switch s {
		case "all-linear":
			return true
		case "attention":
			if r := roleOf(path); r == attnIn || r == attnOut {
				return true
			}
		case "mlp":
			if r := roleOf(path); r == mlpIn || r == mlpDown {
				return true
			}
		default:
			if long, ok := short[s]; ok && matchSuffix(path, long) {
				return true
			}
			if matchSuffix(path, s) {
				return true
			}
		}
	}
	return false
}

func matchSuffix(path, name string) bool { return path == name || strings.HasSuffix(path, "."+name) }

func modulePath(name string) string { return strings.TrimSuffix(name, ".weight") }

// inOut are the features of a linear layer; GPT-2's Conv1D is stored
// transposed.
func inOut(m *modelshape.Model, g modelshape.Group) (in, out int64) {
	if len(g.Shape) != 2 {
		return 0, 0
	}
	if m.Type == "gpt2" {
		return g.Shape[0], g.Shape[1]
	}
	return g.Shape[1], g.Shape[0]
}
