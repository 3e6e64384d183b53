package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/weights"
)

func newLoraCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lora",
		Short: "Inspect, merge, combine, extract and begin LoRA adapters",
		Long: `lora works on LoRA adapters: directories of adapter_config.json and
adapter_model.safetensors as PEFT, Unsloth, axolotl and TRL write them, or the files of
diffusers. A merge is PEFT's merge_and_unload to the bit, in a stream: neither the base
nor the result is ever in memory.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLoraInspectCommand(g), newLoraMergeCommand(g), newLoraCombineCommand(g), newLoraExtractCommand(g),
		newLoraInitCommand(g), newLoraSwapCommand(g), newLoraUnmergeCommand(g))
	return cmd
}

// notAdapter refuses an adapter where a model is wanted: quantized, its factors would be of no use to anyone.
func notAdapter(src *checkpoint.Source) error {
	for i := range src.Tensors {
		if name := src.Tensors[i].Name; lora.IsFactor(name) {
			return &lora.Error{Path: src.Path, Key: name, Expect: "a model", Found: "an adapter",
				Hint: "nf4kit lora inspect " + src.Path + " shows it, nf4kit lora merge BASE " + src.Path + " DST --quantize merges it into its base and quantizes that"}
		}
	}
	return nil
}

// openAdapters opens adapters; done closes them.
func openAdapters(paths []string) (list []*lora.Adapter, done func(), err error) {
	done = func() {
		for _, a := range list {
			_ = a.Close() // they were read
		}
	}
	for _, p := range paths {
		a, err := lora.Open(p)
		if err != nil {
			done()
			return nil, nil, err
		}
		list = append(list, a)
	}
	return list, done, nil
}

// LoraInspectOptions are the arguments and flags of lora inspect.
type LoraInspectOptions struct {
	Adapter, Base string
}

func newLoraInspectCommand(g *globals) *cobra.Command {
	var o LoraInspectOptions
	cmd := &cobra.Command{
		Use:   "inspect ADAPTER",
		Short: "Show the modules of an adapter, their ranks, scalings and sizes, and whether they fit a base",
		Long: `inspect shows what an adapter updates: rank, alpha and scaling of each module, the
size |D| of its update in the Frobenius norm, and its effective rank (the exponential
of the entropy of the singular values: how many of the r directions are used).

