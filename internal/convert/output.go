package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/quantize"
)

// shardFiles is the Sink of a plan's weights files.
type shardFiles struct {
	plan   *Plan
	out    *checkpoint.Output
	shards []*checkpoint.ShardWriter
	record *manifest.Recorder // nil: digests are not wanted
	done   *resumed           // nil: no journal is kept
	closed []bool

	late   bool       // files are made when they are written first
	making sync.Mutex // of such files
	room   sync.Cond  // for one more of them on the disk, where they go to a store
	failed bool       // there will be none

	unflushed []atomic.Int64 // bytes written to each shard since the disk was last told
}

// writebackBytes is enough for the disk to work on while the next as many are
// computed.
const writebackBytes = 32 << 20

// A FileSink is a [Sink] that must be closed: Close fails if any byte of the
// plan was not written.
type FileSink interface {
	Finisher
	Close() error
}

// OpenSink creates the weights files of the plan in out, at their full size. If
// record is not nil, it is given every byte that is written.
func (p *Plan) OpenSink(out *checkpoint.Output, record *manifest.Recorder) (FileSink, error) {
	return p.openSink(out, record, nil, nil)
}

// openSink is OpenSink for some of the files; nil: all of them.
func (p *Plan) openSink(out *checkpoint.Output, record *manifest.Recorder, files []bool, done *resumed) (FileSink, error) {
	n := len(p.shards)
	s := &shardFiles{plan: p, out: out, record: record, done: done, unflushed: make([]atomic.Int64, n),
		shards: make([]*checkpoint.ShardWriter, n), closed: make([]bool, n)}
	s.room.L = &s.making
	s.late = out.Delivers() || done != nil && done.consumer != nil // else the space that they take is not free yet
	for i, sh := range p.shards {
		if files != nil && !files[i] {
			s.closed[i] = true
			continue
		}
		if !s.late {
			w, err := out.CreateShard(sh.Name, sh.Layout)
			if err != nil {
				return nil, err
			}
			s.shards[i] = w
		}
		if record != nil {
			for _, t := range sh.Layout.Tensors() {
				record.Add(t.Name, t.Size)
			}
		}
	}
	return s, nil
}

// shardPart is a tensor of a weights file.
type shardPart struct {
	*shardFiles
	shard    int
	name     string
	at, size int64
}

func (s *shardFiles) Part(shard int, tensor string) (quantize.Part, error) {
	at, size, ok := s.plan.shards[shard].Layout.Offset(tensor)
	if !ok {
		return nil, fmt.Errorf("convert: internal error: no tensor %s in %s", tensor, s.plan.shards[shard].Name)
	}
	if err := s.make(shard); err != nil {
		return nil, err
	}
	return &shardPart{s, shard, tensor, at, size}, nil
}

// stagedFiles is how many files that go to a store are on the disk at a time: one on its way there, and one in the making.
const stagedFiles = 2

// errFailed ends a tensor that waits for room after another has failed, whose error is the one to report.
var errFailed = errors.New("stopped, since something else failed")

// make makes a file that is not there yet. Where files go to a store it waits for room. The first that is not finished always
// has it: tensors begin in the order of their files, so that nothing it needs waits behind it.
func (s *shardFiles) make(shard int) (err error) {
	if !s.late {
		return nil
	}
	s.making.Lock()
	defer s.making.Unlock()
	for s.out.Delivers() && s.shards[shard] == nil && !s.failed && s.staged() >= stagedFiles && slices.Index(s.closed, false) != shard {
		s.room.Wait()
	}
	switch {
	case s.shards[shard] != nil:
	case s.failed:
		return errFailed
	default:
		s.shards[shard], err = s.out.CreateShard(s.plan.shards[shard].Name, s.plan.shards[shard].Layout)
	}
	return err
}

// staged is how many files there are that are not finished.
func (s *shardFiles) staged() (n int) {
	for i, w := range s.shards {
		if w != nil && !s.closed[i] {
			n++
		}
	}
	return n
}

// Fail has nobody wait any more.
func (s *shardFiles) Fail() {
	s.making.Lock()
	defer s.making.Unlock()
	s.failed = true
	s.room.Broadcast()
}

