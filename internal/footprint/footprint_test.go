package footprint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/safetensors"
)

func open(t testing.TB, path string) *checkpoint.Source {
	t.Helper()
	src, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// write makes a file of the given tensors, all zeros.
func write(t testing.TB, path string, entries []safetensors.Entry) {
	t.Helper()
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, l.Header(), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, l.Size()); err != nil {
		t.Fatal(err)
	}
}

func of(t testing.TB, path string) *Footprint {
	t.Helper()
	f, err := Of(open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestOf counts checkpoints: nothing twice, nothing lost. Two were written by bitsandbytes.
func TestOf(t *testing.T) {
	int8 := filepath.Join(t.TempDir(), "int8.safetensors")
	write(t, int8, []safetensors.Entry{
		{Name: "a.weight", DType: safetensors.I8, Shape: []int64{4, 16}}, {Name: "a.SCB", DType: safetensors.F32, Shape: []int64{4}},
		{Name: "a.weight_format", DType: safetensors.U8}, {Name: "norm.weight", DType: safetensors.BF16, Shape: []int64{16}},
	})
	tests := []struct {
		name, path, method  string
		quantized           int // weights
		problems            int // sidecars in another file than their weight, which transformers' sharding does
		codeBits, quantBits float64
	}{
		{"plain", "../../testdata/llama", "", 0, 0, 0, 0},
		{"nf4", "../../nf4/bnb/testdata/nf4-dq", "bitsandbytes 4-bit (nf4)", 14, 0, 0, 0},
		{"shards", "../../nf4/bnb/testdata/fp4-shards", "bitsandbytes 4-bit (fp4)", 14, 3, 0, 0},
		{"int8", int8, "bitsandbytes 8-bit", 1, 0, 8 + 32./16, 8 + 32./16 + 8./64},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := of(t, tt.path)
			if size := open(t, tt.path).TensorBytes(); f.Bytes != size {
				t.Errorf("%d bytes, the files have %d", f.Bytes, size)
			}
			if f.Method != tt.method || len(f.Problems) != tt.problems {
				t.Errorf("quantized by %q, want %q; problems %v", f.Method, tt.method, f.Problems)
			}
			var sum Class
			var plain16 int64
			quantized := 0
			for _, x := range f.Tensors {
				if x.Quant {
					quantized++
					plain16 += 2 * x.Params
				} else {
					plain16 += x.Bytes
				}
			}
			for _, c := range f.Classes {
				sum.Tensors += c.Tensors
				sum.Params += c.Params
				sum.Bytes += c.Bytes
			}
			if quantized != tt.quantized || f.Plain16() != plain16 {
				t.Errorf("%d weights quantized, want %d; %d bytes in 16 bits, want %d", quantized, tt.quantized, f.Plain16(), plain16)
			}
			if diff := cmp.Diff(Class{"", len(f.Tensors), f.Params, f.Bytes}, sum); diff != "" {
				t.Errorf("sum of the classes (-want +got):\n%s", diff)
			}
			if tt.codeBits > 0 && (f.CodeBits() != tt.codeBits || f.QuantBits() != tt.quantBits) {
				t.Errorf("%v bits of codes and constants, %v in all; want %v, %v", f.CodeBits(), f.QuantBits(), tt.codeBits, tt.quantBits)
			}
			all := f.Select(func(string) bool { return true })
			if diff := cmp.Diff(f, all, cmpopts.IgnoreUnexported(Tensor{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("all tensors selected (-want +got):\n%s", diff)
			}
			none := f.Select(func(string) bool { return false })
			if none.Params != 0 || none.Bytes != 0 || none.Bits() != 0 || none.QuantBits() != 0 || len(none.Classes) != 0 {
				t.Errorf("no tensor selected: %+v", none)
			}
		})
	}
}

// TestScales: the scales of other methods are no parameters, and bits per parameter count them.
func TestScales(t *testing.T) {
	norm := safetensors.Entry{Name: "model.norm.weight", DType: safetensors.BF16, Shape: []int64{256}}
	for _, c := range []struct {
		name, config string
		entries      []safetensors.Entry
		format       string
		params       int64
		bits         float64
	}{
		{"fp8", `{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}`, []safetensors.Entry{
			{Name: "model.layers.0.mlp.up_proj.weight", DType: safetensors.F8_E4M3, Shape: []int64{300, 256}},
			{Name: "model.layers.0.mlp.up_proj.weight_scale_inv", DType: safetensors.F32, Shape: []int64{3, 2}},
		}, "fp8,f8_e4m3", 300 * 256, 8 + 8*24./(300*256)},
		{"mxfp4", `{"quantization_config": {"quant_method": "mxfp4"}}`, []safetensors.Entry{
			{Name: "model.layers.0.mlp.experts.down_proj_blocks", DType: safetensors.U8, Shape: []int64{2, 64, 3, 16}},
			{Name: "model.layers.0.mlp.experts.down_proj_scales", DType: safetensors.U8, Shape: []int64{2, 64, 3}},
		}, "mxfp4,u8", 2 * 64 * 96, 4.25},
		{"unknown", `{"quantization_config": {"quant_method": "gptq", "bits": 4}}`, []safetensors.Entry{
			{Name: "model.layers.0.mlp.up_proj.qweight", DType: safetensors.I32, Shape: []int64{8, 64}},
			{Name: "model.layers.0.mlp.up_proj.qzeros", DType: safetensors.I32, Shape: []int64{1, 8}},
			{Name: "model.layers.0.mlp.up_proj.scales", DType: safetensors.F16, Shape: []int64{1, 64}},
			{Name: "model.layers.0.mlp.up_proj.g_idx", DType: safetensors.I32, Shape: []int64{64}},
		}, "", 0, 0},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "model.safetensors"), append(c.entries, norm))
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o666); err != nil {
			t.Fatal(err)
		}
		f := of(t, dir)
		if size := open(t, dir).TensorBytes(); f.Bytes != size {
			t.Errorf("%s: %d bytes, the files have %d", c.name, f.Bytes, size)
		}
		if f.OtherParams != c.params || f.OtherBits() != c.bits || f.QuantParams != 0 {
			t.Errorf("%s: %d parameters in %v bits, want %d in %v", c.name, f.OtherParams, f.OtherBits(), c.params, c.bits)
		}
		if c.params == 0 {
			continue
		}
		if f.Params != c.params+256 || f.Plain16() != 2*f.Params || len(f.Tensors) != 2 {
			t.Errorf("%s: %d parameters, want %d; %d bytes in 16 bits; %d tensors", c.name, f.Params, c.params+256, f.Plain16(), len(f.Tensors))
		}
		if x := f.Tensors[0]; x.DType != c.format || !x.Other {
			t.Errorf("%s: %+v, want format %s", c.name, x, c.format)
		}
	}
}

