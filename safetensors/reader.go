package safetensors

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Tensor is one tensor of a [Reader]. Its fields must not be changed.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64 // row-major; empty for a scalar

	off   int64 // in the file
	size  int64
	elems int64
	r     *Reader
}

// Elems returns the number of elements, the product of the shape: 1 for a scalar.
func (t *Tensor) Elems() int64 { return t.elems }

// Size returns the number of bytes.
func (t *Tensor) Size() int64 { return t.size }

// Offset returns the place of the first byte, counted from the start of the file.
func (t *Tensor) Offset() int64 { return t.off }

// ReadAt implements [io.ReaderAt] on the bytes of the tensor alone: off counts
// from its first byte and nothing outside is read. A file that has become
// shorter than it was gives a [*FormatError] that wraps [io.ErrUnexpectedEOF].
// ReadAt may be called from several goroutines if the reader beneath allows it.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("safetensors: read tensor %s: negative offset %d", quote(t.Name), off)
	}
	if off >= t.size {
		if len(p) == 0 && off == t.size {
			return 0, nil
		}
		return 0, io.EOF
	}
	atEnd := false
	if int64(len(p)) > t.size-off {
		p, atEnd = p[:t.size-off], true
	}
	n, err := readFull(t.r.r, p, t.off+off)
	switch {
	case err == nil && atEnd:
		err = io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = &FormatError{
			File: t.r.name, Tensor: t.Name, named: true, Offset: t.off + off + int64(n),
			Msg: fmt.Sprintf("read %d of %d bytes, the file ends early", off+int64(n), t.size),
			Err: io.ErrUnexpectedEOF,
		}
	case err != nil:
		err = fmt.Errorf("safetensors: read tensor %s: %w", quote(t.Name), err)
	}
	return n, err
}

// Section returns a new reader of the tensor's bytes, from the first to the last.
func (t *Tensor) Section() *io.SectionReader { return io.NewSectionReader(t, 0, t.size) }

// Reader gives access to the tensors of a file. It holds the decoded header and
// no data. All its methods may be called from several goroutines.
type Reader struct {
	r          io.ReaderAt
	name       string // of the file, for errors
	headerSize int64  // with the length before it
	digest     [sha256.Size]byte
	h          *header
}

// NewReader reads and checks the header of a file of the given size. It reads
// the header alone, once. The errors of a bad file are [*FormatError] and
// [*UnsupportedError].
func NewReader(r io.ReaderAt, size int64) (*Reader, error) {
	// The first byte of the JSON comes with its length, so that a sparse or
	// foreign file is refused before room for a header is made.
	var first [lenSize + 1]byte
	if size < int64(len(first)) {
		return nil, &FormatError{Offset: -1, Msg: fmt.Sprintf("the file has %d bytes, too few for a header", size)}
	}
	if err := readHeader(r, first[:], 0); err != nil {
		return nil, err
	}
	n, err := headerLen(first[:], size)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, lenSize+n)
	copy(buf, first[:])
	if err := readHeader(r, buf[len(first):], int64(len(first))); err != nil {
		return nil, err
	}
	h, err := decodeHeader(buf[lenSize:], size-lenSize-n)
	if err != nil {
		return nil, err
	}
	rd := &Reader{r: r, headerSize: lenSize + n, digest: sha256.Sum256(buf), h: h}
	for _, t := range h.tensors {
		t.r = rd
	}
	return rd, nil
}

