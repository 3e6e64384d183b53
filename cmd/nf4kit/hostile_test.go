package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// tensors16 writes a safetensors file of bfloat16 weights of 0.5 with the given names: 64 x 64 of them, 64 in a norm.
func tensors16(t testing.TB, file string, names ...string) {
	t.Helper()
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets []int  `json:"data_offsets"`
	}
	header := map[string]entry{}
	end := 0
	for _, n := range names {
		shape, size := []int{64, 64}, 64*64*2
		if strings.HasSuffix(n, "norm.weight") {
			shape, size = []int{64}, 64*2
		}
		header[n] = entry{"BF16", shape, []int{end, end + size}}
		end += size
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(raw)))
	out = append(append(out, raw...), bytes.Repeat([]byte{0, 0x3f}, end/2)...)
	if err := os.WriteFile(file, out, 0o666); err != nil {
		t.Fatal(err)
	}
}

// tinyLlama writes a whole Llama of one layer.
func tinyLlama(t testing.TB, dir string) {
	t.Helper()
	names := []string{"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
	for _, m := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
		"input_layernorm", "post_attention_layernorm"} {
		names = append(names, "model.layers.0."+m+".weight")
	}
	tensors16(t, filepath.Join(dir, "model.safetensors"), names...)
	config := `{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":64,"num_attention_heads":4,` +
		`"num_key_value_heads":4,"num_hidden_layers":1,"vocab_size":64,"rms_norm_eps":1e-6,"torch_dtype":"bfloat16"}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
}

// forged is what a hostile name would have us print as a line of our own.
const forged = "nf4kit: error: forged"

var hostileNames = []string{
	"model.layers.0.\x1b[31m\x1b]0;title\a.weight",
	"model.layers.0.a\n" + forged + "\n.weight",
	"model.layers.0.\u202egnp.\u2066\u009b2J\u2028.weight",
	"=HYPERLINK(\"http://evil.example\").weight",
	"@SUM(1).weight",
	"model.layers.1.[a](javascript:alert(1))<script>alert(1)</script>|.weight",
	"model.layers.2." + strings.Repeat("x", 20_000) + ".weight",
}

// What a file's names say is printed, and nothing of it acts: in no command, on neither stream.
func TestHostileNames(t *testing.T) {
	src := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(src, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(src, "model.safetensors")
	tensors16(t, file, hostileNames...)
	dst, back := filepath.Join(src, "..", "out\x1b[1m"), filepath.Join(src, "..", "back")
	reports := filepath.Dir(src)
	for _, k := range []struct {
		code int // -1: not what this test is about
		args []string
	}{
		{0, []string{"inspect", file, "-v"}},
		{0, []string{"convert", file, dst, "-v", "--only", ".", "--report", reports + "/r.csv", "--report", reports + "/r.md", "--report", reports + "/r.html"}},
		{0, []string{"convert", file, dst + "-dry", "--only", ".", "--dry-run", "-v"}},
		{0, []string{"measure", file, "--report", reports + "/m.csv", "--report", reports + "/m.md"}},
		{0, []string{"measure", file, dst}},
		{-1, []string{"verify", dst, "-v"}},
		{-1, []string{"verify", dst, "-v", "--source", file}},
		{0, []string{"inspect", dst, "-v"}},
		{0, []string{"dequantize", dst, back}},
		{2, []string{"convert", file, dst, "--only", "(\x1b"}},
		{1, []string{"inspect", src + "/\x1b[2J"}},
		{2, []string{"\x1b[2J\n" + forged}},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), k.args, nil, nil, &stdout, &stderr)
		if code != k.code && k.code >= 0 {
			t.Errorf("nf4kit %q: exit code %d; want %d\n%s%s", k.args, code, k.code, stdout.String(), stderr.String())
		}
		for name, b := range map[string]*bytes.Buffer{"stdout": &stdout, "stderr": &stderr} {
			inert(t, fmt.Sprintf("%s of nf4kit %q", name, k.args), b.String())
		}
	}
	for _, name := range []string{"r.csv", "m.csv"} {
		raw, err := os.ReadFile(filepath.Join(reports, name))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
		if err != nil || len(rows) < len(hostileNames) {
			t.Fatalf("%s: %d rows, %v", name, len(rows), err)
		}
		for _, row := range rows {
			for _, cell := range row[:2] {
				if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
					t.Errorf("%s: cell %q is a formula", name, cell)
				}
			}
		}
	}
	for _, name := range []string{"r.md", "m.md", "r.html"} {
		raw, err := os.ReadFile(filepath.Join(reports, name))
		if err != nil {
			t.Fatal(err)
		}
		inert(t, name, string(raw))
		if s := string(raw); strings.Contains(s, "<script>alert") || strings.Contains(s, "[a](") && strings.HasSuffix(name, ".md") && !strings.Contains(s, `\[a\](`) {
			t.Errorf("%s has live markup", name)
		}
	}
}

// inert fails if text has a character that acts on a terminal, or a forged line, or a line of unreasonable length.
func inert(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is not UTF-8", what)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsGraphic(r) && r != '\t' }); i >= 0 {
			t.Errorf("%s: %.40q has a character that acts", what, line[max(0, i-10):])
		}
		if strings.HasPrefix(line, forged) {
			t.Errorf("%s has a forged line", what)
		}
	}
}

// The model card of a hostile source has neither its tags nor its links.
func TestHostileCard(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "models--org--[x](javascript:1)<b>", "snapshots", "main")
	if err := os.MkdirAll(src, 0o777); err != nil {
		t.Fatal(err)
	}
	tinyLlama(t, src)
	card := "---\nbase_model: '[a](javascript:alert(1))'\nlicense: !!python/object/apply:os.system [id]\nlicense_name: \"x\\n---\\nevil: 1\"\n" +
		"language: [en, !!python/name:os.system x]\ntags: [ok, !evil x, '<script>']\npipeline_tag: text-generation # note\n---\n"
	if err := os.WriteFile(filepath.Join(src, "README.md"), []byte(card), 0o666); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	dst := filepath.Join(dir, "out")
	if code := run(context.Background(), []string{"convert", src, dst, "-q", "--allow-incomplete"}, nil, nil, &stderr, &stderr); code != 0 {
		t.Fatalf("convert: exit code %d\n%s", code, stderr.String())
	}
	raw, err := os.ReadFile(filepath.Join(dst, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	front, body, ok := strings.Cut(strings.TrimPrefix(string(raw), "---\n"), "\n---\n")
	if !ok {
		t.Fatalf("no front matter:\n%s", raw)
	}
	var got map[string]any
	if err := yaml.Unmarshal([]byte(front), &got); err != nil {
		t.Fatal(err)
	}
	for key := range got {
		switch key {
		case "license_name", "pipeline_tag", "tags":
		default:
			t.Errorf("front matter has %s: %v", key, got[key])
		}
	}
	if strings.Contains(string(raw), "python/") || strings.Contains(string(raw), "!evil") {
		t.Errorf("a tag survived:\n%s", raw)
	}
	if strings.Contains(body, "<b>") && !strings.Contains(body, `\<b\>`) || strings.Contains(body, "](javascript") && !strings.Contains(body, `\](javascript`) {
		t.Errorf("live markup:\n%s", body)
	}
}
