package main

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/allocate"
	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// ConvertOptions are the flags of convert.
type ConvertOptions struct {
	Src, Dst string

	Type         string
	BlockSize    int
	DoubleQuant  bool
	DType        string
	ComputeDType string
	QuantStorage string
	ExactStorage bool
	Skip, Only   []string
	Rules        []string
	Recipe       string
	Targets      []string
	Towers       string
	MoE          string
	AsBnb        bool
	MaxShardSize string
	Staging      string
	Limits
	Reports []string
	NoError bool
	DryRun  bool
	Force   bool
	Restart bool
	Task    string
	Consume bool
	ScaleOptions
	AllocateOptions

	AllowIncomplete bool

	settings   map[string]string // flags that were given and reach the output, for nf4kit.json
	allocation *allocate.Outcome // what --target-bpp chose; nil without

	task     convert.Task
	to       destination // DST
	finalize bool        // what tasks have made
	args     convertArgs
}

// outputFlags are the flags on which output bytes depend.
var outputFlags = []string{"type", "block-size", "double-quant", "dtype", "compute-dtype", "quant-storage", "exact-storage", "skip", "only",
	"rule", "target", "towers", "moe", "as-bitsandbytes", "max-shard-size"}

// given lists the flags that were set, by whatever means, as text.
func given(fs *pflag.FlagSet, names []string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		f := fs.Lookup(name)
		if !f.Changed {
			continue
		}
		out[name] = f.Value.String()
		if v, many := f.Value.(pflag.SliceValue); many {
			out[name] = strings.Join(v.GetSlice(), "\n")
		}
	}
	return out
}

func newConvertCommand(g *globals) *cobra.Command {
	var o ConvertOptions
	cmd := &cobra.Command{
		Use:        "convert SRC DST",
		SuggestFor: []string{"quantize", "quantise", "quant", "compress", "nf4"},
		Short:      "Quantize a checkpoint to NF4 (or FP4) in a new directory",
		Long: `convert reads SRC, a Hugging Face model directory, one .safetensors file or a hub
cache snapshot, and writes DST, a directory that transformers, PEFT and vLLM load
as it is. It quantizes the modules that BitsAndBytesConfig would, but for towers,
poolers and weights that a packed checkpoint could not be run with
(--as-bitsandbytes), keeps the rest in 16 bits, copies tokenizer and other side
files, and reports the reconstruction error of the bytes written beside that of the
other 4-bit type at the same block size and double quantization.

DST appears when it is complete, and not before. The bytes written do not depend
on --jobs or --max-memory.

` + resumeHelp + `

` + taskHelp + `

` + scaleHelp + `

` + allocateHelp + `

A recipe (--recipe) is a YAML file whose keys are flags of this command:

    type: nf4
    block-size: 64
    skip: ['layers\.0\.']
    rule:
      - 'down_proj=block=32'
      - 'lm_head=keep'

The command line wins over the environment, and the environment over the recipe.

` + sourceHelp + `

` + destinationHelp,
		Example: `  nf4kit convert Llama-3.2-1B Llama-3.2-1B-nf4
  nf4kit convert Llama-3.2-1B out --double-quant=false --report errors.json
  nf4kit convert hf://Qwen/Qwen2.5-72B Qwen2.5-72B-nf4
  nf4kit convert hf://Qwen/Qwen2.5-72B s3://my-bucket/Qwen2.5-72B-nf4
  nf4kit convert model.safetensors out --only 'proj'
  nf4kit convert Llama-3.2-1B out --rule 'down_proj=block=32' --dry-run -v
  nf4kit convert Llama-3.2-1B out --imatrix Llama-3.2-1B.imatrix.gguf
  nf4kit convert Llama-3.2-1B out --quality best --calibrate sample.txt
  nf4kit convert Llama-3.2-1B out --target-bpp 4.5 --activations llama.act.safetensors --save-recipe llama-4.5.yaml`,
		Args: arguments("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Dst = args[0], args[1]
			if o.Recipe != "" {
				if err := applyRecipe(cmd.LocalFlags(), o.Recipe); err != nil {
					return err
				}
			}
			if err := o.AllocateOptions.check(given(cmd.Flags(), []string{"target-bpp", "target-blocks"})); err != nil {
				return err
			}
			o.settings = given(cmd.Flags(), outputFlags)
			if err := o.takeTask(cmd.Flags(), g.getenv); err != nil {
				return err
			}
			var err error
			if o.to, err = g.destination(cmd.Context(), o.Dst, o.Staging); err != nil {
				return err
			}
			if o.Task == "" {
				g.tellLeft(o.to.path, o.Restart)
			}
			o.warnConsume(g)
			return runConvert(cmd.Context(), g, o)
		},
	}
	o.addFlags(cmd)
	restart(cmd.Flags(), &o.Restart)
	cmd.Flags().BoolVar(&o.Consume, "consume-source", false, "remove each weights file of SRC, a directory of this machine, once all that is made of it is on the disk (docs/resume.md)")
	cmd.Flags().StringVar(&o.Task, "task", "", "make a `SHARE` of the weights files, such as 3/8, or env or env/8 (see above)")
	return cmd
}

