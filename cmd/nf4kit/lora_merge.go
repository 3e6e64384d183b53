package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/remote"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// LoraMergeOptions are the arguments and flags of lora merge.
type LoraMergeOptions struct {
	ConvertOptions // Src is the base
	Adapters       []string
	Quantize       bool
	Onto           string
	TrainedOn      string
	Rounding       string
	Joint          bool
	Residual       bool
	Undo           string
	Weights        []float64

	given map[string]bool   // flags of convert that were set
	said  map[string]string // flags of merge alone on which bytes or figures depend

	subtract bool // of unmerge
}

func newLoraMergeCommand(g *globals) *cobra.Command {
	var o LoraMergeOptions
	cmd := &cobra.Command{
		Use:   "merge BASE ADAPTER... DST",
		Short: "Merge adapters into their base, in 16 bits or quantized again",
		Long: `merge adds the updates of adapters to the weights of BASE and writes DST, a directory
that loads without PEFT. It streams: neither BASE nor DST is ever in memory. The result
is that of PEFT's merge_and_unload on the CPU to the bit (--rounding safe: with
safe_merge=True); several adapters are added in the order of the arguments with a
rounding after each, or with --joint at once.

BASE is a model in 16 or 32 bits, or one that is quantized: bitsandbytes' 4 bits, LLM.int8,
FP8 and what else convert reads; of these the decoded weights are taken. --quantize
quantizes the result in the same pass, with the flags of convert; a 4-bit BASE keeps its
own formats then, as PEFT's merge on it does. An update much smaller than the steps of
the format does not survive that: of one of 2 % of the weights, some 2 % is left.

An adapter that was trained on a quantized base has learned to make up for that base's
error. --trained-on says which it was; --onto then chooses whether the update goes onto
those decoded weights (decoded, the default) or onto BASE as it is (source). The report
gives |W-Q|/|D|, how large the base's error is beside the update.

For each weight the report has |D|/|W|, the size of the update; the share of it that
survives rounding (or quantization); and what is lost, in units of the update. With
--quantize it has the share that other scales would leave too: searched ones where
--scale is absmax, absmax else, from a sample of each weight.

` + resumeHelp + `

` + destinationHelp,
		Example: `  nf4kit lora merge Llama-3.2-1B my-adapter merged
  nf4kit lora merge Llama-3.2-1B-nf4 my-adapter merged --dtype bfloat16
  nf4kit lora merge Llama-3.2-1B my-adapter merged-nf4 --quantize --scale mse
  nf4kit lora merge Llama-3.2-1B french legal both --weight 0.7 --weight 0.3 --joint`,
		Args: atLeast("BASE", "ADAPTER", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Adapters, o.Dst = args[0], args[1:len(args)-1], args[len(args)-1]
			o.take(cmd)
			return runLoraMerge(cmd.Context(), g, o)
		},
	}
	o.addFlags(cmd)
	return cmd
}

func (o *LoraMergeOptions) addFlags(cmd *cobra.Command) {
	o.ConvertOptions.addFlags(cmd)
	fs := cmd.Flags()
	fs.Lookup("dtype").Usage = "dtype of the result: auto (each tensor's own; of decoded ones as config.json says), bfloat16, float16 or, without --quantize, float32"
	fs.Lookup("report").Usage = "write every tensor's figures to `FILE`.html, .json, .csv or .md (repeatable)"
	fs.BoolVar(&o.Quantize, "quantize", false, "quantize the result, with the flags of convert")
	fs.StringVar(&o.Onto, "onto", "auto", "what the updates are added to: decoded (the quantized weights of --trained-on, or of BASE), source (BASE in 16 bits), or auto: decoded where --trained-on is given")
	fs.StringVar(&o.TrainedOn, "trained-on", "", "the quantized model `QUANT` that the adapters were trained on")
	fs.StringVar(&o.Rounding, "rounding", "peft", "peft: once, or safe: as PEFT's safe_merge=True, the update before it is added too")
	fs.BoolVar(&o.Joint, "joint", false, "add all adapters before rounding, more exact than PEFT")
	fs.BoolVar(&o.Residual, "base-is-residual", false, "BASE is the changed one that PiSSA, OLoRA, LoftQ or another such method left beside the adapter")
	fs.StringVar(&o.Undo, "undo", "", "write what unmerge needs to give back BASE byte for byte to `FILE`")
	restart(fs, &o.Restart)
	fs.Float64SliceVar(&o.Weights, "weight", nil, "weight of an adapter, in the order of the arguments (repeatable); default 1 each")
	enum(cmd, "onto", "auto", "source", "decoded")
	enum(cmd, "rounding", "peft", "safe")
}

