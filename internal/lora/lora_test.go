package lora

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

func TestParseKey(t *testing.T) {
	for _, c := range []struct {
		in   string
		want key
	}{
		{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", key{module: "model.layers.0.self_attn.q_proj", role: roleA}},
		{"base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", key{module: "model.layers.0.self_attn.q_proj", role: roleB, name: "default"}},
		{"model.q.lora_B.bias", key{module: "model.q", role: roleBias}},
		{"base_model.model._orig_mod.model.q.lora_magnitude_vector", key{module: "model.q", role: roleMagnitude}},
		{"q.lora_magnitude_vector.default.weight", key{module: "q", role: roleMagnitude, name: "default"}},
		{"q.lora_magnitude_vector.weight", key{module: "q", role: roleMagnitude}},
		{"base_model.model.wte.lora_embedding_A", key{module: "wte", role: roleEmbA}},
		{"wte.lora_embedding_B.default", key{module: "wte", role: roleEmbB, name: "default"}},
		{"model.embed_tokens.token_adapter.trainable_tokens_delta", key{module: "model.embed_tokens", role: roleTokens}},
		{"experts.base_layer.lora_A.weight", key{module: "experts.base_layer", role: roleA}},
		{"embed.base_layer.weight", key{module: "embed.weight"}},
		{"mixer.base_layer.in_proj.lora_A.weight", key{module: "mixer.in_proj", role: roleA}},
		{"mlp.base_layer.base_layer.experts.base_layer.base_layer.lora_B.weight", key{module: "mlp.experts.base_layer.base_layer", role: roleB}},
		{"score.modules_to_save.default.weight", key{module: "score.weight", name: "default"}},
		{"lm_head.weight", key{module: "lm_head.weight"}},
		{"unet.down.attn1.to_q.lora.down.weight", key{module: "unet.down.attn1.to_q", role: roleA}},
		{"unet.down.attn1.processor.to_q_lora.up.weight", key{module: "unet.down.attn1.to_q", role: roleB}},
		{"lora_unet_x.lora_down.weight", key{module: "lora_unet_x", role: roleA}},
		{"x.alpha", key{module: "x", role: roleAlpha}},
		{".lora_A.weight", key{module: ".lora_A.weight"}},
		{"lora_A.weight", key{module: "lora_A.weight"}},
		{"x.lora_A.weight.weight", key{module: "x.lora_A.weight.weight"}},
		{"", key{}},
	} {
		if diff := cmp.Diff(c.want, parseKey(c.in), cmp.AllowUnexported(key{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.in, diff)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("base_model.model.a.lora_A.default.weight")
	f.Add("a.base_layer.base_layer.lora_B.weight")
	f.Fuzz(func(t *testing.T, name string) {
		k := parseKey(name)
		if k.role != roleSaved && k.module == "" {
			t.Errorf("%q: a factor of no module", name)
		}
		if !strings.Contains(name, "_") && strings.HasPrefix(name, "base_model.model.") && parseKey(strings.TrimPrefix(name, "base_model.model.")) != k &&
			!strings.HasPrefix(name, "base_model.model.base_model.model.") {
			t.Errorf("%q: the prefix changes what it is", name)
		}
	})
}

// The order of the file decides, a dot matches anything, and a key matches whole components (peft/utils/other.py).
func TestPatterns(t *testing.T) {
	c, err := ParseConfig("c", []byte(`{"peft_type": "LORA", "r": 4, "rank_pattern": {"layers.1.self_attn.q_proj": 12, "q_proj": 6, "^model\\.layers\\.0\\..*k_proj": 2, "self_attn": 9}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"model.layers.1.self_attn.q_proj": 12, "model.layers.11.self_attn.q_proj": 6, "q_proj": 6, "model.layers.0.self_attn.k_proj": 2,
		"x.model.layers.0.self_attn.k_proj": 0, "model.layers.0.self_attn.v_proj": 0, "xq_proj": 0, "a.layersX1.self_attn.q_proj": 12,
	} {
		got, ok := c.Ranks.Lookup(name)
		if got != want || ok != (want > 0) {
			t.Errorf("%s: %v, %v; want %v", name, got, ok, want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, json, want string }{
		{"not an object", `[1]`, "expected a JSON object"},
		{"broken", `{"r": `, ""},
		{"method", `{"peft_type": "LOHA"}`, `"peft_type": expected LORA`},
		{"none", `{}`, `"peft_type": expected LORA`},
		{"alpha 0", `{"peft_type":"LORA","lora_alpha":0}`, `"lora_alpha": expected a number above 0, found 0`},
		{"alpha negative", `{"peft_type":"LORA","lora_alpha":-8}`, "found -8"},
		{"alpha NaN", `{"peft_type":"LORA","lora_alpha": NaN ,"r":8}`, `"lora_alpha": expected finite numbers, found NaN`},
		{"alpha infinite", `{"peft_type":"LORA","lora_alpha":Infinity,"r":8}`, `"lora_alpha": expected finite numbers, found Infinity`},
		{"alpha null", `{"peft_type":"LORA","lora_alpha":null,"r":8}`, `"lora_alpha": expected a number, found null`},
		{"rank NaN", `{"peft_type":"LORA","r":NaN}`, `"r": expected finite numbers, found NaN`},
		{"alpha of pattern NaN", `{"peft_type":"LORA","alpha_pattern":{"q":NaN}}`, `"alpha_pattern": expected finite numbers`},
		{"alpha of pattern huge", `{"peft_type":"LORA","alpha_pattern":{"q":1e999}}`, ""},
		{"rank 0", `{"peft_type":"LORA","r":0}`, `"r": expected a rank from 1 to`},
		{"rank huge", `{"peft_type":"LORA","r":1000000000}`, "found 1000000000"},
		{"rank not whole", `{"peft_type":"LORA","r":1.5}`, "expected a whole number"},
		{"rank of pattern", `{"peft_type":"LORA","rank_pattern":{"q":0}}`, "expected numbers above 0"},
		{"lookahead", `{"peft_type":"LORA","alpha_pattern":{"(?=x)":1}}`, "regular expressions"},
		{"replication", `{"peft_type":"LORA","layer_replication":[[0,2],[1,3]]}`, `"layer_replication"`},
		{"alora", `{"peft_type":"LORA","alora_invocation_tokens":[1]}`, `"alora_invocation_tokens"`},
		{"qalora", `{"peft_type":"LORA","use_qalora":true}`, `"use_qalora"`},
		{"bias", `{"peft_type":"LORA","bias":"some"}`, `"bias"`},
		{"tokens", `{"peft_type":"LORA","trainable_token_indices":[-1]}`, "token ids from 0 on"},
		{"tokens of no list", `{"peft_type":"LORA","trainable_token_indices":7}`, "token ids"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseConfig("adapter_config.json", []byte(c.json))
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want an Error with %q", err, c.want)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type":"LORA","r":8,"rank_pattern":{"q":4},"trainable_token_indices":{"embed":[1]},"target_modules":"all"}`))
	f.Add([]byte(`{"peft_type":"LORA","lora_alpha":Infinity}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig("c", raw)
		if err != nil {
			return
		}
		if c.Rank < 1 || !(c.Alpha > 0) {
			t.Errorf("rank %d, alpha %v", c.Rank, c.Alpha)
		}
		c.Ranks.Lookup("model.layers.0.self_attn.q_proj")
	})
}

// file is an adapter on the disk: shapes by name, filled with small numbers, NaN where said.
func file(t testing.TB, config string, shapes map[string][]int64, nan string) string {
	t.Helper()
	dir := t.TempDir()
	var list []safetensors.Filled
	r := rand.New(rand.NewPCG(1, 2))
	for name, shape := range shapes {
		n := elements(shape)
		data := make([]byte, 4*n)
		for i := range n {
			v := float32(r.NormFloat64()) / 16
			if name == nan && i == n-1 {
				v = float32(math.NaN())
			}
			binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
		}
		list = append(list, safetensors.Filled{Entry: safetensors.Entry{Name: name, DType: safetensors.F32, Shape: shape}, Data: data})
	}
	if err := safetensors.WriteFile(filepath.Join(dir, WeightsName), list, nil); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(config), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const plainConfig = `{"peft_type":"LORA","r":2,"lora_alpha":4}`

// base is a model of small tensors.
func testBase(shapes map[string][]int64, dtype safetensors.DType) []weights.Tensor {
	r := rand.New(rand.NewPCG(7, 7))
	var out []weights.Tensor
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		n := elements(shapes[name])
		var data []byte
		for range n {
			b := math.Float32bits(float32(r.NormFloat64()))
			if dtype == safetensors.BF16 {
				data = binary.LittleEndian.AppendUint16(data, uint16(b>>16))
			} else {
				data = binary.LittleEndian.AppendUint32(data, b)
			}
		}
		out = append(out, weights.Tensor{Name: name, File: "model.safetensors", DType: dtype, Shape: shapes[name], Bytes: int64(len(data)),
			Values: weights.Unhinted(strings.NewReader(string(data)))})
	}
	return out
}

// What is wrong with an adapter, or between it and its base, is an Error that names the tensor.
func TestRefuses(t *testing.T) {
	q := map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 2}}
	with := func(more map[string][]int64) map[string][]int64 {
		out := map[string][]int64{}
		for k, v := range q {
			out[k] = v
		}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	for _, c := range []struct {
		name, config string
		shapes       map[string][]int64
		nan, want    string
	}{
		{"half a pair", plainConfig, map[string][]int64{"m.q.lora_A.weight": {2, 6}}, "", "lora_B beside lora_A"},
		{"ranks differ", plainConfig, map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 3}}, "", "m.q.lora_B.weight"},
		{"flat", plainConfig, map[string][]int64{"m.q.lora_A.weight": {12}, "m.q.lora_B.weight": {4, 2}}, "", "sharded"},
		{"empty", plainConfig, map[string][]int64{"m.q.lora_A.weight": {0, 6}, "m.q.lora_B.weight": {4, 0}}, "", "expected [rank, in]"},
		{"no adapter", plainConfig, map[string][]int64{"m.q.weight": {4, 6}}, "", "tensors of an adapter"},
		{"two adapters", plainConfig, map[string][]int64{"m.q.lora_A.a.weight": {2, 6}, "m.q.lora_B.b.weight": {4, 2}}, "", "expected one adapter"},
		{"twice", plainConfig, with(map[string][]int64{"base_model.model.m.q.lora_A.weight": {2, 6}}), "", "under two spellings"},
		{"dora without magnitudes", `{"peft_type":"LORA","r":2,"use_dora":true}`, q, "", "lora_magnitude_vector"},
		{"magnitudes of another size", plainConfig, with(map[string][]int64{"m.q.lora_magnitude_vector": {5}}), "", "expected [4]"},
		{"rank of the config", `{"peft_type":"LORA","r":3}`, q, "", "expected rank 3"},
		{"NaN", plainConfig, q, "m.q.lora_B.weight", "NaN at element 7"},
		{"no such module", plainConfig, map[string][]int64{"m.x.lora_A.weight": {2, 6}, "m.x.lora_B.weight": {4, 2}}, "", "a module of the base"},
		{"path tricks", plainConfig, map[string][]int64{"../../m.q.lora_A.weight": {2, 6}, "../../m.q.lora_B.weight": {4, 2}}, "", "a module of the base"},
		{"wrong shape", plainConfig, map[string][]int64{"m.q.lora_A.weight": {2, 5}, "m.q.lora_B.weight": {4, 2}}, "", "as the base's m.q.weight has"},
		{"saved of another shape", plainConfig, with(map[string][]int64{"m.norm.weight": {5}}), "", "expected shape [6]"},
		{"saved of nothing", plainConfig, with(map[string][]int64{"score.weight": {5}}), "", "the base lacks the task's head"},
		{"bias without one", `{"peft_type":"LORA","r":2,"lora_bias":true}`, with(map[string][]int64{"m.q.lora_B.bias": {4}}), "", "expected a bias of 4"},
		{"tokens without ids", plainConfig, with(map[string][]int64{"m.e.token_adapter.trainable_tokens_delta": {1, 6}}), "", "trainable_token_indices"},
		{"token out of range", `{"peft_type":"LORA","r":2,"trainable_token_indices":[3]}`, with(map[string][]int64{"m.e.token_adapter.trainable_tokens_delta": {1, 6}}), "", "token ids below 3"},
		{"not targeted", `{"peft_type":"LORA","r":2,"target_modules":["k"]}`, q, "", "a module that target_modules"},
		{"not targeted by an expression", `{"peft_type":"LORA","r":2,"target_modules":".*\\.k"}`, q, "", "PEFT leaves out"},
		{"excluded", `{"peft_type":"LORA","r":2,"target_modules":["q"],"exclude_modules":["q"]}`, q, "", "a module that target_modules"},
		{"magnitudes of no DoRA", plainConfig, with(map[string][]int64{"m.q.lora_magnitude_vector": {4}}), "", "use_dora"},
		{"bias of lora_B unasked", plainConfig, with(map[string][]int64{"m.q.lora_B.bias": {4}}), "", "lora_bias"},
		{"modules to save that are not there", `{"peft_type":"LORA","r":2,"modules_to_save":["norm","score"]}`, q, "", "m.norm.weight"},
		{"rows that are not there", `{"peft_type":"LORA","r":2,"trainable_token_indices":[1]}`, q, "", "trained rows of 1 tokens"},
		{"pissa", `{"peft_type":"LORA","r":2,"init_lora_weights":"pissa_niter_4"}`, q, "", "changes the base before training"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := Open(file(t, c.config, c.shapes, c.nan))
			if err == nil {
				defer a.Close()
				_, err = NewMerge(testBase(map[string][]int64{"m.q.weight": {4, 6}, "m.norm.weight": {6}, "m.e.weight": {3, 6}}, safetensors.BF16), []*Adapter{a}, Options{})
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want an Error", err)
			}
			if text := err.Error() + "; " + e.Hint; !strings.Contains(text, c.want) {
				t.Errorf("error %q, want %q in it", text, c.want)
			}
		})
	}
}

// One of a stack of experts is no module that modules_to_save could name.
func TestCompleteExperts(t *testing.T) {
	for stack, want := range map[string]bool{"": false, "m.experts.gate_up_proj": true} {
		a, err := Open(file(t, `{"peft_type":"LORA","r":2,"modules_to_save":["up_proj"]}`, map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 2}}, ""))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		base := testBase(map[string][]int64{"m.experts.0.up_proj.weight": {4, 6}, "m.q.weight": {4, 6}}, safetensors.BF16)
		base[0].Class.Stack = stack
		if _, err = NewMerge(base, []*Adapter{a}, Options{}); (err == nil) != want {
			t.Errorf("stack %q: %v", stack, err)
		}
	}
}

// With bias="all" PEFT saves the biases of modules_to_save three times: what they were, and the trained ones twice. VeLoRA's
// What lies elsewhere is to be fetched; what is not there is not.
func TestElsewhere(t *testing.T) {
	for path, want := range map[string]bool{"hf://org/name": true, "s3://bucket/a/b": true, "org/name": true, "org/name/more": false, "./name": false, "/tmp/nf4kit-none": false} {
		if _, err := Open(path); err == nil || strings.Contains(err.Error(), "hf download") != want || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// projections are of training alone.
func TestSavedBiases(t *testing.T) {
	a, err := Open(file(t, `{"peft_type":"LORA","r":2,"bias":"all","modules_to_save":["c"]}`, map[string][]int64{"m.q.lora_A.weight": {2, 6}, "m.q.lora_B.weight": {4, 2},
		"m.c.weight": {3, 4}, "m.c.bias": {3}, "m.c.modules_to_save.bias": {3}, "m.c.original_module.bias": {3}, "m.d.original_module.bias": {3}, "m.q.lora_velora_embed": {1, 2}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var names []string
	for _, s := range a.Saved {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"m.c.bias", "m.c.weight", "m.d.original_module.bias"}, names); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}
}

func TestPickle(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "adapter_model.bin"), []byte("PK"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "adapter_model.bin")} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "pickled") {
			t.Errorf("error %v", err)
		}
	}
}

// Any range of a merged tensor is the same as that part of the whole, whatever rows, experts and chunks it cuts through, and the
// whole is the sum that the package's comment has.
func TestRanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		config  string
		tensor  string
		shape   []int64
		a, b    []int64
		keys    [2]string
		experts int
		turned  bool
	}{
		{"linear", plainConfig, "m.q.weight", []int64{37, 53}, []int64{2, 53}, []int64{37, 2}, [2]string{"m.q.lora_A.weight", "m.q.lora_B.weight"}, 1, false},
		{"turned", plainConfig, "m.q.weight", []int64{53, 37}, []int64{2, 53}, []int64{37, 2}, [2]string{"m.q.lora_A.weight", "m.q.lora_B.weight"}, 1, true},
		{"embedding", plainConfig, "m.e.weight", []int64{53, 37}, []int64{2, 53}, []int64{37, 2}, [2]string{"m.e.lora_embedding_A", "m.e.lora_embedding_B"}, 1, true},
		{"long", plainConfig, "m.q.weight", []int64{3, chunk + 77}, []int64{2, chunk + 77}, []int64{3, 2}, [2]string{"m.q.lora_A.weight", "m.q.lora_B.weight"}, 1, false},
		{"experts", plainConfig, "m.experts.down_proj", []int64{3, 11, 17}, []int64{6, 17}, []int64{11, 6}, [2]string{"m.experts.lora_A.weight", "m.experts.lora_B.weight"}, 3, false},
		{"stack of a module", plainConfig, "m.c.weight", []int64{3, 11, 17}, []int64{6, 17}, []int64{11, 6}, [2]string{"m.c.lora_A.weight", "m.c.lora_B.weight"}, 3, false},
		{"matrix that is no weight", `{"peft_type":"LORA","r":2,"lora_alpha":4,"target_parameters":["m.A_log"]}`, "m.A_log", []int64{37, 53}, []int64{2, 53}, []int64{37, 2}, [2]string{"m.lora_A.weight", "m.lora_B.weight"}, 1, false},
		{"experts turned", plainConfig, "m.experts.down_proj", []int64{3, 11, 17}, []int64{6, 11}, []int64{17, 6}, [2]string{"m.experts.lora_A.weight", "m.experts.lora_B.weight"}, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := Open(file(t, c.config, map[string][]int64{c.keys[0]: c.a, c.keys[1]: c.b}, ""))
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			tensors := testBase(map[string][]int64{c.tensor: c.shape}, safetensors.F32)
			m, err := NewMerge(tensors, []*Adapter{a}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Apply(tensors)
			if err != nil {
				t.Fatal(err)
			}
			n := elements(c.shape)
			whole, before := make([]byte, 4*n), make([]byte, 4*n)
			if err := errors.Join(got[0].Read(whole, 0), tensors[0].Read(before, 0)); err != nil {
				t.Fatal(err)
			}
			checkSum(t, a.Modules[0], whole, before, c.experts, c.turned)
			r := rand.New(rand.NewPCG(3, 4))
			for range 30 {
				from := r.Int64N(n)
				part := make([]byte, 4*(1+r.Int64N(min(n-from, 3000))))
				if err := got[0].Read(part, from); err != nil {
					t.Fatal(err)
				}
				if string(part) != string(whole[4*from:][:len(part)]) {
					t.Fatalf("%d elements from %d on differ from the whole", len(part)/4, from)
				}
			}
			if f := m.Figures(); len(f) != 1 || !(f[0].Survives > 0.999) || !(f[0].Relative > 0) {
				t.Errorf("figures %+v", f)
			}
		})
	}
}

// Ranges of a weight with several adapters, of which some are DoRA, and what is not the same without the roundings of PEFT.
func TestSequence(t *testing.T) {
	const in, out = 53, 37
	adapter := func(dora bool) *Adapter {
		shapes := map[string][]int64{"m.q.lora_A.weight": {2, in}, "m.q.lora_B.weight": {out, 2}}
		config := plainConfig
		if dora {
			shapes["m.q.lora_magnitude_vector"] = []int64{out}
			config = `{"peft_type":"LORA","r":2,"lora_alpha":4,"use_dora":true}`
		}
		a, err := Open(file(t, config, shapes, ""))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	plain, dora := adapter(false), adapter(true)
	tensors := testBase(map[string][]int64{"m.q.weight": {out, in}}, safetensors.BF16)
	whole := func(opt Options, list ...*Adapter) []byte {
		m, err := NewMerge(tensors, list, opt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Apply(tensors)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 2*in*out)
		if err := got[0].Read(p, 0); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < in*out; at += 71 {
			part := make([]byte, 2*min(71, in*out-at))
			if err := got[0].Read(part, int64(at)); err != nil {
				t.Fatal(err)
			}
			if string(part) != string(p[2*at:][:len(part)]) {
				t.Fatalf("%d elements from %d on differ from the whole", len(part)/2, at)
			}
		}
		return p
	}
	for name, list := range map[string][]*Adapter{"dora dora": {dora, dora}, "lora dora": {plain, dora}, "dora lora dora": {dora, plain, dora}} {
		if string(whole(Options{}, list...)) == string(whole(Options{Joint: true}, list...)) {
			t.Errorf("%s: rounding changes nothing", name)
		}
	}
	// A last LoRA has nothing taken out: it is added to what the DoRA before has made.
	if a, b := whole(Options{}, dora), whole(Options{}, dora, plain); string(a) == string(b) {
		t.Error("a second adapter changes nothing")
	}
}

// What overflows the dtype of the weight is an error that says what it would have been, with figures and without.
func TestOverflow(t *testing.T) {
	a, err := Open(file(t, `{"peft_type":"LORA","r":2,"lora_alpha":1e9}`, map[string][]int64{"m.q.lora_A.weight": {2, 53}, "m.q.lora_B.weight": {37, 2}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	tensors := testBase(map[string][]int64{"m.q.weight": {37, 53}}, safetensors.BF16)
	for _, none := range []bool{false, true} {
		m, err := NewMerge(tensors, []*Adapter{a}, Options{Cast: true, DType: safetensors.F16, NoFigures: none})
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Apply(tensors)
		if err != nil {
			t.Fatal(err)
		}
		var bad *weights.ValueError
		err = got[0].Read(make([]byte, 2*37*53), 0)
		if !errors.As(err, &bad) || math.IsInf(bad.Value, 0) || math.Abs(bad.Value) < 65504 {
			t.Errorf("error %v, want one about a value above 65504", err)
		}
	}
}

// checkSum compares a merged tensor with sums of its own.
func checkSum(t *testing.T, m *Module, whole, before []byte, experts int, turned bool) {
	t.Helper()
	a, errA := readFloats(m.A)
	b, errB := readFloats(m.B)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	all := int(m.Rank())
	in, out, r := len(a)/all, len(b)/all, all/experts
	for i := range len(whole) / 4 {
		e, at := i/(in*out), i%(in*out)
		row, col := at/in, at%in // of [out, in]
		if turned {
			row, col = at%out, at/out
		}
		var sum float32
		for k := range r {
			x, y := float64(a[(e*r+k)*in+col]), float64(b[row*all+k*experts+e])
			sum = float32(x*y + float64(sum))
		}
		want := float32(sum*2) + math.Float32frombits(binary.LittleEndian.Uint32(before[4*i:])) // alpha 4, rank 2
		if got := math.Float32frombits(binary.LittleEndian.Uint32(whole[4*i:])); got != want {
			t.Fatalf("element %d is %v, want %v", i, got, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(plainConfig), "m.q.lora_A.weight", "m.q.lora_B.weight", int64(2), int64(6), int64(4), int64(2))
	f.Add([]byte(`{"peft_type":"LORA","r":1,"target_parameters":["m.experts.x"]}`), "experts.base_layer.lora_A.weight", "experts.lora_B.weight", int64(6), int64(3), int64(1), int64(6))
	f.Add([]byte(`{"peft_type":"LORA","r":1,"target_parameters":["m.c.weight"]}`), "m.c.lora_A.weight", "m.c.lora_B.weight", int64(3), int64(6), int64(1), int64(3))
	f.Fuzz(func(t *testing.T, config []byte, keyA, keyB string, a1, a2, b1, b2 int64) {
		const most = 64
		for _, d := range []int64{a1, a2, b1, b2} {
			if d < 0 || d > most {
				t.Skip()
			}
		}
		if _, err := safetensors.NewLayout([]safetensors.Entry{{Name: keyA, DType: safetensors.F32, Shape: []int64{a1, a2}}, {Name: keyB, DType: safetensors.F32, Shape: []int64{b1, b2}}}, nil); err != nil {
			t.Skip()
		}
		a, err := Open(file(t, string(config), map[string][]int64{keyA: {a1, a2}, keyB: {b1, b2}}, ""))
		if err != nil {
			return
		}
		defer a.Close()
		if _, err := a.Summaries(); err != nil {
			t.Error(err)
		}
		tensors := testBase(map[string][]int64{"m.q.weight": {4, 6}, "m.experts.down_proj": {3, 4, 6}, "m.e.weight": {3, 6}, "m.c.weight": {3, 1, 6}}, safetensors.BF16)
		m, err := NewMerge(tensors, []*Adapter{a}, Options{})
		if err != nil {
			return
		}
		got, err := m.Apply(tensors)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if err := got[i].Read(make([]byte, 2*got[i].Elems()), 0); err != nil {
				t.Error(err)
			}
		}
	})
}
