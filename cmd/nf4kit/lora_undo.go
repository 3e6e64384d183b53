package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/weights"
)

func newLoraSwapCommand(g *globals) *cobra.Command {
	var o LoraMergeOptions
	cmd := &cobra.Command{
		Use:   "swap BASE ADAPTER... DST",
		Short: "Replace the adapters in a merged model",
		Long: `swap writes DST, a model with other adapters merged into it, anew: BASE with these
adapters, in the place of what DST was once it is complete. Subtracting the old adapter
and adding the new one would round three times; this is what merge writes, byte for byte.
It takes the flags of merge.`,
		Example: `  nf4kit lora swap Llama-3.2-1B french merged`,
		Args:    atLeast("BASE", "ADAPTER", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Adapters, o.Dst, o.Force = args[0], args[1:len(args)-1], args[len(args)-1], true
			o.take(cmd)
			to, err := g.destination(cmd.Context(), o.Dst, o.Staging)
			if err != nil {
				return err
			}
			if to.store == nil || checkpoint.Left(to.path) == "" { // else a swap that did not end has taken the old files away
				if err := checkSwap(cmd.Context(), g, &o); err != nil {
					return err
				}
			}
			return runLoraMerge(cmd.Context(), g, o)
		},
	}
	o.addFlags(cmd)
	return cmd
}

// checkSwap refuses a DST that is no merge of BASE.
func checkSwap(ctx context.Context, g *globals, o *LoraMergeOptions) error {
	old, done, err := openModels(ctx, g, o.Dst)
	if err != nil {
		return fmt.Errorf("swap in %s: %w", o.Dst, err)
	}
	names := tensorNames(old[0])
	done()
	base, done, err := openModels(ctx, g, o.Src)
	if err != nil {
		return err
	}
	same := tensorNames(base[0])
	if base[0].TiedHead() != nil { // a merge may have given it a head of its own
		head := strings.TrimSuffix(base[0].HeadName(), ".weight")
		names = slices.DeleteFunc(names, func(n string) bool { return (n == head+".weight" || n == head+".bias") && !slices.Contains(same, n) })
	}
	done()
	if !slices.Equal(names, same) {
		return &lora.Error{Path: o.Dst, Expect: "a merge of " + o.Src + ", with its tensors", Found: "a model of others", Hint: "nf4kit lora merge writes a new one"}
	}
	return nil
}

func tensorNames(m *weights.Model) (names []string) {
	for i := range m.Tensors {
		names = append(names, m.Tensors[i].Name)
	}
	slices.Sort(names)
	return names
}

// LoraUnmergeOptions are the arguments and flags of lora unmerge.
type LoraUnmergeOptions struct {
	LoraMergeOptions
	resharded bool // --max-shard-size was given
}

