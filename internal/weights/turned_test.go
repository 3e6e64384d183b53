package weights

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/panel"
	"github.com/nf4kit/nf4kit/safetensors"
)

func TestTurned(t *testing.T) {
	const in, out = 37, 53
	src := make([]byte, 2*in*out)
	want := make([]byte, 2*in*out)
	for i := range in {
		for o := range out {
			v := uint16(i*out + o)
			binary.LittleEndian.PutUint16(src[2*(i*out+o):], v)
			binary.LittleEndian.PutUint16(want[2*(o*in+i):], v)
		}
	}
	r := &turned{src: bytes.NewReader(src), in: in, out: out, stride: out, size: 2, cache: panel.NewCache(panelBytes)}
	for _, step := range []int{2, 4, 2 * in, 2*in + 2, 2 * 100, len(want)} {
		got := make([]byte, len(want))
		for at := 0; at < len(want); at += step {
			end := min(at+step, len(want))
			if n, err := r.ReadAt(got[at:end], int64(at)); err != nil || n != end-at {
				t.Fatalf("read %d at %d: %d, %v", end-at, at, n, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("steps of %d bytes give another matrix", step)
		}
	}
}

// TestFuseIncomplete is about split experts of which some are lost.
func TestFuseIncomplete(t *testing.T) {
	const config = `{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "dtype": "bfloat16"}`
	const stack = "model.layers.0.feed_forward.experts."
	matrix := func(expert, leaf string, shape ...int64) testTensor {
		return testTensor{stack + expert + "." + leaf + ".weight", safetensors.BF16, shape, make([]byte, 2*elements(shape))}
	}
	for _, c := range []struct {
		name    string
		tensors []testTensor
		want    string
	}{
		{"a matrix", []testTensor{matrix("0", "gate_proj", 8, 16), matrix("1", "gate_proj", 8, 16), matrix("0", "up_proj", 8, 16)}, "have 3 matrices"},
		{"an expert", []testTensor{matrix("0", "down_proj", 8, 16), matrix("2", "down_proj", 8, 16)}, "expert 1 of 2 has no down_proj.weight"},
		{"a row", []testTensor{matrix("0", "down_proj", 8, 16), matrix("1", "down_proj", 7, 16)}, "want floats of shape [8 16]"},
		{"a dimension", []testTensor{matrix("0", "down_proj", 8)}, "want a matrix"},
		{"another spelling", []testTensor{matrix("0", "down_proj", 8, 16), matrix("00", "down_proj", 8, 16)}, "twice"},
		{"integers", []testTensor{{stack + "0.down_proj.weight", safetensors.I64, []int64{8, 16}, make([]byte, 8*8*16)}}, "want floats"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &Model{Source: write(t, config, c.tensors)}
			m.list()
			if err := m.resolve(); err != nil {
				t.Fatal(err)
			}
			if err := m.fuse(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want %q", err, c.want)
			}
		})
	}
}

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}
