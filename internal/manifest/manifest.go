// Package manifest is nf4kit.json, the file that convert leaves beside the weights: what wrote them, with which
// settings, from which source, and a BLAKE3 digest of every tensor. Loaders do not read it.
//
// A digest is plain BLAKE3-256 of the tensor's bytes as they lie in the file, so that any implementation can check it.
// The source is known by its names, sizes and headers; its weights are not hashed, since that would read them all
// again: comparing with the source itself is what verify --source does.
//
// The same source, settings and tool give the same bytes: there is no time, machine or path in the file.
package manifest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// Name is the file's name beside the weights.
const Name = "nf4kit.json"

// Schema names the layout of the file. Members may be added under the same name, and none removed or changed.
const Schema = "nf4kit.manifest/1"

// MaxSize bounds the file: 200,000 tensors with long names take some 40 MB.
const MaxSize = 256 << 20

// A Manifest is the content of nf4kit.json.
type Manifest struct {
	Tool     string            // "nf4kit 1.0.0"
	Settings map[string]string // the flags that the bytes depend on, by name; absent is the default
	Source   Source
	Tensors  map[string]Digest // every tensor of every weights file
	Files    map[string]Digest // config.json and the index, as written
}

// Source identifies what was converted.
type Source struct {
	Name  string       // last component of the path, or the model's name on the hub
	Files []SourceFile // in ascending order of names
}

// SourceFile is one weights file of the source.
type SourceFile struct {
	Name         string `json:"name"`
	Size         int64  `json:"size"`          // bytes of the file
	HeaderSHA256 string `json:"header_sha256"` // of the safetensors header with its length field
}

// Digest is BLAKE3-256.
type Digest [32]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("digest: expected %d hexadecimal digits, found %d", hex.EncodedLen(len(d)), len(text))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("digest: expected hexadecimal digits, found %q", text)
	}
	return nil
}

// Sum is the digest of a small file.
func Sum(data []byte) Digest { return blake3.Sum256(data) }

// SourceOf identifies an opened checkpoint.
func SourceOf(src *checkpoint.Source) Source {
	s := Source{Name: filepath.Base(filepath.Clean(src.Path))}
	if src.Commit != "" {
		s.Name = src.Repo + "@" + src.Commit
	}
	for _, sh := range src.Shards {
		digest := sh.HeaderDigest()
		s.Files = append(s.Files, SourceFile{sh.Name, sh.Size(), hex.EncodeToString(digest[:])})
	}
	slices.SortFunc(s.Files, func(a, b SourceFile) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return s
}

// Compare says how src differs from the recorded source, "" if it does not. The name of the source is not compared:
// a copy elsewhere is the same source.
func (s Source) Compare(src *checkpoint.Source) string {
	found := SourceOf(src)
	if len(found.Files) != len(s.Files) {
		return fmt.Sprintf("expected %d weights files, found %d", len(s.Files), len(found.Files))
	}
	for i, want := range s.Files {
		switch got := found.Files[i]; {
		case got.Name != want.Name:
			return fmt.Sprintf("expected the file %s, found %s", want.Name, got.Name)
		case got.Size != want.Size:
			return fmt.Sprintf("%s: expected %d bytes, found %d", want.Name, want.Size, got.Size)
		case got.HeaderSHA256 != want.HeaderSHA256:
			return fmt.Sprintf("%s: expected a header with SHA-256 %s, found %s", want.Name, want.HeaderSHA256, got.HeaderSHA256)
		}
	}
	return ""
}

// file is the JSON of the manifest.
type file struct {
	Schema   string            `json:"schema"`
	Tool     string            `json:"tool"`
	Settings map[string]string `json:"settings"`
	Source   sourceJSON        `json:"source"`
	Digest   string            `json:"digest"`
	Files    map[string]Digest `json:"files"`
	Tensors  map[string]Digest `json:"tensors"`
}

type sourceJSON struct {
	Name  string       `json:"name"`
	Files []SourceFile `json:"files"`
}

const digestName = "blake3-256"

// Encode returns the file: JSON with sorted keys, one tensor a line, and a newline at the end.
func (m *Manifest) Encode() ([]byte, error) {
	f := file{Schema, m.Tool, m.Settings, sourceJSON(m.Source), digestName, m.Files, m.Tensors}
	if f.Settings == nil {
		f.Settings = map[string]string{}
	}
	if f.Files == nil {
		f.Files = map[string]Digest{}
	}
	if f.Source.Files == nil {
		f.Source.Files = []SourceFile{}
	}
	if f.Tensors == nil {
		f.Tensors = map[string]Digest{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		return nil, fmt.Errorf("encode %s: %w", Name, err)
	}
	return b.Bytes(), nil
}

// An Error reports a manifest that cannot be read.
type Error struct {
	File     string
	Expected string
	Found    string
	Err      error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: expected %s, found %s", e.File, e.Expected, e.Found)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads a manifest. Its errors are *Error, and *checkpoint.InputError for one of too many tensors. Members it does not know are let pass.
func Parse(raw []byte) (*Manifest, error) {
	if len(raw) > MaxSize {
		return nil, &Error{Name, fmt.Sprintf("at most %d bytes", MaxSize), fmt.Sprint(len(raw)), nil}
	}
	// A name and a digest a tensor, and the rest is short.
	if err := checkpoint.BoundTokens(Name, raw, 2*checkpoint.MaxTensors+1<<16); err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, &Error{Name, "a manifest in JSON", "malformed text", err}
	}
	if f.Schema != Schema {
		return nil, &Error{Name, fmt.Sprintf("schema %q", Schema), fmt.Sprintf("%.60q", f.Schema), nil}
	}
	if f.Digest != digestName {
		return nil, &Error{Name, fmt.Sprintf("digests of %q", digestName), fmt.Sprintf("%.60q", f.Digest), nil}
	}
	return &Manifest{Tool: f.Tool, Settings: f.Settings, Source: Source(f.Source), Tensors: f.Tensors, Files: f.Files}, nil
}

// Read reads the manifest in the directory of src; nil without an error if there is none, or if src is a single file.
func Read(src *checkpoint.Source) (*Manifest, error) {
	if src.IsFile {
		return nil, nil
	}
	raw, err := src.ReadFile(Name, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if raw == nil {
		return nil, nil
	}
	return Parse(raw)
}

// TensorNames are the names with a recorded digest, in ascending order.
func (m *Manifest) TensorNames() []string { return slices.Sorted(maps.Keys(m.Tensors)) }

// DigestOf hashes size bytes of r through buf.
func DigestOf(r io.ReaderAt, size int64, buf []byte) (Digest, error) {
	h := blake3.New()
	for off := int64(0); off < size; {
		p := buf[:min(int64(len(buf)), size-off)]
		n, err := r.ReadAt(p, off)
		if n < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Digest{}, err
		}
		_, _ = h.Write(p) // a hash never fails
		off += int64(n)
	}
	return Digest(h.Sum(nil)), nil
}
