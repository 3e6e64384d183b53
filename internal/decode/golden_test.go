package decode

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// golden is a checkpoint made by testdata/make_goldens.py.
type golden struct {
	config  []byte
	tensors []Tensor
	want    map[string]*safetensors.Tensor
}

func openGolden(t testing.TB, path string) *golden {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	g := &golden{config: []byte(f.Metadata()["quantization_config"]), want: make(map[string]*safetensors.Tensor)}
	for _, s := range f.Tensors() {
		if name, ok := strings.CutPrefix(s.Name, "want:"); ok {
			g.want[name] = s
			continue
		}
		g.tensors = append(g.tensors, Tensor{Name: s.Name, DType: s.DType, Shape: s.Shape, File: path, Data: s})
	}
	return g
}

func goldens(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.safetensors")
	if err != nil || len(paths) < 10 {
		t.Fatalf("golden files: %v, %v", paths, err)
	}
	return paths
}

func (g *golden) detect(t testing.TB) *Scheme {
	t.Helper()
	s, err := Detect(Source{Config: g.config}, g.tensors)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bits returns the elements as integers, all NaN alike.
func bits(d safetensors.DType, b []byte) []uint32 {
	var out []uint32
	for ; len(b) > 0; b = b[d.Bits()/8:] {
		var u uint32
		nan := false
		switch d {
		case safetensors.F32:
			u = binary.LittleEndian.Uint32(b)
			nan = math.IsNaN(float64(math.Float32frombits(u)))
		case safetensors.BF16:
			u = uint32(binary.LittleEndian.Uint16(b))
			nan = u&0x7fff > 0x7f80
		case safetensors.F16:
			u = uint32(binary.LittleEndian.Uint16(b))
			nan = u&0x7fff > 0x7c00
		}
		if nan {
			u = 0x7fc00000
		}
		out = append(out, u)
	}
	return out
}

func readAll(t testing.TB, r io.ReaderAt, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	if k, err := r.ReadAt(b, 0); int64(k) != n || err != nil {
		t.Fatalf("read %d of %d bytes: %v", k, n, err)
	}
	return b
}

func TestGolden(t *testing.T) {
	for _, path := range goldens(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) {
			g := openGolden(t, path)
			s := g.detect(t)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			seen := 0
			for _, l := range s.Logical {
				want, ok := g.want[l.Name]
				if !ok {
					t.Errorf("%s is not in the reference", l.Name)
					continue
				}
				seen++
				if l.DType != want.DType || !slices.Equal(l.Shape, want.Shape) {
					t.Errorf("%s is %v %v, want %v %v", l.Name, l.DType, l.Shape, want.DType, want.Shape)
					continue
				}
				got, ref := bits(l.DType, readAll(t, l.Open(), want.Size())), bits(l.DType, readAll(t, want, want.Size()))
				// modelopt's table has no -0, E2M1 has: torch.equal tells them from no one.
				zeros := s.Method == modelopt
				for i := range ref {
					if got[i] != ref[i] && !(zeros && got[i]|ref[i] == 1<<31) {
						t.Errorf("%s: element %d is %#x, want %#x", l.Name, i, got[i], ref[i])
						break
					}
				}
			}
			if seen != len(g.want) {
				t.Errorf("%d weights, want %d", seen, len(g.want))
			}
		})
	}
}