// TestOrphanScales: 8-bit scales without their weight are no LLM.int8 weight.
func TestOrphanScales(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orphan.safetensors")
	write(t, path, []safetensors.Entry{
		{Name: "a.weight", DType: safetensors.BF16, Shape: []int64{4, 16}}, {Name: "a.SCB", DType: safetensors.F32, Shape: []int64{4}},
	})
	f := of(t, path)
	if f.QuantParams != 0 || len(f.Tensors) != 2 || len(f.Problems) != 1 || f.Problems[0].Kind != fourbit.EightBit {
		t.Errorf("%d parameters quantized, %d tensors, problems %v", f.QuantParams, len(f.Tensors), f.Problems)
	}
}

// TestLostParts: what is left of a packed weight that lost a part is no parameter.
func TestLostParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lost.safetensors")
	write(t, path, []safetensors.Entry{
		{Name: "norm.weight", DType: safetensors.BF16, Shape: []int64{16}},
		{Name: "a.weight", DType: safetensors.U8, Shape: []int64{512, 1}},
		{Name: "b.weight", DType: safetensors.U8, Shape: []int64{512, 1}}, {Name: "b.weight.absmax", DType: safetensors.F32, Shape: []int64{16}},
		{Name: "c.weight.quant_map", DType: safetensors.F32, Shape: []int64{16}},
	})
	f := of(t, path)
	if f.Params != 16 || len(f.Tensors) != 5 || len(f.Problems) != 3 {
		t.Errorf("%d parameters, want 16; %d tensors, problems %v", f.Params, len(f.Tensors), f.Problems)
	}
}

// BenchmarkOf opens a checkpoint as large mixtures of experts have them and counts it: what inspect does.
func BenchmarkOf(b *testing.B) {
	const tensors, shards = 100_000, 100
	b.Run(fmt.Sprintf("tensors=%d/shards=%d", tensors, shards), func(b *testing.B) {
		dir := b.TempDir()
		files := make(map[string]string)
		for s := range shards {
			name := checkpoint.ShardName("model", s+1, shards)
			var entries []safetensors.Entry
			for i := s * tensors / shards; i < (s+1)*tensors/shards; i++ {
				tensor := fmt.Sprintf("model.layers.%d.mlp.experts.%d.down_proj.weight", i/256, i%256)
				entries = append(entries, safetensors.Entry{Name: tensor, DType: safetensors.BF16, Shape: []int64{4, 8}})
				files[tensor] = name
			}
			write(b, filepath.Join(dir, name), entries)
		}
		index, err := json.Marshal(map[string]any{"metadata": map[string]any{}, "weight_map": files})
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, checkpoint.IndexName("model")), index, 0o666); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			src, err := checkpoint.Open(dir)
			if err != nil {
				b.Fatal(err)
			}
			f, err := Of(src)
			if err != nil || len(f.Tensors) != tensors {
				b.Fatalf("%d tensors, %v", len(f.Tensors), err)
			}
			if err := src.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
