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
	"path"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// A file that undoes a merge holds the base's files, less the tensors that the merged model still has. It is, in this order:
// undoMagic; frames of zstd, each of undoChunk bytes (the last of a piece shorter); an index as JSON; its length, eight bytes,
// little-endian.
const (
	undoMagic    = "nf4kit.undo/2\n"
	undoChunk    = 1 << 20
	maxUndoIndex = checkpoint.MaxIndexSize
)

// An undoIndex says what the frames of the file are.
type undoIndex struct {
	Files []undoFile `json:"files"`
	Left  []string   `json:"left_out,omitempty"` // of the base's directory: other weights, training state
}

// An undoFile is one file of the base: what the frames hold, then its tensors.
type undoFile struct {
	Name    string       `json:"name"`
	Size    int64        `json:"size"`
	Digest  string       `json:"blake3"`
	Bytes   int64        `json:"bytes"` // in the frames: the header of a weights file, all of another
	Frames  []int64      `json:"frames"`
	Tensors []undoTensor `json:"tensors,omitempty"` // in the order of their bytes
}

// An undoTensor is a tensor of the base. Without frames it is as the merged model has it.
type undoTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Size   int64   `json:"size"`
	Merged string  `json:"merged_blake3,omitempty"` // of the merged model's, which the frames hold the XOR with; "": they hold the tensor
	Frames []int64 `json:"frames,omitempty"`        // where each begins, and where the last ends
}

// undoWriter writes the frames.
type undoWriter struct {
	w   io.Writer
	enc *zstd.Encoder
	at  int64
	buf []byte
}

// frame writes one frame.
func (u *undoWriter) frame(p []byte) error {
	u.buf = u.enc.EncodeAll(p, u.buf[:0])
	_, err := u.w.Write(u.buf)
	u.at += int64(len(u.buf))
	return err
}

// content writes frames of all that r has, and hands it to h.
func (u *undoWriter) content(ctx context.Context, r io.Reader, h io.Writer) (frames []int64, size int64, err error) {
	frames = []int64{u.at}
	p := make([]byte, undoChunk)
	for {
		n, err := io.ReadFull(r, p)
		if n > 0 {
			_, _ = h.Write(p[:n]) // a hash takes everything
			if err := errors.Join(ctx.Err(), u.frame(p[:n])); err != nil {
				return nil, 0, err
			}
			frames, size = append(frames, u.at), size+int64(n)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return frames, size, nil
		case err != nil:
			return nil, 0, err
		}
	}
}

// WriteUndo writes what gives the files of base back from the merged model that was written of it.
func (m *Merge) WriteUndo(ctx context.Context, w io.Writer, base, merged *checkpoint.Source) error {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	defer enc.Close()
	u := &undoWriter{w: w, enc: enc, at: int64(len(undoMagic))}
	if _, err := io.WriteString(w, undoMagic); err != nil {
		return err
	}
	var ix undoIndex
	for _, sh := range base.Shards {
		f, err := m.undoShard(ctx, u, base, merged, sh)
		if err != nil {
			return err
		}
		ix.Files = append(ix.Files, *f)
	}
	names, left, err := undoSides(base)
	if err != nil {
		return err
	}
	ix.Left = left
	for _, name := range names {
		f, err := u.file(ctx, base.Dir, name)
		if err != nil {
			return err
		}
		ix.Files = append(ix.Files, *f)
	}
	raw, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	if len(raw) > maxUndoIndex {
		return fmt.Errorf("an index of %d bytes, of %d at most: keep the base", len(raw), maxUndoIndex)
	}
	_, err = w.Write(binary.LittleEndian.AppendUint64(raw, uint64(len(raw))))
	return err
}

// maxUndoOther bounds a file that no merge copies and that is held nevertheless, such as .gitattributes.
const maxUndoOther = 1 << 20

