package convert

import (
	"context"
	"fmt"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
)

// WriteOptions are those of [Plan.Write]. The zero value is the default.
type WriteOptions struct {
	Execution
	Force    bool               // replace the destination, once the new one is complete
	Sources  []string           // that the destination must not be or contain, beside the plan's source
	Store    checkpoint.Store   // that the files go to as they are finished, each staged beside dst before; nil: to dst
	Manifest *manifest.Manifest // written as nf4kit.json, with the digests of what is written; nil: none

	Resume    *Resume                                   // nil: nothing of a run that does not end is kept
	Abandoned func(names []string)                      // told before the work what runs that did not end have left beside it
	Files     func([]Result) (map[string][]byte, error) // makes further files from the results, in place of the source's of their names
}

// An Outcome is what writing a plan found out.
type Outcome struct {
	Results []Result // of Plan.Items, in their order
}

// Check is what Write finds wrong with dst before it touches anything.
func (p *Plan) Check(dst string, opt WriteOptions) error {
	return checkpoint.Check(dst, p.destination(&opt))
}

func (p *Plan) destination(opt *WriteOptions) checkpoint.Options {
	var sources []string
	if p.src.IsLocal() || opt.Store != nil {
		sources = append(sources, p.src.Path)
	}
	if p.src.IsLocal() && !p.src.IsFile {
		sources = append(sources, p.src.Dir)
	}
	o := checkpoint.Options{Force: opt.Force, Sources: append(sources, opt.Sources...), Store: opt.Store}
	if opt.Resume != nil {
		o.Resume, o.Task = true, opt.Resume.Task.name()
	}
	return o
}

// Write executes the plan into a staging directory beside dst, which appears under that name when it is complete, and not
// before. After an error nothing is left, or what a run with the same Resume can continue, and the error is an
// [UnfinishedError]. With a Store each weights file goes there when it is finished, and config.json last of all. There is no more
// than [checkpoint.CheckSpace] allows to begin with.
func (p *Plan) Write(ctx context.Context, dst string, opt WriteOptions) (_ *Outcome, err error) {
	var used *consumer
	if opt.Resume != nil && opt.Resume.Consume {
		if used, err = p.consumable(); err != nil {
			return nil, err
		}
	}
	out, err := checkpoint.Create(dst, p.destination(&opt))
	if err != nil {
		return nil, err
	}
	var s *resumed
	defer func() {
		if err != nil {
			err = s.leave(out, &opt, err)
		}
	}()
	if left := out.Abandoned(); len(left) > 0 && opt.Abandoned != nil {
		opt.Abandoned(left)
	}
	if opt.Resume != nil {
		if s, err = p.resume(ctx, out, &opt); err != nil {
			return nil, err
		}
		s.consumer = used
		if err := s.consume(); err != nil { // what a run has finished that did not come to it
			return nil, err
		}
	}
	results, err := p.tensors(ctx, out, &opt, s)
	if err != nil {
		return nil, err
	}
	if opt.Resume != nil && opt.Resume.Task != (Task{}) {
		return &Outcome{Results: results}, out.Suspend()
	}
	var made map[string][]byte
	if opt.Files != nil {
		if made, err = opt.Files(results); err != nil {
			return nil, err
		}
	}
	if err := p.WriteSideFiles(ctx, out, opt.Manifest, made); err != nil {
		return nil, err
	}
	if err := out.Commit(ctx); err != nil || used == nil {
		return &Outcome{Results: results}, err
	}
	if err := p.src.Discard(); err != nil {
		return nil, fmt.Errorf("%s is complete, but: %w", dst, err)
	}
	return &Outcome{Results: results}, nil
}

// tensors writes the weights files, and their digests into the manifest.
func (p *Plan) tensors(ctx context.Context, out *checkpoint.Output, opt *WriteOptions, s *resumed) ([]Result, error) {
	need := p.DiskBytes()
	var record *manifest.Recorder
	if opt.Manifest != nil || s.records() {
		record = manifest.NewRecorder()
	}
	x := opt.Execution
	if s != nil {
		var weights int64
		x.files, weights = s.todo()
		need += weights - p.stats.FileBytes
		if s.consumer != nil {
			need += p.consumingBytes(x.files, s.consumer) - weights
		}
	}
	if opt.Store != nil {
		need = p.stagedBytes(x.files)
	}
	if err := checkpoint.CheckSpace(out.Staging(), need); err != nil {
		return nil, err
	}
	if err := out.OpenStore(); err != nil {
		return nil, err
	}
	sink, err := p.openSink(out, record, x.files, s)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, sink.Fail)()
	results, err := p.Execute(ctx, sink, x)
	if err != nil {
		return nil, err
	}
	if err := sink.Close(); err != nil {
		return nil, err
	}
	if record == nil {
		return results, nil
	}
	digests, err := record.Digests()
	if err != nil {
		return nil, err
	}
	if s != nil {
		if err := s.restore(results, digests); err != nil {
			return nil, err
		}
	}
	if opt.Manifest != nil {
		opt.Manifest.Tensors = digests
	}
	return results, nil
}
