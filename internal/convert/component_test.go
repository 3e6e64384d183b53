package convert

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

const fluxConfig = `{
  "_class_name": "FluxTransformer2DModel",
  "_diffusers_version": "0.42.1",
  "num_layers": 1
}
`

var tinyFlux = []testTensor{
	bf16("x_embedder.weight", 32, 4),
	bf16("proj_out.weight", 4, 32),
	bf16("single_transformer_blocks.0.proj_out.weight", 32, 64),
	bf16("transformer_blocks.0.attn.to_out.0.weight", 32, 32),
	bf16("transformer_blocks.0.attn.norm_q.weight", 16),
}

func f32(name string, shape ...int64) testTensor {
	return testTensor{name: name, dtype: safetensors.F32, shape: shape}
}

// TestComponent is about models of diffusers: what is quantized, and what config.json says.
func TestComponent(t *testing.T) {
	for _, c := range []struct {
		name, config string
		tensors      []testTensor
		opt          Options
		quantized    []string
		kept         map[string]safetensors.DType // dtypes in the output
		list         []string
		notice       string
	}{
		{"flux", fluxConfig, tinyFlux, Options{},
			[]string{"proj_out.weight", "single_transformer_blocks.0.proj_out.weight", "transformer_blocks.0.attn.to_out.0.weight", "x_embedder.weight"},
			map[string]safetensors.DType{"transformer_blocks.0.attn.norm_q.weight": safetensors.BF16}, nil, ""},
		{"flux, one kept", fluxConfig, tinyFlux, Options{Skip: []*regexp.Regexp{regexp.MustCompile("x_embedder")}, Targets: arch.Diffusers},
			[]string{"proj_out.weight", "single_transformer_blocks.0.proj_out.weight", "transformer_blocks.0.attn.to_out.0.weight"},
			map[string]safetensors.DType{"x_embedder.weight": safetensors.BF16, "transformer_blocks.0.attn.norm_q.weight": safetensors.BF16},
			[]string{"x_embedder"}, ""},
		{"convolutions by the name of a Linear", `{"_class_name": "UNet2DConditionModel"}`, []testTensor{
			f32("mid_block.attentions.0.proj_in.weight", 32, 32, 1, 1), f32("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", 32, 32)}, Options{},
			[]string{"mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"},
			map[string]safetensors.DType{"mid_block.attentions.0.proj_in.weight": safetensors.BF16}, nil, ""},
		{"Linears by the name of a convolution", `{"_class_name": "UNet2DConditionModel"}`, []testTensor{
			f32("mid_block.attentions.0.proj_in.weight", 32, 32), f32("class_embedding.weight", 16, 16)}, Options{},
			[]string{"mid_block.attentions.0.proj_in.weight"},
			map[string]safetensors.DType{"class_embedding.weight": safetensors.BF16}, []string{"class_embedding"}, ""},
		{"attention by its old names", `{"_class_name": "AutoencoderKL"}`, []testTensor{
			f32("decoder.mid_block.attentions.0.query.weight", 32, 32), f32("encoder.mid_block.attentions.0.to_v.weight", 32, 32)}, Options{},
			[]string{"encoder.mid_block.attentions.0.to_v.weight"},
			map[string]safetensors.DType{"decoder.mid_block.attentions.0.query.weight": safetensors.BF16}, []string{"decoder"}, ""},
		{"kept in float32", `{"_class_name": "WanTransformer3DModel"}`, []testTensor{
			f32("condition_embedder.time_embedder.linear_1.weight", 32, 32), f32("blocks.0.norm2.weight", 32), f32("blocks.0.attn1.norm_q.weight", 32),
			f32("blocks.0.attn1.to_q.weight", 32, 32), f32("scale_shift_table", 1, 2, 32)}, Options{},
			[]string{"blocks.0.attn1.to_q.weight"},
			map[string]safetensors.DType{"condition_embedder.time_embedder.linear_1.weight": safetensors.F32, "blocks.0.norm2.weight": safetensors.F32,
				"blocks.0.attn1.norm_q.weight": safetensors.BF16, "scale_shift_table": safetensors.F32}, nil, ""},
		{"a class of tomorrow", `{"_class_name": "Flux9Transformer2DModel"}`, tinyFlux, Options{},
			[]string{"transformer_blocks.0.attn.to_out.0.weight"},
			map[string]safetensors.DType{"x_embedder.weight": safetensors.BF16, "proj_out.weight": safetensors.BF16,
				"single_transformer_blocks.0.proj_out.weight": safetensors.BF16, "transformer_blocks.0.attn.norm_q.weight": safetensors.BF16},
			[]string{"proj_out", "x_embedder"}, `unknown class "Flux9Transformer2DModel" of diffusers (near: Flux2Transformer2DModel`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewPlan(writeModel(t, c.config, c.tensors), c.opt)
			if err != nil {
				t.Fatal(err)
			}
			var quantized []string
			kept := map[string]safetensors.DType{}
			for _, it := range p.items {
				if it.Quantize {
					quantized = append(quantized, it.Name)
				} else {
					kept[it.Name] = it.Out
				}
			}
			if diff := cmp.Diff(c.quantized, quantized); diff != "" {
				t.Errorf("quantized (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.kept, kept); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.list, p.skipList); diff != "" {
				t.Errorf("skip list (-want +got):\n%s", diff)
			}
			config, err := checkpoint.ParseConfig(p.configJSON)
			if err != nil {
				t.Fatal(err)
			}
			if d := config.DType(); d != "" {
				t.Errorf("config.json has dtype %q, which is no argument of the class", d)
			}
			if notices := strings.Join(p.notices, "\n"); !strings.Contains(notices, c.notice) || c.notice == "" && notices != "" {
				t.Errorf("notices %q; want %q", notices, c.notice)
			}
			if name := p.shards[0].Name; name != "diffusion_pytorch_model.safetensors" { // the source is model.safetensors
				t.Errorf("weights are written to %s, which diffusers does not load", name)
			}
			if pkg, class, _ := p.LoadClass(); pkg != "diffusers" || !strings.Contains(c.config, `"`+class+`"`) {
				t.Errorf("loads as %s.%s", pkg, class)
			}
		})
	}
}
