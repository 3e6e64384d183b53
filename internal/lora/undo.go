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
	"github.com/nf4kit/nf4kit/internal/weights"
)

// A file that undoes a merge is, in this order: undoMagic; for every tensor that was changed, frames of zstd, each of undoChunk bytes
// of the base's tensor XOR the merged one's (the last shorter); an index as JSON; its length, eight bytes, little-endian.
const (
	undoMagic    = "nf4kit.undo/1\n"
	undoChunk    = 1 << 20
	maxUndoIndex = 64 << 20
)

// An undoIndex says what the frames of the file are.
type undoIndex struct {
	Tensors []undoTensor `json:"tensors"`
}

type undoTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Base   string  `json:"base_blake3"`
	Merged string  `json:"merged_blake3"`
	Frames []int64 `json:"frames"` // where each begins, and where the last ends
}

// WriteUndo writes what gives the base back from the merged model: w is the file, merged the model as it was written.
func (m *Merge) WriteUndo(ctx context.Context, w io.Writer, merged []weights.Tensor) error {
	after := byName(merged)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	defer enc.Close()
	at := int64(len(undoMagic))
	if _, err := io.WriteString(w, undoMagic); err != nil {
		return err
	}
	var ix undoIndex
	for _, v := range m.read {
		t := after[v.t.Name]
		if t == nil || t.DType != v.t.DType || !slices.Equal(t.Shape, v.t.Shape) {
			return &Error{Path: v.t.File, Key: v.t.Name, Expect: "a merged tensor in the dtype of the base, to be undone", Found: "another"}
		}
		x := undoTensor{Name: t.Name, DType: t.DType.String(), Shape: t.Shape, Frames: []int64{at}}
		base, result := blake3.New(), blake3.New()
		size := v.end * int64(t.DType.Bits()/8)
		for off := int64(0); off < size; off += undoChunk {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(undoChunk, size-off)
			a, b := make([]byte, n), make([]byte, n)
			if err := errors.Join(stream.ReadFull(v.src, a, off), stream.ReadFull(t.Values, b, off)); err != nil {
				return fmt.Errorf("read %s: %w", t.Name, err)
			}
			_, _ = base.Write(a) // a hash takes everything
			_, _ = result.Write(b)
			for i := range a {
				a[i] ^= b[i]
			}
			frame := enc.EncodeAll(a, b[:0])
			if _, err := w.Write(frame); err != nil {
				return err
			}
			at += int64(len(frame))
			x.Frames = append(x.Frames, at)
		}
		x.Base, x.Merged = hex.EncodeToString(base.Sum(nil)), hex.EncodeToString(result.Sum(nil))
		ix.Tensors = append(ix.Tensors, x)
	}
	raw, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	_, err = w.Write(binary.LittleEndian.AppendUint64(raw, uint64(len(raw))))
	return err
}

// An Undo is an opened file that undoes a merge.
type Undo struct {
	path  string
	file  *os.File
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
	if u.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(undoChunk), zstd.WithDecoderConcurrency(0)); err != nil {
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
		return u.bad("", fmt.Sprintf("an index of at most %d bytes", min(maxUndoIndex, room)), fmt.Sprint(n))
	}
	raw := make([]byte, n)
	if err := stream.ReadFull(u.file, raw, size-8-int64(n)); err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&u.index); err != nil {
		return u.bad("", "an index", err.Error())
	}
	end := size - 8 - int64(n)
	for i := range u.index.Tensors {
		t := &u.index.Tensors[i]
		last := int64(len(undoMagic))
		for j, at := range t.Frames {
			if at < last || at > end || j > 0 && at-last > 2*undoChunk {
				return u.bad(t.Name, "frames within the file, in order", fmt.Sprint(at))
			}
			last = at
		}
	}
	return nil
}

