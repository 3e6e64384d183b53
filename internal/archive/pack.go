package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Options are those of Pack and Unpack. The zero value is the default.
type Options struct {
	Force    bool                       // replace what is there, once the new one is complete
	Jobs     int                        // Pack: frames that are compressed side by side; 0: one a processor
	Progress func(name string, n int64) // told of n more bytes of a file
}

// Done is what Pack or Unpack has done.
type Done struct {
	Files  int
	Bytes  int64 // of all files
	Packed int64 // of the packed file
	Checked
}

// Extensions are the names of packed files.
var Extensions = []string{".tar.zst", ".tzst"}

// IsName reports whether name is that of a packed file.
func IsName(name string) bool { return stem(name) != "" }

// stem is the name without its extension; "" if it is none of a packed file.
func stem(name string) string {
	base := path.Base(filepath.ToSlash(name))
	for _, ext := range Extensions {
		if len(base) > len(ext) && strings.EqualFold(base[len(base)-len(ext):], ext) {
			return base[:len(base)-len(ext)]
		}
	}
	return ""
}

// Pack writes every file of src's directory into dst, in the order of names, below a directory of dst's name. What nf4kit.json has the digest of
// is held against it on the way; a difference is a *DigestError. The same files give the same bytes, whatever Jobs is.
func Pack(ctx context.Context, src *checkpoint.Source, dst string, opt Options) (_ *Done, err error) {
	c, files, err := newCopying(ctx, src, opt)
	if err != nil {
		return nil, err
	}
	var sources []string
	if src.IsLocal() {
		sources = []string{src.Dir}
	}
	out, err := checkpoint.CreateOutputFile(dst, checkpoint.Options{Force: opt.Force, Sources: sources})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Abort())
		}
	}()
	var total int64
	for _, f := range files {
		total += f.Size
	}
	if err := checkpoint.CheckSpace(out.Name(), total); err != nil { // codes do not become smaller
		return nil, err
	}
	frames, err := newFrameWriter(ctx, out, opt.Jobs)
	if err != nil {
		return nil, err
	}
	p := &packer{copying: c, frames: frames, top: stem(dst)}
	err = p.all(files)
	if closing := frames.close(); err == nil {
		err = closing
	}
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", dst, err)
	}
	c.done.Packed = frames.n
	return c.done, out.Commit(ctx)
}

// A copying is what Pack and Unpack do alike: the files of a checkpoint from first to last, and their digests.
type copying struct {
	ctx      context.Context
	manifest *manifest.Manifest
	headers  map[string]*safetensors.Reader
	opt      Options
	done     *Done
}

// newCopying lists the files of src.
func newCopying(ctx context.Context, src *checkpoint.Source, opt Options) (*copying, []checkpoint.SideFile, error) {
	files, err := src.AllFiles()
	if err != nil {
		return nil, nil, err
	}
	names := nameSet{}
	for _, f := range files {
		if reason := names.add(f.Rel); reason != "" {
			return nil, nil, &checkpoint.InputError{File: f.Path, Expected: "a name that every system has", Found: reason, Hint: "rename it"}
		}
	}
	m, err := manifest.Read(src)
	if err != nil {
		return nil, nil, err
	}
	c := &copying{ctx: ctx, manifest: m, headers: map[string]*safetensors.Reader{}, opt: opt, done: &Done{Files: len(files)}}
	c.done.Manifest = m != nil
	for _, sh := range src.Shards {
		c.headers[sh.Name] = sh.Reader
	}
	return c, files, nil
}

type packer struct {
	*copying
	frames *frameWriter
	top    string
}

func (p *packer) all(files []checkpoint.SideFile) error {
	for _, f := range files {
		if err := p.pack(f); err != nil {
			return err
		}
	}
	return p.frames.add(make([]byte, 2*blockSize)) // the end of a tar archive
}

// header is that of a file in the archive. There is no time and no owner in it, so that the same files are the same archive.
func (p *packer) header(f checkpoint.SideFile) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.top + "/" + f.Rel, Size: f.Size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", f.Rel, err)
	}
	return b.Bytes(), nil
}

// pack packs one file: a frame for its header, so that listing the archive takes no more, and frames of its content.
func (p *packer) pack(f checkpoint.SideFile) error {
	header, err := p.header(f)
	if err != nil {
		return err
	}
	if err := p.frames.add(header); err != nil {
		return err
	}
	return p.file(f, p.frames.buffer, func(b []byte, last bool) error {
		if last {
			b = append(b, make([]byte, -f.Size&(blockSize-1))...)
		}
		if len(b) == 0 {
			return nil
		}
		return p.frames.add(b)
	})
}
