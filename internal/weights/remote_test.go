package weights

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// countedFS counts the bytes that are read of its files.
type countedFS struct {
	fs.FS
	read atomic.Int64
}

type countedFile struct {
	*os.File
	n *atomic.Int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.n.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

func (c *countedFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if o, ok := f.(*os.File); ok {
		return countedFile{o, &c.read}, nil
	}
	return f, nil
}

func (c *countedFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(c.FS, name) }

// TestTurnedRemote: what lies across is the same from a source that is not on this machine, and is asked for once.
func TestTurnedRemote(t *testing.T) {
	for name, c := range map[string]struct {
		config, tensor string
		shape          []int64
	}{
		"Conv1D":  {`{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}`, "transformer.h.0.mlp.c_fc.weight", []int64{301, 503}},
		"experts": {`{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}`, "model.layers.0.feed_forward.experts.gate_up_proj", []int64{3, 61, 302}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			layout, err := safetensors.NewLayout([]safetensors.Entry{{Name: c.tensor, DType: safetensors.BF16, Shape: c.shape}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			raw := append([]byte(nil), layout.Header()...)
			size := int64(2)
			for _, d := range c.shape {
				size *= d
			}
			for i := range size {
				raw = append(raw, byte(i*i>>3))
			}
			for file, text := range map[string][]byte{"model.safetensors": raw, "config.json": []byte(c.config)} {
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			local, err := checkpoint.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer local.Close()
			counted := &countedFS{FS: os.DirFS(dir)}
			far, err := checkpoint.OpenFS("far", "", counted)
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			before := counted.read.Load()
			want, got := across(t, local), across(t, far)
			if len(want) == 0 || len(want) != len(got) {
				t.Fatalf("%d matrices, want %d", len(got), len(want))
			}
			for i := range want {
				if !bytes.Equal(want[i], got[i]) {
					t.Errorf("matrix %d differs", i)
				}
			}
			if n := counted.read.Load() - before; n != size {
				t.Errorf("%d bytes were read of %d", n, size)
			}
		})
	}
}

// across are the elements of the matrices that a model's only tensor is read across as, by reads of some hundred bytes.
func across(t *testing.T, src *checkpoint.Source) (matrices [][]byte) {
	t.Helper()
	m, err := Open(src)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := m.Experts(&m.Tensors[0])
	if err != nil {
		t.Fatal(err)
	}
	if parts == nil {
		parts = []Tensor{m.Linear(&m.Tensors[0])}
	}
	for i := range parts {
		data := make([]byte, 2*parts[i].Elems())
		for off := int64(0); off < int64(len(data)); off += 334 {
			if err := parts[i].Read(data[off:min(off+334, int64(len(data)))], off/2); err != nil {
				t.Fatal(err)
			}
		}
		matrices = append(matrices, data)
	}
	return matrices
}
