package convert

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// TestFloat32 is about the dtypes of what is kept: as transformers' own save with bitsandbytes has them.
func TestFloat32(t *testing.T) {
	const wo, norm = "encoder.block.0.layer.1.DenseReluDense.wo.weight", "encoder.final_layer_norm.weight"
	source := func(d safetensors.DType) []testTensor {
		return []testTensor{
			{name: "encoder.block.0.layer.1.DenseReluDense.wi.weight", dtype: d, shape: []int64{32, 16}},
			{name: wo, dtype: d, shape: []int64{16, 32}},
			{name: norm, dtype: d, shape: []int64{16}},
		}
	}
	const config = `{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}`
	for _, c := range []struct {
		name  string
		from  safetensors.DType
		dtype string
		t     arch.Target
		want  map[string]safetensors.DType
	}{
		{"float16", safetensors.F32, "float16", 0, map[string]safetensors.DType{wo: safetensors.F32, norm: safetensors.F16}},
		{"bfloat16 from float16", safetensors.F16, "bfloat16", 0, map[string]safetensors.DType{wo: safetensors.BF16, norm: safetensors.BF16}},
		{"float16 as it is", safetensors.F16, "auto", 0, map[string]safetensors.DType{wo: safetensors.F32, norm: safetensors.F16}},
		{"4.57 holds it in bfloat16 too", safetensors.F32, "bfloat16", arch.Transformers4, map[string]safetensors.DType{wo: safetensors.F32, norm: safetensors.BF16}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewPlan(writeModel(t, config, source(c.from)), Options{DType: c.dtype, Targets: c.t, AllowIncomplete: true})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]safetensors.DType{}
			for _, it := range p.items {
				if !it.Quantize {
					got[it.Name] = it.Out
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("dtypes (-want +got):\n%s", diff)
			}
			// What is in float32 stays so in the plain checkpoint, unless another dtype is asked for.
			back := func(dtype string) map[string]safetensors.DType {
				t.Helper()
				d, err := NewDequantizePlan(written(t, p), DequantizeOptions{DType: dtype, AllowIncomplete: true})
				if err != nil {
					t.Fatal(err)
				}
				out := map[string]safetensors.DType{}
				for _, it := range d.items {
					if it.Method == "" {
						out[it.Name] = it.Out
					}
				}
				return out
			}
			if diff := cmp.Diff(c.want, back("auto")); diff != "" {
				t.Errorf("dequantized (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]safetensors.DType{wo: safetensors.F32, norm: safetensors.F16}, back("float16")); diff != "" {
				t.Errorf("dequantized to float16 (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]safetensors.DType{wo: safetensors.BF16, norm: safetensors.BF16}, back("bfloat16")); diff != "" {
				t.Errorf("dequantized to bfloat16 (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWiden: of LongCat in float16, 5.23 holds routers in float32, and bitsandbytes quantizes and decodes them so.
func TestWiden(t *testing.T) {
	const router, down = "model.layers.0.mlp.router.classifier.weight", "model.layers.0.mlps.0.down_proj.weight"
	p, err := NewPlan(writeModel(t, `{"model_type": "longcat_flash", "architectures": ["LongcatFlashForCausalLM"], "dtype": "float16"}`, []testTensor{
		{name: router, dtype: safetensors.F16, shape: []int64{8, 64}}, {name: down, dtype: safetensors.F16, shape: []int64{8, 64}},
		{name: "model.layers.0.mlps.1.down_proj.weight", dtype: safetensors.F16, shape: []int64{64, 64}}}),
		Options{AsBitsandbytes: true, Targets: arch.Transformers5, AllowIncomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		dtype      string
		want       safetensors.DType
	}{
		{"held in float32", router, "auto", safetensors.F32},
		{"not held so", down, "auto", safetensors.F16},
		{"another dtype is asked for", router, "float16", safetensors.F16},
	} {
		src := written(t, p)
		file := filepath.Join(src.Path, "model.safetensors")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, ten := range src.Tensors {
			if strings.HasPrefix(ten.Name, c.says+".quant_state") {
				state := data[ten.Offset():][:ten.Size()]
				copy(state, bytes.Replace(state, []byte(`"float16"`), []byte(`"float32"`), 1))
			}
		}
		if err := os.WriteFile(file, data, 0o666); err != nil {
			t.Fatal(err)
		}
		d, err := NewDequantizePlan(open(t, src.Path), DequantizeOptions{DType: c.dtype, AllowIncomplete: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range d.items {
			if want := map[bool]safetensors.DType{true: c.want, false: safetensors.F16}[it.Name == c.says]; it.Out != want {
				t.Errorf("%s: %s is written in %s, want %s", c.name, it.Name, it.Out, want)
			}
		}
	}
}

// written executes the plan into a directory and opens that.
func written(t *testing.T, p *Plan) *checkpoint.Source {
	t.Helper()
	s := newMemSink(t, p)
	if _, err := p.Execute(t.Context(), s, Execution{NoError: true}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, sh := range p.shards {
		writeLayout(t, filepath.Join(dir, sh.Name), sh.Layout, s.data)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), p.configJSON, 0o666); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}
