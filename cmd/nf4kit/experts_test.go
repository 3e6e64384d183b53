package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/report"
)

// A shaped is a tensor of a header.
type shaped struct {
	name, dtype string
	shape       []int64
}

// mixture is a mixture of experts as it is published: sizes alone, no weights.
type mixture struct {
	name, config string
	tensors      func() []shaped
}

var mixtures = []mixture{
	{"Qwen3-30B-A3B", `{"model_type":"qwen3_moe","architectures":["Qwen3MoeForCausalLM"],"dtype":"bfloat16","hidden_size":2048,"intermediate_size":6144,
		"moe_intermediate_size":768,"num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"num_experts":128,
		"num_experts_per_tok":8,"vocab_size":151936,"tie_word_embeddings":false,"decoder_sparse_step":1,"mlp_only_layers":[]}`, qwen3MoE},
	{"Mixtral-8x7B", `{"model_type":"mixtral","architectures":["MixtralForCausalLM"],"dtype":"bfloat16","hidden_size":4096,"intermediate_size":14336,
		"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"num_local_experts":8,"vocab_size":32000,"tie_word_embeddings":false}`, mixtral},
	{"gpt-oss-20b", `{"model_type":"gpt_oss","architectures":["GptOssForCausalLM"],"dtype":"bfloat16","hidden_size":2880,"intermediate_size":2880,
		"num_hidden_layers":24,"num_attention_heads":64,"num_key_value_heads":8,"head_dim":64,"num_local_experts":32,"vocab_size":201088,
		"tie_word_embeddings":false,"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["model.layers.*.self_attn",
		"model.layers.*.mlp.router","model.embed_tokens","lm_head"]}}`, gptOSS},
}

// bf16 makes a tensor's line: the name and its shape.
func bf16(name string, shape ...int64) shaped { return shaped{name, "BF16", shape} }

// decoder lists what the three have in common.
func decoder(layers int, vocab, hidden, heads, kv int64) []shaped {
	out := []shaped{bf16("model.embed_tokens.weight", vocab, hidden), bf16("model.norm.weight", hidden), bf16("lm_head.weight", vocab, hidden)}
	for i := range layers {
		l := fmt.Sprintf("model.layers.%d.", i)
		out = append(out, bf16(l+"input_layernorm.weight", hidden), bf16(l+"post_attention_layernorm.weight", hidden),
			bf16(l+"self_attn.q_proj.weight", heads, hidden), bf16(l+"self_attn.k_proj.weight", kv, hidden),
			bf16(l+"self_attn.v_proj.weight", kv, hidden), bf16(l+"self_attn.o_proj.weight", hidden, heads))
	}
	return out
}

func qwen3MoE() []shaped {
	out := decoder(48, 151936, 2048, 32*128, 4*128)
	for i := range 48 {
		l := fmt.Sprintf("model.layers.%d.", i)
		out = append(out, bf16(l+"self_attn.q_norm.weight", 128), bf16(l+"self_attn.k_norm.weight", 128), bf16(l+"mlp.gate.weight", 128, 2048))
		for e := range 128 {
			x := fmt.Sprintf("%smlp.experts.%d.", l, e)
			out = append(out, bf16(x+"gate_proj.weight", 768, 2048), bf16(x+"up_proj.weight", 768, 2048), bf16(x+"down_proj.weight", 2048, 768))
		}
	}
	return out
}

func mixtral() []shaped {
	out := decoder(32, 32000, 4096, 4096, 1024)
	for i := range 32 {
		l := fmt.Sprintf("model.layers.%d.block_sparse_moe.", i)
		out = append(out, bf16(l+"gate.weight", 8, 4096))
		for e := range 8 {
			x := fmt.Sprintf("%sexperts.%d.", l, e)
			out = append(out, bf16(x+"w1.weight", 14336, 4096), bf16(x+"w2.weight", 4096, 14336), bf16(x+"w3.weight", 14336, 4096))
		}
	}
	return out
}

func gptOSS() []shaped {
	out := decoder(24, 201088, 2880, 64*64, 8*64)
	for i := range 24 {
		l := fmt.Sprintf("model.layers.%d.", i)
		out = append(out, bf16(l+"self_attn.q_proj.bias", 4096), bf16(l+"self_attn.k_proj.bias", 512), bf16(l+"self_attn.v_proj.bias", 512),
			bf16(l+"self_attn.o_proj.bias", 2880), bf16(l+"self_attn.sinks", 64), bf16(l+"mlp.router.weight", 32, 2880), bf16(l+"mlp.router.bias", 32))
		for _, p := range []struct {
			name string
			rows int64
		}{{"gate_up_proj", 5760}, {"down_proj", 2880}} {
			x := l + "mlp.experts." + p.name
			out = append(out, bf16(x+"_bias", 32, p.rows), shaped{x + "_blocks", "U8", []int64{32, p.rows, 90, 16}}, shaped{x + "_scales", "U8", []int64{32, p.rows, 90}})
		}
	}
	return out
}

// write makes the model's directory; its weights are a hole in the file.
func (m *mixture) write(t *testing.T, dir string) {
	t.Helper()
	var header bytes.Buffer
	sep, at := "{", int64(0)
	for _, x := range m.tensors() {
		size := map[string]int64{"BF16": 2, "U8": 1}[x.dtype]
		for _, n := range x.shape {
			size *= n
		}
		shape, err := json.Marshal(x.shape)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&header, `%s%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, sep, x.name, x.dtype, shape, at, at+size)
		sep, at = ",", at+size
	}
	header.WriteByte('}')
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(header.Len())), header.Bytes()...)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8 + int64(header.Len()) + at); err != nil {
		t.Skipf("a file of %d bytes with nothing in it: %v", at, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(m.config), 0o666); err != nil {
		t.Fatal(err)
	}
}

// The table in docs/experts.md is what convert --dry-run says of the published shapes.
func TestExpertsPage(t *testing.T) {
	if underRace {
		t.Skip("headers of 18,000 matrices take long under the race detector")
	}
	page, err := os.ReadFile("../../docs/experts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mixtures {
		dir := filepath.Join(t.TempDir(), m.name)
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		m.write(t, dir)
		for _, flags := range []string{"", "--target unsloth"} {
			var stdout, stderr bytes.Buffer
			args := append([]string{"convert", dir, dir + "-out", "--dry-run", "--json"}, strings.Fields(flags)...)
			if code := run(context.Background(), args, nil, nil, &stdout, &stderr); code != 0 {
				t.Fatalf("%s %s: exit code %d: %s", m.name, flags, code, stderr.String())
			}
			var s struct{ report.Sizes }
			if err := json.Unmarshal(stdout.Bytes(), &s); err != nil {
				t.Fatal(err)
			}
			row := fmt.Sprintf("| %s | `%s` | %.2f | %.1f | %.1f %% | %.1f | %.2f |\n", m.name, strings.TrimSpace("convert "+flags), float64(s.Parameters)/1e9, float64(s.SourceBytes)/1e9,
				percent(s.QuantParameters, s.Parameters), float64(s.OutputBytes)/1e9, s.BitsPerParameter)
			if !strings.Contains(string(page), row) {
				t.Errorf("docs/experts.md lacks\n%s", row)
			}
		}
	}
}
