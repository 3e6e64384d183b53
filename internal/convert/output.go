package convert

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// shardFiles is the Sink of a plan's weights files.
type shardFiles struct {
	plan   *Plan
	out    *checkpoint.Output
	shards []*checkpoint.ShardWriter
}

// A FileSink is a [Sink] that must be closed: Close fails if any byte of the
// plan was not written.
type FileSink interface {
	Sink
	Close() error
}

// OpenSink creates the weights files of the plan in out, at their full size.
func (p *Plan) OpenSink(out *checkpoint.Output) (FileSink, error) {
	s := &shardFiles{plan: p, out: out}
	for _, sh := range p.Shards {
		w, err := out.CreateShard(sh.Name, sh.Layout)
		if err != nil {
			return nil, err
		}
		s.shards = append(s.shards, w)
	}
	return s, nil
}

func (s *shardFiles) WriteAt(shard int, tensor string, p []byte, off int64) error {
	return s.shards[shard].WriteAt(tensor, p, off)
}

func (s *shardFiles) ReadAt(shard int, tensor string, p []byte, off int64) error {
	at, size, ok := s.plan.Shards[shard].Layout.Offset(tensor)
	if !ok || off < 0 || off > size-int64(len(p)) {
		return fmt.Errorf("convert: internal error: %d bytes at %d lie outside %s", len(p), off, tensor)
	}
	return readFull(s.shards[shard], p, at+off)
}

func (s *shardFiles) Temp() (*os.File, error) { return s.out.Temp() }

func (s *shardFiles) Close() error {
	var errs []error
	for _, w := range s.shards {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// WriteSideFiles writes what stands beside the weights: the index, config.json
// and the copies.
func (p *Plan) WriteSideFiles(ctx context.Context, out *checkpoint.Output) error {
	if p.Index != nil {
		if err := out.WriteFile(p.indexName, p.Index); err != nil {
			return err
		}
	}
	for _, f := range p.Sides {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := out.CopyFile(f.Rel, f.Path); err != nil {
			return err
		}
	}
	if p.Config == nil {
		return nil
	}
	return out.WriteFile("config.json", p.Config)
}

// DiskBytes is the disk space that the plan's files take.
func (p *Plan) DiskBytes() int64 {
	n := p.Totals.FileBytes + int64(len(p.Index)+len(p.Config))
	for _, f := range p.Sides {
		n += f.Size
	}
	return n
}