func (o *ConvertOptions) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&o.Type, "type", "nf4", "4-bit type: nf4 or fp4")
	fs.IntVar(&o.BlockSize, "block-size", nf4.DefaultBlockSize, "weights that share a scale: 32, 64, 128, ... 4096")
	fs.BoolVar(&o.DoubleQuant, "double-quant", true, "store the scales in 8 bits, as QLoRA does")
	fs.StringVar(&o.DType, "dtype", "auto", "dtype of what stays unquantized: auto (as config.json says), bfloat16 or float16")
	fs.StringVar(&o.ComputeDType, "compute-dtype", "auto", "bnb_4bit_compute_dtype: auto (as --dtype), bfloat16, float16 or float32")
	fs.StringVar(&o.QuantStorage, "quant-storage", "uint8", "dtype that the packed codes are labelled with: uint8; bfloat16, float16 or float32 for FSDP-QLoRA")
	fs.BoolVar(&o.ExactStorage, "exact-storage", false, "with --quant-storage of floats, leave words of packed codes that are NaNs, which some frameworks change as they copy")
	fs.StringArrayVar(&o.Skip, "skip", nil, "leave tensors whose name matches `REGEX` in 16 bits (repeatable)")
	fs.StringArrayVar(&o.Only, "only", nil, "quantize only tensors whose name matches `REGEX` (repeatable)")
	fs.StringArrayVar(&o.Rules, "rule", nil, "`REGEX=SPEC`: keep, or a list such as nf4,block=32,nodq; the first that matches decides (repeatable)")
	staging(fs, &o.Staging)
	fs.StringVar(&o.Recipe, "recipe", "", "read flags from a YAML `FILE`")
	fs.StringArrayVar(&o.Targets, "target", nil, "loader to write for: transformers5, transformers4, vllm, sglang, diffusers or unsloth (with routed experts in 4 bits); default the first two, for a model of diffusers the last (repeatable)")
	fs.StringVar(&o.Towers, "towers", "keep", "vision and audio towers: keep, or quantize as transformers would")
	fs.StringVar(&o.MoE, "moe", "keep", "routed experts: keep them in 16 bits, as transformers 5 needs, or per-expert to quantize those stored one by one, for transformers 4 and vLLM, and to leave them so for Unsloth, which else gets stacks")
	fs.BoolVar(&o.AsBnb, "as-bitsandbytes", false, "quantize all that BitsAndBytesConfig does: towers, encoders' poolers, and weights that the model's own code then misreads")
	fs.StringVar(&o.MaxShardSize, "max-shard-size", "5GB", "largest weights file")
	o.Limits.addFlags(fs)
	fs.StringArrayVar(&o.Reports, "report", nil, "write every tensor's error figures to `FILE`.html, .json, .csv or .md (repeatable)")
	fs.BoolVar(&o.NoError, "no-error", false, "skip the error figures")
	fs.BoolVar(&o.DryRun, "dry-run", false, "print the plan and stop")
	fs.BoolVar(&o.Force, "force", false, "replace DST, once the new one is complete")
	allowIncomplete(fs, &o.AllowIncomplete)
	o.ScaleOptions.addFlags(cmd)
	o.AllocateOptions.addFlags(fs)
	enum(cmd, "type", "nf4", "fp4")
	enum(cmd, "dtype", "auto", "bfloat16", "float16")
	enum(cmd, "compute-dtype", "auto", "bfloat16", "float16", "float32")
	enum(cmd, "quant-storage", "uint8", "bfloat16", "float16", "float32")
	enum(cmd, "target", arch.TargetNames()...)
	enum(cmd, "moe", "keep", "per-expert")
	enum(cmd, "towers", "keep", "quantize")
}