// alone are the flags of convert that a merge has without --quantize too.
var alone = []string{"dtype", "max-shard-size", "jobs", "max-memory", "no-error", "report", "dry-run", "force", "allow-incomplete", "staging"}

func (o *LoraMergeOptions) take(cmd *cobra.Command) {
	o.settings = given(cmd.Flags(), outputFlags)
	o.said = given(cmd.Flags(), []string{"quantize", "onto", "trained-on", "rounding", "joint", "base-is-residual", "weight", "no-error", "allow-incomplete"})
	o.given = map[string]bool{}
	var c ConvertOptions
	names := &cobra.Command{}
	c.addFlags(names)
	for name := range given(cmd.Flags(), flagNames(names.Flags())) {
		if !slices.Contains(alone, name) {
			o.given[name] = true
		}
	}
}

// merge reports flags that contradict each other, and returns what the adapters are merged with.
func (o *LoraMergeOptions) merge() (lora.Options, error) {
	opt := lora.Options{Weights: o.Weights, Safe: o.Rounding == "safe", Joint: o.Joint, Residual: o.Residual, Subtract: o.subtract, NoFigures: o.NoError}
	for name := range o.given {
		if !o.Quantize {
			return opt, usagef("--%s is about quantizing: say --quantize too", name)
		}
	}
	switch {
	case o.Rounding != "peft" && o.Rounding != "safe":
		return opt, usagef("--rounding %q: want peft or safe", o.Rounding)
	case !slices.Contains([]string{"auto", "source", "decoded"}, o.Onto):
		return opt, usagef("--onto %q: want auto, source or decoded", o.Onto)
	case len(o.Weights) > 0 && len(o.Weights) != len(o.Adapters):
		return opt, usagef("--weight: %d for %d adapters", len(o.Weights), len(o.Adapters))
	case o.Undo != "" && (o.Quantize || o.DType != "auto" || o.TrainedOn != ""):
		return opt, usagef("--undo: a merge in the dtypes of BASE can be undone; with --quantize, --dtype or --trained-on keep BASE")
	case o.Undo != "" && remote.LocalPath(o.Dst) == "":
		return opt, usagef("--undo: it takes a DST on this machine; unmerge reads it back")
	case o.Recipe != "" || o.TargetBPP > 0 || o.SaveRecipe != "":
		return opt, usagef("--recipe, --save-recipe and --target-bpp are of convert alone")
	}
	if err := o.checkReports(); err != nil {
		return opt, err
	}
	return opt, checkWeights(o.Weights)
}

// a merging is a merge that is under way.
type merging struct {
	o        *LoraMergeOptions
	g        *globals
	base     *weights.Model // that the updates are added to
	other    *weights.Model // the other of BASE and --trained-on; nil without the latter
	adapters []*lora.Adapter
	merge    *lora.Merge
	plan     *convert.Plan
	inputs   convert.Inputs
	like     *weights.Model // whose weights' formats the result has; nil: the base's
	results  []convert.Result
}

