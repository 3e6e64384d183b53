package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	configName  = "config.json"
	weightExt   = ".safetensors"
	indexSuffix = ".safetensors.index.json"
)

// bases are the names under which loaders look for weights: transformers (utils/__init__.py, SAFE_WEIGHTS_NAME) and
// diffusers (utils/constants.py, SAFETENSORS_WEIGHTS_NAME), in order of preference.
var bases = []string{"model", DiffusersBase}

// DiffusersBase is the base name of the weights files that diffusers loads.
const DiffusersBase = "diffusion_pytorch_model"

// openDir finds the weights of a directory.
//
// model.safetensors beside an index that names other files is refused: transformers then reads the single file, vLLM
// and SGLang the shards, so that there is no telling which of two models is meant.
func (s *Source) openDir() error {
	s.Dir = s.Path
	if err := s.resolveHub(); err != nil {
		return err
	}
	if err := s.findRoots(); err != nil {
		return err
	}
	return s.findWeights()
}

// findWeights opens the weights of s.Dir.
func (s *Source) findWeights() error {
	entries, err := s.ReadDir("")
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	names := make(map[string]bool, len(entries))
	for _, e := range entries {
		names[e.Name()] = true
	}
	for _, base := range bases {
		single, index := base+weightExt, base+indexSuffix
		switch {
		case names[index]:
			err = s.openIndexed(base, names[single])
		case names[single]:
			s.Base = base
			if err = s.addShard(single); err == nil {
				err = s.finish()
			}
		default:
			continue
		}
		if err != nil {
			return err
		}
		s.warnStrays(entries)
		return nil
	}
	return s.noWeights(entries)
}

// openIndexed opens the shards that an index names and compares the two.
func (s *Source) openIndexed(base string, single bool) error {
	s.Base = base
	indexPath := s.at(base + indexSuffix)
	raw, err := s.readInside(base+indexSuffix, MaxIndexSize)
	if err != nil {
		return err
	}
	if s.Index, err = ParseIndex(indexPath, raw); err != nil {
		return err
	}
	shards := s.Index.Shards()
	if len(shards) == 0 {
		return &InputError{File: indexPath, Expected: "tensors in weight_map", Found: "none"}
	}
	if single && !slices.Contains(shards, base+weightExt) {
		return &InputError{File: s.at(base + weightExt), Expected: "no single file beside an index of other shards",
			Found: "both, which loaders choose between differently",
			Hint:  "remove the one that is stale, or give the file itself as the source"}
	}
	if !s.Index.HasMetadata {
		s.Warnings = append(s.Warnings, indexPath+": no metadata object, which transformers requires")
	}
	for _, name := range shards {
		if err := s.checkFolder(name); err != nil {
			return err
		}
	}
	files, errs := s.openShards(shards)
	for i, name := range shards {
		err := errs[i]
		if err == nil {
			s.add(files[i])
			continue
		}
		for _, f := range files[i:] {
			if f != nil {
				_ = f.Close() // the first error is the one to tell
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return &InputError{File: indexPath, Expected: "the shards it names", Found: name + " missing",
				Hint: "fetch the missing shard", Err: fs.ErrNotExist}
		}
		return err
	}
	if err := s.finish(); err != nil {
		return err
	}
	s.compareIndex(indexPath)
	return nil
}

// checkFolder refuses a shard in a folder that is a link out of the directory. The shard itself may be a link to
// anywhere, to another disk for one: nothing but tensors is read from it.
func (s *Source) checkFolder(name string) error {
	folder := path.Dir(name)
	if folder == "." || s.fsys != nil {
		return nil
	}
	err := s.checkInside(s.at(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // which opening the shard will tell
	}
	return err
}

// warnStrays lists safetensors files that are not part of the checkpoint: SGLang would read them all.
func (s *Source) warnStrays(entries []fs.DirEntry) {
	for _, e := range entries {
		used := slices.ContainsFunc(s.Shards, func(sh *Shard) bool { return sh.Name == e.Name() })
		if !used && strings.HasSuffix(e.Name(), weightExt) {
			s.Warnings = append(s.Warnings, s.at(e.Name())+": not part of the checkpoint, left out")
		}
	}
}

// noWeights says why a directory cannot be read, as precisely as its files allow.
func (s *Source) noWeights(entries []fs.DirEntry) error {
	const want = "model.safetensors or model.safetensors.index.json"
	first := func(match func(name string) bool) string {
		i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return match(e.Name()) })
		if i < 0 {
			return ""
		}
		return entries[i].Name()
	}
	ext := func(exts ...string) string {
		return first(func(name string) bool { return slices.Contains(exts, strings.ToLower(filepath.Ext(name))) })
	}
	e := &InputError{File: s.Dir, Expected: want}
	for _, c := range []struct{ found, what, hint string }{
		{first(func(n string) bool { return n == "adapter_model.safetensors" || n == "adapter_config.json" }), "a PEFT adapter (%s)",
			"nf4kit lora inspect shows it, nf4kit lora merge merges it into its base"},
		{first(func(n string) bool { return n == "model_index.json" }), "a diffusers pipeline (%s)",
			"give one of its model directories, such as transformer"},
		{first(transformerModule.MatchString), "a sentence-transformers model whose transformer is in %s",
			"convert that directory, into its place in a copy of the whole"},
		{first(func(n string) bool { return strings.HasPrefix(n, "consolidated") && strings.HasSuffix(n, weightExt) }),
			"weights in Mistral's own naming (%s)", "fetch the repository's model*.safetensors files"},
		{first(shardPattern.MatchString), "shards without an index (%s)", "fetch model.safetensors.index.json too"},
		{ext(weightExt), "safetensors files under other names (%s)", "give the file itself as the source"},
		{ext(".bin", ".pt", ".pth", ".ckpt", ".pkl"), "only pickled weights (%s)", pickleHint},
		{ext(".gguf", ".ggml"), "GGUF weights (%s)", "fetch the original model in safetensors"},
		{ext(".h5", ".msgpack", ".onnx", ".tflite"), "weights of another framework (%s)", "fetch the original model in safetensors"},
	} {
		if c.found != "" {
			e.Found, e.Hint = fmt.Sprintf(c.what, c.found), c.hint
			return e
		}
	}
	e.Found = "neither"
	if len(entries) == 0 {
		e.Found = "an empty directory"
	}
	return e
}

