package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/remote"
)

// PushOptions are the arguments and flags of push.
type PushOptions struct {
	Dir, Dst string
	Private  bool
	Message  string
}

func newPushCommand(g *globals) *cobra.Command {
	var o PushOptions
	cmd := &cobra.Command{
		Use:        "push DIR hf://org/name[@BRANCH]",
		SuggestFor: []string{"upload", "publish"},
		Short:      "Upload a checkpoint to a hub of models",
		Long: `push uploads DIR, a complete checkpoint, to a repository of the hub, in one commit. It
creates the repository if there is none; --private makes it a private one. Files that are
in the repository and not in DIR stay there.

Weights are sent by Git LFS, those that the hub has already are not: after an
interrupt, the same command begins with the file that was on its way. Files and folders
whose names begin with a dot stay behind.

HF_TOKEN, or the token of hf auth login, must be one that may write (docs/sources.md).`,
		Example: `  nf4kit push Qwen2.5-72B-nf4 hf://me/Qwen2.5-72B-nf4
  nf4kit push out hf://me/out --private --message "NF4, block size 64"`,
		Args: arguments("DIR", "hf://org/name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir, o.Dst = args[0], args[1]
			return runPush(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&o.Private, "private", false, "make the repository a private one, if it is not there yet")
	fs.StringVar(&o.Message, "message", "", "message of the commit; default \"Upload with nf4kit\"")
	return cmd
}

// runPush is the command without cobra.
func runPush(ctx context.Context, g *globals, o PushOptions) error {
	if remote.IsRemote(o.Dir) {
		return usagef("push: %s is no directory of this machine", o.Dir)
	}
	src, err := g.open(ctx, o.Dir)
	if err != nil {
		return err
	}
	isFile := src.IsFile
	total := src.TensorBytes()
	dir, err := filepath.Abs(src.Dir)
	if err != nil {
		return err
	}
	if err := src.Close(); err != nil {
		return err
	}
	if isFile {
		return &checkpoint.InputError{File: o.Dir, Expected: "a model directory", Found: "a single file", Hint: "give its directory"}
	}
	bar := newProgress(g.Stderr, "uploading", total, g.Quiet)
	p, err := remote.Push(ctx, dir, o.Dst, remote.PushOptions{
		Options: remote.Options{Agent: "nf4kit/" + versionText(), Getenv: g.getenv}, Private: o.Private, Message: o.Message, Progress: bar.advance})
	bar.finish()
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.push/1", "directory": o.Dir, "repository": p.Repo, "commit": p.Commit, "url": p.URL,
			"files": p.Files, "bytes_sent": p.Sent, "bytes_present": p.Present})
	}
	if !g.Quiet {
		escape.Fprintf(g.Stdout, "%s -> hf://%s: %d files, %s of weights sent, %s there before\n%s\n", o.Dir, p.Repo, p.Files, bytesText(p.Sent), bytesText(p.Present), p.URL)
	}
	return nil
}
