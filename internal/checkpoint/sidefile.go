package checkpoint

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// SideFile is a file to be copied beside the weights.
type SideFile struct {
	Rel  string // with slashes, below the model directory
	Path string // to read it from; symbolic links not yet followed
	Size int64
}

// Skipped is a file or directory that is not copied, and why.
type Skipped struct {
	Rel    string
	Reason string
}

const (
	maxSideDepth   = 8
	maxSideEntries = 20_000
	// maxSideSize bounds a file that is copied on its extension alone; the largest tokenizers are some 35 MB.
	maxSideSize = 256 << 20
)

// SideFiles lists what makes the directory usable besides config.json (which is edited, not copied) and the weights:
// tokenizer, generation and processor files, chat templates, code, licence, the modules of a sentence-transformers
// model. Symbolic links of files are followed, links of directories only within the model directory; whatever is not a
// regular file is left out. For a single file without a config.json beside it there are none. Both lists are sorted.
func (s *Source) SideFiles() ([]SideFile, []Skipped, error) {
	if s.IsFile && s.Config == nil {
		return nil, nil, nil
	}
	root, err := filepath.EvalSymlinks(s.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list source: %w", err)
	}
	w := &sideWalker{root: root, above: map[string]bool{root: true}}
	if err := w.dir(s.Dir, "", 0); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(w.files, func(a, b SideFile) int { return strings.Compare(a.Rel, b.Rel) })
	slices.SortFunc(w.skipped, func(a, b Skipped) int { return strings.Compare(a.Rel, b.Rel) })
	return w.files, w.skipped, nil
}

type sideWalker struct {
	root    string
	above   map[string]bool // the resolved directories on the way down, against links that lead back
	files   []SideFile
	skipped []Skipped
	entries int
}

func (w *sideWalker) skip(rel, reason string) { w.skipped = append(w.skipped, Skipped{rel, reason}) }

func (w *sideWalker) dir(dir, rel string, depth int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list source: %w", err)
	}
	if w.entries += len(entries); w.entries > maxSideEntries {
		return &InputError{File: w.root, Expected: fmt.Sprintf("at most %d files", maxSideEntries), Found: "more",
			Hint: "is this a model directory?"}
	}
	module := modulePattern.MatchString(path.Base(rel))
	for _, e := range entries {
		name, full := e.Name(), filepath.Join(dir, e.Name())
		sub := path.Join(rel, name)
		info, err := os.Stat(full)
		switch {
		case err != nil:
			w.skip(sub, "a link to nothing")
		case strings.ContainsAny(name, `\:`):
			w.skip(sub, "a name that not every system has")
		case info.IsDir():
			if err := w.subdir(full, sub, depth); err != nil {
				return err
			}
		case !info.Mode().IsRegular():
			w.skip(sub, modeName(info.Mode()))
		default:
			if reason := refuseFile(name, info.Size(), rel, module, entries); reason != "" {
				w.skip(sub, reason)
			} else if rel != "" || name != configName {
				if err := refusePointer(full, info.Size()); err != nil {
					return err
				}
				w.files = append(w.files, SideFile{Rel: sub, Path: full, Size: info.Size()})
			}
		}
	}
	return nil
}

// refusePointer stops at a file whose content has stayed behind in Git LFS: a tokenizer of 130 bytes would pass for
// one until the model is loaded.
func refusePointer(path string, size int64) error {
	if size > 1024 { // the format's own limit
		return nil
	}
	raw, err := readSmall(path, MaxConfigSize)
	if err == nil && bytes.HasPrefix(raw, lfsPrefix) {
		return &InputError{File: path, Expected: "the content of the file", Found: "a Git LFS pointer", Hint: lfsHint}
	}
	return err
}

// modulePattern is a module of a sentence-transformers model, such as 1_Pooling or 2_Dense; its weights are not those
// of the transformer and are copied as they are.
var modulePattern = regexp.MustCompile(`^[0-9]+_[A-Za-z0-9]+$`)

func (w *sideWalker) subdir(full, rel string, depth int) error {
	name := path.Base(rel)
	switch {
	case strings.HasPrefix(name, "."), name == "__pycache__":
		w.skip(rel, "not part of a model")
		return nil
	case depth == maxSideDepth:
		w.skip(rel, "nested too deep")
		return nil
	}
	real, err := filepath.EvalSymlinks(full)
	if err != nil {
		w.skip(rel, "a link to nothing")
		return nil
	}
	if !within(w.root, real) {
		w.skip(rel, "a link out of the model directory")
		return nil
	}
	if w.above[real] {
		w.skip(rel, "a link to a directory above it")
		return nil
	}
	if name != "additional_chat_templates" && !modulePattern.MatchString(name) && !holdsCode(full) {
		w.skip(rel, "not a directory that loaders read")
		return nil
	}
	w.above[real] = true
	defer delete(w.above, real)
	return w.dir(full, rel, depth+1)
}

// holdsCode reports whether a directory is a package of Python modules.
func holdsCode(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".py") })
}

// within reports whether p is dir or below it; both must be resolved.
func within(dir, p string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

// copyExt are the extensions of what loaders, tokenizers and people read besides weights.
var copyExt = []string{".json", ".jsonl", ".txt", ".jinja", ".model", ".tiktoken", ".py", ".md", ".rst", ".vocab", ".bpe", ".codes", ".spm"}

// copyName matches files without such an extension that are copied.
var copyName = regexp.MustCompile(`(?i)^(licen[cs]e|notice|copying|readme|use_policy|acceptable_use_policy|third_party)`)

// refuseName matches what must not stand beside quantized weights: other forms of the weights, the marks of another
// quantization method, training state, and Mistral's params.json, by which vLLM picks another format.
var refuseName = regexp.MustCompile(`^(adapter_.*|hf_quant_config\.json|quantize_config\.json|quant_config\.json|quantization_config\.json|` +
	`params\.json|.*\.index(\..*)?\.json|trainer_state\.json)$`)

// refuseFile says why a file is not copied, "" if it is.
func refuseFile(name string, size int64, dir string, module bool, beside []fs.DirEntry) string {
	ext := strings.ToLower(path.Ext(name))
	switch {
	case strings.HasPrefix(name, "."):
		return "not part of a model"
	case module && ext == weightExt:
		return ""
	case module && name == "pytorch_model.bin":
		if slices.ContainsFunc(beside, func(e fs.DirEntry) bool { return e.Name() == "model.safetensors" }) {
			return "the same weights as model.safetensors"
		}
		return ""
	case slices.Contains([]string{weightExt, ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".tflite"}, ext):
		return "weights in another form"
	case dir == "" && refuseName.MatchString(name):
		return "would mislead loaders beside the new weights"
	case !slices.Contains(copyExt, ext) && !copyName.MatchString(name):
		return "not a file that loaders read"
	case size > maxSideSize:
		return "too large for a side file"
	}
	return ""
}