// transformerModule is the first module of a sentence-transformers model, where it does not lie at the root.
var transformerModule = regexp.MustCompile(`^0_[A-Za-z0-9_]+$`)

// lfsPrefix begins a Git LFS pointer (git-lfs, docs/spec.md).
var lfsPrefix = []byte("version https://git-lfs")

const lfsHint = "run git lfs pull in its repository"

const pickleHint = "convert them to safetensors first, with save_pretrained(dir, safe_serialization=True) of transformers"

// shardPattern is the hub's naming of shards: huggingface_hub/constants.py.
var shardPattern = regexp.MustCompile(`-([0-9]{5,})-of-([0-9]{5,})\.safetensors$`)

// openFile opens a single file, unless it is only a part of a model.
func (s *Source) openFile(info fs.FileInfo) error {
	s.IsFile, s.Base = true, bases[0]
	s.Dir = filepath.Dir(s.Path)
	if err := s.findRoots(); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &InputError{File: s.Path, Expected: "a model directory or a .safetensors file", Found: modeName(info.Mode())}
	}
	return s.openAlone(filepath.Base(s.Path))
}

// openAlone opens one file of s.Dir.
func (s *Source) openAlone(name string) error {
	if strings.HasSuffix(name, indexSuffix) {
		return &InputError{File: s.Path, Expected: "a model directory or a .safetensors file", Found: "an index",
			Hint: "give its directory, " + s.Dir}
	}
	if err := s.refuseLoneShard(name); err != nil {
		return err
	}
	if err := s.addShard(name); err != nil {
		return err
	}
	if m := shardPattern.FindStringSubmatch(name); m != nil && strings.Trim(m[2], "0") != "1" {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s: by its name one of %s shards; the others are left out", s.Path, strings.TrimLeft(m[2], "0")))
	}
	return s.finish()
}

