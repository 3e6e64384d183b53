//go:build interop

package interop

import (
	"fmt"
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
}

// TestPerplexity prints the README's table: the shipped Llama on text that it was not trained on.
func TestPerplexity(t *testing.T) {
	names := []string{"bf16 (source)"}
	cases := []perplexityCase{{llama(), heldout()}}
	for _, v := range variants {
		names = append(names, v.name)
		cases = append(cases, perplexityCase{convert(t, llama(), v.flags...), heldout()})
	}
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
}