// Apply returns the tensors of the merged model with the base's in the place of those that the merge changed. It reads them, to see
// that they are what the merge made: else nothing could be given back.
func (u *Undo) Apply(tensors []weights.Tensor) ([]weights.Tensor, error) {
	out := slices.Clone(tensors)
	byName := byName(out)
	for i := range u.index.Tensors {
		x := &u.index.Tensors[i]
		t := byName[x.Name]
		if t == nil || t.Values == nil || t.DType.String() != x.DType || !slices.Equal(t.Shape, x.Shape) {
			return nil, u.bad(x.Name, "a tensor of the merged model", "none of that name, dtype and shape")
		}
		size := t.Elems() * int64(t.DType.Bits()/8)
		if int64(len(x.Frames)) != (size+undoChunk-1)/undoChunk+1 {
			return nil, u.bad(x.Name, fmt.Sprintf("frames for %d bytes", size), fmt.Sprintf("%d of them", len(x.Frames)-1))
		}
		got, err := digest(t)
		if err != nil {
			return nil, err
		}
		if got != x.Merged {
			return nil, &Error{Path: u.path, Key: x.Name, Expect: "the tensor that the merge wrote", Found: "one with another digest",
				Hint: "the model was changed since, or is another"}
		}
		t.Values = &undone{Values: t.Values, undo: u, t: x, size: size}
	}
	return out, nil
}

// Count is the number of tensors that are given back.
func (u *Undo) Count() int { return len(u.index.Tensors) }

// undone are the values of the base.
type undone struct {
	weights.Values
	undo *Undo
	t    *undoTensor
	size int64
}

func (v *undone) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > v.size {
		return 0, fmt.Errorf("lora: internal error: read of %d bytes at %d of %s", len(p), off, v.t.Name)
	}
	if err := stream.ReadFull(v.Values, p, off); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		frame, err := v.frame(at / undoChunk)
		if err != nil {
			return done, err
		}
		part := frame[at%undoChunk:]
		n := min(len(part), len(p)-done)
		for i, b := range part[:n] {
			p[done+i] ^= b
		}
		done += n
	}
	return len(p), nil
}

// frame is a chunk of the difference.
func (v *undone) frame(i int64) ([]byte, error) {
	raw := make([]byte, v.t.Frames[i+1]-v.t.Frames[i])
	if err := stream.ReadFull(v.undo.file, raw, v.t.Frames[i]); err != nil {
		return nil, fmt.Errorf("read %s: %w", v.undo.path, err)
	}
	want := min(undoChunk, v.size-i*undoChunk)
	out, err := v.undo.dec.DecodeAll(raw, make([]byte, 0, want))
	if err != nil || int64(len(out)) != want {
		return nil, v.undo.bad(v.t.Name, fmt.Sprintf("frame %d of %d bytes", i, want), fmt.Sprintf("%d bytes (%v)", len(out), err))
	}
	return out, nil
}

// digest is the BLAKE3 digest of a tensor's elements, in hexadecimal.
func digest(t *weights.Tensor) (string, error) {
	h := blake3.New()
	if _, err := io.Copy(h, io.NewSectionReader(t.Values, 0, t.Elems()*int64(t.DType.Bits()/8))); err != nil {
		return "", fmt.Errorf("read %s: %w", t.Name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// byName finds tensors.
func byName(tensors []weights.Tensor) map[string]*weights.Tensor {
	m := make(map[string]*weights.Tensor, len(tensors))
	for i := range tensors {
		m[tensors[i].Name] = &tensors[i]
	}
	return m
}

// Check compares the tensors of a model with the digests of the base.
func (u *Undo) Check(tensors []weights.Tensor) error {
	byName := byName(tensors)
	for i := range u.index.Tensors {
		x := &u.index.Tensors[i]
		t := byName[x.Name]
		if t == nil {
			return u.bad(x.Name, "the tensor in what was written", "none")
		}
		got, err := digest(t)
		if err != nil {
			return err
		}
		if got != x.Base {
			return u.bad(x.Name, "the base's digest "+x.Base, got)
		}
	}
	return nil
}
