package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A shard that is used up leaves its header under its name and consumedSuffix, and behind it a line with its size and ContentID: the source
// can still be opened, planned from and told from another, and its weights cannot be read.
const consumedSuffix = ".nf4kit-consumed"

// maxConsumed bounds what is read of such a file: the largest header, and the line.
const maxConsumed = 100_000_000 + 8 + 1024

const consumedHint = "what has used it up is finished by the command that began it; for anything else fetch the file again"

// CheckConsumable says why the shards of the source may not be used up, nil if they may: they must be files of this machine under their own
// names, so that nothing else loses them by a link.
func (s *Source) CheckConsumable() error {
	if !s.IsLocal() {
		return &InputError{File: s.Path, Expected: "weights files of this machine", Found: "a source elsewhere", Hint: "leave --consume-source away"}
	}
	tried := map[string]bool{}
	for _, sh := range s.Shards {
		if sh.Consumed() {
			continue
		}
		info, err := os.Lstat(s.at(sh.Name))
		if err != nil {
			return fmt.Errorf("consume source: %w", err)
		}
		if !info.Mode().IsRegular() {
			return &InputError{File: s.at(sh.Name), Expected: "a regular file", Found: modeName(info.Mode()) + ", as in a hub cache, which others may use",
				Hint: "leave --consume-source away, or copy the model first (hf download --local-dir)"}
		}
		dir := filepath.Dir(s.at(sh.Name))
		if tried[dir] {
			continue
		}
		tried[dir] = true
		// What is found out now is not found out hours later, when the first file goes.
		if err := tryWriting(dir); err != nil {
			return fmt.Errorf("consume source: %w", err)
		}
	}
	return nil
}

// tryWriting makes a file in dir and removes it.
func tryWriting(dir string) error {
	f, err := os.CreateTemp(dir, ".nf4kit-*.tmp")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Consume removes the file of a shard whose weights are not needed any more, and leaves a mark of it. Whenever the power goes, the file or the mark
// is there.
func (s *Source) Consume(sh *Shard) error {
	if sh.Consumed() {
		return nil
	}
	if err := s.consume(sh); err != nil {
		return fmt.Errorf("consume %s: %w", sh.Path(), err)
	}
	return nil
}

func (s *Source) consume(sh *Shard) error {
	id, err := sh.ContentID()
	if err != nil {
		return err
	}
	header, err := sh.ReadHeader()
	if err != nil {
		return err
	}
	mark := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	mark = fmt.Appendf(append(mark, header...), "%d %s\n", sh.Size(), id)
	path := s.at(sh.Name)
	f, err := os.CreateTemp(filepath.Dir(path), ".nf4kit-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(mark)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path+consumedSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return s.remove(sh)
}

// Discard removes what is left of the shards, files and marks: everything was made of them.
func (s *Source) Discard() error {
	var errs []error
	for _, sh := range s.Shards {
		errs = append(errs, s.remove(sh))
		if err := os.Remove(s.at(sh.Name) + consumedSuffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("consume source: %w", err)
	}
	return nil
}

// remove closes the file first: as long as it is open, its space is not free.
func (s *Source) remove(sh *Shard) error {
	if err := sh.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	path := s.at(sh.Name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Consumed reports whether the weights of the shard were used up before it was opened.
func (sh *Shard) Consumed() bool {
	_, ok := sh.file.(*consumed)
	return ok
}

// Unread is the error of a shard whose weights cannot be read any more, nil of any other.
func (sh *Shard) Unread() error {
	if c, ok := sh.file.(*consumed); ok {
		return c.err()
	}
	return nil
}

// consumed is the file of a shard that is used up: its header.
type consumed struct {
	path, id string
	header   []byte
}

func (c *consumed) Name() string { return c.path }
func (c *consumed) Close() error { return nil }

func (c *consumed) err() error {
	return &InputError{File: c.path, Expected: "the weights", Found: "a file that convert --consume-source has used up", Hint: consumedHint}
}

func (c *consumed) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(c.header)) {
		return 0, c.err()
	}
	return copy(p, c.header[off:]), nil
}

// openConsumed opens what Consume has left of a shard; nil without an error if it has not.
func (s *Source) openConsumed(name string) (*Shard, error) {
	path := s.at(name)
	raw, err := ReadRegular(path+consumedSuffix, maxConsumed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, size, ok := parseConsumed(raw)
	if !ok {
		return nil, &InputError{File: path + consumedSuffix, Expected: "a header and a line behind it", Found: "other bytes", Hint: "fetch the model again"}
	}
	c.path = path
	r, err := safetensors.NewNamedReader(path, c, size)
	if err != nil {
		return nil, err
	}
	return &Shard{Name: name, Reader: r, file: c}, nil
}

func parseConsumed(raw []byte) (c *consumed, size int64, ok bool) {
	if len(raw) < 8 {
		return nil, 0, false
	}
	n := binary.LittleEndian.Uint64(raw)
	if n > uint64(len(raw)-8) {
		return nil, 0, false
	}
	header, line := raw[:8+n], raw[8+n:]
	line, whole := bytes.CutSuffix(line, []byte{'\n'})
	number, id, both := strings.Cut(string(line), " ")
	size, err := strconv.ParseInt(number, 10, 64)
	if !whole || !both || id == "" || err != nil || size < int64(len(header)) {
		return nil, 0, false
	}
	return &consumed{id: id, header: header}, size, true
}
