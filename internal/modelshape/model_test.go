package modelshape

import (
	"strconv"
	"strings"

	"encoding/json"
	"github.com/google/go-cmp/cmp"
	"os"
	"testing"
)

// golden is testdata/params.json.
type golden struct {
	Transformers string
	Models       []struct {
		Name, Class string
		Params      int64
		Quantized   int64
		Config      json.RawMessage
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	data, err := os.ReadFile("testdata/params.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// Parameter counts and the quantized share equal what transformers builds.
func TestFromConfigParams(t *testing.T) {
	g := readGolden(t)
	types := map[string]bool{}
	for _, want := range g.Models {
		m, err := FromConfig(want.Config)
		if err != nil {
			t.Errorf("%s: %v", want.Name, err)
			continue
		}
		types[m.Type] = true
		if got := m.Params(); got != want.Params {
			t.Errorf("%s: %d parameters, transformers %s has %d (%+d)", want.Name, got, g.Transformers, want.Params, got-want.Params)
		}
		if got := m.Quantizable(); got != want.Quantized {
			t.Errorf("%s: %d quantized, transformers quantizes %d (%+d)", want.Name, got, want.Quantized, got-want.Quantized)
		}
	}
	if len(g.Models) < 60 {
		t.Errorf("%d configs, want at least 60", len(g.Models))
	}
	t.Logf("%d configs of %d model types", len(g.Models), len(types))
}

// The built-in shapes are those configs without what the class defaults say.
func TestBuiltin(t *testing.T) {
	want := map[string]int64{}
	for _, m := range readGolden(t).Models {
		want[m.Name] = m.Params
	}
	// T5Config of transformers 5 says tied whatever it is given; the published
	// files of these two are not, and carry both tensors.
	want["flan-t5-xl"] += 32128 * 2048
	want["mt5-small"] += 250112 * 512
	if len(BuiltinNames()) < 100 {
		t.Errorf("%d built-in shapes, want at least 100", len(BuiltinNames()))
	}
	for _, name := range BuiltinNames() {
		m, err := Builtin(strings.ToUpper(name))
		if err != nil {
			t.Error(err)
			continue
		}
		if m.Params() != want[name] {
			t.Errorf("%s: %d parameters, want %d", name, m.Params(), want[name])
		}
		if m.Stack.Layers == 0 || m.Stack.Hidden == 0 || m.Stack.Heads*m.Stack.HeadDim == 0 {
			t.Errorf("%s: incomplete stack %+v", name, m.Stack)
		}
	}
	if IsBuiltin("no-such-model") {
		t.Error("no-such-model is built in")
	}
	if _, err := Builtin("no-such-model"); err == nil {
		t.Error("Builtin(no-such-model) succeeded")
	}
}

// expand makes the tensor list that a checkpoint of the model would have.
func expand(m *Model) []Tensor {
	var out []Tensor
	for _, g := range m.Groups {
		stars := strings.Count(g.Name, "*")
		for i := range g.Count {
			name, n := g.Name, i
			for s := range stars {
				idx := n
				if s < stars-1 && m.Stack.Experts > 0 { // layer, then expert
					idx = n / m.Stack.Experts
					n %= m.Stack.Experts
				}
				name = strings.Replace(name, "*", strconv.FormatInt(idx, 10), 1)
			}
			out = append(out, Tensor{Name: name, Shape: g.Shape})
		}
	}
	return out
}

// A checkpoint's tensor list gives the counts that its config gives.
func TestFromTensors(t *testing.T) {
	for _, name := range []string{"llama-3.2-1b", "qwen2.5-0.5b", "mixtral-8x7b", "gpt2", "bert-base", "llava-1.5-7b", "deepseek-v3", "t5-small"} {
		ref, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		raw := builtin()[name]
		m, err := FromTensors(expand(ref), raw, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Params() != ref.Params() || m.Quantizable() != ref.Quantizable() || m.ActiveParams() != ref.ActiveParams() || m.Stack != ref.Stack {
			t.Errorf("%s: %d parameters, %d quantizable, %d active; want %d, %d, %d", name,
				m.Params(), m.Quantizable(), m.ActiveParams(), ref.Params(), ref.Quantizable(), ref.ActiveParams())
		}
	}
}

// Without a config the sizes come from the names, and a note says so.
func TestFromTensorsAlone(t *testing.T) {
	ref, err := Builtin("llama-3.1-8b")
	if err != nil {
		t.Fatal(err)
	}
	m, err := FromTensors(expand(ref), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Params() != ref.Params() || m.Quantizable() != ref.Quantizable() {
		t.Errorf("%d parameters, %d quantizable; want %d, %d", m.Params(), m.Quantizable(), ref.Params(), ref.Quantizable())
	}
	got, want := m.Stack, ref.Stack
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stack (-want +got):\n%s", diff)
	}
	if len(m.Notes) == 0 {
		t.Error("no note says that the head dimension was assumed")
	}
	m, err = FromTensors([]Tensor{{"a.0.weird", []int64{3, 4}}}, nil, nil)
	if err != nil || m.Params() != 12 || m.Stack.Layers != 0 || len(m.Notes) == 0 {
		t.Errorf("unknown names: %+v, %v", m, err)
	}
}

func TestFromTensorsUnknownType(t *testing.T) {
	cfg := `{"model_type":"brand_new","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":100,"intermediate_size":128}`
	m, err := FromTensors([]Tensor{
		{"model.layers.0.attn.wq.weight", []int64{64, 64}}, {"model.layers.1.attn.wq.weight", []int64{64, 64}},
		{"model.embed_tokens.weight", []int64{100, 64}}, {"model.norm.weight", []int64{64}},
		{"model.layers.0.mlp.gate.weight", []int64{8, 64}}, {"lm_head.weight", []int64{100, 64}},
	}, []byte(cfg), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Quantizable() != 2*64*64 || m.Stack.Layers != 2 || m.Stack.HeadDim != 16 {
		t.Errorf("quantizable %d, stack %+v", m.Quantizable(), m.Stack)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct{ cfg, want string }{
		{`[]`, "cannot unmarshal"},
		{`null`, "not an object"},
		{`{}`, "no model_type"},
		{`{"model_type":"nope"}`, `"nope"`},
		{`{"model_type":"llama","hidden_size":"big"}`, "hidden_size: expected an integer"},
		{`{"model_type":"llama","hidden_size":0}`, "hidden_size: expected a positive"},
		{`{"model_type":"llama","hidden_size":null}`, "hidden_size: missing"},
		{`{"model_type":"llama","num_attention_heads":1.5}`, "num_attention_heads"},
		{`{"model_type":"llama","hidden_size":9007199254740992,"vocab_size":9007199254740992}`, "too large"},
		{`{"model_type":"llama","num_hidden_layers":9007199254740992}`, "too large"},
		{`{"model_type":"llama","attention_bias":3}`, "attention_bias"},
		{`{"model_type":"qwen3_moe","num_hidden_layers":4000000000,"mlp_only_layers":[0]}`, "layers"},
		{`{"model_type":"llava","text_config":3}`, "text_config"},
		{`{"model_type":"llava","text_config":{"model_type":"gpt2"}}`, "gpt2"},
		{`{"model_type":"llava","vision_config":{"model_type":"vit"}}`, "vit"},
		{`{"model_type":"internvl","vision_config":{"patch_size":[]}}`, ""},
	} {
		m, err := FromConfig([]byte(c.cfg))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.cfg, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: model %v, error %v; want one with %q", c.cfg, m != nil, err, c.want)
		}
	}
}

// No config makes a panic, an overflow or an unbounded loop.
func FuzzFromConfig(f *testing.F) {
	for _, n := range BuiltinNames() {
		f.Add([]byte(builtin()[n]))
	}
	f.Add([]byte(`{"model_type":"llava","text_config":{"num_attention_heads":0},"vision_config":{"patch_size":0}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := FromConfig(data)
		if err != nil {
			return
		}
		if m.Params() < 0 || m.ActiveParams() < 0 || m.ActiveParams() > m.Params() || m.Quantizable() > m.Params() {
			t.Errorf("%d parameters, %d active, %d quantizable", m.Params(), m.ActiveParams(), m.Quantizable())
		}
	})
}
