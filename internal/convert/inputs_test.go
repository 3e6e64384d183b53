package convert

import (
	"testing"

	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// entries are inputs of which only the names are known.
type entries map[string]string

func (entries) Columns(string, int64) ([]float32, error)       { return nil, nil }
func (entries) Gram(string, int64) (a, b []float32, err error) { return nil, nil, nil }
func (e entries) Entry(weight string) string                   { return e[weight] }

// Memory is that of one weight beside the factors that are kept for others, from the first weight of an entry to its last.
func TestShare(t *testing.T) {
	item := func(name string, cols int64) *Item {
		return &Item{Tensor: &weights.Tensor{Name: name}, Shape: []int64{8, cols}}
	}
	one, kept := quantize.FeedbackMemory, quantize.SharedMemory
	for _, c := range []struct {
		list   []*Item
		inputs Inputs
		want   int64
	}{
		{[]*Item{item("q", 30), item("o", 40)}, nil, one(40)},
		{[]*Item{item("q", 30), item("o", 40)}, entries{}, one(40)},
		{[]*Item{item("q", 30), item("k", 30), item("o", 40)}, entries{"q": "a", "k": "a"}, one(40)},
		{[]*Item{item("k", 30), item("o", 40), item("q", 30)}, entries{"q": "a", "k": "a", "o": "o"}, one(40) + kept(30)},
		{[]*Item{item("k", 30), item("o", 10), item("q", 30)}, entries{"q": "a", "k": "a"}, one(30)},
		{[]*Item{item("a", 30), item("b", 20), item("c", 40), item("b2", 20), item("a2", 30)}, entries{"a": "a", "a2": "a", "b": "b", "b2": "b"}, one(40) + kept(30) + kept(20)},
	} {
		p := &Plan{inputs: c.inputs}
		p.share(c.list)
		if got := p.stats.MethodBytes; got != c.want {
			t.Errorf("%v: %d bytes, want %d", c.inputs, got, c.want)
		}
	}
}