// runLoraMerge is the command without cobra.
func runLoraMerge(ctx context.Context, g *globals, o LoraMergeOptions) error {
	opt, err := o.merge()
	if err != nil {
		return err
	}
	if o.Undo != "" {
		if err := checkUndo(o.Undo, o.Dst); err != nil {
			return err
		}
	}
	if o.to, err = g.destination(ctx, o.Dst, o.Staging); err != nil {
		return err
	}
	g.tellLeft(o.to.path, o.Restart)
	x, err := o.Limits.execution()
	if err != nil {
		return err
	}
	x.NoError = o.NoError || !o.Quantize
	collectGarbage(x.MaxMemory)
	start := time.Now()
	m := &merging{o: &o, g: g}
	closeAll, err := m.open(ctx)
	defer closeAll()
	if err != nil {
		return err
	}
	scale, err := o.choose()
	if err != nil {
		return err
	}
	inputs, identity, closeInputs, err := o.ScaleOptions.open(scale)
	if err != nil {
		return err
	}
	defer closeInputs()
	m.inputs = inputs
	o.noteScale(scale, identity)
	if m.plan, err = g.planned(ctx, func() (*convert.Plan, error) { return m.planMerge(opt) }); err != nil {
		return err
	}
	if !g.Quiet {
		for _, n := range m.merge.Notes {
			noticef(g.Stderr, "%s", n)
		}
	}
	if err := checkMemory(m.plan, x.MaxMemory); err != nil {
		return err
	}
	if err := o.checkReportPlaces(m.plan); err != nil {
		return err
	}
	w := convert.WriteOptions{Execution: x, Force: o.Force, Sources: append(slices.Clone(o.Adapters), o.sources()...)}
	if o.DryRun {
		if err := m.plan.Check(o.to.path, w); err != nil {
			return err
		}
	} else {
		if w.Resume, err = m.resume(); err != nil {
			return err
		}
		if o.Quantize {
			w.Manifest = &manifest.Manifest{Tool: "nf4kit " + versionText(), Settings: o.settings, Source: manifest.SourceOf(m.base.Source)}
			w.Files = func(results []convert.Result) (map[string][]byte, error) {
				m.results = results
				return nil, nil
			}
		}
		if err := write(ctx, g, m.plan, o.to, w); err != nil {
			return err
		}
		if o.Undo != "" {
			if err := m.undo(ctx); err != nil {
				return err
			}
		}
	}
	return m.tell(ctx, x.Jobs, time.Since(start))
}

func (o *LoraMergeOptions) sources() []string {
	if o.TrainedOn == "" {
		return []string{o.Src}
	}
	return []string{o.Src, o.TrainedOn}
}

// open opens the models and the adapters, and decides which of the models the updates are added to.
func (m *merging) open(ctx context.Context) (closeAll func(), err error) {
	models, closeModels, err := openModels(ctx, m.g, m.o.sources()...)
	if err != nil {
		return func() {}, err
	}
	list, closeAdapters, err := openAdapters(m.o.Adapters)
	if err != nil {
		return closeModels, err
	}
	closeAll = func() {
		closeModels()
		closeAdapters()
	}
	m.adapters, m.base = list, models[0]
	plain := models[0].Quantized == nil
	switch {
	case m.o.Undo != "" && !plain:
		return closeAll, usagef("--undo: BASE is quantized, and the merge is not; keep BASE")
	case m.o.TrainedOn != "" && !plain:
		return closeAll, usagef("--trained-on: BASE, %s, is quantized itself", m.o.Src)
	case m.o.TrainedOn != "" && models[1].Quantized == nil:
		return closeAll, usagef("--trained-on: %s is not quantized", m.o.TrainedOn)
	case m.o.Onto == "source" && !plain:
		return closeAll, usagef("--onto source: %s is quantized; give the model in 16 bits as BASE", m.o.Src)
	case m.o.Onto == "decoded" && plain && m.o.TrainedOn == "":
		return closeAll, usagef("--onto decoded: %s is not quantized; give the quantized model that the adapter was trained on as BASE or as --trained-on", m.o.Src)
	case m.o.TrainedOn != "" && m.o.Onto == "source":
		m.other = models[1]
	case m.o.TrainedOn != "":
		m.base, m.other = models[1], models[0]
	}
	return closeAll, nil
}

