package checkpoint

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// SideFile is a file to be copied beside the weights.
type SideFile struct {
	Rel  string // with slashes, below the model directory
	Path string // to read it from; symbolic links not yet followed. With OpenFS it is for messages alone
	Size int64

	fsys fs.FS // to read it from; nil for a local file
}

// Skipped is a file or directory that is not copied, and why.
type Skipped struct {
	Rel    string
	Reason string
	Dir    bool // a directory that may hold something of the model's; not one such as .git
}

const (
	maxSideDepth   = 8
	maxSideEntries = 20_000
	// maxSideSize bounds a file that is copied on its extension alone; the largest tokenizers are some 35 MB.
	maxSideSize = 256 << 20
)

// SideFiles lists what makes the directory usable besides config.json (which is edited, not copied) and the weights:
// tokenizer, generation and processor files, chat templates, code, licence, the modules of a sentence-transformers
// model. For a single file without a config.json beside it there are none. Both lists are sorted.
//
// A file that would be copied but is not what it should be is an error, for without it the output would be incomplete:
// a link to nothing, as a download that was cut short leaves it, a link out of the model directory (see ReadFile), a
// named pipe, or what cannot be examined.
func (s *Source) SideFiles() ([]SideFile, []Skipped, error) {
	if s.IsFile && s.Config == nil {
		return nil, nil, nil
	}
	w := &sideWalker{src: s, above: map[string]bool{}}
	if s.fsys == nil {
		w.above[s.roots[0]] = true
	}
	if err := w.dir("", 0); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(w.files, func(a, b SideFile) int { return strings.Compare(a.Rel, b.Rel) })
	slices.SortFunc(w.skipped, func(a, b Skipped) int { return strings.Compare(a.Rel, b.Rel) })
	return w.files, w.skipped, nil
}

type sideWalker struct {
	src     *Source
	above   map[string]bool // the resolved directories on the way down, against links that lead back
	files   []SideFile
	skipped []Skipped
	entries int
}

func (w *sideWalker) skip(rel, reason string) {
	w.skipped = append(w.skipped, Skipped{Rel: rel, Reason: reason})
}

func (w *sideWalker) skipDir(rel, reason string) {
	w.skipped = append(w.skipped, Skipped{Rel: rel, Reason: reason, Dir: true})
}

func (w *sideWalker) dir(rel string, depth int) error {
	entries, err := w.src.ReadDir(rel)
	if err != nil {
		return fmt.Errorf("list source: %w", err)
	}
	if w.entries += len(entries); w.entries > maxSideEntries {
		return &InputError{File: w.src.Dir, Expected: fmt.Sprintf("at most %d files", maxSideEntries), Found: "more",
			Hint: "is this a model directory?"}
	}
	module := modulePattern.MatchString(path.Base(rel))
	for _, e := range entries {
		name := e.Name()
		sub := path.Join(rel, name)
		info, err := w.src.stat(sub, e)
		if err == nil && info.IsDir() && !strings.ContainsAny(name, `\:`) {
			if err := w.subdir(sub, depth); err != nil {
				return err
			}
			continue
		}
		size := int64(0)
		if err == nil {
			size = info.Size()
		}
		switch reason := refuseFile(name, size, rel, module, entries); {
		case reason != "":
			w.skip(sub, reason)
		case rel == "" && name == configName:
		default:
			if w.src.fsys == nil {
				if size, err = w.checkFile(w.src.at(sub)); err != nil {
					return err
				}
			}
			w.files = append(w.files, SideFile{Rel: sub, Path: w.src.at(sub), Size: size, fsys: w.src.fsys})
		}
	}
	return nil
}

// checkFile requires a regular file within the model directory whose content has not stayed behind in Git LFS: a
// tokenizer of 130 bytes would pass for one until the model is loaded.
func (w *sideWalker) checkFile(path string) (size int64, err error) {
	f, err := w.src.openInside(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("list source: %w", err)
	}
	head := make([]byte, len(lfsPrefix))
	if n, _ := io.ReadFull(f, head); info.Size() <= maxPointer && bytes.Equal(head[:n], lfsPrefix) { // copying will tell of an error
		return 0, &InputError{File: path, Expected: "the content of the file", Found: "a Git LFS pointer", Hint: lfsHint}
	}
	return info.Size(), nil
}

// maxPointer is Git LFS's own limit on the size of a pointer.
const maxPointer = 1024

// modulePattern is a module of a sentence-transformers model, such as 1_Pooling or 2_Dense; its weights are not those
// of the transformer and are copied as they are.
var modulePattern = regexp.MustCompile(`^[0-9]+_[A-Za-z0-9]+$`)

func (w *sideWalker) subdir(rel string, depth int) error {
	name := path.Base(rel)
	switch {
	case strings.HasPrefix(name, "."), name == "__pycache__":
		w.skip(rel, "not part of a model")
		return nil
	case depth == maxSideDepth:
		w.skipDir(rel, "nested too deep")
		return nil
	}
	real := ""
	if w.src.fsys == nil {
		var err error
		if real, err = resolve(w.src.at(rel)); err != nil {
			return fmt.Errorf("list source: %w", err)
		}
		if w.above[real] {
			w.skip(rel, "a link to a directory above it")
			return nil
		}
	}
	if name != "additional_chat_templates" && !modulePattern.MatchString(name) {
		switch code, err := w.holdsCode(rel); {
		case err != nil:
			w.skipDir(rel, "it cannot be listed")
			return nil
		case !code:
			w.skipDir(rel, "not a directory that loaders read")
			return nil
		}
	}
	if w.src.fsys != nil { // it has no links
		return w.dir(rel, depth+1)
	}
	if err := w.src.checkInside(w.src.at(rel)); err != nil {
		return err
	}
	w.above[real] = true
	defer delete(w.above, real)
	return w.dir(rel, depth+1)
}

// holdsCode reports whether a directory is a package of Python modules.
func (w *sideWalker) holdsCode(rel string) (bool, error) {
	entries, err := w.src.ReadDir(rel)
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".py") }), err
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
	case strings.ContainsAny(name, `\:`):
		return "a name that not every system has"
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