With --base it finds every module in that model, shows |D|/|W|, and names what does not
fit: PEFT leaves out a tensor that matches nothing without a word. What does not fit is
exit code 4.`,
		Example: `  nf4kit lora inspect my-adapter
  nf4kit lora inspect my-adapter --base Llama-3.2-1B -v`,
		Args: arguments("ADAPTER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Adapter = args[0]
			return runLoraInspect(cmd.Context(), g, o)
		},
	}
	cmd.Flags().StringVar(&o.Base, "base", "", "hold it to the model `SRC`, and measure its updates against the weights")
	return cmd
}

// runLoraInspect is the command without cobra.
func runLoraInspect(ctx context.Context, g *globals, o LoraInspectOptions) error {
	a, err := await(ctx, func() (*lora.Adapter, error) { return lora.Open(o.Adapter) })
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.CheckFinite(); err != nil {
		return err
	}
	list, err := await(ctx, a.Summaries)
	if err != nil {
		return err
	}
	var problems []error
	if o.Base != "" {
		src, err := g.open(ctx, o.Base)
		if err != nil {
			return err
		}
		defer src.Close()
		problems, err = await(ctx, func() ([]error, error) {
			m, err := weights.Open(src)
			if err != nil {
				return nil, err
			}
			if lora.Unties(m, a) { // as a merge gives the base a head of its own
				if m, err = m.Untie(); err != nil {
					return nil, err
				}
			}
			return a.Against(m.Tensors, tiedHead(m), list)
		})
		if err != nil {
			return err
		}
	}
	if g.JSON {
		if err := writeJSON(g.Stdout, loraInspectJSON(a, o, list, problems)); err != nil {
			return err
		}
	} else {
		printAdapter(g, a, o, list)
		for _, p := range problems {
			warnf(g.Stderr, "%v", p)
		}
	}
	if len(problems) > 0 {
		return &checkError{fmt.Sprintf("%d of the adapter's modules and tensors do not fit %s", len(problems), o.Base)}
	}
	return nil
}

// tiedHead reports whether a model's output head shares the embeddings where it is not stored.
func tiedHead(m *weights.Model) bool {
	if m.Arch == nil {
		return false
	}
	return m.Query.Tied || !m.Query.TiedSet
}

func loraInspectJSON(a *lora.Adapter, o LoraInspectOptions, list []lora.Summary, problems []error) any {
	type moduleJSON struct {
		Module    string  `json:"module"`
		Kind      string  `json:"kind"`
		Rank      int64   `json:"rank,omitempty"`
		Alpha     float64 `json:"alpha,omitempty"`
		Scaling   float64 `json:"scaling,omitempty"`
		In        int64   `json:"in"`
		Out       int64   `json:"out"`
		Params    int64   `json:"parameters"`
		Norm      float64 `json:"norm,omitempty"`
		Effective float64 `json:"effective_rank,omitempty"`
		Tensor    string  `json:"tensor,omitempty"`
		Relative  float64 `json:"relative_norm,omitempty"`
	}
	modules := []moduleJSON{}
	for _, s := range list {
		modules = append(modules, moduleJSON(s))
	}
	texts := []string{}
	for _, p := range problems {
		texts = append(texts, p.Error())
	}
	saved := []string{}
	for _, s := range a.Saved {
		saved = append(saved, s.Name)
	}
	out := map[string]any{
		"schema": "nf4kit.lora.inspect/1", "adapter": o.Adapter, "parameters": a.Params, "bytes": a.Bytes, "modules": modules,
		"replaced_tensors": saved, "problems": texts, "notes": append([]string{}, a.Notes...),
	}
	if c := a.Config; c != nil {
		out["base_model"], out["rank"], out["alpha"], out["rslora"], out["dora"] = c.Base, c.Rank, c.Alpha, c.RSLoRA, c.DoRA
	}
	if o.Base != "" {
		out["base"] = o.Base
	}
	return out
}

// printAdapter prints a line for every kind of module, or with -v for every module.
func printAdapter(g *globals, a *lora.Adapter, o LoraInspectOptions, list []lora.Summary) {
	if !g.Quiet {
		for _, n := range a.Notes {
			noticef(g.Stderr, "%s", n)
		}
	}
	what := "no " + lora.ConfigName
	if c := a.Config; c != nil {
		kind := "LoRA"
		switch {
		case c.DoRA:
			kind = "DoRA"
		case c.RSLoRA:
			kind = "rsLoRA"
		}
		what = fmt.Sprintf("%s, rank %d, alpha %g", kind, c.Rank, c.Alpha)
		if c.Base != "" {
			what += ", trained on " + c.Base
		}
	}
	escape.Fprintf(g.Stdout, "%s: %s\n%s parameters in %d modules, %d tensors that replace the base's, %s\n\n", o.Adapter, what,
		countText(a.Params), len(list), len(a.Saved), bytesText(a.Bytes))
	t := newTable(g.Stdout)
	head := row("module", "kind", "rank", "scaling", "[out, in]", "parameters", "|D|", "effective rank")
	if o.Base != "" {
		head = append(head, "|D|/|W|")
	}
	t.AppendHeader(head)
	alignRight(t, 3, len(head))
	for _, s := range grouped(list, g.Verbose) {
		cells := row(s.Module, s.Kind, s.Rank, fmt.Sprintf("%.4g", s.Scaling), fmt.Sprintf("[%d, %d]", s.Out, s.In), countText(s.Params),
			figure(s.Norm), figure(s.Effective))
		if o.Base != "" {
			cells = append(cells, figure(s.Relative))
		}
		t.AppendRow(cells)
	}
	t.Render()
	for i, s := range a.Saved {
		if i == foldAt && !g.Verbose {
			escape.Fprintf(g.Stdout, "and %d more tensors that replace the base's (-v lists them)\n", len(a.Saved)-i)
			break
		}
		escape.Fprintf(g.Stdout, "replaces %s %v\n", s.Name, s.Tensor.Shape)
	}
}

// figure is a number that may not be known.
func figure(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", v)
}

// grouped puts modules of the same name in different layers together, with the mean of their figures.
func grouped(list []lora.Summary, all bool) []lora.Summary {
	if all {
		return list
	}
	type group struct {
		name, kind    string
		rank, in, out int64
		scaling       float64
	}
	var order []group
	sums, n := map[group]lora.Summary{}, map[group]int{}
	for _, s := range list {
		name := s.Module[strings.LastIndexByte(strings.TrimSuffix(s.Module, ".base_layer"), '.')+1:]
		k := group{name, s.Kind, s.Rank, s.In, s.Out, s.Scaling}
		x, ok := sums[k]
		if !ok {
			order = append(order, k)
			x = s
		} else {
			x.Params += s.Params
			x.Norm += s.Norm
			x.Effective += s.Effective
			x.Relative += s.Relative
		}
		sums[k], n[k] = x, n[k]+1
	}
	var out []lora.Summary
	for _, k := range order {
		x, c := sums[k], float64(n[k])
		if n[k] > 1 {
			x.Module = fmt.Sprintf("%s (%d, means)", k.name, n[k])
		}
		x.Norm, x.Effective, x.Relative = x.Norm/c, x.Effective/c, x.Relative/c
		out = append(out, x)
	}
	return out
}

// LoraCombineOptions are the arguments and flags of lora combine.
type LoraCombineOptions struct {
	Adapters []string
	Dst      string
	Method   string
	Weights  []float64
	Rank     int64
	Density  float64
	Sign     string
	Seed     uint64
	Force    bool
}

func newLoraCombineCommand(g *globals) *cobra.Command {
	var o LoraCombineOptions
	cmd := &cobra.Command{
		Use:   "combine ADAPTER... DST",
		Short: "Make one adapter of several",
		Long: `combine writes one PEFT adapter that does what several do together, weighted:

  cat              their factors side by side: exact; the ranks add up (the default)
  svd              the best approximation of the weighted sum of the updates by one of
                   rank --rank (default: the largest of the adapters')
  linear           the factors added, each with the root of its weight: this is not the
                   sum of the updates, and is off by some 30 % of it for two adapters
  ties, magnitude_prune
                   linear, of the --density share of the largest elements; ties drops
                   those whose sign most of the adapters do not have
  dare_linear, dare_ties
                   the same of a random --density share, scaled up (--seed)

They are PEFT's add_weighted_adapter, and equal to it where nothing is random. A weight
of -1 takes a task away.`,
		Example: `  nf4kit lora combine french legal both
  nf4kit lora combine french legal both --weight 0.7 --weight 0.3 --method svd --rank 16`,
		Args: atLeast("ADAPTER", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Adapters, o.Dst = args[:len(args)-1], args[len(args)-1]
			return runLoraCombine(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Method, "method", "cat", "how: "+strings.Join(lora.CombineMethods, ", "))
	fs.Float64SliceVar(&o.Weights, "weight", nil, "weight of an adapter, in the order of the arguments (repeatable); default 1 each")
	fs.Int64Var(&o.Rank, "rank", 0, "rank of the result of svd; 0 is the largest of the adapters'")
	fs.Float64Var(&o.Density, "density", 0.5, "share of the elements that ties, dare_ and magnitude_prune keep")
	fs.StringVar(&o.Sign, "sign", "total", "how ties elects a sign: total, by the sum, or frequency, by the number")
	fs.Uint64Var(&o.Seed, "seed", 0, "seed of dare_linear and dare_ties")
	fs.BoolVar(&o.Force, "force", false, "replace DST, once the new one is complete")
	enum(cmd, "method", lora.CombineMethods...)
	enum(cmd, "sign", "total", "frequency")
	return cmd
}

// options turns the flags into options.
func (o *LoraCombineOptions) options() (lora.CombineOptions, error) {
	opt := lora.CombineOptions{Method: o.Method, Weights: o.Weights, Rank: o.Rank, Density: o.Density, Frequency: o.Sign == "frequency", Seed: o.Seed}
	if len(opt.Weights) == 0 {
		for range o.Adapters {
			opt.Weights = append(opt.Weights, 1)
		}
	}
	switch {
	case !slices.Contains(lora.CombineMethods, o.Method):
		return opt, usagef("--method %q: want one of %s", o.Method, strings.Join(lora.CombineMethods, ", "))
	case len(opt.Weights) != len(o.Adapters):
		return opt, usagef("--weight: %d for %d adapters", len(o.Weights), len(o.Adapters))
	case o.Rank < 0 || o.Rank > lora.MaxRank:
		return opt, usagef("--rank %d: want 1 to %d", o.Rank, lora.MaxRank)
	case o.Rank > 0 && o.Method != "svd":
		return opt, usagef("--rank: only svd chooses its rank")
	case !(o.Density > 0 && o.Density <= 1):
		return opt, usagef("--density %g: want a share above 0, at most 1", o.Density)
	case o.Sign != "total" && o.Sign != "frequency":
		return opt, usagef("--sign %q: want total or frequency", o.Sign)
	}
	return opt, checkWeights(opt.Weights)
}

// runLoraCombine is the command without cobra.
func runLoraCombine(ctx context.Context, g *globals, o LoraCombineOptions) error {
	opt, err := o.options()
	if err != nil {
		return err
	}
	list, done, err := openAdapters(o.Adapters)
	if err != nil {
		return err
	}
	defer done()
	made, err := await(ctx, func() (*lora.Made, error) { return lora.Combine(list, opt) })
	if err != nil {
		return err
	}
	if err := made.Write(ctx, o.Dst, checkpoint.Options{Force: o.Force, Sources: o.Adapters}, nil); err != nil {
		return err
	}
	rank, modules := made.Size()
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.lora.combine/1", "adapters": o.Adapters, "weights": opt.Weights,
			"method": o.Method, "destination": o.Dst, "rank": rank, "modules": modules})
	}
	if !g.Quiet {
		escape.Fprintf(g.Stdout, "%s -> %s: rank %d in %d modules\n", strings.Join(o.Adapters, " + "), o.Dst, rank, modules)
	}
	return nil
}

// checkWeights refuses weights of adapters that are no numbers to add.
func checkWeights(list []float64) error {
	for _, w := range list {
		if w == 0 || math.IsNaN(w) || math.Abs(w) > 1e6 {
			return usagef("--weight %g: want a number other than 0, at most 1e6", w)
		}
	}
	return nil
}

// flagNames lists the flags of a set.
func flagNames(fs *pflag.FlagSet) (names []string) {
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