// planMerge holds the adapters to the base and plans what is written.
func (m *merging) planMerge(opt lora.Options) (*convert.Plan, error) {
	o := m.o
	note, err := m.untie()
	if err != nil {
		return nil, err
	}
	plain := convert.DequantizeOptions{DType: o.DType, AllowIncomplete: o.AllowIncomplete, Stored: true}
	if plain.MaxShardSize, err = parseSize("max-shard-size", o.MaxShardSize); err != nil {
		return nil, err
	}
	before, err := convert.PlanPlain(m.base, plain)
	if err != nil {
		return nil, err
	}
	opt.Tied, opt.DType, opt.Cast = tiedHead(m.base), before.RunDType(), o.DType != "auto"
	opt.Float32 = map[string]bool{}
	for _, it := range before.Items() {
		opt.Float32[it.Name] = it.Out == safetensors.F32
	}
	opt.Wide = o.Quantize && m.base.FourBit != nil
	if m.merge, err = lora.NewMerge(m.base.Tensors, m.adapters, opt); err != nil {
		return nil, err
	}
	m.merge.Notes = append(m.merge.Notes, note...)
	formats := m.formats()
	merged := *m.base
	if merged.Tensors, err = m.merge.Apply(m.base.Tensors); err != nil {
		return nil, err
	}
	if !o.Quantize {
		return convert.PlanPlain(&merged, plain)
	}
	copt, err := o.plan()
	if err != nil {
		return nil, err
	}
	copt.Formats, copt.Inputs = formats, m.inputs
	if formats != nil && m.like == nil {
		copt.Packed = map[string]*fourbit.Weight{}
		for _, w := range m.base.FourBit.Weights {
			if !m.merge.Changes(w.Name) {
				copt.Packed[w.Name] = w
			}
		}
	}
	return convert.PlanModel(&merged, copt)
}

// resume says what the merge can be continued by: its adapters are part of that, and of the settings that nf4kit.json has.
func (m *merging) resume() (*convert.Resume, error) {
	var err error
	if m.o.settings["lora"], err = m.o.identities(m.adapters); err != nil {
		return nil, err
	}
	settings := maps.Clone(m.o.settings)
	maps.Copy(settings, m.o.said)
	return &convert.Resume{Tool: "nf4kit " + versionText(), Command: "lora merge", Settings: settings, Restart: m.o.Restart, Figures: m.merge}, nil
}

// untie gives the base an output head of its own where an adapter replaces the embeddings or the head alone.
func (m *merging) untie() (note []string, err error) {
	i := slices.IndexFunc(m.adapters, func(a *lora.Adapter) bool { return lora.Unties(m.base, a) })
	if i < 0 {
		return nil, nil
	}
	m.base, err = m.base.Untie()
	return []string{m.adapters[i].Path + " replaces embeddings that the output head shares, or that head: as in PEFT the two are tied no longer, and DST has both"}, err
}

// formats are those that the weights of a 4-bit base have, unless flags ask for others.
func (m *merging) formats() map[string]convert.Format {
	like := m.base
	if m.like != nil {
		like = m.like
	}
	if like.FourBit == nil || len(m.o.given) > 0 {
		return nil
	}
	out := map[string]convert.Format{}
	for _, w := range like.FourBit.Weights {
		out[w.Name] = w.State.Format
	}
	return out
}

// identities are what nf4kit.json and the journal say of what is merged.
func (o *LoraMergeOptions) identities(list []*lora.Adapter) (string, error) {
	var names []string
	for i, a := range list {
		name, err := a.Identity()
		if err != nil {
			return "", err
		}
		if len(o.Weights) > 0 {
			name += fmt.Sprintf(" * %g", o.Weights[i])
		}
		names = append(names, name)
	}
	return strings.Join(names, "\n"), nil
}
