package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/weights"
)

type shard = *checkpoint.Shard

// Resume makes a run one that another can continue: finished weights files are journalled and stay where it does not end.
type Resume struct {
	Tool     string            // "nf4kit 1.0.0"
	Command  string            // "convert"
	Settings map[string]string // on which bytes and figures depend, beside the source
	Args     json.RawMessage   // for whoever finishes the run
	Restart  bool              // drop what an earlier run has finished
	Task     Task              // of several that share the work; such a run does not commit
	Finalize bool              // make no weights file: what is missing is a [MissingFilesError]
	Consume  bool              // remove each file of the source when what is made of it is on the disk
	Figures  Figures           // what else is known of a tensor when it is written, of runs that know more; nil: nothing

	Begin func(Continued) // told before the work
}

// Figures are kept in the journal for runs that find out something about tensors as they read them.
type Figures interface {
	Note(tensor string) json.RawMessage // nil: nothing is known
	Restore(tensor string, noted json.RawMessage) error
}

// Continued is what a run finds of earlier ones.
type Continued struct {
	Staging string
	Files   int // finished weights files that are kept
	Of      int // of those that this run is to make
	Bytes   int64
	Left    int64    // bytes of the source that are to be read
	Redone  []string // files that were recorded and are made again, and why
	Damaged []string // what of the journal cannot be read
	Dropped bool     // Resume.Restart has dropped something
}

// resumed is what is known of each weights file, in the course of a run.
type resumed struct {
	plan  *Plan
	out   *checkpoint.Output
	begun *Begun
	task  Task
	mine  []bool  // to be made by this run
	done  []*done // nil: not finished
	fresh int     // finished by this run

	announced bool
	stored    map[string]checkpoint.Stored // what the store has, if the files go to one

	consumer *consumer // nil: the source stays
	figures  Figures   // nil: there are none

	mu  sync.Mutex
	was Continued
}

// resume looks into what earlier runs have left.
func (p *Plan) resume(ctx context.Context, out *checkpoint.Output, opt *WriteOptions) (*resumed, error) {
	r := opt.Resume
	begun, err := p.begun(r)
	if err != nil {
		return nil, err
	}
	if r.Restart && p.consumed() {
		return nil, &SourceError{Path: p.src.Path, Msg: "files of it are used up, and what was made of them would be dropped by --restart",
			Hint: "go on without --restart, with the arguments of then; " + fetchAgain}
	}
	s := &resumed{plan: p, out: out, begun: begun, task: r.Task, mine: p.mine(r.Task), done: make([]*done, len(p.shards)), figures: r.Figures}
	s.was.Staging, s.was.Dropped = out.Staging(), r.Restart && out.Resumed()
	if out.Resumed() && !r.Restart {
		if err := s.read(true); err != nil {
			var refused *ResumeError
			if errors.As(err, &refused) && p.consumed() {
				refused.Consumed = p.src.Path
			}
			return nil, err
		}
		if out.Delivers() {
			if s.stored, err = out.Delivered(); err != nil {
				return nil, err
			}
		}
	}
	limits := opt.stream()
	if err := s.verify(ctx, limits.Workers()); err != nil {
		return nil, err
	}
	todo, _ := s.todo()
	if err := p.checkUnread(todo); err != nil {
		return nil, err
	}
	s.count()
	if r.Begin != nil {
		r.Begin(s.was)
	}
	if r.Finalize {
		if err := s.missing(); err != nil {
			return nil, err
		}
	}
	return s, s.begin()
}

// begin clears the staging directory of what is not kept. A task says that it is there, and so does whoever sends files to a store:
// the next run tells by it whose they are.
func (s *resumed) begin() error {
	if s.task == (Task{}) {
		if err := s.out.Sweep(s.was.Files > 0); err != nil || !s.out.Delivers() {
			return err
		}
		return s.announce()
	}
	for i, mine := range s.mine {
		if mine && s.done[i] == nil {
			if err := s.out.Discard(s.plan.shards[i].Name); err != nil {
				return err
			}
		}
	}
	if err := s.announce(); err != nil {
		return err
	}
	return s.read(false) // others may have begun at the same moment
}

