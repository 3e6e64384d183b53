package lora

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// readFloats is a tensor as float32, all of it.
func readFloats(t *safetensors.Tensor) ([]float32, error) { return readRange(t, 0, t.Elems()) }

// readRange is n elements of a tensor from first on, as float32.
func readRange(t *safetensors.Tensor, first, n int64) ([]float32, error) {
	e, ok := weights.ElemOf(t.DType)
	if !ok {
		return nil, fmt.Errorf("lora: internal error: %s is %s", t.Name, t.DType)
	}
	out := make([]float32, n)
	const step = 1 << 18
	buf := make([]byte, min(n, step)*int64(e.Size()))
	for at := int64(0); at < n; at += step {
		k := min(step, n-at)
		b := buf[:k*int64(e.Size())]
		if err := stream.ReadFull(t, b, (first+at)*int64(e.Size())); err != nil {
			return nil, fmt.Errorf("read %s: %w", t.Name, err)
		}
		kernel.Widen(out[at:at+k], b, e)
	}
	return out, nil
}