func newLoraUnmergeCommand(g *globals) *cobra.Command {
	var o LoraUnmergeOptions
	cmd := &cobra.Command{
		Use:   "unmerge MERGED [ADAPTER...] DST",
		Short: "Take adapters out of a merged model",
		Long: `unmerge with --undo FILE, which merge --undo FILE wrote, gives back the files of the
base, byte for byte: the same shards, index, config.json and what stood beside them. Other
forms of the weights and training state, which merge does not copy, are not among them.

Without it the updates of the adapters are subtracted, as PEFT's unmerge does. That is
not the base: some 15 % of the elements are a unit in the last place off, since the merge
has rounded. What an adapter has replaced (modules_to_save, biases, trained tokens) and
DoRA cannot be undone so and are errors.`,
		Example: `  nf4kit lora unmerge merged base --undo merged.undo
  nf4kit lora unmerge merged my-adapter nearly-base`,
		Args: atLeast("MERGED", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Adapters, o.Dst = args[0], args[1:len(args)-1], args[len(args)-1]
			o.settings, o.resharded = map[string]string{}, cmd.Flags().Changed("max-shard-size")
			if o.Undo != "" {
				return runLoraUndo(cmd.Context(), g, o)
			}
			return runLoraSubtract(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Undo, "undo", "", "give back the base exactly, by the `FILE` that merge --undo wrote")
	fs.StringVar(&o.MaxShardSize, "max-shard-size", "5GB", "largest weights file; with --undo they are the base's")
	o.Limits.addFlags(fs)
	fs.BoolVar(&o.Force, "force", false, "replace DST, once the new one is complete")
	restart(fs, &o.Restart)
	allowIncomplete(fs, &o.AllowIncomplete)
	return cmd
}

// runLoraSubtract adds the adapters with a weight of -1, the last first, with a rounding as PEFT's.
func runLoraSubtract(ctx context.Context, g *globals, o LoraUnmergeOptions) error {
	if len(o.Adapters) == 0 {
		return usagef("unmerge: want adapters to subtract, or --undo FILE")
	}
	slices.Reverse(o.Adapters)
	o.DType, o.Onto, o.Rounding = "auto", "auto", "safe"
	o.Weights, o.subtract = nil, true
	for range o.Adapters {
		o.Weights = append(o.Weights, -1)
	}
	list, done, err := openAdapters(o.Adapters)
	if err != nil {
		return err
	}
	defer done()
	for _, a := range list {
		for _, m := range a.Modules {
			if m.Magnitude != nil {
				return &lora.Error{Path: a.Path, Key: m.Magnitude.Name, Expect: "plain updates, to be subtracted", Found: "DoRA, whose norms were those of the base",
					Hint: "keep the base, or write merge --undo FILE"}
			}
		}
	}
	noticef(g.Stderr, "subtracting does not give the base back exactly: some 15 %% of the elements that changed are a unit in the last place off")
	return runLoraMerge(ctx, g, o.LoraMergeOptions)
}

// runLoraUndo gives back the base.
func runLoraUndo(ctx context.Context, g *globals, o LoraUnmergeOptions) error {
	switch {
	case len(o.Adapters) > 0:
		return usagef("--undo %s: it knows what was merged; want MERGED DST", o.Undo)
	case o.resharded:
		return usagef("--max-shard-size: with --undo the files are those that the base had")
	}
	start := time.Now()
	merged, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer merged.Close()
	u, err := lora.OpenUndo(o.Undo)
	if err != nil {
		return err
	}
	defer u.Close()
	if left := u.Left(); len(left) > 0 && !g.Quiet {
		noticef(g.Stderr, "not in %s, and so not given back: %s", o.Undo, wrapNames(left, foldAt))
	}
	bar := newProgress(g.Stderr, "restoring", u.Bytes(), g.Quiet)
	err = u.Restore(ctx, merged, o.Dst, checkpoint.Options{Force: o.Force, Sources: []string{merged.Path, merged.Dir, o.Undo}}, bar.advance)
	bar.finish()
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.lora.unmerge/1", "merged": o.Src, "destination": o.Dst, "restored_tensors": u.Count(),
			"files": u.Files(), "left_out": append([]string{}, u.Left()...), "seconds": time.Since(start).Seconds()})
	}
	if !g.Quiet {
		escape.Fprintf(g.Stdout, "%s -> %s in %s: %d files of the base as they were, by their digests; %d tensors differed\n", o.Src, o.Dst,
			durationText(time.Since(start)), u.Files(), u.Count())
	}
	return nil
}

// checkUndo refuses, before any work, a file of --undo that could not be written or would be lost with DST.
func checkUndo(name, dst string) error {
	if _, err := os.Lstat(name); err == nil {
		return usagef("--undo %s: it exists; what undoes another merge is not replaced", name)
	}
	if err := checkNewFile("undo", name); err != nil {
		return err
	}
	if fileOf(name, dst) != "" {
		return usagef("--undo %s: it would lie in %s, which is replaced; give a place beside it", name, dst)
	}
	return nil
}

// undo writes the file of --undo.
func (m *merging) undo(ctx context.Context) error {
	merged, err := m.g.open(ctx, m.o.Dst)
	if err != nil {
		return err
	}
	defer merged.Close()
	err = createFile(m.o.Undo, func(w io.Writer) error { return m.merge.WriteUndo(ctx, w, m.base.Source, merged) })
	if err != nil {
		return fmt.Errorf("--undo %s: %w", m.o.Undo, err)
	}
	return nil
}