// enum completes a flag with its values.
func enum(cmd *cobra.Command, flag string, values ...string) {
	spell(cmd.Flags(), lowerWord, flag)
	complete(cmd, flag, values...)
}

// complete has the shell offer values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("nf4kit: internal error: " + err.Error())
	}
}

// completeList has the shell offer values of a flag that takes several, with commas.
func completeList(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		first := begun[:strings.LastIndex(begun, ",")+1]
		var offers []string
		for _, v := range values {
			if !slices.Contains(strings.Split(first, ","), v) {
				offers = append(offers, first+v)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	if err != nil {
		panic("nf4kit: internal error: " + err.Error())
	}
}

// plan turns the flags into options.
func (o *ConvertOptions) plan() (convert.Options, error) {
	var opt convert.Options
	var err error
	if opt.Spec.Type, err = nf4.ParseType(o.Type); err != nil {
		return opt, usagef("--type: %w", err)
	}
	if o.BlockSize == 0 {
		return opt, usagef("--block-size 0: want a power of two from 32 to 4096")
	}
	opt.Spec.BlockSize = o.BlockSize
	_, given := o.settings["block-size"]
	opt.FitExperts = !given
	opt.Spec.NoDoubleQuant = !o.DoubleQuant
	if opt.Spec.Scale, err = o.choose(); err != nil {
		return opt, err
	}
	if opt.Spec.Storage, err = bnb.ParseStorage(o.QuantStorage); err != nil {
		return opt, usagef("--quant-storage: %w", err)
	}
	opt.ExactStorage = o.ExactStorage
	opt.DType, opt.ComputeDType = o.DType, o.ComputeDType
	if opt.Skip, err = compile("skip", o.Skip); err != nil {
		return opt, err
	}
	if opt.Only, err = compile("only", o.Only); err != nil {
		return opt, err
	}
	for _, s := range o.Rules {
		r, err := convert.ParseRule(s)
		if err != nil {
			return opt, usagef("--rule: %w", err)
		}
		opt.Rules = append(opt.Rules, r)
	}
	if opt.Targets, err = parseTargets(o.Targets); err != nil {
		return opt, err
	}
	switch o.Towers {
	case "keep":
	case "quantize":
		opt.Towers = true
	default:
		return opt, usagef("--towers %q: want keep or quantize", o.Towers)
	}
	switch o.MoE {
	case "keep":
	case "per-expert":
		opt.PerExpert = true
	default:
		return opt, usagef("--moe %q: want keep or per-expert", o.MoE)
	}
	opt.AsBitsandbytes = o.AsBnb
	if opt.MaxShardSize, err = parseSize("max-shard-size", o.MaxShardSize); err != nil {
		return opt, err
	}
	if opt.MaxShardSize == 0 {
		return opt, usagef("--max-shard-size 0: want a positive size")
	}
	opt.AllowIncomplete = o.AllowIncomplete
	if err := opt.Validate(); err != nil {
		return opt, &usageError{err}
	}
	return opt, o.ScaleOptions.check(&opt, o.TargetBPP > 0)
}

// noteScale puts into the settings of nf4kit.json how scales are chosen, and by what.
func (o *ConvertOptions) noteScale(scale bnb.Scale, identity string) {
	if scale != bnb.AbsMax {
		o.settings["scale"] = scale.String()
	}
	switch {
	case o.Imatrix != "":
		o.settings["imatrix"] = identity
	case o.Activations != "":
		o.settings["activations"] = identity
	}
}

func compile(flag string, patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, usagef("--%s %q: %w", flag, p, err)
		}
		out = append(out, re)
	}
	return out, nil
}