// TestPartition: every stored tensor is a part of one weight, dropped, or plain.
func TestPartition(t *testing.T) {
	type partition struct {
		Label   string
		Parts   []string
		Dropped []string
		Plain   []string
	}
	want := map[string]partition{
		"ct-float4": {Label: "compressed-tensors mixed-precision E2M1 in groups of 32, E2M3 in groups of 32, E2M1 in groups of 16",
			Dropped: []string{"none.input_global_scale", "one.input_global_scale", "tiny.input_global_scale"},
			Parts: []string{"mx4.weight_packed mx4.weight_scale", "mx6.weight_packed mx6.weight_scale",
				"none.weight_packed none.weight_scale none.weight_global_scale", "one.weight_packed one.weight_scale one.weight_global_scale",
				"tiny.weight_packed tiny.weight_scale tiny.weight_global_scale"}},
		"modelopt": {Label: "NVIDIA ModelOpt MIXED_PRECISION E4M3 per tensor, E2M1 in groups of 16", Plain: []string{"lm_head.weight"},
			Dropped: []string{"a.input_scale", "attn.k_scale", "b.input_scale", "c.input_scale", "fp8.input_scale"},
			Parts: []string{"a.weight a.weight_scale a.weight_scale_2", "b.weight b.weight_scale b.weight_scale_2",
				"c.weight c.weight_scale c.weight_scale_2", "fp8.weight fp8.weight_scale"}},
		"ct-int":   {Label: "compressed-tensors int-quantized I8 per channel", Parts: []string{"a.weight a.weight_scale"}},
		"ct-mxfp8": {Label: "compressed-tensors mxfp8-quantized E4M3 in groups of 32", Parts: []string{"a.weight a.weight_scale"}},
		"fp8-128": {Label: "FP8 E4M3 in blocks of 128x128",
			Parts: []string{"a.weight a.weight_scale_inv", "b.weight b.weight_scale_inv"}},
		"fp8-ue8m0": {Label: "FP8 E4M3 in blocks of 16x16, E2M1 in groups of 32",
			Parts: []string{"experts.0.w1.weight experts.0.w1.scale", "a.weight a.scale"}},
		"int8": {Label: "LLM.int8 by row", Parts: []string{"a.weight a.SCB a.weight_format", "b.weight b.SCB"}},
		"mxfp4": {Label: "MXFP4 E2M1 in groups of 32", Plain: []string{"experts.gate_up_proj_bias"},
			Parts: []string{"experts.down_proj_blocks experts.down_proj_scales", "experts.gate_up_proj_blocks experts.gate_up_proj_scales"}},
		"fp8-blocks": {Label: "FP8 E4M3 in blocks of 16x8", Plain: []string{"model.norm.weight"},
			Dropped: []string{"experts.gate_up_proj_activation_scale"},
			Parts: []string{"bf16.weight bf16.weight_scale_inv", "exact.weight exact.weight_scale_inv",
				"experts.gate_up_proj experts.gate_up_proj_scale_inv", "short.weight short.weight_scale_inv",
				"tall.weight tall.weight_scale_inv", "wide.weight wide.weight_scale_inv"}},
		"fp8-tensor": {Label: "FP8 E4M3 per tensor, E4M3 in blocks of 4x12, E4M3 per channel, ...",
			Dropped: []string{"attn.k_scale", "auto.input_scale", "e5m2.activation_scale", "experts.activation_scale",
				"one.activation_scale", "rows.activation_scale", "scalar.activation_scale"},
			Parts: []string{"auto.weight auto.weight_scale", "experts.weight experts.weight_scale_inv", "one.weight one.weight_scale_inv",
				"rows.weight rows.weight_scale_inv", "scalar.weight scalar.weight_scale_inv", "e5m2.weight e5m2.weight_scale_inv"}},
	}
	for name, w := range want {
		g := openGolden(t, "testdata/"+name+".safetensors")
		s := g.detect(t)
		got := partition{Label: s.Label, Dropped: slices.Sorted(slices.Values(s.Dropped))}
		for _, l := range s.Logical {
			got.Parts = append(got.Parts, strings.Join(l.Parts, " "))
			var size int64
			for _, p := range g.tensors {
				if slices.Contains(l.Parts, p.Name) {
					size += elems(p.Shape) * int64(p.DType.Bits()) / 8
				}
			}
			if size != l.SrcBytes {
				t.Errorf("%s: %s has %d bytes, want %d", name, l.Name, l.SrcBytes, size)
			}
		}
		for _, p := range g.tensors {
			if !s.Consumes(p.Name) {
				got.Plain = append(got.Plain, p.Name)
			}
		}
		// Which of equal dtype comes first in the file is the writer's choice.
		slices.Sort(got.Parts)
		slices.Sort(w.Parts)
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// tiled makes every MXFP4 panel small, so that a small weight has many.
func tiled(s *Scheme, rows, groups int64) {
	for i := range s.Logical {
		if r, ok := s.Logical[i].reader.(*elements).d.(*mxfp4Reader); ok {
			r.tileRows, r.tileGroups = min(rows, r.cols), min(groups, r.groups)
		}
	}
}

// TestRanges compares reads of any offset and length with the whole, from several goroutines at once.
func TestRanges(t *testing.T) {
	for _, path := range goldens(t) {
		for _, small := range []bool{false, true} {
			g := openGolden(t, path)
			s := g.detect(t)
			if small {
				tiled(s, 3, 1)
			}
			for _, l := range s.Logical {
				whole := readAll(t, g.detect(t).find(l.Name).Open(), elems(l.Shape)*int64(l.DType.Bits())/8)
				r := l.Open()
				var wg sync.WaitGroup
				for seed := range uint64(4) {
					wg.Go(func() {
						if err := compareRanges(r, whole, rand.New(rand.NewPCG(seed, 1)), 60); err != nil {
							t.Errorf("%s: %s: %v", path, l.Name, err)
						}
					})
				}
				wg.Wait()
			}
		}
	}
}

func (s *Scheme) find(name string) *Logical {
	for i := range s.Logical {
		if s.Logical[i].Name == name {
			return &s.Logical[i]
		}
	}
	return nil
}

func compareRanges(r io.ReaderAt, whole []byte, rng *rand.Rand, rounds int) error {
	for range rounds {
		off := rng.IntN(len(whole) + 3)
		n := rng.IntN(len(whole) + 5)
		if rng.IntN(2) == 0 {
			n = rng.IntN(9)
		}
		p := make([]byte, n)
		got, err := r.ReadAt(p, int64(off))
		want := whole[min(off, len(whole)):min(off+n, len(whole))]
		wantErr := error(nil)
		if off+n > len(whole) || off >= len(whole) {
			wantErr = io.EOF
		}
		if got != len(want) || err != wantErr || !slices.Equal(p[:got], want) {
			return fmt.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v, or other bytes", n, off, got, err, len(want), wantErr)
		}
	}
	return nil
}

func TestReaderManners(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine's arithmetic, which the race detector only makes slow")
	}
	for _, name := range []string{"fp8-blocks", "fp8-ue8m0", "mxfp4", "ct-int", "ct-pack", "ct-float4"} {
		g := openGolden(t, "testdata/"+name+".safetensors")
		for _, l := range g.detect(t).Logical {
			size := elems(l.Shape) * int64(l.DType.Bits()) / 8
			whole := readAll(t, l.Open(), size)
			if err := iotest.TestReader(io.NewSectionReader(l.Open(), 0, size), whole); err != nil {
				t.Errorf("%s: %s: %v", name, l.Name, err)
			}
			if _, err := l.Open().ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
				t.Errorf("%s: a negative offset gives %v", l.Name, err)
			}
		}
	}
}
