package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/archive"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/remote"
)

// PackOptions are the arguments and flags of pack and unpack.
type PackOptions struct {
	Src, Dst string
	Jobs     int
	Force    bool
}

func newPackCommand(g *globals) *cobra.Command {
	var o PackOptions
	cmd := &cobra.Command{
		Use:        "pack SRC FILE.tar.zst",
		SuggestFor: []string{"archive", "tar", "zip"},
		Short:      "Put a checkpoint into one compressed file, from which it can be read",
		Long: `pack writes all files of SRC, a checkpoint, into FILE: a tar archive in frames of zstd, with
a table by which any part of it is found. inspect, verify, convert and all other commands
take FILE as a SRC, and decompress what they need of it; 'nf4kit unpack FILE DIR' or
'tar --zstd -xf FILE' make a directory of it again.

Compression takes a fifth off weights in bfloat16, and next to nothing off NF4 codes, which
hold 3.87 of their 4 bits: docs/pack.md.

Digests in nf4kit.json are checked on the way. FILE appears when it is complete, and not
before; there must be room for all files as they are. Files and folders whose names begin
with a dot stay behind.

` + sourceHelp,
		Example: `  nf4kit pack Llama-3.2-1B-nf4 Llama-3.2-1B-nf4.tar.zst
  nf4kit inspect Llama-3.2-1B-nf4.tar.zst
  nf4kit unpack Llama-3.2-1B-nf4.tar.zst Llama-3.2-1B-nf4`,
		Args: arguments("SRC", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Dst = args[0], args[1]
			return runPack(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&o.Jobs, "jobs", 0, "frames that are compressed side by side; 0 is one a processor")
	fs.BoolVar(&o.Force, "force", false, "replace FILE, once the new one is complete")
	return cmd
}

func newUnpackCommand(g *globals) *cobra.Command {
	var o PackOptions
	cmd := &cobra.Command{
		Use:        "unpack FILE.tar.zst DIR",
		SuggestFor: []string{"extract", "untar", "unzip"},
		Short:      "Make a directory of a checkpoint that pack has packed",
		Long: `unpack writes the files of FILE, which 'nf4kit pack' has made, into DIR. FILE may lie elsewhere, as
a SRC of other commands may: hf://org/name/FILE.tar.zst, s3://BUCKET/FILE.tar.zst, https://...

Digests in nf4kit.json are checked on the way. DIR appears when it is complete, and not
before. Links, devices, names that lead out of DIR or that some systems take for the same,
and sizes that do not agree are refused before anything is written.`,
		Example: `  nf4kit unpack Llama-3.2-1B-nf4.tar.zst Llama-3.2-1B-nf4`,
		Args:    arguments("FILE", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Dst = args[0], args[1]
			return runUnpack(cmd.Context(), g, o)
		},
	}
	cmd.Flags().BoolVar(&o.Force, "force", false, "replace DIR, once the new one is complete")
	return cmd
}

// runPack is the command without cobra.
func runPack(ctx context.Context, g *globals, o PackOptions) error {
	if !archive.IsName(o.Dst) || remote.IsRemote(o.Dst) {
		return usagef("pack: %s: want a file of this machine whose name ends in .tar.zst", o.Dst)
	}
	if o.Jobs < 0 {
		return usagef("--jobs %d: want 0 or more", o.Jobs)
	}
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	if src.IsFile {
		return &checkpoint.InputError{File: o.Src, Expected: "a model directory", Found: "a single file", Hint: "give its directory"}
	}
	bar := newProgress(g.Stderr, "packing", src.TensorBytes(), g.Quiet)
	done, err := archive.Pack(ctx, src, o.Dst, archive.Options{Force: o.Force, Jobs: o.Jobs, Progress: bar.advance})
	bar.finish()
	if err != nil {
		return err
	}
	g.complete = o.Dst
	return g.tellPacked("pack", o, done, fmt.Sprintf("%s as %s (%.1f %%)", bytesText(done.Bytes), bytesText(done.Packed), 100*float64(done.Packed)/float64(max(done.Bytes, 1))))
}

// runUnpack is the command without cobra.
func runUnpack(ctx context.Context, g *globals, o PackOptions) error {
	if !archive.IsName(o.Src) {
		return usagef("unpack: %s: want a file whose name ends in .tar.zst", o.Src)
	}
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	var sources []string
	if info, err := os.Stat(o.Src); err == nil {
		sources = []string{o.Src}
		if info.IsDir() {
			return usagef("unpack: %s is a directory", o.Src)
		}
	}
	bar := newProgress(g.Stderr, "unpacking", src.TensorBytes(), g.Quiet)
	done, err := archive.Unpack(ctx, src, o.Dst, sources, archive.Options{Force: o.Force, Progress: bar.advance})
	bar.finish()
	if err != nil {
		return err
	}
	g.complete = o.Dst
	return g.tellPacked("unpack", o, done, bytesText(done.Bytes))
}

// tellPacked says what was done, and what was checked.
func (g *globals) tellPacked(command string, o PackOptions, done *archive.Done, sizes string) error {
	if g.JSON {
		v := map[string]any{"schema": "nf4kit." + command + "/1", "source": o.Src, "destination": o.Dst, "files": done.Files, "bytes": done.Bytes,
			"manifest": done.Manifest, "tensors": done.Of, "tensors_checked": done.Tensors, "files_checked": done.Checked.Files}
		if command == "pack" {
			v["packed_bytes"] = done.Packed
		}
		return writeJSON(g.Stdout, v)
	}
	if g.Quiet {
		return nil
	}
	checked := fmt.Sprintf("no digests to check: there is no %s", manifest.Name)
	if done.Manifest {
		checked = fmt.Sprintf("digests of %d of %d tensors and of %d other files are those of %s", done.Tensors, done.Of, done.Checked.Files, manifest.Name)
	}
	escape.Fprintf(g.Stdout, "%s -> %s: %d files, %s\n  %s\n", o.Src, o.Dst, done.Files, sizes, checked)
	return nil
}
