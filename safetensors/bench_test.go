package safetensors

import (
	"bytes"
	"fmt"
	"testing"

	upstream "github.com/nlpodyssey/safetensors"
)

func manyEntries(n int) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{
			Name:  fmt.Sprintf("model.layers.%d.mlp.experts.%d.down_proj.weight", i/256, i%256),
			DType: BF16,
			Shape: []int64{2048, 1408},
		}
	}
	return entries
}

func BenchmarkNewReader(b *testing.B) {
	for _, n := range []int{1, 300, 100_000} {
		b.Run(fmt.Sprintf("tensors=%d", n), func(b *testing.B) {
			l, err := NewLayout(manyEntries(n), map[string]string{"format": "pt"})
			if err != nil {
				b.Fatal(err)
			}
			r := bytes.NewReader(l.Header())
			b.SetBytes(int64(len(l.Header())))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewReader(r, l.Size()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUpstream(b *testing.B) {
	for _, n := range []int{1, 300, 100_000} {
		b.Run(fmt.Sprintf("tensors=%d", n), func(b *testing.B) {
			l, err := NewLayout(manyEntries(n), map[string]string{"format": "pt"})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(l.Header())))
			b.ReportAllocs()
			for b.Loop() {
				var m upstream.Metadata
				if err := m.UnmarshalJSON(l.Header()[lenSize:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewLayout(b *testing.B) {
	for _, n := range []int{1, 300, 100_000} {
		b.Run(fmt.Sprintf("tensors=%d", n), func(b *testing.B) {
			entries := manyEntries(n)
			b.ReportAllocs()
			for b.Loop() {
				l, err := NewLayout(entries, map[string]string{"format": "pt"})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(l.Header())))
			}
		})
	}
}

// discard is a destination that costs nothing.
type discard struct{}

func (discard) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

// BenchmarkWriter writes a million pieces into 100,000 tensors. Ascending is
// how files are written; striped, every second piece first, makes the most spans.
func BenchmarkWriter(b *testing.B) {
	const tensors, pieces, pieceSize = 100_000, 1_000_000, 16
	entries := manyEntries(tensors)
	for i := range entries {
		entries[i].Shape = []int64{pieces / tensors * pieceSize / 2}
	}
	l, err := NewLayout(entries, nil)
	if err != nil {
		b.Fatal(err)
	}
	places := l.Tensors()
	orders := []struct {
		name string
		at   func(i int) int
	}{
		{"ascending", func(i int) int { return i }},
		{"striped", func(i int) int { return i*2%pieces + i*2/pieces }},
		{"scattered", func(i int) int { return i * 611953 % pieces }},
	}
	for _, order := range orders {
		b.Run("order="+order.name, func(b *testing.B) {
			b.SetBytes(pieces * pieceSize)
			b.ReportAllocs()
			p := make([]byte, pieceSize)
			for b.Loop() {
				w, err := NewWriter(discard{}, l)
				if err != nil {
					b.Fatal(err)
				}
				for i := range pieces {
					at := order.at(i)
					name := places[at/(pieces/tensors)].Name
					if err := w.WriteAt(name, p, int64(at%(pieces/tensors))*pieceSize); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
