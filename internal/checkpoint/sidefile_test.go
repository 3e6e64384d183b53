package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSideFiles(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	sharded(t, dir)
	write(t, outside, map[string]string{"code/mod.py": "x", "blob": "tokenizer"})
	kept := []string{
		"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin",
		"LICENSE", "License.txt", "NOTICE", "README.md", "USE_POLICY.md", "THIRD_PARTY_NOTICES",
		"added_tokens.json", "additional_chat_templates/tool.jinja", "audio_tokenizer_config.json",
		"chat_template.jinja", "chat_template.json", "config_sentence_transformers.json", "generation_config.json", "merges.txt",
		"modeling_x.py", "modules.json", "preprocessor_config.json", "processor_config.json",
		"sentencepiece.bpe.model", "special_tokens_map.json", "sub/__init__.py", "sub/layers/attention.py", "tekken.json",
		"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "video_preprocessor_config.json", "vocab.bpe", "vocab.json",
		"vocab.txt", "x.tiktoken",
	}
	const weights, mislead, unread = "weights in another form", "would mislead loaders beside the new weights", "not a directory that loaders read"
	skipped := map[string]string{
		".gitattributes":                    "not part of a model",
		"2_Dense/pytorch_model.bin":         "the same weights as model.safetensors",
		"adapter_config.json":               mislead,
		"adapter_model.safetensors":         weights,
		"consolidated.safetensors":          weights,
		"diffusion_pytorch_model.fp16.ckpt": weights,
		"flax_model.msgpack":                weights,
		"hf_quant_config.json":              mislead,
		"model.gguf":                        weights,
		"model.safetensors.index.fp16.json": mislead,
		"params.json":                       mislead,
		"picture.png":                       "not a file that loaders read",
		"pytorch_model.bin":                 weights,
		"pytorch_model.bin.index.json":      mislead,
		"quantize_config.json":              mislead,
		"recipe.yaml":                       "not a file that loaders read",
		"trainer_state.json":                mislead,
		"training_args.bin":                 weights,
	}
	for _, name := range kept {
		write(t, dir, map[string]string{name: name})
	}
	for name := range skipped {
		write(t, dir, map[string]string{name: "x"})
	}
	write(t, dir, map[string]string{
		".cache/x/y.json": "x", "__pycache__/m.py": "x", "figures/a.json": "x", "onnx/config.json": "x", "original/params.json": "x",
		"sub/2/3/4/5/6/7/8/9/deep.py": "x",
	})
	for sub := "sub/2"; sub != "sub/2/3/4/5/6/7/8/9"; sub += "/" + string(rune(sub[len(sub)-1]+1)) {
		write(t, dir, map[string]string{sub + "/m.py": "x"})
		kept = append(kept, sub+"/m.py")
	}
	for name, reason := range map[string]string{
		"model.safetensors.index.json": mislead, shard1: weights, shard2: weights, ".cache": "not part of a model",
		"__pycache__": "not part of a model", "figures": unread, "onnx": unread, "original": unread,
		"sub/2/3/4/5/6/7/8/9": "nested too deep", "linked_other": unread,
		"loop": "a link to a directory above it", "linked.bin": weights, "dangling.bin": weights,
	} {
		skipped[name] = reason
	}
	symlink(t, filepath.Join(outside, "blob"), filepath.Join(dir, "linked.bin"))
	symlink(t, outside, filepath.Join(dir, "linked_other"))
	symlink(t, "tokenizer.json", filepath.Join(dir, "linked_tokenizer.json"))
	symlink(t, filepath.Join(dir, "1_Pooling"), filepath.Join(dir, "4_Pooling"))
	symlink(t, dir, filepath.Join(dir, "loop"))
	symlink(t, "nowhere", filepath.Join(dir, "dangling.bin"))
	kept = append(kept, "linked_tokenizer.json", "4_Pooling/config.json")

	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	files, skips, err := s.SideFiles()
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]string{}, map[string]string{}
	for _, name := range kept {
		want[name] = "copied"
	}
	for name, reason := range skipped {
		want[name] = reason
	}
	for _, f := range files {
		got[f.Rel] = "copied"
		if raw, err := os.ReadFile(f.Path); err != nil || int64(len(raw)) != f.Size {
			t.Errorf("%s: %d bytes, told %d, %v", f.Rel, len(raw), f.Size, err)
		}
	}
	for _, s := range skips {
		got[s.Rel] = s.Reason
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSideFilesOfFile(t *testing.T) {
	dir := t.TempDir()
	writeShard(t, filepath.Join(dir, "x.safetensors"), "a")
	write(t, dir, map[string]string{"tokenizer.json": "x"})
	for _, want := range []int{0, 1} {
		s, err := Open(filepath.Join(dir, "x.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		files, _, err := s.SideFiles()
		if err != nil || len(files) != want {
			t.Errorf("%v %v, want %d", files, err, want)
		}
		s.Close()
		write(t, dir, map[string]string{"config.json": "{}"})
	}
}

// TestSideFilesHub: the files of a snapshot are links into blobs, outside the snapshot.
func TestSideFilesHub(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "models--org--name")
	hub(t, dir)
	write(t, dir, map[string]string{"blobs/sha-tok": "tok"})
	symlink(t, filepath.Join("..", "..", "blobs", "sha-tok"), filepath.Join(dir, "snapshots", "abc123", "tokenizer.json"))
	other := filepath.Join(filepath.Dir(dir), "models--org--private")
	write(t, other, map[string]string{"blobs/sha-notes": "not this model's"})
	symlink(t, filepath.Join(other, "blobs", "sha-notes"), filepath.Join(dir, "snapshots", "abc123", "notes.bin"))
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	files, _, err := s.SideFiles()
	if err != nil || len(files) != 1 || files[0].Rel != "tokenizer.json" || files[0].Size != 3 {
		t.Errorf("%v %v", files, err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Rename(filepath.Join(dir, "blobs"), disk); err != nil {
		t.Fatal(err)
	}
	symlink(t, disk, filepath.Join(dir, "blobs"))
	elsewhere, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	if files, _, err := elsewhere.SideFiles(); err != nil || len(files) != 1 {
		t.Errorf("blobs on another disk: %v %v", files, err)
	}
	symlink(t, filepath.Join(other, "blobs", "sha-notes"), filepath.Join(dir, "snapshots", "abc123", "notes.txt"))
	var in *InputError
	if _, _, err := s.SideFiles(); !errors.As(err, &in) || filepath.Base(in.File) != "notes.txt" {
		t.Errorf("another model's blob: %v", err)
	}
}

// TestSideFilesAmiss: what would be copied and is not there whole is an error, not left out.
func TestSideFilesAmiss(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, map[string]string{"notes": "private", "code/m.py": "x"})
	for _, c := range []struct{ name, target, found string }{
		{"tokenizer.json", "../../blobs/0123", "a symbolic link to nothing"},
		{"notes.txt", filepath.Join(outside, "notes"), "a symbolic link to " + filepath.Join(outside, "notes") + ", outside of it"},
		{"code", filepath.Join(outside, "code"), "a symbolic link to " + filepath.Join(outside, "code") + ", outside of it"},
		{"1_Pooling/config.json", filepath.Join(outside, "notes"), "a symbolic link to " + filepath.Join(outside, "notes") + ", outside of it"},
	} {
		dir := t.TempDir()
		sharded(t, dir)
		link := filepath.Join(dir, filepath.FromSlash(c.name))
		symlink(t, c.target, link)
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var in *InputError
		if _, _, err := s.SideFiles(); !errors.As(err, &in) || in.File != link || in.Found != c.found {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestSideFilesPointer(t *testing.T) {
	dir := t.TempDir()
	sharded(t, dir)
	write(t, dir, map[string]string{"tokenizer.json": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "README.md": "short"})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var in *InputError
	if _, _, err := s.SideFiles(); !errors.As(err, &in) || in.File != filepath.Join(dir, "tokenizer.json") ||
		in.Found != "a Git LFS pointer" || in.Hint != "run git lfs pull in its repository" {
		t.Errorf("error %v", err)
	}
}
