package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/manifest"
)

const taskHelp = `With --task 3/8 the run makes the third of eight shares of the weights files, which are
dealt out by bytes, the same in every run. The tasks run in any order, on as many
machines as see the same SRC and the same directory of DST, and a task that ended early
is given again. Then 'nf4kit finalize DST' checks that all is there and makes DST.
--task env takes index and number from a Slurm array; --task env/8 the index alone, which
counts from 0: SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX of a Kubernetes Indexed Job or
AWS_BATCH_JOB_ARRAY_INDEX.`

// indexVariables hold the index of a task, counted from 0.
var indexVariables = []string{"SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"}

// parseTask reads --task.
func parseTask(s string, getenv func(string) string) (convert.Task, error) {
	if s == "" {
		return convert.Task{}, nil
	}
	first, second, both := strings.Cut(s, "/")
	switch {
	case first == "env" && !both:
		return slurmTask(getenv)
	case !both:
		return convert.Task{}, usagef("--task %q: want a share such as 3/8, env or env/8", s)
	}
	n, err := strconv.Atoi(second)
	if err != nil || n < 1 || n > convert.MaxTasks {
		return convert.Task{}, usagef("--task %q: want a number of tasks from 1 to %d behind the stroke", s, convert.MaxTasks)
	}
	if first == "env" {
		return indexedTask(getenv, n)
	}
	i, err := strconv.Atoi(first)
	if err != nil || i < 1 || i > n {
		return convert.Task{}, usagef("--task %q: want a task from 1 to %d before the stroke", s, n)
	}
	return convert.Task{Index: i, Of: n}, nil
}

// indexedTask is the task of an index that a scheduler gives.
func indexedTask(getenv func(string) string, n int) (convert.Task, error) {
	found, index := "", 0
	for _, name := range indexVariables {
		v := getenv(name)
		if v == "" {
			continue
		}
		if found != "" {
			return convert.Task{}, usagef("--task env/%d: %s and %s are both set; give the task itself, such as --task 1/%d", n, found, name, n)
		}
		found = name
		i, err := strconv.Atoi(v)
		if err != nil || i < 0 || i >= n {
			return convert.Task{}, usagef("--task env/%d: %s is %q; want an index from 0 to %d", n, name, v, n-1)
		}
		index = i
	}
	if found == "" {
		return convert.Task{}, usagef("--task env/%d: none of %s is set", n, strings.Join(indexVariables, ", "))
	}
	return convert.Task{Index: index + 1, Of: n}, nil
}

// slurmTask is the task of a Slurm array, all of which has to have been submitted at once.
func slurmTask(getenv func(string) string) (convert.Task, error) {
	get := func(name string) (int, error) {
		v := getenv("SLURM_ARRAY_TASK_" + name)
		if v == "" {
			return 0, usagef("--task env: SLURM_ARRAY_TASK_%s is not set; outside a Slurm array give the number of tasks, as --task env/8", name)
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, usagef("--task env: SLURM_ARRAY_TASK_%s is %q; want a number", name, v)
		}
		return n, nil
	}
	var v [4]int
	for i, name := range []string{"ID", "COUNT", "MIN", "MAX"} {
		var err error
		if v[i], err = get(name); err != nil {
			return convert.Task{}, err
		}
	}
	id, count, least, most := v[0], v[1], v[2], v[3]
	if most-least+1 != count || id < least || id > most || count > convert.MaxTasks {
		return convert.Task{}, usagef("--task env: of %d tasks from %d to %d some are left out; give the number of all of them, as --task env/%d with --array=0-%d",
			count, least, most, most+1, most)
	}
	return convert.Task{Index: id - least + 1, Of: count}, nil
}

// convertArgs is what finalize runs the conversion by: what the tasks were given.
type convertArgs struct {
	Src   string              `json:"src"`
	Name  string              `json:"name"` // of the source, for nf4kit.json
	Flags map[string][]string `json:"flags"`
}

// pathFlags are names of files, which mean the same in another directory when they are absolute.
var pathFlags = []string{"imatrix", "activations", "report"}

// ownFlags are of the run that they are given to.
var ownFlags = []string{"jobs", "max-memory", "recipe", "save-recipe", "dry-run", "help", "staging"}

// noteArgs keeps the flags of the conversion that were given, by whatever means.
func (o *ConvertOptions) noteArgs(fs *pflag.FlagSet) {
	o.args = convertArgs{Src: absolute(o.Src), Flags: map[string][]string{}}
	var c ConvertOptions
	names := &cobra.Command{}
	c.addFlags(names)
	names.Flags().VisitAll(func(known *pflag.Flag) {
		f := fs.Lookup(known.Name)
		if f == nil || !f.Changed || slices.Contains(ownFlags, f.Name) {
			return
		}
		values := []string{f.Value.String()}
		if v, many := f.Value.(pflag.SliceValue); many {
			values = v.GetSlice()
		}
		if slices.Contains(pathFlags, f.Name) {
			for i := range values {
				values[i] = absolute(values[i])
			}
		}
		o.args.Flags[f.Name] = values
	})
}

