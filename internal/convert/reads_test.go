package convert

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// counted counts how often each element of a tensor is read, and the calls.
type counted struct {
	weights.Values
	of    weights.Tensor
	reads []atomic.Int32
	calls atomic.Int64
}

func count(t *weights.Tensor) *counted {
	c := &counted{Values: t.Values, of: *t, reads: make([]atomic.Int32, t.Elems())}
	t.Values = c
	return c
}

func (c *counted) note(first, n int64) {
	c.calls.Add(1)
	for i := first; i < first+n; i++ {
		c.reads[i].Add(1)
	}
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	size := int64(c.of.Elem().Size())
	c.note(off/size, int64(len(p))/size)
	return c.Values.ReadAt(p, off)
}

func (c *counted) ReadAs(dst []byte, e kernel.Elem, first int64, n int) error {
	c.note(first, int64(n))
	_, err := c.of.ReadAs(dst, e, make([]byte, 4*n), first, n)
	return err
}

func (c *counted) most() int32 {
	var most int32
	for i := range c.reads {
		most = max(most, c.reads[i].Load())
	}
	return most
}

// TestReadsOfTurned: matrices that the output has transposed are read once to be dequantized, by large reads; and once for
// each pass to be quantized.
func TestReadsOfTurned(t *testing.T) {
	if testing.Short() {
		t.Skip("weights of several MiB, which the race detector makes slow")
	}
	const gpt2 = `{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "bfloat16"}`
	const llama4 = `{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "dtype": "bfloat16"}`
	for _, c := range []struct {
		name, config string
		tensor       testTensor
	}{
		{"Conv1D", gpt2, bf16("transformer.h.0.mlp.c_fc.weight", 1501, 2203)},
		{"experts", llama4, bf16("model.layers.0.feed_forward.experts.gate_up_proj", 2, 701, 1502)},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := writeModel(t, c.config, []testTensor{c.tensor})
			for _, limits := range []Execution{{Jobs: 3, NoError: true}, {Jobs: 2, MaxMemory: 16 << 20, NoError: true}} {
				m, err := weights.Open(src)
				if err != nil {
					t.Fatal(err)
				}
				stored := count(&m.Tensors[0])
				p, err := PlanModel(m, Options{AllowIncomplete: true, Spec: bnb.Format{BlockSize: 128}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := p.Execute(context.Background(), newMemSink(t, p), limits); err != nil {
					t.Fatal(err)
				}
				if n := stored.most(); n != 1 {
					t.Errorf("convert with %+v reads an element %d times", limits, n)
				}
				if q, err := weights.Open(written(t, p)); err != nil {
					t.Fatal(err)
				} else {
					dequantizeCounted(t, q, limits)
				}
			}
		})
	}
}

func dequantizeCounted(t *testing.T, m *weights.Model, limits Execution) {
	t.Helper()
	var all []*counted
	parts := m.Tensors[0].Parts
	if parts == nil {
		parts = m.Tensors
	}
	for i := range parts {
		all = append(all, count(&parts[i]))
	}
	p, err := PlanPlain(m, DequantizeOptions{AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Execute(context.Background(), newMemSink(t, p), limits); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if n := c.most(); n != 1 {
			t.Errorf("dequantize with %+v reads an element %d times", limits, n)
		}
		if calls, most := c.calls.Load(), 2+c.of.Elems()/(1<<17); calls > most {
			t.Errorf("dequantize with %+v reads %s in %d calls, want at most %d", limits, c.of.Name, calls, most)
		}
	}
}