// headerLen checks what the first bytes say against the size of the file.
func headerLen(first []byte, size int64) (int64, error) {
	switch n := binary.LittleEndian.Uint64(first); {
	case string(first[:8]) == "version ":
		return 0, &FormatError{Offset: 0, Msg: "the file is a Git LFS pointer, not the content: fetch it with git lfs pull"}
	case string(first[:4]) == "PK\x03\x04":
		return 0, &FormatError{Offset: 0, Msg: "the file is a zip archive, such as torch.save writes, not safetensors"}
	case n > maxHeaderSize:
		return 0, &FormatError{Offset: 0, Msg: fmt.Sprintf("the file of %d bytes announces a header of %d", size, n), Err: ErrHeaderTooLarge}
	case n == 0:
		return 0, &FormatError{Offset: 0, Msg: "the header is empty, expected at least \"{}\""}
	case int64(n) > size-lenSize:
		return 0, &FormatError{Offset: 0, Msg: fmt.Sprintf("the header of %d bytes is longer than the %d bytes that follow its length", n, size-lenSize)}
	case first[lenSize] != '{':
		return 0, &FormatError{Offset: lenSize, Msg: fmt.Sprintf("the header does not begin with '{': found %q", first[lenSize:])}
	default:
		return int64(n), nil
	}
}

// readHeader fills p from the bytes of the header at off.
func readHeader(r io.ReaderAt, p []byte, off int64) error {
	n, err := readFull(r, p, off)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{Offset: off + int64(n), Msg: "the file ends within its header", Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return fmt.Errorf("safetensors: read header: %w", err)
	}
	return nil
}

// readFull is r.ReadAt with every end of file before len(p) bytes made into
// [io.ErrUnexpectedEOF], and none at len(p).
func readFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// Tensors returns the tensors in the order of their bytes. The slice must not
// be changed.
func (r *Reader) Tensors() []*Tensor { return r.h.tensors }

// Lookup returns the tensor of that name, or nil.
func (r *Reader) Lookup(name string) *Tensor { return r.h.byName[name] }

// Metadata returns the free text that the header carries, such as
// {"format": "pt"}; nil if it carries none. It must not be changed.
func (r *Reader) Metadata() map[string]string { return r.h.metadata }

// HeaderSize returns the number of bytes before the first tensor: the 8 of the
// length, the JSON and its padding.
func (r *Reader) HeaderSize() int64 { return r.headerSize }

// HeaderDigest returns the SHA-256 of the first HeaderSize bytes. Files with the
// same digest hold the same tensors at the same places.
func (r *Reader) HeaderDigest() [sha256.Size]byte { return r.digest }

// ReadHeader reads the JSON of the header again, with its padding. It is a [*FormatError] if it is no longer what it was
// when the reader was made.
func (r *Reader) ReadHeader() ([]byte, error) {
	buf := make([]byte, r.headerSize)
	err := readHeader(r.r, buf, 0)
	if err == nil && sha256.Sum256(buf) != r.digest {
		err = &FormatError{Offset: 0, Msg: "the header is no longer what it was when the file was opened"}
	}
	if err != nil {
		setFile(err, r.name)
		return nil, err
	}
	return buf[lenSize:], nil
}

// NewNamedReader is [NewReader] with a name of the file, which errors of reading it carry.
func NewNamedReader(name string, r io.ReaderAt, size int64) (*Reader, error) {
	rd, err := NewReader(r, size)
	if err != nil {
		setFile(err, name)
		return nil, err
	}
	rd.name = name
	return rd, nil
}

// File is a [Reader] of a file on disk.
type File struct {
	*Reader
	f *os.File
}

// Open opens the named file and reads its header. Errors name the file.
func Open(name string) (*File, error) {
	// Before opening, which would wait for the other end of a named pipe.
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return nil, &FormatError{File: name, Offset: -1, Msg: "expected a file, found a directory"}
	}
	if !fi.Mode().IsRegular() {
		return nil, &FormatError{File: name, Offset: -1, Msg: fmt.Sprintf("expected a regular file, found mode %v", fi.Mode())}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	r, err := newFileReader(f, name)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{Reader: r, f: f}, nil
}

func newFileReader(f *os.File, name string) (*Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return NewNamedReader(name, f, fi.Size())
}

// Name returns the name that was given to [Open].
func (f *File) Name() string { return f.name }

// SyscallConn gives access to the open file, for advice to the operating system on what will be read.
func (f *File) SyscallConn() (syscall.RawConn, error) { return f.f.SyscallConn() }

// Close closes the file. Tensors cannot be read afterwards.
func (f *File) Close() error { return f.f.Close() }