// checkReports refuses, before any work, a report that could not be written.
func (o *ConvertOptions) checkReports() error {
	if len(o.Reports) > 0 && o.NoError {
		return usagef("--report %s: there is nothing to report with --no-error", o.Reports[0])
	}
	return checkReportNames(o.Reports)
}

// checkReportPlaces refuses a report that would replace a file of SRC or one
// that DST is to have.
func (o *ConvertOptions) checkReportPlaces(p *convert.Plan) error {
	if err := keepSource(o.Reports, p.Source()); err != nil {
		return err
	}
	for _, r := range o.Reports {
		if in := fileOf(r, o.to.path); in != "" && slices.Contains(p.OutputNames(), in) {
			return usagef("--report %s: it is a file of the destination", r)
		}
	}
	return nil
}

// runConvert is the command without cobra.
func runConvert(ctx context.Context, g *globals, o ConvertOptions) error {
	opt, err := o.plan()
	if err != nil {
		return err
	}
	x, err := o.Limits.execution()
	if err != nil {
		return err
	}
	if err := o.checkReports(); err != nil {
		return err
	}
	x.NoError = o.NoError
	collectGarbage(x.MaxMemory)
	start := time.Now()
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := notAdapter(src); err != nil {
		return err
	}
	inputs, identity, closeInputs, err := o.inputs(ctx, g, src, &opt)
	if err != nil {
		return err
	}
	defer closeInputs()
	opt.Inputs = inputs
	o.noteScale(opt.Spec.Scale, identity)
	if err := o.checkRecipePlace(src); err != nil {
		return err
	}
	if o.TargetBPP > 0 {
		if o.allocation, err = o.chooseBits(ctx, g, src, &opt); err != nil {
			return err
		}
	}
	p, err := g.planned(ctx, func() (*convert.Plan, error) { return convert.NewPlan(src, opt) })
	if err != nil {
		return err
	}
	if err := checkMemory(p, x.MaxMemory); err != nil {
		return err
	}
	if o.SaveRecipe != "" {
		if err := o.saveRecipe(); err != nil {
			return err
		}
	}
	if o.DryRun {
		if err := p.Check(o.to.path, convert.WriteOptions{Force: o.Force, Store: o.to.store}); err != nil {
			return err
		}
		return printPlan(g, o, p)
	}
	if g.Verbose {
		printDecisions(printer(g.Stderr), p)
	}
	if err := o.checkReportPlaces(p); err != nil {
		return err
	}
	var s *summary
	err = write(ctx, g, p, o.to, convert.WriteOptions{
		Execution: x, Force: o.Force,
		Manifest: &manifest.Manifest{Tool: "nf4kit " + versionText(), Settings: o.settings, Source: o.identify(src)}, Resume: o.resume(),
		Files: func(results []convert.Result) (map[string][]byte, error) {
			var err error
			if s, err = newSummary(o, p, results); err != nil {
				return nil, err
			}
			return s.card(src)
		},
	})
	if err != nil {
		return err
	}
	return o.tell(g, p, s, time.Since(start))
}

// optionMistake makes a plan's objection to the options a usage error.
func optionMistake(err error) error {
	var oe *convert.OptionError
	if errors.As(err, &oe) {
		return &usageError{oe}
	}
	return err
}
