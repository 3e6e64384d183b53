//go:build interop

package interop

import (
	"context"
	"encoding/binary"
	"flag"
	"math"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/linalg"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

var onlyForward = flag.String("forward", "", "compute the outputs of the models of py/forward.py that match this regular expression alone")

// forwardCase asks forward.py for a model and its log-probabilities.
type forwardCase struct {
	Family  string  `json:"family"`
	Variant string  `json:"variant"`
	Tokens  []int32 `json:"tokens"`
	Out     string  `json:"out"`
}

// forwardFew are what a run without the tag families takes: each the only one of its kind of attention, norms or MLP.
var forwardFew = []forwardCase{{Family: "llama-llama3", Variant: "bfloat16"}, {Family: "gemma2", Variant: "float32"}, {Family: "gpt2", Variant: "nf4"},
	{Family: "phi3-longrope", Variant: "float32"}, {Family: "gpt_oss", Variant: "float32"}, {Family: "qwen3_moe", Variant: "nf4"}}

var forwardAll = []string{"llama", "llama-bias", "llama-llama3", "llama-linear", "llama-dynamic", "llama-yarn", "mistral", "mistral-full", "qwen2", "qwen3",
	"qwen3-yarn", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "phi3-longrope", "phi3-partial", "stablelm", "stablelm-parallel", "starcoder2", "olmo2",
	"smollm3", "granite", "cohere", "glm4", "gpt2", "gpt2-scaled", "gpt_neox", "gpt_neox-serial", "opt", "opt-after", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe",
	"glm4_moe", "olmo", "olmo3", "exaone4", "cohere2", "glm", "arcee", "nemotron", "helium", "ernie4_5", "seed_oss", "gptj", "gpt_bigcode", "gpt_bigcode-heads",
	"gpt_neo", "gpt_oss"}

// TestForward compares log-probabilities with those that transformers computes in float32, on more tokens than a sliding
// window has. With the build tag families it takes every family, in float32, bfloat16 and NF4.
func TestForward(t *testing.T) {
	t.Parallel()
	cases := forwardFew
	if allFamilies || *onlyForward != "" {
		cases = nil
		re := regexp.MustCompile(*onlyForward)
		for _, f := range forwardAll {
			for _, v := range []string{"float32", "bfloat16", "nf4"} {
				if re.MatchString(f + "/" + v) {
					cases = append(cases, forwardCase{Family: f, Variant: v})
				}
			}
		}
	}
	dir, r := t.TempDir(), rand.New(rand.NewPCG(1, 2))
	for i := range cases {
		c := &cases[i]
		c.Out = filepath.Join(dir, c.Family+"-"+c.Variant)
		c.Tokens = make([]int32, 300)
		for j := range c.Tokens {
			c.Tokens[j] = int32(r.IntN(211))
		}
	}
	for i, s := range python[forwardCase, status](t, t5, "forward.py", cases) {
		c := cases[i]
		t.Run(c.Family+"/"+c.Variant, func(t *testing.T) {
			if s.Error != "" {
				t.Fatal(s.Error)
			}
			compareForward(t, c)
		})
	}
}

func compareForward(t *testing.T, c forwardCase) {
	want := floatsOf(t, filepath.Join(c.Out, "logprobs.bin"), "logprobs")
	got, vocab := logprobs(t, c.Out, c.Tokens, forward.Options{Jobs: 2, MaxMemory: 1 << 20, Scratch: t.TempDir()})
	if len(want) != len(got) {
		t.Fatalf("%d log-probabilities; want %d", len(got), len(want))
	}
	worst, at := 0., 0
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	t.Logf("largest difference %.2g", worst)
	if !(worst <= 1e-4) {
		t.Errorf("of token %d after %d others, %v; want %v, within 1e-4", at%vocab, at/vocab, got[at], want[at])
	}
}

// logprobs computes the log-probabilities [tokens, vocabulary].
func logprobs(t *testing.T, dir string, ids []int32, opt forward.Options) ([]float32, int) {
	src, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m, err := weights.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	d, err := forward.New(m, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	// A second sequence, which has no part in the first one's output.
	s, err := d.Start(ctx, [][]int32{ids[:17], ids})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range d.Layers() {
		if err := d.Layer(ctx, i, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	first, end := s.Sequence(1)
	x := make([]float32, (end-first)*d.Width())
	if err := s.Read(x, first); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, len(ids)*d.Vocab())
	if err := d.Head(ctx, linalg.New(out, len(ids), d.Vocab()), linalg.New(x, len(ids), d.Width())); err != nil {
		t.Fatal(err)
	}
	for i := range ids {
		row := out[i*d.Vocab():][:d.Vocab()]
		sum := 0.
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		for j, v := range row {
			row[j] = float32(float64(v) - math.Log(sum))
		}
	}
	return out, d.Vocab()
}

// floatsOf reads a tensor of F32.
func floatsOf(t *testing.T, path, name string) []float32 {
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x := f.Lookup(name)
	raw := make([]byte, x.Size())
	if _, err := x.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	v := make([]float32, len(raw)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}
