package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
)

const resumeHelp = `A run that is interrupted, killed or out of disk leaves the weights files that it has
finished in DST.nf4kit-staging, and the same command goes on from there. It reads what
it keeps, and compares it with the digests in the journal beside it; a file that is
not what was written is made again. If SRC or a setting has changed since, it stops
and says which: --restart begins anew. The only weights file of a small model is not
kept: --max-shard-size makes more of it.`

func restart(fs *pflag.FlagSet, to *bool) {
	fs.BoolVar(to, "restart", false, "drop the weights files that an earlier run to DST has finished")
}

// tellLeft names, in the first line, what a run that did not end has left.
func (g *globals) tellLeft(dst string, restart bool) {
	left := checkpoint.Left(dst)
	if left == "" || g.Quiet {
		return
	}
	if restart {
		noticef(g.Stderr, "left by a run that did not end, to be dropped: %s", left)
		return
	}
	noticef(g.Stderr, "left by a run that did not end: %s; what it has finished is verified and kept", left)
}

// tellContinued says what was found of earlier runs.
func (g *globals) tellContinued(c convert.Continued) {
	g.warn(c.Damaged)
	for _, r := range c.Redone {
		warnf(g.Stderr, "made again: %s", r)
	}
	if c.Files > 0 && !g.Quiet {
		noticef(g.Stderr, "%d of %d weights files are finished and stay: %s", c.Files, c.Of, bytesText(c.Bytes))
	}
}

// resume says what a conversion can be continued by.
func (o *ConvertOptions) resume() *convert.Resume {
	settings := maps.Clone(o.settings)
	if o.NoError {
		settings["no-error"] = "true"
	}
	r := &convert.Resume{Tool: "nf4kit " + versionText(), Command: "convert", Settings: settings, Restart: o.Restart, Task: o.task, Finalize: o.finalize, Consume: o.Consume}
	if o.task != (convert.Task{}) {
		r.Args, _ = json.Marshal(o.args) // strings alone
	}
	return r
}

// write is Plan.Write with progress, and says what was found on the way.
func write(ctx context.Context, g *globals, p *convert.Plan, dst destination, opt convert.WriteOptions) error {
	opt.Store = dst.store
	bar := newProgress(g.Stderr, "converting", p.Stats().SrcBytes, g.Quiet)
	opt.Progress = func(tensor string, bytes int64) { bar.advance(tensor, bytes) }
	if opt.Resume != nil {
		opt.Resume.Begin = func(c convert.Continued) {
			g.continued = c
			g.tellContinued(c)
			bar = newProgress(g.Stderr, "converting", c.Left, g.Quiet)
		}
	}
	opt.Abandoned = func(left []string) {
		if !g.Quiet {
			noticef(g.Stderr, "left by runs that did not end, to be removed or written again: %s", wrapNames(left, foldAt))
		}
	}
	out, err := p.Write(ctx, dst.path, opt)
	bar.finish()
	if err != nil {
		return err
	}
	if opt.Resume == nil || opt.Resume.Task == (convert.Task{}) {
		g.complete = dst.name
	}
	for i := range out.Results {
		if at := out.Results[i].NonFinite; at >= 0 {
			warnf(g.Stderr, "%s: tensor %q, which is kept, holds a NaN or an infinity at element %d", p.Items()[i].File, p.Items()[i].Name, at)
		}
	}
	return nil
}

// takeTask reads --task, and notes for finalize what was given.
func (o *ConvertOptions) takeTask(fs *pflag.FlagSet, getenv func(string) string) (err error) {
	if o.task, err = parseTask(o.Task, getenv); err != nil || o.Task == "" {
		return err
	}
	if o.Calibrate != "" {
		return usagef("--calibrate: each task would do it anew; make the file once, with nf4kit calibrate --gram for --quality best, and give it to all of them: --activations FILE")
	}
	if o.Restart {
		return usagef("--restart: drops what all tasks have finished, so it is not for one of them; remove %s.nf4kit-staging, or run --restart without --task", o.Dst)
	}
	if o.Consume {
		return usagef("--consume-source: other tasks may need what one has read, so it is not for --task")
	}
	o.noteArgs(fs)
	return nil
}

// warnConsume says what --consume-source is about to do.
func (o *ConvertOptions) warnConsume(g *globals) {
	if o.Consume && !o.DryRun {
		warnf(g.Stderr, "--consume-source removes the weights files of %s as they are converted", o.Src)
	}
}

// speed is how fast the weights were read that this run has read.
func (s *summary) speed(c convert.Continued) string {
	n := s.p.Stats().SrcBytes
	if c.Files > 0 {
		n = c.Left
	}
	text := bytesText(int64(float64(n)/max(s.took.Seconds(), 1e-9))) + "/s"
	switch {
	case c.Files == 0:
	case c.Left == 0:
		text = fmt.Sprintf("%d of %d weights files were there", c.Files, c.Of)
	default:
		text += fmt.Sprintf("; %d of %d weights files were there", c.Files, c.Of)
	}
	return text
}