// refuseLoneShard looks for an index beside the file that names it along with others.
func (s *Source) refuseLoneShard(name string) error {
	entries, err := s.ReadDir("")
	if err != nil {
		// A file in a directory that may be searched but not listed is still a file.
		return nil
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), indexSuffix) {
			continue
		}
		raw, err := s.readAnywhere(e.Name(), MaxIndexSize)
		if err != nil {
			continue // not this source's business
		}
		ix, err := ParseIndex(s.at(e.Name()), raw)
		if err != nil {
			continue
		}
		if shards := ix.Shards(); len(shards) > 1 && slices.Contains(shards, name) {
			return &InputError{File: s.Path, Expected: "a whole model", Found: fmt.Sprintf("one of the %d shards of %s", len(shards), e.Name()),
				Hint: "give the directory, " + s.Dir}
		}
	}
	return nil
}

// resolveHub follows a hub cache's models--org--name directory to the snapshot that refs/main names, or to the only
// snapshot there is (huggingface_hub, "Understand caching").
func (s *Source) resolveHub() error {
	snapshots := filepath.Join(s.Dir, snapshotsDir)
	entries, err := os.ReadDir(snapshots)
	if err != nil {
		return nil // no such directory: an ordinary model directory
	}
	if abs, err := filepath.Abs(s.Dir); err == nil && !isHubCache(abs) {
		return nil
	}
	ref := filepath.Join(s.Dir, "refs", "main")
	raw, err := ReadRegular(ref, 256)
	switch {
	case err == nil:
		commit := string(bytes.TrimSpace(raw))
		if commit == "" || commit == "." || !filepath.IsLocal(commit) || strings.ContainsAny(commit, `/\:`) {
			return &InputError{File: ref, Expected: "a commit", Found: fmt.Sprintf("%q", clip(commit))}
		}
		s.Dir = filepath.Join(snapshots, commit)
		if _, err := os.Stat(s.Dir); err != nil {
			return &InputError{File: ref, Expected: "the snapshot " + commit, Found: "none of that name", Hint: "download the model again", Err: err}
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dirs := slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() })
	slices.SortFunc(dirs, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	if len(dirs) != 1 {
		return &InputError{File: s.Dir, Expected: "refs/main or a single snapshot", Found: fmt.Sprintf("no refs/main and %d snapshots", len(dirs)),
			Hint: "give one of the directories in " + snapshots}
	}
	s.Dir = filepath.Join(snapshots, dirs[0].Name())
	return nil
}

// weightHead is how many bytes tell what a file is.
const weightHead = 64

// checkWeightFile opens path far enough to tell what it is if it is not safetensors at all, which says more than
// that its header length is absurd.
func checkWeightFile(path string) error {
	f, err := OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, weightHead)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return checkWeightHead(path, head[:n])
}

// checkWeightHead says what a file is that does not begin as safetensors does.
func checkWeightHead(path string, head []byte) error {
	if len(head) > 8 && head[8] == '{' {
		return nil
	}
	e := &InputError{File: path, Expected: "a safetensors file"}
	switch {
	case bytes.HasPrefix(head, lfsPrefix):
		e.Found, e.Hint = "a Git LFS pointer", lfsHint
	case bytes.HasPrefix(head, []byte("GGUF")), bytes.HasPrefix(head, []byte("tjgg")):
		e.Found, e.Hint = "a GGUF file", "give the original model in safetensors"
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("\x80\x02")), bytes.HasPrefix(head, []byte("\x80\x04")):
		e.Found, e.Hint = "pickled weights", pickleHint
	case bytes.HasPrefix(bytes.ToLower(head), []byte("<!doctype html")), bytes.HasPrefix(bytes.ToLower(head), []byte("<html")):
		e.Found, e.Hint = "a web page", "the download went wrong: fetch the file again"
	case filepath.Ext(path) == ".json":
		e.Expected, e.Found, e.Hint = "a model directory or a .safetensors file", "JSON", "give its directory, "+filepath.Dir(path)
	case bytes.HasPrefix(head, []byte("\x89HDF")):
		e.Found, e.Hint = "an HDF5 file", "give the original model in safetensors"
	default:
		return nil
	}
	return e
}