func (s *resumed) announce() error {
	raw, err := record{Run: s.begun.Run, Begun: s.begun}.encode()
	if err != nil {
		return err
	}
	s.announced = true
	return s.out.Record(raw)
}

func (s *resumed) count() {
	bytes := s.plan.shardBytes()
	for i, mine := range s.mine {
		if !mine {
			continue
		}
		s.was.Of++
		if s.done[i] != nil {
			s.was.Files++
			s.was.Bytes += s.plan.shards[i].Layout.Size()
		} else {
			s.was.Left += bytes[i]
		}
	}
	slices.Sort(s.was.Redone)
}

// read refuses the records of another run, and takes those of this one.
func (s *resumed) read(take bool) error {
	index := map[string]int{}
	for i, sh := range s.plan.shards {
		index[sh.Name] = i
	}
	items := make([]int, len(s.plan.shards))
	for i := range s.plan.items {
		items[s.plan.items[i].Shard]++
	}
	var others []*Begun
	foreign := 0
	damaged, err := s.out.Recorded(func(raw []byte) error {
		rec, err := parseRecord(raw)
		switch {
		case err != nil:
			s.was.Damaged = append(s.was.Damaged, fmt.Sprintf("a record of the journal cannot be read: %v", err))
		case rec.Begun != nil:
			if b := rec.Begun; rec.Run != s.begun.Run || s.task.Of > 0 && b.Task.Of > 0 && b.Task.Of != s.task.Of {
				others = append(others, b)
			}
		case rec.Run != s.begun.Run:
			foreign++
		case take:
			d := rec.Done
			i, ok := index[d.File]
			if ok && d.fits(&s.plan.shards[i], items[i]) {
				s.done[i] = d
			} else {
				s.was.Damaged = append(s.was.Damaged, fmt.Sprintf("the record of %.200q is not of this plan", d.File))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range damaged {
		if !take {
			break
		}
		s.was.Damaged = append(s.was.Damaged, damageText(d))
	}
	for _, b := range others {
		switch {
		case b.Run == s.begun.Run:
			return &ResumeError{Staging: s.was.Staging, Files: s.files(),
				Reason: fmt.Sprintf("it is shared by %d tasks, and this is task %v", b.Task.Of, s.task)}
		case foreign > 0 || s.task.Of > 0:
			return &ResumeError{Staging: s.was.Staging, Files: foreign, Reason: b.differs(s.begun)}
		}
	}
	if foreign > 0 {
		return &ResumeError{Staging: s.was.Staging, Files: foreign, Reason: "of which the journal is damaged, and no longer says"}
	}
	return nil
}

func (s *resumed) files() int {
	n := 0
	for _, d := range s.done {
		if d != nil {
			n++
		}
	}
	return n
}

// verify reads the finished files that count for this run. One that is not what was recorded is made again.
func (s *resumed) verify(ctx context.Context, jobs int) error {
	var finished []int
	for i, done := range s.done {
		if done != nil && s.mine[i] {
			finished = append(finished, i)
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(max(1, jobs), len(finished)) {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(finished) {
					return
				}
				i := finished[n]
				sh := &s.plan.shards[i]
				if err := s.check(i, buf); err != nil {
					s.mu.Lock()
					s.was.Redone = append(s.was.Redone, fmt.Sprintf("%s: %v", sh.Name, err))
					s.mu.Unlock()
					s.done[i] = nil
					continue
				}
				s.out.Adopt(sh.Name)
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (s *resumed) check(i int, buf []byte) error {
	if s.out.Delivers() {
		return s.done[i].arrived(s.stored)
	}
	f, err := s.out.OpenFile(s.plan.shards[i].Name)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it is not there")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return s.done[i].check(f, info.Size(), &s.plan.shards[i], buf)
}

// todo are the files to make, and their bytes on the disk.
func (s *resumed) todo() (todo []bool, bytes int64) {
	todo = make([]bool, len(s.mine))
	for i, mine := range s.mine {
		if todo[i] = mine && s.done[i] == nil; todo[i] {
			bytes += s.plan.shards[i].Layout.Size()
		}
	}
	return todo, bytes
}

// records reports whether finished files are recorded. The only one of a model is not: there is nothing that a run could go
// on with.
func (s *resumed) records() bool { return s != nil && (len(s.done) > 1 || s.task != (Task{})) }

// finish records a file that is complete, synced and closed.
func (s *resumed) finish(i int, results []Result, digests *manifest.Recorder, stored checkpoint.Stored) error {
	if !s.records() {
		return nil
	}
	sh := &s.plan.shards[i]
	d := &done{File: sh.Name}
	if s.out.Delivers() {
		d.Stored = &stored
	}
	for _, t := range sh.Layout.Tensors() {
		digest, err := digests.Digest(t.Name)
		if err != nil {
			return err
		}
		d.Tensors = append(d.Tensors, digest)
	}
	d.Digest = seal(sh.Layout.Header(), d.Tensors)
	for j := range s.plan.items {
		if s.plan.items[j].Shard != i {
			continue
		}
		n := noted(&results[j])
		if s.figures != nil {
			n.Figures = s.figures.Note(s.plan.items[j].Name)
		}
		d.Results = append(d.Results, n)
	}
	raw, err := record{Run: s.begun.Run, Done: d}.encode()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.announced {
		if err := s.announce(); err != nil {
			return err
		}
	}
	if err := s.out.Record(raw); err != nil {
		return err
	}
	s.done[i] = d
	s.fresh++
	return s.consume()
}

// restore puts what was recorded in its place.
func (s *resumed) restore(results []Result, digests map[string]manifest.Digest) error {
	next := make([]int, len(s.done))
	for j := range s.plan.items {
		i := s.plan.items[j].Shard
		d := s.done[i]
		if d == nil {
			continue
		}
		n := &d.Results[next[i]]
		results[j] = n.result()
		next[i]++
		if s.figures == nil || n.Figures == nil {
			continue
		}
		if err := s.figures.Restore(s.plan.items[j].Name, n.Figures); err != nil {
			return fmt.Errorf("%s: the journal's figures of %s: %w", s.was.Staging, s.plan.items[j].Name, err)
		}
	}
	for i, d := range s.done {
		if d == nil {
			continue
		}
		for k, t := range s.plan.shards[i].Layout.Tensors() {
			digests[t.Name] = d.Tensors[k]
		}
	}
	return nil
}

// leave ends a run that has failed: what is finished stays, unless that is of no use.
func (s *resumed) leave(out *checkpoint.Output, opt *WriteOptions, err error) error {
	if !out.Continuable() {
		return errors.Join(err, out.Abort())
	}
	if s == nil {
		if out.Resumed() { // it was refused, or not looked into
			return errors.Join(err, out.Suspend())
		}
		return errors.Join(err, out.Abort())
	}
	n, of := 0, 0
	for i, mine := range s.mine {
		if mine {
			of++
			if s.done[i] != nil {
				n++
			}
		}
	}
	var bad *weights.ValueError
	switch {
	case s.task == (Task{}) && (n == 0 || errors.As(err, &bad)) && !s.consumes(): // the same source will have the same value
		return errors.Join(err, out.Abort())
	case s.fresh == 0 && s.task != (Task{}):
		err = errors.Join(err, out.Abort())
	default:
		err = errors.Join(err, out.Suspend())
	}
	if n == 0 {
		return err
	}
	kept := out.Staging()
	if out.Delivers() {
		kept = fmt.Sprintf("%s, by the journal in %s", out.Dir(), kept)
	}
	return &UnfinishedError{Dst: out.Dir(), Staging: kept, Files: n, Of: of, Task: s.task, Consumed: s.consumed(), Err: err}
}
