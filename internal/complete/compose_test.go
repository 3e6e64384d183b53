package complete

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Types whose facts are written here: an outer model that holds an inner one, of type "inner" by default.
var composed = map[string]string{
	"inner": `class Inner in=5 base=inner auto=base
default width 4
layout
count layers.# depth
layers.#.proj.weight - [width,width] 1 1
norm.weight - [width] 1 1
class InnerLM in=5 prefix=inner auto=causal
layout from=Inner/0
head.weight - [words,width] 1 !t:tie
`,
	"other": `class Other in=5 base=other auto=base
default hidden 6
alias n_hidden hidden
layout
count blocks.# n
count adapters.# 2 t:adapted
adapters.#.down.weight - [hidden] 1 1
blocks.#.in.weight - [2*hidden,hidden] 1 1
blocks.#.in.bias - [2*hidden] t:bias 1
class OtherLM in=5 prefix=other auto=causal
layout from=Other/0
head.weight - [words,hidden] 1 !t:tie
`,
	"reader": `class Reader in=5 base=reader auto=base
layout
norm.weight - [width] 1 1
class ReaderLM in=5 prefix=reader auto=causal
default tie true
ignore crossattention.bias
layout from=Reader/0
count reader.layers.# depth
reader.layers.#.crossattention.q.weight - [width,width] t:add_cross_attention 1
head.weight - [words,width] 1 !t:tie reader.norm.weight
`,
	"outer": `class Outer in=5 auto=base
nested text inner
default tie false
layout
count text.inner.layers.# text.depth
bridge.weight - [text.width,2] 1 1
text.inner.layers.#.proj.weight - [text.width,text.width] 1 1
text.inner.norm.weight - [text.width] 1 1
text.head.weight - [text.words,text.width] 1 !t:tie
`,
}

func init() {
	for name, block := range composed {
		addFacts(name, block)
	}
}

// addFacts makes a type known that facts.txt has not.
func addFacts(name, block string) {
	f, err := parseFacts(block)
	if err != nil {
		panic(err)
	}
	factCache.types[name] = f
}

func tensorsOf(list string) []Tensor {
	var out []Tensor
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		t := Tensor{Name: f[0], DType: safetensors.BF16}
		for _, d := range f[1:] {
			n, _ := index(d)
			t.Shape = append(t.Shape, int64(n))
		}
		out = append(out, t)
	}
	return out
}

// problems holds the tensors to the type, whatever package arch knows of it.
func problems(t *testing.T, modelType, class, config, list string) []string {
	t.Helper()
	q := arch.Query{ModelType: modelType, Architectures: []string{class}}
	if class == "" {
		q.Architectures = nil
	}
	r, err := Check(&arch.Model{Type: modelType, Class: class}, q, []byte(config), tensorsOf(list))
	if err != nil {
		t.Fatal(err)
	}
	return r.Lines()
}

