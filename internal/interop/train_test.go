//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// trainCase is one question to train.py.
type trainCase struct {
	Model string `json:"model"`
	Text  string `json:"text"`
	Steps int    `json:"steps"`
}

type trainAnswer struct {
	Error     string    `json:"error"`
	Losses    []float64 `json:"losses"`
	Adapted   []string  `json:"adapted"`
	Quantized []string  `json:"quantized"`
	BaseMoved []string  `json:"base_moved"`
	LoraLeft  []string  `json:"lora_left"`
}

func heldout() string { return filepath.Join(llama(), "heldout.txt") }

// TestPEFT trains a LoRA on the converted Llama and merges it.
func TestPEFT(t *testing.T) {
	t.Parallel()
	c := trainCase{Model: convert(t, llama()), Text: heldout(), Steps: 12}
	for _, env := range environments {
		t.Run(env.String(), func(t *testing.T) {
			a := python[trainCase, trainAnswer](t, env, "train.py", []trainCase{c})[0]
			if a.Error != "" {
				t.Fatal(a.Error)
			}
			if len(a.Losses) != c.Steps {
				t.Fatalf("%d losses of %d steps", len(a.Losses), c.Steps)
			}
			first, last := a.Losses[0], a.Losses[len(a.Losses)-1]
			t.Logf("loss %.3f to %.3f in %d steps", first, last, c.Steps)
			if !(last < 0.95*first) {
				t.Errorf("loss went from %.3f to %.3f, want it to fall by 5 percent", first, last)
			}
			if diff := cmp.Diff(a.Quantized, a.Adapted, cmpopts.EquateEmpty()); diff != "" || len(a.Adapted) == 0 {
				t.Errorf("modules (-quantized +adapted):\n%s", diff)
			}
			if len(a.BaseMoved) > 0 || len(a.LoraLeft) > 0 {
				t.Errorf("training changed the packed weights of %v; merging left %v", a.BaseMoved, a.LoraLeft)
			}
		})
	}
}

// perplexityCase is one question to perplexity.py.
type perplexityCase struct {
	Model string `json:"model"`
	Text  string `json:"text"`
}

type perplexityAnswer struct {
	Error      string  `json:"error"`
	Perplexity float64 `json:"perplexity"`
	Tokens     int     `json:"tokens"`
	Unigram    float64 `json:"unigram"`
	Exact      struct {
		IDs        []int   `json:"ids"`
		Perplexity float64 `json:"perplexity"`
		KLMean     float64 `json:"kl_mean"`
		KLP99      float64 `json:"kl_p99"`
		SameTop1   float64 `json:"same_top1"`
	} `json:"exact"`
}

// TestPerplexity prints the README's table: the shipped Llama on text that it was not trained on. nf4kit eval gives the same
// figures in float32, in windows of 256 that predict what follows.
func TestPerplexity(t *testing.T) {
	t.Parallel()
	names := []string{"bf16 (source)"}
	cases := []perplexityCase{{llama(), heldout()}}
	for _, v := range variants {
		names = append(names, v.name)
		cases = append(cases, perplexityCase{convert(t, llama(), v.flags...), heldout()})
	}
	names = append(names, "nf4, blocks of 128")
	cases = append(cases, perplexityCase{convert(t, llama(), "--block-size", "128"), heldout()})
	answers := python[perplexityCase, perplexityAnswer](t, t5, "perplexity.py", cases)
	var table strings.Builder
	fmt.Fprintf(&table, "\n| weights | perplexity on %d tokens | against bf16 |\n|---|---|---|\n", answers[0].Tokens)
	for i, a := range answers {
		if a.Error != "" {
			t.Fatalf("%s: %s", names[i], a.Error)
		}
		fmt.Fprintf(&table, "| %s | %.3f | %+.2f %% |\n", names[i], a.Perplexity, 100*(a.Perplexity/answers[0].Perplexity-1))
	}
	t.Log(table.String())
	source := answers[0]
	if source.Perplexity > source.Unigram/4 {
		t.Errorf("the source's perplexity is %.1f, want well below the text's unigram %.1f", source.Perplexity, source.Unigram)
	}
	for i, a := range answers[1:] {
		if a.Perplexity == source.Perplexity || a.Perplexity < 0.99*source.Perplexity || a.Perplexity > 1.15*source.Perplexity {
			t.Errorf("%s: perplexity %.3f beside the source's %.3f: no 4-bit format does that", names[i+1], a.Perplexity, source.Perplexity)
		}
	}
	evaluated(t, cases, answers)
}

// evaluated holds nf4kit eval to the answers.
func evaluated(t *testing.T, cases []perplexityCase, answers []perplexityAnswer) {
	t.Helper()
	raw, err := json.Marshal(answers[0].Exact.IDs)
	if err != nil {
		t.Fatal(err)
	}
	ids := filepath.Join(t.TempDir(), "ids.json")
	if err := os.WriteFile(ids, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	args := []string{"eval", "--json", "--tokens", ids, "--context", "257", "--stride", "256"}
	for _, c := range cases {
		args = append(args, c.Model)
	}
	var got struct {
		Evaluation struct {
			Checkpoints []struct {
				Perplexity float64 `json:"perplexity"`
				KLMean     float64 `json:"kl_mean"`
				KLP99      float64 `json:"kl_p99"`
				SameTop1   float64 `json:"same_top1"`
			} `json:"checkpoints"`
		} `json:"evaluation"`
	}
	if err := json.Unmarshal([]byte(nf4kit(t, args...)), &got); err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		g, w := got.Evaluation.Checkpoints[i], a.Exact
		t.Logf("%s: perplexity %.5f (torch %.5f), KL %.6f (%.6f), 99 %% %.5f (%.5f), same top-1 %.4f (%.4f)", cases[i].Model, g.Perplexity, w.Perplexity, g.KLMean, w.KLMean, g.KLP99, w.KLP99, g.SameTop1, w.SameTop1)
		off := func(a, b, within float64) bool { return !(math.Abs(a-b) <= within*b) }
		if off(g.Perplexity, w.Perplexity, 1e-4) {
			t.Errorf("%s: perplexity %v, torch's %v", cases[i].Model, g.Perplexity, w.Perplexity)
		}
		if i > 0 && (off(g.KLMean, w.KLMean, 5e-3) || off(g.KLP99, w.KLP99, 5e-3) || off(g.SameTop1, w.SameTop1, 1e-3)) {
			t.Errorf("%s: %+v, torch's %+v", cases[i].Model, g, w)
		}
	}
}
