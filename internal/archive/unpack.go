package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// Unpack writes the files of a packed checkpoint, src, into the directory dst, which appears when it is complete, and not before. What nf4kit.json
// has the digest of is held against it on the way; a difference is a *DigestError. dst must neither be nor contain one of the paths sources.
func Unpack(ctx context.Context, src *checkpoint.Source, dst string, sources []string, opt Options) (_ *Done, err error) {
	c, files, err := newCopying(ctx, src, opt)
	if err != nil {
		return nil, err
	}
	out, err := checkpoint.Create(dst, checkpoint.Options{Force: opt.Force, Sources: sources})
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
	if err := checkpoint.CheckSpace(out.Staging(), total); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := c.unpack(out, f); err != nil {
			return nil, err
		}
	}
	return c.done, out.Commit(ctx)
}

func (c *copying) unpack(out *checkpoint.Output, from checkpoint.SideFile) error {
	if from.Rel == "config.json" { // written last of all, by Commit
		var b bytes.Buffer
		if err := c.file(from, newPiece, func(p []byte, _ bool) error { b.Write(p); return nil }); err != nil {
			return err
		}
		return out.WriteFile(from.Rel, b.Bytes())
	}
	to, err := out.CreateFile(from.Rel, from.Size)
	if err != nil {
		return err
	}
	piece := newPiece()
	err = c.file(from, func() []byte { return piece }, func(p []byte, _ bool) error {
		if _, err := to.Write(p); err != nil {
			return fmt.Errorf("write %s: %w", from.Rel, err)
		}
		return nil
	})
	if err != nil {
		return err // Abort closes the file
	}
	return to.Close()
}

func newPiece() []byte { return make([]byte, 0, frameSize+blockSize) }

// ahead is how much of a packed file is decompressed before it is read.
func ahead() int64 { return int64(2*runtime.GOMAXPROCS(0)) * frameSize }

// file gives take the content of a file in pieces of frameSize, in what piece returns, and holds it against its digests. last is the file's end.
func (c *copying) file(f checkpoint.SideFile, piece func() []byte, take func(p []byte, last bool) error) error {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	hints, _ := in.(checkpoint.Hinter)
	check := newChecker(c.manifest, f.Rel, f.Size, c.headers[f.Rel], &c.done.Checked)
	for off := int64(0); ; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n := min(frameSize, f.Size-off)
		p := piece()[:n]
		if hints != nil && n > 0 {
			hints.Prefetch(off, n+ahead())
		}
		if err := stream.ReadFull(in, p, off); err != nil {
			return fmt.Errorf("read %s: %w", f.Path, err)
		}
		if err := check.write(p); err != nil {
			return err
		}
		off += n
		if err := take(p, off == f.Size); err != nil {
			return err
		}
		if c.opt.Progress != nil {
			c.opt.Progress(f.Rel, n)
		}
		c.done.Bytes += n
		if off == f.Size {
			return nil
		}
	}
}
