package archive

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Checked is what was held against the digests of nf4kit.json on the way.
type Checked struct {
	Manifest       bool // there is one
	Tensors, Files int  // whose digests are what it says
	Of             int  // tensors that there are
}

// A DigestError is content that is not what nf4kit.json says.
type DigestError struct {
	File, Tensor string // Tensor is "" for the whole file
	Want, Found  manifest.Digest
}

func (e *DigestError) Error() string {
	what := e.File
	if e.Tensor != "" {
		what += fmt.Sprintf(": tensor %q", e.Tensor)
	}
	return fmt.Sprintf("%s: expected the BLAKE3 digest %s, which %s has, found %s", what, e.Want, manifest.Name, e.Found)
}

// A span is a part of a file with a digest.
type span struct {
	from, to int64
	tensor   string
	want     manifest.Digest
}

// A checker hashes the spans of a file that is written to it from first to last.
type checker struct {
	file    string
	spans   []span // in ascending order, none within another
	off     int64
	hash    *blake3.Hasher // of the first span
	checked *Checked
}

// newChecker returns the checker of a file of that name and size, with the header of its tensors if it is one of weights.
func newChecker(m *manifest.Manifest, name string, size int64, header *safetensors.Reader, checked *Checked) *checker {
	c := &checker{file: name, hash: blake3.New(), checked: checked}
	if header != nil {
		checked.Of += len(header.Tensors())
	}
	if m == nil {
		return c
	}
	if want, ok := m.Files[name]; ok && header == nil {
		c.spans = []span{{0, size, "", want}}
	}
	if header != nil {
		for _, t := range header.Tensors() {
			if want, ok := m.Tensors[t.Name]; ok {
				c.spans = append(c.spans, span{t.Offset(), t.Offset() + t.Size(), t.Name, want})
			}
		}
		slices.SortFunc(c.spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	}
	return c
}

// write takes the next bytes of the file. Its errors are *DigestError.
func (c *checker) write(p []byte) error {
	end := c.off + int64(len(p))
	for len(c.spans) > 0 {
		s := c.spans[0]
		if from, to := max(s.from, c.off), min(s.to, end); from < to {
			_, _ = c.hash.Write(p[from-c.off : to-c.off]) // a hash never fails
		}
		if s.to > end {
			break
		}
		if found := manifest.Digest(c.hash.Sum(nil)); found != s.want {
			return &DigestError{c.file, s.tensor, s.want, found}
		}
		if s.tensor == "" {
			c.checked.Files++
		} else {
			c.checked.Tensors++
		}
		c.hash.Reset()
		c.spans = c.spans[1:]
	}
	c.off = end
	return nil
}