// undoSides lists the files of the base beside its weights, and what is left out.
func undoSides(base *checkpoint.Source) (names, left []string, err error) {
	if base.Config != nil {
		names = append(names, "config.json")
	}
	sides, skipped, err := base.SideFiles()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range sides {
		names = append(names, f.Rel)
	}
	for _, s := range skipped {
		if base.IsFile || slices.ContainsFunc(base.Shards, func(sh *checkpoint.Shard) bool { return sh.Name == s.Rel }) {
			continue
		}
		limit := int64(maxUndoOther)
		if path.Ext(s.Rel) == ".json" { // the index
			limit = checkpoint.MaxIndexSize
		}
		if raw, err := base.ReadFile(s.Rel, limit); err != nil || raw == nil || checkpoint.UnsafeName(s.Rel) != "" {
			left = append(left, s.Rel)
			continue
		}
		names = append(names, s.Rel)
	}
	return names, left, nil
}

// file writes a whole file.
func (u *undoWriter) file(ctx context.Context, dir, name string) (*undoFile, error) {
	f, err := checkpoint.OpenRegular(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := blake3.New()
	frames, size, err := u.content(ctx, f, h)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return &undoFile{Name: name, Size: size, Digest: hex.EncodeToString(h.Sum(nil)), Bytes: size, Frames: frames}, nil
}

// undoShard writes the header of a weights file, and what its tensors differ by from the merged model's.
func (m *Merge) undoShard(ctx context.Context, u *undoWriter, base, merged *checkpoint.Source, sh *checkpoint.Shard) (*undoFile, error) {
	whole, f := blake3.New(), &undoFile{Name: sh.Name, Size: sh.HeaderSize()}
	header, err := sh.ReadHeader()
	if err != nil {
		return nil, err
	}
	header = append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if f.Frames, f.Bytes, err = u.content(ctx, bytes.NewReader(header), whole); err != nil {
		return nil, err
	}
	for _, t := range sh.Tensors() {
		x := undoTensor{Name: t.Name, DType: t.DType.String(), Shape: t.Shape, Size: t.Size()}
		f.Size += x.Size
		kept, ok := base.Lookup(t.Name)
		after, written := merged.Lookup(t.Name)
		switch {
		case !ok || kept.Tensor != t: // a copy that no loader reads
			x.Frames, _, err = u.content(ctx, t.Section(), whole)
		case !written || after.DType != t.DType || !slices.Equal(after.Shape, t.Shape):
			return nil, &Error{Path: sh.Path(), Key: t.Name, Expect: "the tensor in the dtype of the base in the merged model, to be undone", Found: "another or none"}
		case m.edits[t.Name] == nil:
			_, err = io.Copy(whole, contextReader{ctx, t.Section()})
		default:
			err = u.difference(ctx, &x, t, after, whole)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.Name, err)
		}
		f.Tensors = append(f.Tensors, x)
	}
	f.Digest = hex.EncodeToString(whole.Sum(nil))
	return f, nil
}

// difference writes base XOR after.
func (u *undoWriter) difference(ctx context.Context, x *undoTensor, base, after io.ReaderAt, whole io.Writer) error {
	h := blake3.New()
	a, b := make([]byte, undoChunk), make([]byte, undoChunk)
	x.Frames = []int64{u.at}
	for off := int64(0); off < x.Size; off += undoChunk {
		n := min(undoChunk, x.Size-off)
		a, b := a[:n], b[:n]
		if err := errors.Join(ctx.Err(), stream.ReadFull(base, a, off), stream.ReadFull(after, b, off)); err != nil {
			return err
		}
		_, _ = whole.Write(a) // a hash takes everything
		_, _ = h.Write(b)
		for i, v := range b {
			a[i] ^= v
		}
		if err := u.frame(a); err != nil {
			return err
		}
		x.Frames = append(x.Frames, u.at)
	}
	x.Merged = hex.EncodeToString(h.Sum(nil))
	return nil
}
