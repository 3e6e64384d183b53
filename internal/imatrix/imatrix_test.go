package imatrix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// builder writes a GGUF file.
type builder struct{ infos, data []byte }

func (b *builder) str(p []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(p, uint64(len(s))), s...)
}

func (b *builder) tensor(name string, dims []uint64, v ...float32) {
	b.infos = binary.LittleEndian.AppendUint32(b.str(b.infos, name), uint32(len(dims)))
	for _, d := range dims {
		b.infos = binary.LittleEndian.AppendUint64(b.infos, d)
	}
	b.infos = binary.LittleEndian.AppendUint32(b.infos, 0)
	b.infos = binary.LittleEndian.AppendUint64(b.infos, uint64(len(b.data)))
	for _, x := range v {
		b.data = binary.LittleEndian.AppendUint32(b.data, math.Float32bits(x))
	}
	for len(b.data)%32 != 0 {
		b.data = append(b.data, 0)
	}
}

func (b *builder) bytes(tensors int, typ string) []byte {
	p := []byte("GGUF")
	p = binary.LittleEndian.AppendUint32(p, 3)
	p = binary.LittleEndian.AppendUint64(p, uint64(tensors))
	p = binary.LittleEndian.AppendUint64(p, 3)
	p = b.str(binary.LittleEndian.AppendUint32(b.str(p, "general.type"), 8), typ)
	p = b.str(p, "imatrix.datasets")
	p = binary.LittleEndian.AppendUint32(p, 9)
	p = binary.LittleEndian.AppendUint32(p, 8)
	p = binary.LittleEndian.AppendUint64(p, 2)
	p = b.str(b.str(p, "a.txt"), "b.txt")
	p = binary.LittleEndian.AppendUint32(b.str(p, "imatrix.chunk_count"), 4)
	p = binary.LittleEndian.AppendUint32(p, 7)
	p = append(p, b.infos...)
	for len(p)%32 != 0 {
		p = append(p, 0)
	}
	return append(p, b.data...)
}

func sample() []byte {
	var b builder
	b.tensor("blk.0.attn_q.weight.in_sum2", []uint64{3, 1}, 2, 4, 6)
	b.tensor("blk.0.attn_q.weight.counts", []uint64{1, 1}, 2)
	b.tensor("blk.1.ffn_up_exps.weight.in_sum2", []uint64{2, 3}, 1, 2, 3, 4, 5, 6)
	b.tensor("blk.1.ffn_up_exps.weight.counts", []uint64{1, 3}, 1, 0, 2)
	return b.bytes(4, "imatrix")
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, sample(), 0o666); err != nil {
		t.Fatal(err)
	}
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Len() != 2 {
		t.Errorf("%d weights, want 2", m.Len())
	}
	for _, c := range []struct {
		name string
		cols int64
		want []float32
	}{
		{"model.layers.0.self_attn.q_proj.weight", 3, []float32{1, 2, 3}},
		{"blk.0.attn_q.weight", 3, []float32{1, 2, 3}},
		{"model.layers.1.mlp.experts.0.up_proj.weight", 2, []float32{1, 2}},
		{"model.layers.1.mlp.experts.1.up_proj.weight", 2, nil}, // never used
		{"model.layers.1.mlp.experts.2.up_proj.weight", 2, []float32{2.5, 3}},
		{"model.layers.1.block_sparse_moe.experts.2.w3.weight", 2, []float32{2.5, 3}},
		{"model.layers.1.mlp.experts.3.up_proj.weight", 2, nil},
		{"model.layers.0.self_attn.k_proj.weight", 3, []float32{1, 2, 3}}, // whose input is that of q
		{"model.layers.0.self_attn.o_proj.weight", 3, nil},
	} {
		got, err := m.Columns(c.name, c.cols)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
	}
	var in *checkpoint.InputError
	if _, err := m.Columns("model.layers.0.self_attn.q_proj.weight", 4); !errors.As(err, &in) {
		t.Errorf("another width: error %v", err)
	}
}

