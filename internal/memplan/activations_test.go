package memplan

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// savedCase is a row of testdata/activations.json, which says how it was made.
type savedCase struct {
	Name, Method                                   string
	H, I, Layers, Heads, KV, HD, Vocab, Batch, Seq int64
	Rank                                           int64
	DType, Adapter, Attn                           string
	Targets                                        []string
	Tied, Padded, Kbit, Checkpointed, Autocast     bool
	Dropout                                        float64
	Saved                                          int64
	Peak                                           struct{ Static, Forward, Backward, Step int64 }
}

func readSaved(t *testing.T) (saved, peaks []savedCase) {
	t.Helper()
	data, err := os.ReadFile("testdata/activations.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct{ Cases []savedCase }
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	for _, c := range g.Cases {
		if c.Saved > 0 {
			saved = append(saved, c)
		} else {
			peaks = append(peaks, c)
		}
	}
	return saved, peaks
}

func (c savedCase) model(t *testing.T) *modelshape.Model {
	t.Helper()
	m, err := modelshape.FromConfig(fmt.Appendf(nil, `{"model_type":"llama","hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":%d,
		"num_attention_heads":%d,"num_key_value_heads":%d,"head_dim":%d,"vocab_size":%d,"tie_word_embeddings":%t}`,
		c.H, c.I, c.Layers, c.Heads, c.KV, c.HD, c.Vocab, c.Tied))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (c savedCase) run() Run {
	dtypes := map[string]DType{"": F32, "fp32": F32, "bf16": BF16, "fp16": F16}
	r := Run{
		Method: Method(c.Method), Base: dtypes[c.DType], Precision: Pure, Rank: c.Rank, Targets: strings.Join(c.Targets, ","),
		AdapterDType: dtypes[c.Adapter], Dropout: c.Dropout, NoKbitPrep: !c.Kbit, MicroBatch: c.Batch, Seq: c.Seq, Padded: c.Padded,
		NoCheckpointing: !c.Checkpointed, Attention: Attention(c.Attn), Foreach: true,
	}
	if c.Autocast {
		r.Precision = Autocast
	}
	return r
}

// What autograd saves for backward, to the byte: everything alive when the
// loss has been computed that is neither a parameter nor held by the loop.
func TestSavedBytes(t *testing.T) {
	cases, _ := readSaved(t)
	if len(cases) < 27 {
		t.Fatalf("%d cases, want at least 27", len(cases))
	}
	for _, c := range cases {
		r := c.run()
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		k := Prepare(c.model(t), r)
		x := k.At(c.Batch, c.Seq, c.Rank)
		n := c.Batch * c.Seq
		// log_softmax saves its float32 result; the mask and the hidden ids are inputs, not saved.
		got := x.Saved + 4*n*c.Vocab - n*c.Seq*k.MaskSeq
		if got != c.Saved {
			t.Errorf("%s: %d bytes, autograd saves %d (%+d, %+.3f per token and layer)", c.Name, got, c.Saved, got-c.Saved,
				float64(got-c.Saved)/float64(n*c.Layers))
		}
	}
}

// The most bytes alive during a training step, followed storage by storage
// on the CPU, against the phases.
func TestPeaks(t *testing.T) {
	_, cases := readSaved(t)
	if len(cases) < 20 {
		t.Fatalf("%d cases, want at least 20", len(cases))
	}
	for _, c := range cases {
		r := c.run()
		p, err := New(c.model(t), r)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		x := p.Memory
		static := x.Weights + x.Adapters + x.Optimizer + x.Workspace
		get := func(names ...string) (n int64) {
			for _, ph := range x.Phases {
				for _, name := range names {
					if ph.Name == name {
						n = max(n, ph.Allocated-static)
					}
				}
			}
			return n
		}
		back, want := get(PhaseLoss, PhaseLastLayer, PhaseFirst, PhaseEmbedding), c.Peak.Backward-c.Peak.Static
		if c.Attn == "eager" {
			// CUDA's softmax backward makes one more float32 tensor of scores than the CPU's.
			back -= 4 * c.Heads * c.Batch * c.Seq * c.Seq
		}
		check := func(what string, got, want int64, percent float64) {
			if e := 100*float64(got)/float64(want) - 100; math.Abs(e) > percent {
				t.Errorf("%s: %s %d bytes, measured %d (%+.2f %%, want within %v %%)", c.Name, what, got, want, e, percent)
			}
		}
		check("backward", back, want, 2.5)
		check("step", get(PhaseStep), c.Peak.Step-c.Peak.Static, 2)
		if strings.Contains(c.Name, "loss") { // elsewhere a layer's own forward pass is more, and less than its backward pass
			check("forward", get(PhaseForward), c.Peak.Forward-c.Peak.Static, 2)
		}
		// Parameters, states and quantization constants; the measured figure has
		// the ids and the eight float32 rotary frequencies too.
		inputs := c.Batch*c.Seq*8 + 2*c.HD
		if got := static - x.Workspace; got != c.Peak.Static-inputs {
			t.Errorf("%s: static %d bytes, measured %d", c.Name, got, c.Peak.Static-inputs)
		}
	}
}
