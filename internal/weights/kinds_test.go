package weights

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKinds(t *testing.T) {
	got := Kinds([]string{"m.layers.0.self_attn.q_proj.weight", "m.layers.11.self_attn.q_proj.weight", "m.layers.0.attention.output.dense.weight",
		"m.layers.0.output.dense.weight", "m.layers.0.mlp.experts.7.up_proj.weight", "m.layers.0.mlp.shared_expert.up_proj.weight", "proj.weight"})
	want := []string{"q_proj", "q_proj", "attention.output.dense", "output.dense", "mlp.experts.#.up_proj", "mlp.shared_expert.up_proj", "proj"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("kinds (-want +got):\n%s", d)
	}
}
