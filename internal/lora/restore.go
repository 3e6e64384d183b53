package lora

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// An Undo is an opened file that undoes a merge.
type Undo struct {
	path  string
	file  *os.File
	end   int64 // of the frames
	index undoIndex
	dec   *zstd.Decoder
}

// OpenUndo opens the file and checks its index against its size. Errors of content are [*Error].
func OpenUndo(path string) (*Undo, error) {
	f, err := checkpoint.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	u := &Undo{path: path, file: f}
	if err := u.readIndex(); err != nil {
		f.Close()
		return nil, err
	}
	if u.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(undoChunk), zstd.WithDecoderConcurrency(1)); err != nil {
		f.Close()
		return nil, err
	}
	return u, nil
}

// Close closes the file.
func (u *Undo) Close() error {
	u.dec.Close()
	return u.file.Close()
}

func (u *Undo) bad(key, expect, found string) error {
	return &Error{Path: u.path, Key: key, Expect: expect, Found: found, Hint: "give the file that merge --undo wrote"}
}

func (u *Undo) readIndex() error {
	info, err := u.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	head := make([]byte, len(undoMagic))
	if size < int64(len(head))+8 || stream.ReadFull(u.file, head, 0) != nil || string(head) != undoMagic {
		return u.bad("", "a file that undoes a merge", "another")
	}
	var tail [8]byte
	if err := stream.ReadFull(u.file, tail[:], size-8); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(tail[:])
	room := size - 8 - int64(len(undoMagic))
	if n > maxUndoIndex || int64(n) > room {
		return u.bad("", fmt.Sprintf("an index of at most %d bytes", min(room, maxUndoIndex)), fmt.Sprint(n))
	}
	raw := make([]byte, n)
	if err := stream.ReadFull(u.file, raw, size-8-int64(n)); err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&u.index); err != nil {
		return u.bad("", "an index", err.Error())
	}
	u.end = size - 8 - int64(n)
	for i := range u.index.Files {
		if err := u.checkFile(&u.index.Files[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkFile holds what the index says of a file to the frames.
func (u *Undo) checkFile(f *undoFile) error {
	if reason := checkpoint.UnsafeName(f.Name); reason != "" {
		return u.bad(f.Name, "the name of a file of a model", reason)
	}
	if err := u.checkFrames(f.Name, f.Frames, f.Bytes); err != nil {
		return err
	}
	rest := f.Size - f.Bytes
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Size < 0 || t.Size > rest {
			return u.bad(t.Name, fmt.Sprintf("a tensor within the %d bytes of %s", f.Size, f.Name), fmt.Sprintf("%d bytes", t.Size))
		}
		rest -= t.Size
		if t.Frames != nil {
			if err := u.checkFrames(t.Name, t.Frames, t.Size); err != nil {
				return err
			}
		}
	}
	if rest != 0 {
		return u.bad(f.Name, fmt.Sprintf("tensors and a header of %d bytes", f.Size), fmt.Sprintf("%d more", rest))
	}
	return nil
}

func (u *Undo) checkFrames(name string, frames []int64, size int64) error {
	if want := size/undoChunk + min(1, size%undoChunk); size < 0 || int64(len(frames))-1 != want {
		return u.bad(name, fmt.Sprintf("frames for %d bytes", size), fmt.Sprintf("%d of them", len(frames)-1))
	}
	last := int64(len(undoMagic))
	for i, at := range frames {
		if at < last || at > u.end || i > 0 && at-last > 2*undoChunk {
			return u.bad(name, "frames within the file, in order", fmt.Sprint(at))
		}
		last = at
	}
	return nil
}

// Count is the number of tensors that are not the merged model's.
func (u *Undo) Count() (n int) {
	for i := range u.index.Files {
		for j := range u.index.Files[i].Tensors {
			if u.index.Files[i].Tensors[j].Frames != nil {
				n++
			}
		}
	}
	return n
}

// Files is the number of the base's files.
func (u *Undo) Files() int { return len(u.index.Files) }

// Bytes are those of the base's files.
func (u *Undo) Bytes() (n int64) {
	for i := range u.index.Files {
		n += u.index.Files[i].Size
	}
	return n
}

// Left lists what the base's directory had and is not given back: other forms of the weights, training state.
func (u *Undo) Left() []string { return u.index.Left }

// Restore writes the base's files into the directory dst, which appears when all are complete and have the base's digests. That
// merged is not what the merge wrote is an [*Error]. done is told of bytes that were written.
func (u *Undo) Restore(ctx context.Context, merged *checkpoint.Source, dst string, opt checkpoint.Options, done func(name string, n int64)) (err error) {
	if err := u.checkTensors(merged); err != nil {
		return err
	}
	out, err := checkpoint.Create(dst, opt)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Abort())
		}
	}()
	if err := checkpoint.CheckSpace(out.Staging(), u.Bytes()); err != nil {
		return err
	}
	for i := range u.index.Files {
		f := &u.index.Files[i]
		if len(f.Tensors) == 0 && f.Size <= checkpoint.MaxConfigSize { // config.json is held back until Commit
			var b bytes.Buffer
			if err := errors.Join(u.write(ctx, &b, f, merged, done), out.WriteFile(f.Name, b.Bytes())); err != nil {
				return err
			}
			continue
		}
		w, err := out.CreateFile(f.Name, f.Size)
		if err != nil {
			return err
		}
		if err := errors.Join(u.write(ctx, w, f, merged, done), w.Close()); err != nil {
			return err
		}
	}
	return out.Commit(ctx)
}

