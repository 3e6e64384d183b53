package verify

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// replaceIn replaces text in a file.
func replaceIn(t testing.TB, path string, oldNew ...string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldNew); i += 2 {
		if !bytes.Contains(raw, []byte(oldNew[i])) {
			t.Fatalf("%s has no %s", path, oldNew[i])
		}
		raw = bytes.ReplaceAll(raw, []byte(oldNew[i]), []byte(oldNew[i+1]))
	}
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
}

// split moves every .absmax of dir into a second shard.
func split(t testing.TB, dir string) {
	t.Helper()
	src := open(t, dir)
	entries, data, index := map[string][]safetensors.Entry{}, map[string]map[string][]byte{}, map[string]string{}
	for _, x := range src.Tensors {
		file := "model-00001-of-00002.safetensors"
		if strings.HasSuffix(x.Name, ".absmax") {
			file = "model-00002-of-00002.safetensors"
		}
		raw := make([]byte, x.Size())
		if _, err := x.ReadAt(raw, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if data[file] == nil {
			data[file] = map[string][]byte{}
		}
		entries[file] = append(entries[file], safetensors.Entry{Name: x.Name, DType: x.DType, Shape: x.Shape})
		data[file][x.Name], index[x.Name] = raw, file
	}
	for file := range entries {
		writeFile(t, filepath.Join(dir, file), entries[file], data[file])
	}
	raw, err := json.Marshal(map[string]any{"metadata": map[string]any{}, "weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), raw, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
}

// TestTargets: what breaks a loader that is no target is a notice.
func TestTargets(t *testing.T) {
	const both = arch.Transformers5 | arch.Transformers4
	drop := func(suffix string) func(string, []byte) (string, []byte) {
		return func(name string, data []byte) (string, []byte) {
			if strings.HasSuffix(name, suffix) {
				return "", nil
			}
			return name, data
		}
	}
	config := func(dir string, oldNew ...string) { replaceIn(t, filepath.Join(dir, "config.json"), oldNew...) }
	for _, c := range []struct {
		name   string
		opt    convert.Options
		change func(dir string)
		serves map[arch.Target]arch.Target // by the targets asked for
		want   string                      // in a finding
	}{
		{"sound", convert.Options{}, func(string) {}, map[arch.Target]arch.Target{0: both, arch.VLLM: arch.VLLM}, ""},
		{"sidecars split", convert.Options{}, func(dir string) { split(t, dir) },
			map[arch.Target]arch.Target{0: both, arch.VLLM | arch.SGLang: arch.VLLM | arch.SGLang}, "sidecars split"},
		{"packed into bfloat16", convert.Options{Spec: bnb.Format{Storage: bnb.BFloat16}}, func(string) {},
			map[arch.Target]arch.Target{0: arch.Transformers5, arch.Transformers5: arch.Transformers5, arch.Transformers4: 0, both | arch.VLLM: arch.Transformers5}, "quant storage"},
		{"stray file", convert.Options{}, func(dir string) { os.WriteFile(filepath.Join(dir, "consolidated.safetensors"), nil, 0o666) },
			map[arch.Target]arch.Target{0: both, both | arch.VLLM: both}, "Mistral"},
		// A tied head has no tensor, and yet both versions pack it and fail in forward.
		{"tied head not listed", convert.Options{}, func(dir string) {
			rewrite(t, dir, drop("lm_head.weight"))
			config(dir, `"tie_word_embeddings": false`, `"tie_word_embeddings": true`, `"lm_head"`, `"nothing"`)
		}, map[arch.Target]arch.Target{0: 0, arch.Transformers5: 0, arch.Transformers4: 0}, "lm_head is taken for quantized"},
		{"tied head listed", convert.Options{}, func(dir string) {
			rewrite(t, dir, drop("lm_head.weight"))
			config(dir, `"tie_word_embeddings": false`, `"tie_word_embeddings": true`)
		}, map[arch.Target]arch.Target{0: both}, ""},
		{"entry that hits in 5.0 to 5.20", convert.Options{}, func(dir string) { config(dir, `"lm_head"`, `"lm_head", "model.layers.0.mlp.down"`) },
			map[arch.Target]arch.Target{0: arch.Transformers4}, "which is quantized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := converted(t, llama, c.opt)
			os.Remove(filepath.Join(dir, manifest.Name))
			c.change(dir)
			for asked, serves := range c.serves {
				r := check(t, dir, Options{Targets: asked, StructureOnly: true})
				if got := r.Serves(); got != serves || r.Failed() != (serves != r.Targets) {
					t.Errorf("for %q: serves %q, failed %v, want %q of %q: %+v", asked, got, r.Failed(), serves, r.Targets, r.Findings)
				}
				found := c.want == ""
				for _, f := range r.Findings {
					found = found || strings.Contains(f.Text, c.want)
				}
				if !found {
					t.Errorf("for %q: nothing with %q in %+v", asked, c.want, r.Findings)
				}
			}
		})
	}
}

// TestFixLeavesSound: a checkpoint that transformers wrote, with lists other than ours, has nothing to mend.
func TestFixLeavesSound(t *testing.T) {
	for _, dir := range []string{"../../nf4/bnb/testdata/nf4-dq", "../../nf4/bnb/testdata/fp4-shards"} {
		r := check(t, dir, Options{})
		if r.Failed() {
			t.Errorf("%s: findings %+v", dir, severe(r))
		}
		fixed, err := Fix(open(t, dir), 0)
		if err != nil || fixed != nil {
			t.Errorf("%s: config.json rewritten (error %v):\n%s", dir, err, fixed)
		}
	}
}

// TestFixMends: what --fix writes has nothing more to mend, and differs in quantization_config alone.
func TestFixMends(t *testing.T) {
	for _, change := range [][2]string{
		{`"bnb_4bit_compute_dtype": "bfloat16"`, `"bnb_4bit_compute_dtype": "junk"`},
		{`"load_in_8bit": false`, `"load_in_8bit": true`},
		{`"lm_head"`, `"nothing"`},
		{`"llm_int8_threshold": 6.0`, `"llm_int8_threshold": 6`},
		{`"bnb_4bit_quant_type": "nf4"`, `"bnb_4bit_quant_type": "fp4"`},
	} {
		dir := converted(t, llama, convert.Options{})
		config := filepath.Join(dir, "config.json")
		before, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		replaceIn(t, config, change[:]...)
		fixed, err := Fix(open(t, dir), 0)
		if err != nil {
			t.Errorf("%s: %v", change[1], err)
			continue
		}
		if string(fixed) != string(before) {
			t.Errorf("%s: mended to\n%s\nwant\n%s", change[1], fixed, before)
		}
	}
}

// TestServed: serving engines hold heads, routers, towers and projectors in 16 bits.
func TestServed(t *testing.T) {
	const served = arch.VLLM | arch.SGLang
	for _, c := range []struct {
		typ  string
		c    arch.Class
		want arch.Target
	}{
		{"llama", arch.Class{}, 0},
		{"llama", arch.Class{Head: true}, served},
		{"mixtral", arch.Class{Router: true}, served},
		{"qwen3_moe", arch.Class{Router: true}, 0},
		{"gemma3", arch.Class{Tower: true}, served},
		{"gemma3", arch.Class{Projector: true}, served},
		{"mixtral", arch.Class{Expert: true}, arch.SGLang},
	} {
		if by, why := unserved(&arch.Model{Type: c.typ}, served|arch.Transformers5, c.c); by != c.want || (why != "") != (by != 0) {
			t.Errorf("%s, %+v: %v cannot load it (%s), want %v", c.typ, c.c, by, why, c.want)
		}
	}
}

// TestWrittenBy5: what transformers 5.23 writes and 4.57 cannot load, each seen to fail there.
func TestWrittenBy5(t *testing.T) {
	for _, c := range []struct {
		config string
		want   arch.Target
	}{
		{`{"time_step_limit": [0.0, Infinity]}`, 0},
		{`{"time_step_limit": [0.0, {"__float__": "Infinity"}]}`, arch.Transformers4},
		{`{"rope_parameters": {"mrope_section": [2, 3, 3]}}`, arch.Transformers4},
		{`{"rope_parameters": {"mrope_section": [2, 3, 3]}, "rope_scaling": {"mrope_section": [2, 3, 3]}}`, 0},
		{`{"rope_parameters": {"rope_theta": 10000.0}}`, 0},
	} {
		s := &subject{src: &checkpoint.Source{Config: []byte(c.config)}, targets: arch.Transformers5 | arch.Transformers4}
		if got, _ := s.unread(); got != c.want {
			t.Errorf("%s: %s cannot read it, want %s", c.config, got, c.want)
		}
	}
	q, err := arch.ParseConfig([]byte(`{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"],
		"vision_config": {"model_type": "clip_vision_model"}, "text_config": {"model_type": "llama"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]arch.Target{
		"vision_tower.encoder.layers.0.self_attn.q_proj.weight":              arch.Transformers4,
		"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": 0,
		"language_model.model.layers.0.self_attn.q_proj.weight":              0,
	} {
		model, err := arch.Resolve(q, []string{name, "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"})
		if err != nil {
			t.Fatal(err)
		}
		r := &Report{Targets: arch.Transformers5 | arch.Transformers4}
		r.unloadable(model, r.Targets, []arch.Tensor{{Name: name, Class: model.Classify(name)}})
		if got := r.Targets &^ r.Serves(); got != want {
			t.Errorf("%s: %s cannot load it, want %s: %+v", name, got, want, r.Findings)
		}
	}
}

// TestConvolution: Qwen2-VL's patch_embed.proj, of which the table has no row, is a Conv3d, and no skip list has to name it.
func TestConvolution(t *testing.T) {
	q, err := arch.ParseConfig([]byte(`{"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}`))
	if err != nil {
		t.Fatal(err)
	}
	const name = "visual.patch_embed.proj.weight"
	model, err := arch.Resolve(q, []string{name, "model.embed_tokens.weight"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		shape []int64
		kept  int
	}{{[]int64{64, 3, 2, 8, 8}, 0}, {[]int64{64, 384}, 1}} {
		s := &subject{model: model, groups: &fourbit.Groups{Plain: []fourbit.Tensor{{Tensor: &safetensors.Tensor{Name: name, Shape: c.shape}}}}}
		if kept, _ := s.modules(); len(kept) != c.kept {
			t.Errorf("shape %v: %d Linears, want %d", c.shape, len(kept), c.kept)
		}
	}
}
