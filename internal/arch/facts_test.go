package arch

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What transformers itself replaces with a null skip list, recorded by
// gen/check.py --record from models built on the meta device.
func TestQuantizedSetsAreThoseOfTransformers(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	for file, target := range map[string]Target{
		"testdata/facts5.json": Transformers5,
		"testdata/facts4.json": Transformers4,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var recorded struct {
			Transformers string
			Facts        []struct {
				Config json.RawMessage
				Names  []string // "+" marks the quantized ones
			}
		}
		if err := json.Unmarshal(text, &recorded); err != nil {
			t.Fatal(err)
		}
		if len(recorded.Facts) < 60 {
			t.Fatalf("%s: only %d facts", file, len(recorded.Facts))
		}
		for _, f := range recorded.Facts {
			q, err := ParseConfig(f.Config)
			if err != nil {
				t.Fatal(err)
			}
			var names, want, got []string
			for _, n := range f.Names {
				name, quantized := strings.CutPrefix(n, "+")
				names = append(names, name)
				if quantized {
					want = append(want, name)
				}
			}
			m, err := Resolve(q, names)
			if err != nil {
				t.Errorf("%s: %v", f.Config, err)
				continue
			}
			for _, n := range names {
				if m.Classify(n).Quantize(target) {
					got = append(got, n)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" || m.Class != q.Architectures[0] {
				t.Errorf("transformers %s, %s, resolved as %s (-want +got):\n%s", recorded.Transformers, f.Config, m.Class, diff)
			}
		}
	}
}

// TestLastOfTied is about modules that 4.57 keeps when embeddings are tied alone: the last of OLMo's, whose norms have no weights, and
// Mllama's projector. text_config says so where there is one.
func TestLastOfTied(t *testing.T) {
	yes, no := new(true), new(false)
	for _, c := range []struct {
		query     Query
		names     []string // the last is asked for
		quantized bool
	}{
		{Query{ModelType: "olmo", TiedSet: true}, []string{"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"}, true},
		{Query{ModelType: "olmo", TiedSet: true, Tied: true}, []string{"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"}, false},
		{Query{ModelType: "olmo", TiedSet: true, Tied: true}, []string{"model.layers.1.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"}, true},
		{Query{ModelType: "mllama", TiedSet: true, Tied: true, TextTied: no}, []string{"model.multi_modal_projector.weight"}, true},
		{Query{ModelType: "mllama", TiedSet: true, Tied: true, TextTied: yes}, []string{"model.multi_modal_projector.weight"}, false},
	} {
		m, err := Resolve(c.query, c.names)
		if err != nil {
			t.Fatal(err)
		}
		name := c.names[len(c.names)-1]
		if got := m.Classify(name).Quant[V4]; got != c.quantized {
			t.Errorf("%s %s, tied %v: quantized %v, want %v", m.Class, name, c.query.Tied, got, c.quantized)
		}
	}
}
