package weights

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

const mixtralConfig = `{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "dtype": "bfloat16"}`

// oneByOne are the experts of a layer of Mixtral, with numbers for values: in the order of the stacks, those of gate and up first.
func oneByOne(experts, inner, hidden int) (tensors []testTensor, gateUp, down []byte) {
	n := uint16(0)
	matrix := func(name string, rows, cols int) []byte {
		data := make([]byte, 2*rows*cols)
		for i := range rows * cols {
			n++
			binary.LittleEndian.PutUint16(data[2*i:], n)
		}
		tensors = append(tensors, testTensor{name, safetensors.BF16, []int64{int64(rows), int64(cols)}, data})
		return data
	}
	for e := range experts {
		x := fmt.Sprintf("model.layers.7.block_sparse_moe.experts.%d.", e)
		gateUp = append(gateUp, matrix(x+"w1.weight", inner, hidden)...)
		gateUp = append(gateUp, matrix(x+"w3.weight", inner, hidden)...)
	}
	for e := range experts {
		down = append(down, matrix(fmt.Sprintf("model.layers.7.block_sparse_moe.experts.%d.w2.weight", e), hidden, inner)...)
	}
	return tensors, gateUp, down
}

func joinedOf(t *testing.T, tensors []testTensor) map[string]*Tensor {
	t.Helper()
	m, err := Open(write(t, mixtralConfig, tensors))
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*Tensor, len(m.Tensors))
	for i := range m.Tensors {
		all[i] = &m.Tensors[i]
	}
	out := map[string]*Tensor{}
	for _, s := range m.Join(all) {
		out[s.Name] = s
	}
	return out
}

// TestJoin: stacks hold the matrices in the layout of transformers 5, under its names, whatever ranges are read.
func TestJoin(t *testing.T) {
	const experts, inner, hidden = 11, 3, 5 // w10 sorts before w2
	tensors, gateUp, down := oneByOne(experts, inner, hidden)
	got := joinedOf(t, tensors)
	for name, want := range map[string]struct {
		shape []int64
		data  []byte
	}{
		"model.layers.7.mlp.experts.gate_up_proj": {[]int64{experts, 2 * inner, hidden}, gateUp},
		"model.layers.7.mlp.experts.down_proj":    {[]int64{experts, hidden, inner}, down},
	} {
		s := got[name]
		if s == nil {
			t.Fatalf("no %s", name)
		}
		if diff := cmp.Diff(want.shape, s.Shape); diff != "" || s.Bytes != int64(len(want.data)) || !s.Class.Expert {
			t.Errorf("%s: %d bytes, %+v (-want +got):\n%s", name, s.Bytes, s.Class, diff)
		}
		for _, step := range []int{2, 14, 30, 32, 60, 62, len(want.data)} {
			data := make([]byte, 0, len(want.data))
			for at := 0; at < len(want.data); at += step {
				p := make([]byte, min(step, len(want.data)-at))
				s.Values.Prefetch(int64(at), int64(len(p)))
				if n, err := s.Values.ReadAt(p, int64(at)); n != len(p) || err != nil && err != io.EOF {
					t.Fatalf("%s: %d bytes at %d: %d, %v", name, len(p), at, n, err)
				}
				s.Values.Drop(int64(at), int64(len(p)))
				data = append(data, p...)
			}
			if !bytes.Equal(data, want.data) {
				t.Errorf("%s: other values by steps of %d", name, step)
			}
		}
		if n, err := s.Values.ReadAt(make([]byte, 8), int64(len(want.data)-2)); n != 2 || err != io.EOF {
			t.Errorf("%s: past its end: %d, %v", name, n, err)
		}
		for _, i := range []int64{0, inner*hidden - 1, inner * hidden, s.Elems() - 1} {
			of, at := s.Part(i)
			if want := s.Of[i/(inner*hidden)]; of != want || at != i%(inner*hidden) {
				t.Errorf("%s: element %d is %d of %s", name, i, at, of.Name)
			}
		}
	}
}

// TestJoinNothing: experts of a layer of which some make no whole stack stay by themselves.
func TestJoinNothing(t *testing.T) {
	for name, change := range map[string]func([]testTensor) []testTensor{
		"a matrix is missing": func(x []testTensor) []testTensor { return x[1:] },
		"an expert is missing": func(x []testTensor) []testTensor {
			return append(x[:2:2], x[4:]...)
		},
		"the last expert is missing": func(x []testTensor) []testTensor {
			return append(x[:4:4], x[6:]...)
		},
		"another shape": func(x []testTensor) []testTensor {
			x[3].shape = []int64{5, 3}
			return x
		},
		"another dtype": func(x []testTensor) []testTensor {
			x[3].dtype = safetensors.F16
			return x
		},
		"twice": func(x []testTensor) []testTensor {
			x[0].name = "model.layers.7.block_sparse_moe.experts.02.w1.weight"
			return x
		},
		"a number too large": func(x []testTensor) []testTensor {
			x[0].name = "model.layers.7.block_sparse_moe.experts.999999.w1.weight"
			return x
		},
	} {
		tensors, _, _ := oneByOne(3, 3, 5)
		if got := joinedOf(t, change(tensors)); len(got) > 0 {
			t.Errorf("%s: %d stacks", name, len(got))
		}
	}
}