// checkTensors requires the tensors that are to be read of the merged model.
func (u *Undo) checkTensors(merged *checkpoint.Source) error {
	for i := range u.index.Files {
		for j := range u.index.Files[i].Tensors {
			x := &u.index.Files[i].Tensors[j]
			if x.Frames != nil && x.Merged == "" {
				continue
			}
			t, ok := merged.Lookup(x.Name)
			if !ok || t.DType.String() != x.DType || !slices.Equal(t.Shape, x.Shape) || t.Size() != x.Size {
				return u.bad(x.Name, "a tensor of the merged model", "none of that name, dtype and shape in "+merged.Path)
			}
		}
	}
	return nil
}

// write writes one file of the base to w.
func (u *Undo) write(ctx context.Context, w io.Writer, f *undoFile, merged *checkpoint.Source, done func(string, int64)) error {
	whole := blake3.New()
	w = io.MultiWriter(w, whole)
	if err := u.frames(ctx, f.Name, f.Frames, f.Bytes, func(p []byte, _ int64) error {
		_, err := w.Write(p)
		return err
	}); err != nil {
		return err
	}
	for i := range f.Tensors {
		x := &f.Tensors[i]
		if err := u.tensor(ctx, w, x, merged); err != nil {
			return err
		}
		if done != nil {
			done(x.Name, x.Size)
		}
	}
	if got := hex.EncodeToString(whole.Sum(nil)); got != f.Digest {
		return &Error{Path: merged.Path, Expect: fmt.Sprintf("the tensors that the merge left as they were, so that %s has the digest %s", f.Name, clip(f.Digest)),
			Found: "others, which make it " + got, Hint: changedSince}
	}
	return nil
}

const changedSince = "the model was changed since, or is another"

// tensor writes a tensor of the base to w.
func (u *Undo) tensor(ctx context.Context, w io.Writer, x *undoTensor, merged *checkpoint.Source) error {
	if x.Frames != nil && x.Merged == "" {
		return u.frames(ctx, x.Name, x.Frames, x.Size, func(p []byte, _ int64) error {
			_, err := w.Write(p)
			return err
		})
	}
	t, _ := merged.Lookup(x.Name)
	if x.Frames == nil {
		_, err := io.Copy(w, contextReader{ctx, t.Section()})
		return err
	}
	h, b := blake3.New(), make([]byte, min(undoChunk, x.Size))
	if err := u.frames(ctx, x.Name, x.Frames, x.Size, func(p []byte, off int64) error {
		b := b[:len(p)]
		if err := stream.ReadFull(t, b, off); err != nil {
			return fmt.Errorf("read %s: %w", x.Name, err)
		}
		_, _ = h.Write(b) // a hash takes everything
		for i, v := range p {
			b[i] ^= v
		}
		_, err := w.Write(b)
		return err
	}); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != x.Merged {
		return &Error{Path: u.path, Key: x.Name, Expect: "the tensor that the merge wrote", Found: "one with another digest", Hint: changedSince}
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// frames hands what frames hold to f, with its place.
func (u *Undo) frames(ctx context.Context, name string, frames []int64, size int64, f func(p []byte, off int64) error) error {
	var raw, p []byte
	for i := range len(frames) - 1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		raw = slices.Grow(raw[:0], int(frames[i+1]-frames[i]))[:frames[i+1]-frames[i]]
		if err := stream.ReadFull(u.file, raw, frames[i]); err != nil {
			return fmt.Errorf("read %s: %w", u.path, err)
		}
		off := int64(i) * undoChunk
		want := min(undoChunk, size-off)
		var err error
		if p, err = u.dec.DecodeAll(raw, p[:0]); err != nil || int64(len(p)) != want {
			return u.bad(name, fmt.Sprintf("frame %d of %d bytes", i, want), fmt.Sprintf("%d bytes (%v)", len(p), err))
		}
		if err := f(p, off); err != nil {
			return err
		}
	}
	return nil
}