// absolute is the path from the root, if it is one of a file or of one to be made in a directory that is there.
func absolute(path string) string {
	if _, err := os.Stat(path); err != nil {
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() || strings.Contains(path, "://") {
			return path
		}
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// identify is the source, by the name that the tasks knew it by.
func (o *ConvertOptions) identify(src *checkpoint.Source) manifest.Source {
	s := manifest.SourceOf(src)
	if o.finalize {
		s.Name = o.args.Name
	}
	o.args.Name = s.Name // before resume, which keeps it
	return s
}

// tell says what was done.
func (o *ConvertOptions) tell(g *globals, p *convert.Plan, s *summary, took time.Duration) error {
	if o.task != (convert.Task{}) {
		return o.tellTask(g, p)
	}
	s.took = took
	return s.tell(g)
}

// tellTask says what a task has done.
func (o *ConvertOptions) tellTask(g *globals, p *convert.Plan) error {
	var names []string
	var bytes int64
	for i, t := range p.Tasks(o.task.Of) {
		if t == o.task.Index-1 {
			names = append(names, p.Shards()[i].Name)
			bytes += p.Shards()[i].Layout.Size()
		}
	}
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.task/1", "source": o.Src, "destination": o.Dst,
			"task": o.task.Index, "tasks": o.task.Of, "files": append([]string{}, names...), "bytes": bytes, "all_files": len(p.Shards()), "dry_run": o.DryRun})
	}
	if o.DryRun {
		escape.Fprintf(g.Stdout, "task %v: %d of %d weights files, %s (dry run: nothing is written)\n", o.task, len(names), len(p.Shards()), bytesText(bytes))
		for _, name := range names {
			escape.Fprintf(g.Stdout, "  %s\n", name)
		}
	} else if !g.Quiet {
		escape.Fprintf(g.Stdout, "task %v: its %d of %d weights files are finished, %s; when all tasks are: nf4kit finalize %s\n",
			o.task, len(names), len(p.Shards()), bytesText(bytes), shellWord(o.Dst)+o.staged())
	}
	if len(names) == 0 && !g.Quiet {
		noticef(g.Stderr, "there is nothing for this task: %d tasks for %d weights files; a smaller --max-shard-size makes more of them", o.task.Of, len(p.Shards()))
	}
	return nil
}

// staged is the flag that the other commands about this DST need.
func (o *ConvertOptions) staged() string {
	if o.to.store == nil || o.Staging == "." {
		return ""
	}
	return " --staging " + shellWord(o.Staging)
}

func newFinalizeCommand(g *globals) *cobra.Command {
	var l Limits
	var staged string
	cmd := &cobra.Command{
		Use:   "finalize DST",
		Short: "Make DST of what the tasks of a conversion have finished",
		Long: `finalize checks that all weights files are in DST.nf4kit-staging, to which the tasks of
'nf4kit convert SRC DST --task' write, names those that are missing and their tasks
(exit code 4), compares what is there with its digests, writes index, config.json, side
files, nf4kit.json, the model card and the reports, and gives the directory its name.
What was converted, and how, it knows from the journal. DST is the same to the byte as
that of one run without --task. Where DST is in an object store, --staging is that of the tasks.`,
		Example: `  nf4kit convert Llama-3.1-405B llama-nf4 --task 1/2
  nf4kit convert Llama-3.1-405B llama-nf4 --task 2/2
  nf4kit finalize llama-nf4`,
		Args: arguments("DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runFinalize(cmd.Context(), g, args[0], staged, l)
		},
	}
	staging(cmd.Flags(), &staged)
	l.addFlags(cmd.Flags())
	return cmd
}

// runFinalize is the command without cobra.
func runFinalize(ctx context.Context, g *globals, dst, staged string, l Limits) error {
	to, err := g.destination(ctx, dst, staged)
	if err != nil {
		return err
	}
	args, err := recordedArgs(to.path)
	if err != nil {
		return err
	}
	var o ConvertOptions
	cmd := &cobra.Command{Use: "convert"}
	o.addFlags(cmd)
	for name, values := range args.Flags {
		f := cmd.Flags().Lookup(name)
		if f == nil || slices.Contains(ownFlags, name) {
			return fmt.Errorf("finalize %s: the journal names a flag --%s, which convert has not", dst, name)
		}
		for _, v := range values {
			if err := cmd.Flags().Set(name, v); err != nil {
				return fmt.Errorf("finalize %s: the journal has --%s %q: %w", dst, name, v, err)
			}
		}
	}
	o.Src, o.Dst, o.to, o.Limits, o.finalize, o.args = args.Src, dst, to, l, true, *args
	o.settings = given(cmd.Flags(), outputFlags)
	return runConvert(ctx, g, o)
}

// recordedArgs are those of the tasks that have written to the staging directory of dst.
func recordedArgs(dst string) (*convertArgs, error) {
	var args *convertArgs
	_, err := checkpoint.Recorded(dst, func(raw []byte) error {
		if args != nil {
			return nil
		}
		text, err := convert.RecordedArgs(raw)
		if err != nil || text == nil {
			return nil // what is damaged is told later, by the run
		}
		var a convertArgs
		if err := json.Unmarshal(text, &a); err != nil {
			return nil
		}
		args = &a
		return nil
	})
	if err != nil {
		return nil, err
	}
	if args == nil {
		hint := "run its tasks first: nf4kit convert SRC DST --task 1/8, and so on"
		if _, err := os.Stat(dst); err == nil {
			hint = dst + " is there: it may have been finalized before"
		}
		return nil, &checkpoint.OutputError{Path: dst, Reason: "beside it is no staging directory of tasks", Hint: hint, Err: errors.New(dst + ".nf4kit-staging has no journal")}
	}
	return args, nil
}
