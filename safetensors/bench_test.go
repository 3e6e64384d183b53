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
