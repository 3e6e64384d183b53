// Package checkpoint is a model directory: its tensors across shards, its config.json and the files beside them on
// the way in, and a directory that appears whole or not at all on the way out. It knows nothing of quantization.
//
// A source is one of
//   - a directory with model.safetensors, or with model.safetensors.index.json and the shards it names (or the same
//     under the name diffusion_pytorch_model);
//   - one .safetensors file that is not a shard of an index;
//   - a hub cache: a snapshot directory, whose files are symbolic links, or the models--org--name directory above it.
//
// What is wrong with a source's content is an *InputError, a *safetensors.FormatError or a
// *safetensors.UnsupportedError; any other error is of reading it.
package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/safetensors"
)

// Source is an opened checkpoint. Its fields must not be changed; its tensors may be read from several goroutines.
type Source struct {
	Path     string   // as given to Open
	Dir      string   // the directory of the model, a hub cache resolved to its snapshot
	IsFile   bool     // Path is a single .safetensors file
	Base     string   // "model" or "diffusion_pytorch_model", as the weights are called; "model" for a single file
	Config   []byte   // config.json as it stands, checked to be JSON; nil if there is none
	Index    *Index   // nil for a single file
	Shards   []*Shard // by name
	Tensors  []Tensor // by name
	Warnings []string // what is odd about the directory but harmless here
}

// Shard is one file of a Source.
type Shard struct {
	Name string // in Source.Dir
	*safetensors.File
}

// Tensor is a tensor and the shard it lies in.
type Tensor struct {
	*safetensors.Tensor
	Shard *Shard
}

// Open opens the checkpoint at path, reads every header and checks that index and shards agree. It reads no tensor.
func Open(path string) (*Source, error) {
	s := &Source{Path: path}
	if err := s.open(); err != nil {
		_ = s.Close() // the first error is the one to tell
		return nil, err
	}
	return s, nil
}

func (s *Source) open() error {
	info, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	if info.IsDir() {
		err = s.openDir()
	} else {
		err = s.openFile(info)
	}
	if err != nil {
		return err
	}
	return s.readConfig()
}

// Close closes every shard.
func (s *Source) Close() error {
	var errs []error
	for _, sh := range s.Shards {
		errs = append(errs, sh.Close())
	}
	return errors.Join(errs...)
}

// Lookup returns the tensor of that name.
func (s *Source) Lookup(name string) (Tensor, bool) {
	i, ok := slices.BinarySearchFunc(s.Tensors, name, func(t Tensor, name string) int { return cmp.Compare(t.Name, name) })
	if !ok {
		return Tensor{}, false
	}
	return s.Tensors[i], true
}

// TensorBytes is the sum of all tensors' sizes.
func (s *Source) TensorBytes() int64 {
	var n int64
	for _, t := range s.Tensors {
		n += t.Size()
	}
	return n
}

// addShard opens one file of s.Dir and files its tensors.
func (s *Source) addShard(name string) error {
	f, err := openShard(filepath.Join(s.Dir, name))
	if err != nil {
		return err
	}
	s.add(name, f)
	return nil
}

func (s *Source) add(name string, f *safetensors.File) {
	sh := &Shard{Name: name, File: f}
	s.Shards = append(s.Shards, sh)
	for _, t := range f.Tensors() {
		s.Tensors = append(s.Tensors, Tensor{Tensor: t, Shard: sh})
	}
}

func openShard(path string) (*safetensors.File, error) {
	if err := checkWeightFile(path); err != nil {
		if info, lerr := os.Lstat(path); lerr == nil && info.Mode()&fs.ModeSymlink != 0 && errors.Is(err, fs.ErrNotExist) {
			return nil, &InputError{File: path, Expected: "a file", Found: "a symbolic link to nothing",
				Hint: "the download is incomplete: fetch the model again", Err: fs.ErrNotExist}
		}
		return nil, err
	}
	return safetensors.Open(path)
}

// openShards opens files of dir side by side, since reading a header is work for the processor. After an error no
// further file is begun; the first error in the order of names is at the index of the first file that is nil.
func openShards(dir string, names []string) ([]*safetensors.File, []error) {
	files := make([]*safetensors.File, len(names))
	errs := make([]error, len(names))
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(len(names), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				if files[i], errs[i] = openShard(filepath.Join(dir, names[i])); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return files, errs
}

// finish sorts the tensors and refuses a name that two shards hold.
func (s *Source) finish() error {
	slices.SortStableFunc(s.Tensors, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(s.Tensors); i++ {
		if a, b := s.Tensors[i-1], s.Tensors[i]; a.Name == b.Name {
			return &InputError{File: b.Shard.File.Name(), Tensor: b.Name, Expected: "each tensor in one shard",
				Found: "it in " + a.Shard.Name + " too", Hint: "the directory mixes two checkpoints: fetch it again into an empty one"}
		}
	}
	return nil
}

// readConfig reads config.json beside the weights, if there is one.
func (s *Source) readConfig() error {
	path := filepath.Join(s.Dir, configName)
	raw, err := readSmall(path, MaxConfigSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := parseConfig(path, raw); err != nil {
		return err
	}
	s.Config = raw
	return nil
}

// ReadFile reads a small file of the model directory, such as quantize_config.json; nil without an error if it is not
// there.
func (s *Source) ReadFile(name string) ([]byte, error) {
	raw, err := readSmall(filepath.Join(s.Dir, filepath.FromSlash(name)), MaxConfigSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// readSmall reads a regular file of at most limit bytes, symbolic links followed.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	tooLarge := &InputError{File: path, Expected: fmt.Sprintf("at most %d bytes", limit), Found: "more"}
	if info.Size() > limit {
		return nil, tooLarge
	}
	var raw bytes.Buffer
	raw.Grow(int(info.Size()) + bytes.MinRead) // so that ReadFrom never moves what it has read
	switch n, err := raw.ReadFrom(io.LimitReader(f, limit+1)); {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case n > limit: // it has grown since
		return nil, tooLarge
	}
	return raw.Bytes(), nil
}

// openRegular opens a regular file for reading. Anything else is an *InputError, found before it is opened: opening
// a named pipe would wait for a writer.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &InputError{File: path, Expected: "a regular file", Found: modeName(info.Mode())}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	return f, nil
}

func modeName(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "something else"
}