func (t *shardPart) WriteAt(p []byte, off int64) (int, error) {
	w := t.shards[t.shard]
	if err := w.WriteAt(t.name, p, off); err != nil {
		return 0, err
	}
	// Every writebackBytes or so, the disk is told to begin with what is there.
	if n := t.unflushed[t.shard].Add(int64(len(p))); n >= writebackBytes {
		if t.unflushed[t.shard].CompareAndSwap(n, 0) {
			w.StartWriteback(0, t.plan.shards[t.shard].Layout.Size())
		}
	}
	if t.record == nil {
		return len(p), nil
	}
	return len(p), t.record.WriteAt(t.name, p, off)
}

func (t *shardPart) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > t.size-int64(len(p)) {
		return 0, fmt.Errorf("convert: internal error: %d bytes at %d lie outside %s", len(p), off, t.name)
	}
	return t.shards[t.shard].ReadAt(p, t.at+off)
}

func (s *shardFiles) Temp() (*os.File, error) { return s.out.Temp() }

// Finish puts a file on the disk, or into the store, and into the journal.
func (s *shardFiles) Finish(shard int, results []Result) error {
	if err := s.make(shard); err != nil { // one of tensors without elements
		return err
	}
	err := s.shards[shard].Close()
	var stored checkpoint.Stored
	if err == nil && s.out.Delivers() {
		stored, err = s.out.Deliver(s.plan.shards[shard].Name)
	}
	s.making.Lock()
	s.closed[shard] = true
	s.room.Broadcast()
	s.making.Unlock()
	if err != nil || s.done == nil {
		return err
	}
	return s.done.finish(shard, results, s.record, stored)
}

// Close closes what Execute has not finished.
func (s *shardFiles) Close() error {
	var errs []error
	for i, w := range s.shards {
		if w != nil && !s.closed[i] {
			errs = append(errs, w.Close())
		}
	}
	return errors.Join(errs...)
}

// WriteSideFiles writes what stands beside the weights: the index, config.json,
// the copies, made in place of a copy of that name, and m, unless it is nil,
// completed by the digests of index and config.json.
func (p *Plan) WriteSideFiles(ctx context.Context, out *checkpoint.Output, m *manifest.Manifest, made map[string][]byte) error {
	files := map[string]manifest.Digest{}
	if p.indexJSON != nil {
		files[p.indexName] = manifest.Sum(p.indexJSON)
		if err := out.WriteFile(p.indexName, p.indexJSON); err != nil {
			return err
		}
	}
	if p.configJSON != nil {
		files["config.json"] = manifest.Sum(p.configJSON)
	}
	if m != nil {
		m.Files = files
		raw, err := m.Encode()
		if err != nil {
			return err
		}
		if err := out.WriteFile(manifest.Name, raw); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(made) {
		if err := out.WriteFile(name, made[name]); err != nil {
			return err
		}
	}
	for _, f := range p.sides {
		if _, ok := made[f.Rel]; ok || f.Rel == manifest.Name {
			continue // the source's own
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := out.CopySide(f); err != nil {
			return err
		}
	}
	if p.configJSON == nil {
		return nil
	}
	return out.WriteFile("config.json", p.configJSON)
}

// OutputNames are the files that the plan's output has, those of convert alone
// included.
func (p *Plan) OutputNames() []string {
	names := []string{manifest.Name, "config.json", "README.md"}
	for _, sh := range p.shards {
		names = append(names, sh.Name)
	}
	if p.indexName != "" {
		names = append(names, p.indexName)
	}
	for _, f := range p.sides {
		names = append(names, f.Rel)
	}
	return names
}

// DiskBytes is the disk space that the plan's files take.
func (p *Plan) DiskBytes() int64 {
	n := p.stats.FileBytes + int64(len(p.indexJSON)+len(p.configJSON))
	for _, f := range p.sides {
		n += f.Size
	}
	return n
}

// stagedBytes is the disk space that the files to be made take on their way to a store.
func (p *Plan) stagedBytes(todo []bool) int64 {
	var most, before int64
	for i := range p.shards {
		if todo == nil || todo[i] {
			size := p.shards[i].Layout.Size()
			most, before = max(most, before+size), size
		}
	}
	return most + p.DiskBytes() - p.stats.FileBytes
}
