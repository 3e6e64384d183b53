package main

import (
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
		noticef(g.Stderr, "left by a run that did not end, and dropped: %s", left)
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
	return &convert.Resume{Tool: "nf4kit " + versionText(), Command: "convert", Settings: settings, Restart: o.Restart}
}

// unfinishedHint says how to go on after e.
func unfinishedHint(e *convert.UnfinishedError) string {
	return fmt.Sprintf("%s: the same command goes on from there, --restart begins anew", e.Kept())
}
