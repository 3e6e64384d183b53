// Package checkpoint is a model directory: its tensors across shards, its config.json and the files beside them on
// the way in, and a directory that appears whole or not at all on the way out. It knows nothing of quantization.
//
// A source is one of
//   - a directory with model.safetensors, or with model.safetensors.index.json and the shards it names (or the same
//     under the name diffusion_pytorch_model);
//   - one .safetensors file that is not a shard of an index;
//   - a hub cache: a snapshot directory, whose files are symbolic links, or the models--org--name directory above it;
//   - any of these but the last in a file system of the caller's, such as that of a server: see OpenFS.
//
// What is wrong with a source's content is an *InputError, a *safetensors.FormatError or a
// *safetensors.UnsupportedError; any other error is of reading it.
package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	Shards   []*Shard // in the order in which transformers reads them, see Index.Shards
	Tensors  []Tensor // by name
	Warnings []string // what is odd about the directory but harmless here

	// Repo and Commit name the model on a hub: org/name, and what its revision was pinned to. "" where it is not known to be of one.
	Repo, Commit string

	roots []string // resolved directories in which the files beside the weights may lie
	fsys  fs.FS    // of OpenFS; nil for a local path
}

// Shard is one file of a Source.
type Shard struct {
	Name string // in Source.Dir, with slashes
	*safetensors.Reader
	file backing
}

// backing is what a shard is read from.
type backing interface {
	Name() string
	Close() error
}

// Size is how many bytes the file has, by its header: tensors follow it without a gap. Of a shard that is used up it is the
// size that it had.
func (sh *Shard) Size() int64 {
	size := sh.HeaderSize()
	for _, t := range sh.Tensors() {
		size += t.Size()
	}
	return size
}

// Close closes the file.
func (sh *Shard) Close() error { return sh.file.Close() }

// Path is the shard's name in messages: that of its file, or its address.
func (sh *Shard) Path() string { return sh.file.Name() }

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
	if errors.Is(err, fs.ErrNotExist) {
		return &MissingError{Path: s.Path, Err: err}
	}
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
	return s.finishOpen()
}

// finishOpen is what remains to be done once the shards are open.
func (s *Source) finishOpen() error {
	if len(s.Tensors) > MaxTensors {
		return &InputError{File: s.Path, Expected: fmt.Sprintf("at most %d tensors in all files", MaxTensors), Found: fmt.Sprint(len(s.Tensors))}
	}
	return s.readConfig()
}

// Close closes every shard.
func (s *Source) Close() error {
	var errs []error
	for _, sh := range s.Shards {
		if err := sh.Close(); !errors.Is(err, fs.ErrClosed) { // by Consume
			errs = append(errs, err)
		}
	}
	if c, ok := s.fsys.(io.Closer); ok {
		errs = append(errs, c.Close())
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
	sh, err := s.openShard(name)
	if err != nil {
		return err
	}
	s.add(sh)
	return nil
}

// MaxTensors bounds the tensors of a checkpoint, in all its files. The largest known models have some 140,000, and
// some 830,000 when every expert is quantized with five sidecars.
const MaxTensors = 1 << 20

func (s *Source) add(sh *Shard) {
	s.Shards = append(s.Shards, sh)
	for _, t := range sh.Tensors() {
		s.Tensors = append(s.Tensors, Tensor{Tensor: t, Shard: sh})
	}
}

func (s *Source) openShard(name string) (*Shard, error) {
	if s.fsys != nil {
		return s.openStoredShard(name)
	}
	path := s.at(name)
	if err := checkWeightFile(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if sh, err := s.openConsumed(name); sh != nil || err != nil {
				return sh, err
			}
		}
		return nil, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	return &Shard{Name: name, Reader: f.Reader, file: f}, nil
}

// openShards opens files side by side, since reading a header is work for the processor, or waiting for a server. After an error no
// further file is begun; the first error in the order of names is at the index of the first file that is nil.
func (s *Source) openShards(names []string) ([]*Shard, []error) {
	files := make([]*Shard, len(names))
	errs := make([]error, len(names))
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	atOnce := runtime.GOMAXPROCS(0)
	if s.fsys != nil {
		atOnce = max(atOnce, storedAtOnce)
	}
	for range min(len(names), atOnce) {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				if files[i], errs[i] = s.openShard(names[i]); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return files, errs
}

// readConfig reads config.json beside the weights, if there is one.
func (s *Source) readConfig() error {
	raw, err := s.ReadFile(configName, MaxConfigSize)
	if err != nil || raw == nil {
		return err
	}
	if _, err := parseConfig(s.at(configName), raw); err != nil {
		return err
	}
	s.Config = raw
	return nil
}