// TestCompose: a nested model of another type than the facts were made with is held to the facts of its own type and config.
func TestCompose(t *testing.T) {
	const bridge, head = "bridge.weight 4 2\n", "text.head.weight 9 4\n"
	const blocks = "text.other.blocks.0.in.weight 8 4\ntext.other.blocks.1.in.weight 8 4\n"
	const biases = "text.other.blocks.0.in.bias 8\ntext.other.blocks.1.in.bias 8\n"
	const other = `{"text": {"model_type": "other", "n_hidden": 4, "n": 2, "words": 9`
	tests := []struct {
		name, config, tensors string
		want                  []string
	}{
		{"the default type", `{"text": {"model_type": "inner", "depth": 1, "words": 9}}`, bridge + head + "text.inner.layers.0.proj.weight 4 4\ntext.inner.norm.weight 4\n", nil},
		{"another", other + "}}", bridge + head + blocks, nil},
		{"with what its config says", other + `, "bias": true}}`, bridge + head + blocks + biases, nil},
		{"which is lacking", other + `, "bias": true}}`, bridge + head + blocks, []string{
			"text.other.blocks.0.in.bias: expected it, of shape [8], found no such tensor",
			"text.other.blocks.1.in.bias: expected it, of shape [8], found no such tensor"}},
		{"a block is lacking", other + "}}", bridge + head + blocks[:len(blocks)/2], []string{"text.other.blocks: expected 2 blocks (n), found 1"}},
		{"the type's own default", `{"text": {"model_type": "other", "n": 1, "words": 9}}`, "bridge.weight 6 2\ntext.head.weight 9 6\ntext.other.blocks.0.in.weight 12 6\n", nil},
		{"a head that the whole ties", `{"tie": true, ` + other[1:] + "}}", bridge + blocks, nil},
		{"a head that the part ties", other + `, "tie": true}}`, bridge + blocks, []string{"text.head.weight: expected it, of shape [9, ?], found no such tensor"}},
		{"a list that is not there", other + `, "adapted": true}}`, bridge + head + blocks, []string{"text.other.adapters.0.down.weight: expected it, of shape [4], found no such tensor"}},
		{"what the type does not have", other + "}}", bridge + head + blocks + "text.inner.norm.weight 4\n", []string{"text.inner.norm.weight: expected only tensors of Outer, found it"}},
		{"no facts", `{"text": {"model_type": "stranger", "n": 9}}`, bridge + "text.a.layers.0.x.weight 3\ntext.a.layers.1.x.weight 3\n", nil},
		{"no facts, and a tensor beside", `{"text": {"model_type": "stranger"}}`, bridge + "text.a.weight 3\nfoo.weight 3\n", []string{"foo.weight: expected only tensors of Outer, found it"}},
		{"no facts, and nothing in it", `{"text": {"model_type": "stranger"}}`, bridge + "text.a.weight 0\n", []string{"text.a.weight: expected weights, found shape [0]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, problems(t, "outer", "Outer", tt.config, tt.tensors)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestLoose: a class without facts is held to those of its type's base model, whatever that is called in it.
func TestLoose(t *testing.T) {
	const config = `{"depth": 2, "width": 4, "words": 9}`
	sound := []string{"layers.0.proj.weight 4 4", "layers.1.proj.weight 4 4", "norm.weight 4"}
	under := func(prefix string, more ...string) string {
		var out []string
		for _, s := range sound {
			out = append(out, prefix+s)
		}
		return strings.Join(append(out, more...), "\n") + "\n"
	}
	tests := []struct {
		name, class, tensors string
		want                 []string
	}{
		{"its prefix", "InnerForQuestions", under("inner.", "questions.weight 2 4"), nil},
		{"no prefix", "InnerForQuestions", under("", "questions.weight 2 4"), nil},
		{"another", "InnerForQuestions", under("transformer.", "questions.weight 2 4"), nil},
		{"the author's own class", "ScorerOfMine", under("inner.", "score.weight 1 4"), nil},
		{"no class", "", under("transformer.", "questions.weight 2 4"), nil},
		{"a norm is lacking", "InnerForQuestions", strings.Replace(under("transformer.", "questions.weight 2 4"), "transformer.norm.weight 4\n", "", 1),
			[]string{"transformer.norm.weight: expected it, of shape [4], found no such tensor"}},
		{"a layer too many", "InnerForQuestions", under("transformer.", "transformer.layers.2.proj.weight 4 4"),
			[]string{"transformer.layers.2: expected only 2 (depth) by config.json, found it, with 1 tensor"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, problems(t, "inner", tt.class, config, tt.tensors)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestTowers: a class of one side of an encoder-decoder lacks nothing of the other.
func TestTowers(t *testing.T) {
	addFacts("two", `class Two in=5 base=two auto=base
layout
count encoder.# 2
count decoder.# 2
encoder.#.weight - [4] 1 1
decoder.#.weight - [4] 1 1
shared.weight - [4] 1 1
`)
	if got := problems(t, "two", "TwoEncoder", "{}", "two.encoder.0.weight 4\ntwo.encoder.1.weight 4\nclassifier.weight 2\n"); got != nil {
		t.Errorf("got %q, want nothing", got)
	}
	want := []string{"two.encoder.1.weight: expected it, of shape [4], of 2 members (2), found 1"}
	if got := problems(t, "two", "TwoEncoder", "{}", "two.encoder.0.weight 4\nclassifier.weight 2\n"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLength: the length of a list of numbers says which of the members written out there are; a list of kinds, what is in the members.
func TestLength(t *testing.T) {
	addFacts("staged", `class Staged in=5 auto=base
default kinds.len =depth
layout
count layers.# kinds.len
stages.0.x.weight - [4] 1 1
stages.1.x.weight - [4] 1 1
stages.2.x.weight - [4] gt:depths.len:2 1
stages.3.x.weight - [4] gt:depths.len:3 1
layers.#.scan.weight - [4] at:0:kinds:linear_attention 1
layers.#.odd.weight - [4] cyc:0:pattern:odd 1
`)
	stages := func(n int) string {
		return strings.Join([]string{"", "stages.0.x.weight 4\n", "stages.1.x.weight 4\n", "stages.2.x.weight 4\n", "stages.3.x.weight 4\n", "stages.4.x.weight 4\n"}[:n+1], "")
	}
	tests := []struct {
		name, config, tensors string
		want                  []string
	}{
		{"three", `{"depths": [1, 1, 1]}`, stages(3), nil},
		{"one is lacking", `{"depths": [1, 1, 1]}`, stages(2), []string{"stages.2.x.weight: expected it, of shape [4], found no such tensor"}},
		{"one too many", `{"depths": [1, 1, 1]}`, stages(4), []string{"stages.3.x.weight: expected no such tensor by config.json (depths.len), found it"}},
		{"more than were asked about", `{"depths": [1, 1, 1, 1, 1]}`, stages(5), nil},
		{"no list", `{"depths": 3}`, stages(2), nil},
		{"no list of kinds, but their number", `{"depths": [1, 1], "depth": 2, "pattern": ["odd"]}`, stages(2) + "layers.0.odd.weight 4\n", []string{
			"layers: expected 2 layers (kinds.len), found 1"}},
		{"kinds in older words", `{"depths": [1, 1], "kinds": ["mamba", "attention", "mamba"]}`, stages(2) + "layers.0.scan.weight 4\nlayers.2.scan.weight 4\n", nil},
		{"of which one is lacking", `{"depths": [1, 1], "kinds": ["mamba", "attention", "mamba"]}`, stages(2) + "layers.0.scan.weight 4\n", []string{
			"layers: expected 3 layers (kinds.len), found 1"}},
		{"a pattern that repeats", `{"depths": [1, 1], "kinds": ["a", "a", "a", "a"], "pattern": ["even", "odd"]}`, stages(2) + "layers.1.odd.weight 4\n", []string{
			"layers: expected 4 layers (kinds.len), found 2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, problems(t, "staged", "Staged", tt.config, tt.tensors)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestValues: what a fact's expression may be made of besides the values that config.json names.
func TestValues(t *testing.T) {
	addFacts("valued", `class Valued in=5 auto=base
alias kept.*.width taken
default sides [32,32]
default taken 4
layout
count layers.# depth
layers.#.sparse.weight - [4] mod:0:-1:step 1
layers.#.uneven.weight - [4,?*] 1 1
patches - [image.size.div.image.patch*image.size.div.image.patch,taken] 1 1
`)
	layers := func(n int, sparse ...string) string {
		out := "patches 9 4\n"
		for i := range n {
			out += fmt.Sprintf("layers.%d.uneven.weight 4 %d\n", i, 2+i)
		}
		for _, i := range sparse {
			out += "layers." + i + ".sparse.weight 4\n"
		}
		return out
	}
	config := func(step int, more string) string {
		return fmt.Sprintf(`{"depth": 4, "step": %d, "image": {"size": 31, "patch": 9}%s}`, step, more)
	}
	tests := []struct {
		name, config, tensors string
		want                  []string
	}{
		{"every second from the second", config(2, ""), layers(4, "1", "3"), nil},
		{"every one", config(1, ""), layers(4, "0", "1", "2", "3"), nil},
		{"none", config(0, ""), layers(4), nil},
		{"one is lacking", config(2, ""), layers(4, "1"), []string{"layers.3.sparse.weight: expected it, of shape [4], found no such tensor"}},
		{"one too many", config(0, ""), layers(4, "1"), []string{"layers.1.sparse.weight: expected no such tensor by config.json (-1), found it"}},
		{"of unlike sizes, but one", config(0, ""), strings.Replace(layers(4), "layers.2.uneven.weight 4", "layers.2.uneven.weight 3", 1), []string{
			"layers.2.uneven.weight: expected shape [4, ?], found [3, 4]"}},
		{"cut patches", config(0, ""), strings.Replace(layers(4), "patches 9", "patches 8", 1), []string{"patches: expected shape [9, 4], found [8, 4]"}},
		{"no patches at all", `{"depth": 4, "step": 0, "image": {"size": 31, "patch": 0}}`, strings.Replace(layers(4), "patches 9", "patches 8", 1), nil},
		{"a side that is a list", `{"depth": 4, "step": 0, "image": {"size": [31, 31], "patch": 9}}`, layers(4), nil},
		{"of all members", config(0, `, "kept": {"1": {"width": 5}, "3": {"width": 5}}`), strings.Replace(layers(4), "patches 9 4", "patches 9 5", 1), nil},
		{"of all members, cut", config(0, `, "kept": {"1": {"width": 5}, "3": {"width": 5}}`), layers(4), []string{"patches: expected shape [9, 5], found [9, 4]"}},
		{"members do not agree", config(0, `, "kept": {"1": {"width": 5}, "3": {"width": 6}}`), strings.Replace(layers(4), "patches 9 4", "patches 9 7", 1), nil},
		{"not all have it", config(0, `, "kept": {"1": {"width": 5}, "3": {}}`), strings.Replace(layers(4), "patches 9 4", "patches 9 7", 1), nil},
		{"none has it", config(0, `, "kept": {"1": {}, "3": 7}`), layers(4), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, problems(t, "valued", "Valued", tt.config, tt.tensors)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestFuse: of experts that become one tensor again, the one that is not as the others are is named.
func TestFuse(t *testing.T) {
	const config = `{"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"], "hidden_size": 8, "intermediate_size": 6, "intermediate_size_mlp": 12,
		"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 10, "num_local_experts": 3, "interleave_moe_layer_step": 1, "moe_layers": [0]}`
	const expert = "model.layers.0.feed_forward.experts."
	var sound []Tensor
	for _, x := range llama(1) {
		if !strings.Contains(x.Name, ".mlp.") {
			sound = append(sound, x)
		}
	}
	for _, part := range []string{"gate_proj", "up_proj", "down_proj"} {
		shape := []int64{6, 8}
		if part == "down_proj" {
			shape = []int64{8, 6}
		}
		sound = append(sound, weight("model.layers.0.feed_forward.shared_expert."+part, shape...))
		for e := range 3 {
			sound = append(sound, weight(fmt.Sprint(expert, e, ".", part), shape...))
		}
	}
	sound = append(sound, weight("model.layers.0.feed_forward.router", 3, 8))
	up := expert + "1.up_proj"
	tests := map[string]struct {
		tensors []Tensor
		want    []string
	}{
		"sound":    {sound, nil},
		"lacking":  {edit(slices.Clone(sound), up+".weight"), []string{up + ".weight: expected it, of shape [6, 8] as of the other experts, found no such tensor"}},
		"cut":      {edit(slices.Clone(sound), up+".weight", weight(up, 5, 8)), []string{up + ".weight: expected shape [6, 8] as of the other experts, found [5, 8]"}},
		"empty":    {edit(slices.Clone(sound), up+".weight", weight(up, 0, 8)), []string{up + ".weight: expected shape [6, 8], found [0, 8]"}},
		"integers": {edit(slices.Clone(sound), up+".weight", Tensor{Name: up + ".weight", DType: safetensors.I8, Shape: []int64{6, 8}}), []string{up + ".weight: expected floating-point weights, found I8"}},
		"the last expert's": {edit(slices.Clone(sound), expert+"2.down_proj.weight"), []string{
			expert + "2.down_proj.weight: expected it, of shape [8, 6] as of the other experts, found no such tensor"}},
		"a high number": {append(slices.Clone(sound), weight(expert+"999999999.up_proj", 6, 8)), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := check(t, config, tt.tensors)
			if name == "a high number" {
				if r.Count() == 0 || r.Count() > 20 {
					t.Errorf("%d problems: %v", r.Count(), r.Lines())
				}
				return
			}
			if diff := cmp.Diff(tt.want, r.Lines()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestShared: the first blocks of a kind are the others' too, in turn, and each has members of its own for the layers that have it. A
// checkpoint may have a block in any of its layers.
func TestShared(t *testing.T) {
	addFacts("turns", `class Turns in=5 auto=base
layout
count layers.# kinds.len
count layers.#.block.extra.# kinds.of.hybrid
layers.#.scan.weight - [4] 1 1
layers.#.block.weight - [4] at:0:kinds:hybrid nth:0:kinds:hybrid:blocks|!t:shared layers.#.block.weight
layers.#.block.extra.#.weight - [4] at:0:kinds:hybrid&turn:0:kinds:hybrid:blocks:1 nth:0:kinds:hybrid:blocks layers.#.block.extra.#.weight
`)
	const config = `{"kinds": ["a", "hybrid", "hybrid", "a", "hybrid"], "blocks": 2, "shared": true}`
	scans := "layers.0.scan.weight 4\nlayers.1.scan.weight 4\nlayers.2.scan.weight 4\nlayers.3.scan.weight 4\nlayers.4.scan.weight 4\n"
	of := func(layer string, extras ...string) string {
		s := "layers." + layer + ".block.weight 4\n"
		for _, e := range extras {
			s += "layers." + layer + ".block.extra." + e + ".weight 4\n"
		}
		return s
	}
	tests := []struct {
		name, tensors string
		want          []string
	}{
		{"as it is saved", of("1", "0", "2") + of("2", "1"), nil},
		{"each layer with its block", of("1", "0", "2") + of("2", "1") + of("4", "0", "2"), nil},
		{"a block in its last layer alone", of("4", "0", "2") + of("2", "1"), nil},
		{"a block is lacking", of("1", "0", "2"), []string{
			"layers.2.block.extra.1.weight: expected it, of shape [4], found no such tensor", "layers.2.block.weight: expected it, of shape [4], found no such tensor"}},
		{"a block's last member is lacking", of("1", "0") + of("2", "1"), []string{"layers.1.block.extra.2.weight: expected it, of shape [4], of 3 members (kinds.of.hybrid), found 2"}},
		{"a member of the other block", of("1", "0", "1", "2") + of("2", "1"), []string{
			"layers.1.block.extra.1.weight: expected no such tensor by config.json (kinds), found it"}},
		{"a member too many", of("1", "0", "2", "4") + of("2", "1"), []string{
			"layers.1.block.extra.4: expected only 3 (kinds.of.hybrid) by config.json, found it, with 1 tensor"}},
		{"a block in a layer of another kind", of("0") + of("1", "0", "2") + of("2", "1"), []string{
			"layers.0.block.weight: expected no such tensor by config.json (kinds), found it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, problems(t, "turns", "Turns", config, scans+tt.tensors)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	want := []string{"layers.1.block.weight: expected it, of shape [4], found no such tensor"}
	alone := strings.Replace(of("1", "0", "2")+of("2", "1")+of("4"), "layers.1.block.weight 4\n", "", 1)
	if diff := cmp.Diff(want, problems(t, "turns", "Turns", strings.Replace(config, "true", "false", 1), scans+alone)); diff != "" {
		t.Errorf("blocks that are not shared: -want +got:\n%s", diff)
	}
	if got := problems(t, "turns", "Turns", `{"kinds": "hybrid", "blocks": 0.5}`, "layers.0.scan.weight 4\nlayers.1.scan.weight 4\n"+of("1", "0")); got != nil {
		t.Errorf("of a config without a list: %q", got)
	}
}

// A pair is held to the facts of both sides, each in its own config; a side without facts, or a decoder whose facts know no
// cross-attention, to itself.
func TestPair(t *testing.T) {
	const encoder, decoder = `"encoder": {"model_type": "inner", "width": 4, "depth": 4}`,
		`"decoder": {"model_type": "reader", "width": 6, "depth": 1, "words": 9, "add_cross_attention": true}`
	whole := `encoder.layers.0.proj.weight 4 4
		encoder.layers.1.proj.weight 4 4
		encoder.layers.2.proj.weight 4 4
		encoder.layers.3.proj.weight 4 4
		encoder.norm.weight 4
		decoder.reader.norm.weight 6
		decoder.reader.layers.0.crossattention.q.weight 6 6
		`
	for _, c := range []struct {
		name, config, list string
		want               []string
	}{
		{"whole", encoder + "," + decoder, whole, nil},
		{"a buffer that the decoder ignores", encoder + "," + decoder, whole + "decoder.reader.layers.0.crossattention.bias 1 1 8 8", nil},
		{"sizes that differ", encoder + "," + decoder, whole + "enc_to_dec_proj.weight 6 4\nenc_to_dec_proj.bias 6", nil},
		{"a lost layer", encoder + "," + decoder, strings.Replace(whole, "encoder.layers.3.proj.weight 4 4", "", 1),
			[]string{"encoder.layers.3.proj.weight: expected it, of shape [4, 4], of 4 layers (depth), found 3"}},
		{"misshapen", encoder + "," + decoder, strings.Replace(whole, "crossattention.q.weight 6 6", "crossattention.q.weight 6 4", 1),
			[]string{"decoder.reader.layers.0.crossattention.q.weight: expected shape [6, 6], found [6, 4]"}},
		{"foreign", encoder + "," + decoder, whole + "decoder.reader.layers.0.self.weight 6 6",
			[]string{"decoder.reader.layers.0.self.weight: expected only tensors of EncoderDecoderModel, found it"}},
		{"a decoder of which nothing is known", encoder + `, "decoder": {"model_type": "nobody"}`,
			strings.ReplaceAll(whole, "decoder.reader", "decoder.x") + "decoder.x.layers.1.crossattention.q.weight 6 6", nil},
		{"an encoder that decodes", encoder + `, "decoder": {"model_type": "inner", "width": 6, "depth": 1, "words": 9, "add_cross_attention": true}`,
			strings.ReplaceAll(whole, "decoder.reader", "decoder.inner"), nil},
		{"nothing known of either", `"encoder": {"model_type": "x"}, "decoder": {"model_type": "y"}`, whole, nil},
	} {
		m := &arch.Model{Type: "encoder-decoder"}
		r, err := Check(m, arch.Query{Architectures: []string{"EncoderDecoderModel"}}, []byte(`{"model_type": "encoder-decoder", `+c.config+`}`), tensorsOf(c.list))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, r.Lines()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// A decoder's cross-attention is not held against facts that were made without.
func TestCrossAttention(t *testing.T) {
	list := `inner.layers.0.proj.weight 4 4
		inner.norm.weight 4
		inner.layers.0.crossattention.q.weight 4 4
		head.weight 9 4`
	for config, want := range map[string]int{`"add_cross_attention": true`: 0, `"add_cross_attention": false`: 1} {
		r, err := Check(&arch.Model{Type: "inner"}, arch.Query{Architectures: []string{"InnerLM"}},
			[]byte(`{"model_type": "inner", "depth": 1, "words": 9, `+config+`}`), tensorsOf(list))
		if err != nil {
			t.Fatal(err)
		}
		if r.Count() != want {
			t.Errorf("%s: %d problems, want %d: %v", config, r.Count(), want, r.Lines())
		}
	}
}

// ViT with GPT-2, as nlpconnect/vit-gpt2-image-captioning is published: names of old, and the buffers that GPT-2 had.
func TestPublishedPair(t *testing.T) {
	config := `{"model_type": "vision-encoder-decoder", "architectures": ["VisionEncoderDecoderModel"],
		"encoder": {"model_type": "vit", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 4, "patch_size": 2,
			"qkv_bias": true},
		"decoder": {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 6, "vocab_size": 9, "add_cross_attention": true, "is_decoder": true}}`
	var list strings.Builder
	linear := func(name string, out, in string) {
		list.WriteString(name + ".weight " + out + " " + in + "\n" + name + ".bias " + out + "\n")
	}
	turned := func(name string, in, out string) {
		list.WriteString(name + ".weight " + in + " " + out + "\n" + name + ".bias " + out + "\n")
	}
	norm := func(name string) { list.WriteString(name + ".weight 8\n" + name + ".bias 8\n") }
	list.WriteString("encoder.embeddings.cls_token 1 1 8\nencoder.embeddings.position_embeddings 1 5 8\n" +
		"encoder.embeddings.patch_embeddings.projection.weight 8 3 2 2\nencoder.embeddings.patch_embeddings.projection.bias 8\n")
	const el, dl = "encoder.encoder.layer.0.", "decoder.transformer.h.0."
	for _, m := range []string{"attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"} {
		linear(el+m, "8", "8")
	}
	linear(el+"intermediate.dense", "12", "8")
	linear(el+"output.dense", "8", "12")
	linear("encoder.pooler.dense", "8", "8")
	for _, n := range []string{el + "layernorm_before", el + "layernorm_after", "encoder.layernorm", dl + "ln_1", dl + "ln_2", dl + "ln_cross_attn", "decoder.transformer.ln_f"} {
		norm(n)
	}
	list.WriteString("decoder.transformer.wte.weight 9 8\ndecoder.transformer.wpe.weight 6 8\ndecoder.lm_head.weight 9 8\n")
	turned(dl+"attn.c_attn", "8", "24")
	turned(dl+"attn.c_proj", "8", "8")
	turned(dl+"crossattention.c_attn", "8", "16")
	turned(dl+"crossattention.q_attn", "8", "8")
	turned(dl+"crossattention.c_proj", "8", "8")
	turned(dl+"mlp.c_fc", "8", "32")
	turned(dl+"mlp.c_proj", "32", "8")
	for _, a := range []string{"attn", "crossattention"} {
		list.WriteString(dl + a + ".bias 1 1 6 6\n" + dl + a + ".masked_bias\n")
	}
	for _, c := range []struct{ lost, want string }{
		{"", ""},
		{"decoder.lm_head.weight", ""}, // tied
		{dl + "crossattention.q_attn.weight", dl + "crossattention.q_attn.weight"},
		{el + "output.dense.bias", el + "output.dense.bias"},
		{"encoder.layernorm.weight", "encoder.layernorm.weight"},
	} {
		tensors := slices.DeleteFunc(tensorsOf(list.String()), func(t Tensor) bool { return t.Name == c.lost })
		q, err := arch.ParseConfig([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Check(&arch.Model{Type: "vision-encoder-decoder"}, q, []byte(config), tensors)
		if err != nil {
			t.Fatal(err)
		}
		if n := r.Count(); c.want == "" && n != 0 || c.want != "" && (n != 1 || r.Problems[0].Tensor != c.want) {
			t.Errorf("without %q: %v", c.lost, r.Lines())
		}
	}
}