// TestGolden reads one matrix in both formats, as testdata/make_goldens.py says; in GGUF it is the real writer's.
func TestGolden(t *testing.T) {
	down := make([]float32, 512)
	for i := range down {
		down[i] = float32(i+1) / 16 / 512
	}
	for file, unseen := range map[string][]float32{"golden.gguf": nil, "golden.dat": {1, 1}} {
		m, err := Open(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if m.Len() != 3 {
			t.Errorf("%s: %d weights, want 3", file, m.Len())
		}
		for _, c := range []struct {
			name string
			cols int64
			want []float32
		}{
			{"model.layers.0.self_attn.q_proj.weight", 4, []float32{1, 2, 3, 4}},
			{"model.layers.0.mlp.down_proj.weight", 512, down},
			{"model.layers.1.mlp.experts.0.up_proj.weight", 2, []float32{1, 2}},
			{"model.layers.1.mlp.experts.1.up_proj.weight", 2, unseen},
			{"model.layers.1.mlp.experts.2.up_proj.weight", 2, []float32{1, 3}},
			{"model.layers.1.mlp.experts.3.up_proj.weight", 2, nil},
			{"model.layers.1.mlp.up_proj.weight", 2, nil},
		} {
			got, err := m.Columns(c.name, c.cols)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%s: %s: %v (-want +got):\n%s", file, c.name, err, diff)
			}
		}
		for name, cols := range map[string]int64{
			"model.layers.0.self_attn.q_proj.weight": 2, "model.layers.0.mlp.down_proj.weight": 513,
			"model.layers.1.mlp.experts.0.up_proj.weight": 5,
		} {
			var in *checkpoint.InputError
			if _, err := m.Columns(name, cols); !errors.As(err, &in) {
				t.Errorf("%s: %s of %d columns: error %v, want *checkpoint.InputError", file, name, cols, err)
			}
		}
	}
}

// TestLegacy: files of before April 2024 end with the entries, and nothing may follow the end.
func TestLegacy(t *testing.T) {
	good, err := os.ReadFile("testdata/golden.dat")
	if err != nil {
		t.Fatal(err)
	}
	const tail = 4 + 4 + len("calibration.txt")
	try := func(raw []byte) error {
		_, err := read(bytes.NewReader(raw), int64(len(raw)), "m.dat")
		return err
	}
	for n := range len(good) {
		if err := try(good[:n]); (err == nil) != (n == len(good)-tail) {
			t.Errorf("the first %d of %d bytes: error %v", n, len(good), err)
		}
	}
	for name, edit := range map[string]func(p []byte) []byte{
		"more at the end": func(p []byte) []byte { return append(p, 0) },
		"an entry more":   func(p []byte) []byte { p[0]++; return p },
		"a name twice":    func(p []byte) []byte { return append(append([]byte{2, 0, 0, 0}, p[4:4+47]...), p[4:4+47]...) },
		"negative calls":  func(p []byte) []byte { p[4+4+19+3] = 0x80; return p },
		"huge values":     func(p []byte) []byte { p[4+4+19+4+3] = 0x0f; return p },
		"no entries":      func(p []byte) []byte { return append(make([]byte, 4), p[len(p)-tail:]...) },
	} {
		var in *checkpoint.InputError
		if err := try(edit(bytes.Clone(good))); !errors.As(err, &in) {
			t.Errorf("%s: error %v, want *checkpoint.InputError", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	good := sample()
	var other, odd, empty builder
	other.tensor("blk.0.attn_q.weight.in_sum2", []uint64{3, 1}, 2, 4, 6)
	odd.tensor("blk.0.attn_q.weight.in_sum2", []uint64{3, 1}, 2, 4, 6)
	empty.tensor("token_embd.weight", []uint64{1}, 1)
	for name, raw := range map[string][]byte{
		"empty": {}, "text": []byte("GGUX and more text here"), "no counts": odd.bytes(1, "imatrix"), "a model": other.bytes(1, "model"),
		"nothing in it": empty.bytes(1, "imatrix"), "cut": good[:len(good)-40], "cut header": good[:100],
		"version": append([]byte("GGUF\x09\x00\x00\x00"), good[8:]...),
	} {
		_, err := read(bytes.NewReader(raw), int64(len(raw)), name)
		var in *checkpoint.InputError
		if !errors.As(err, &in) {
			t.Errorf("%s: error %v, want *checkpoint.InputError", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample())
	for _, name := range []string{"golden.gguf", "golden.dat"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("GGUF"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := read(bytes.NewReader(raw), int64(len(raw)), "fuzz")
		if err != nil {
			var in *checkpoint.InputError
			if !errors.As(err, &in) {
				t.Fatalf("error %v, want *checkpoint.InputError", err)
			}
			return
		}
		for base, e := range m.entries {
			if _, err := m.Columns(base, e.columns); err != nil {
				var in *checkpoint.InputError
				if !errors.As(err, &in) {
					t.Fatalf("error %v", err)
				}
			}
		}
	})
}
