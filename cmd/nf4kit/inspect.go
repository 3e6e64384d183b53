package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/footprint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/weights"
)

// InspectOptions are the arguments and flags of inspect.
type InspectOptions struct {
	Src      string
	Patterns []string // arguments after SRC and --only: a tensor is shown if one of them matches
	Skip     []string
}

func newInspectCommand(g *globals) *cobra.Command {
	var o InspectOptions
	var only []string
	var architectures bool
	cmd := &cobra.Command{
		Use:        "inspect SRC [REGEX...]",
		SuggestFor: []string{"info", "show", "list", "ls"},
		Short:      "Show the tensors of a checkpoint, what is quantized and bits per parameter",
		Long: `inspect reads the headers of SRC, a model directory, a .safetensors file or a hub
cache snapshot, quantized or not, and shows its tensors by dtype and format, the
measured bits per parameter and the saving against 16 bits. It reads no weights, so
it is as quick on 700 GB as on 7. A weight that bitsandbytes has quantized is one tensor
with its scales and tables, in a format such as nf4,block=64,dq (dq: its scales are
quantized too) or int8 (LLM.int8); one of another method that convert decodes likewise, in
a format such as fp8,f8_e4m3. Scales are no parameters. What the model lacks, or has too much, by its class and
config.json is listed on standard error; of more than 131,072 tensors, or of some that
REGEX chooses, that is not judged.

With one or more REGEX (RE2, unanchored, on tensor names) only the tensors that match
one of them count, and they are listed; -v lists every tensor.

` + sourceHelp,
		Example: `  nf4kit inspect Llama-3.2-1B-nf4
  nf4kit inspect Llama-3.2-1B-nf4 'layers\.0\.' --skip norm
  nf4kit inspect model.safetensors -v
  nf4kit inspect hf://Qwen/Qwen2.5-72B
  nf4kit inspect Llama-3.2-1B-nf4 --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if architectures {
				return noArguments(cmd, args)
			}
			return atLeast("SRC")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if architectures {
				return printArchitectures(g)
			}
			o.Src, o.Patterns = args[0], append(args[1:], only...)
			return runInspect(cmd.Context(), g, o)
		},
	}
	cmd.Flags().StringArrayVar(&only, "only", nil, "show tensors whose name matches `REGEX` (repeatable)")
	cmd.Flags().StringArrayVar(&o.Skip, "skip", nil, "leave out tensors whose name matches `REGEX` (repeatable)")
	cmd.Flags().BoolVar(&architectures, "architectures", false, "list the model types and the classes of diffusers whose modules are known, instead of a checkpoint")
	return cmd
}

// printArchitectures lists the table of architectures; -v adds the modules on
// which transformers 5 and 4.57 disagree.
func printArchitectures(g *globals) error {
	types := arch.Types()
	if g.JSON {
		type typeJSON struct {
			ModelType string   `json:"model_type"`
			Classes   []string `json:"classes"`
			In5       bool     `json:"transformers5"`
			In4       bool     `json:"transformers4"`
			Disagree  []string `json:"disagreements,omitempty"`
		}
		out := []typeJSON{}
		for _, t := range types {
			out = append(out, typeJSON{t.ModelType, t.Classes, t.In[arch.V5], t.In[arch.V4], t.Notes})
		}
		components := []string{}
		for _, c := range arch.Components() {
			components = append(components, c.Class)
		}
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.architectures/1", "types": out, "diffusers": components})
	}
	tick := map[bool]string{true: "yes", false: "-"}
	t := newTable(g.Stdout)
	t.AppendHeader(row("model type", "transformers 5", "4.57", "they agree", "classes"))
	for _, x := range types {
		t.AppendRow(row(x.ModelType, tick[x.In[arch.V5]], tick[x.In[arch.V4]], tick[len(x.Notes) == 0], wrapNames(x.Classes, 2)))
		if g.Verbose {
			for _, n := range x.Notes {
				t.AppendRow(row("", "", "", "", n))
			}
		}
	}
	t.Render()
	components := newTable(g.Stdout)
	components.AppendHeader(row("class of diffusers", "kept in 32 bits"))
	for _, c := range arch.Components() {
		components.AppendRow(row(c.Class, wrapNames(c.Kept, 2)))
	}
	components.Render()
	escape.Fprintf(g.Stdout, "%d model types, %d classes of diffusers\n", len(types), len(arch.Components()))
	return nil
}

// selection makes the patterns of inspect and measure into one test of names.
func selection(only, skip []string) (func(name string) bool, error) {
	yes, err := compile("only", only)
	if err != nil {
		return nil, err
	}
	no, err := compile("skip", skip)
	if err != nil {
		return nil, err
	}
	matches := func(list []*regexp.Regexp, name string) bool {
		return slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}
	return func(name string) bool {
		return (len(yes) == 0 || matches(yes, name)) && !matches(no, name)
	}, nil
}

// runInspect is the command without cobra.
func runInspect(ctx context.Context, g *globals, o InspectOptions) error {
	keep, err := selection(o.Patterns, o.Skip)
	if err != nil {
		return err
	}
	collectGarbage(headerMemory)
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	f, err := await(ctx, func() (*footprint.Footprint, error) { return footprint.Of(src) })
	if err != nil {
		return err
	}
	selected := len(o.Patterns)+len(o.Skip) > 0
	if selected {
		f = f.Select(keep)
	}
	var lacks []string
	unjudged := ""
	if !selected {
		unjudged = tooMany(len(f.Tensors))
	}
	if !selected && unjudged == "" {
		if lacks, err = await(ctx, func() ([]string, error) { return lacking(src), nil }); err != nil {
			return err
		}
	}
	if g.JSON {
		out := inspectJSON(src, f)
		out.Problems, out.Unjudged = append(out.Problems, lacks...), unjudged
		return writeJSON(g.Stdout, out)
	}
	if f.Stale != "" {
		warnf(g.Stderr, "%s", f.Stale)
	}
	w := g.Stdout
	escape.Fprintf(w, "%s: %d tensors in %d files, %s parameters, %s\n", o.Src, len(f.Tensors), len(src.Shards),
		countText(f.Params), bytesText(f.Bytes))
	if f.Method != "" {
		escape.Fprintf(w, "quantized by %s\n", f.Method)
	}
	fmt.Fprintln(w)
	t := newTable(w)
	t.AppendHeader(row("format", "tensors", "parameters", "bytes", "bits/param"))
	for _, c := range f.Classes {
		t.AppendRow(row(c.DType, c.Tensors, countText(c.Params), countText(c.Bytes), bitsText(c.Bytes, c.Params)))
	}
	t.AppendSeparator()
	t.AppendRow(row("total", len(f.Tensors), countText(f.Params), countText(f.Bytes), bitsText(f.Bytes, f.Params)))
	alignRight(t, 2, 5)
	t.Render()
	if f.QuantParams > 0 {
		escape.Fprintf(w, "\nquantized part: %.3f bits/param (%.3f codes and constants, the rest tables); %.1f %% saved against 16 bits\n",
			f.QuantBits(), f.CodeBits(), 100-percent(f.Bytes, f.Plain16()))
	}
	if f.OtherParams > 0 {
		escape.Fprintf(w, "\nquantized part: %.3f bits/param with its scales; %.1f %% saved against 16 bits\n", f.OtherBits(), 100-percent(f.Bytes, f.Plain16()))
	}
	fold(f.Problems, func(p *fourbit.Problem) fourbit.Kind { return p.Kind }, g.Verbose, func(p *fourbit.Problem) { warnf(g.Stderr, "%s", p) },
		func(p *fourbit.Problem, n int) { warnf(g.Stderr, "%s: %d more; -v lists them", p.Kind, n) })
	for _, line := range lacks {
		warnf(g.Stderr, "%s", line)
	}
	if unjudged != "" && !g.Quiet {
		noticef(g.Stderr, "%s", unjudged)
	}
	if g.Verbose || selected {
		fmt.Fprintln(w)
		listTensors(w, f)
	}
	return nil
}

func listTensors(w io.Writer, f *footprint.Footprint) {
	t := newTable(w)
	t.AppendHeader(row("tensor", "shape", "format", "bytes", "file"))
	for i := range f.Tensors {
		x := &f.Tensors[i]
		t.AppendRow(row(x.Name, shapeText(x.Shape), x.DType, countText(x.Bytes), x.File))
	}
	alignRight(t, 4, 4)
	t.Render()
}

// maxJudged is of how many tensors inspect asks whether the model is complete; convert and verify do of any number.
const maxJudged = 1 << 17

// tooMany says that the completeness of so many tensors is not judged, "" if it is.
func tooMany(tensors int) string {
	if tensors <= maxJudged {
		return ""
	}
	return fmt.Sprintf("%s tensors, more than %s: whether the model is complete is not judged; convert --dry-run and verify do",
		countText(int64(tensors)), countText(maxJudged))
}

// lacking lists what the model lacks or has too much by its class and config.json.
func lacking(src *checkpoint.Source) []string {
	m, err := weights.Open(src)
	if err != nil {
		return nil // inspect describes what others refuse
	}
	r, err := convert.Lacking(m)
	if err != nil || r == nil {
		return nil
	}
	return r.Lines()
}

func bitsText(bytes, params int64) string {
	if params == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", 8*float64(bytes)/float64(params))
}

// inspection is the schema of inspect --json.
type inspection struct {
	Schema      string             `json:"schema"`
	Path        string             `json:"path"`
	Method      string             `json:"quantized_by,omitempty"`
	Files       []fileJSON         `json:"files"`
	Parameters  int64              `json:"parameters"`
	Bytes       int64              `json:"bytes"`
	Bits        float64            `json:"bits_per_parameter"`
	QuantParams int64              `json:"quantized_parameters"`
	QuantBits   float64            `json:"bits_per_parameter_quantized"`
	CodeBits    float64            `json:"bits_per_parameter_codes_and_constants"`
	OtherParams int64              `json:"decoded_parameters,omitempty"`
	OtherBits   float64            `json:"bits_per_parameter_decoded,omitempty"`
	Plain16     int64              `json:"bytes_in_16_bits"`
	Formats     []formatJSON       `json:"formats"`
	Tensors     []inspectionTensor `json:"tensors"`
	Problems    []string           `json:"problems"`
	Unjudged    string             `json:"not_judged,omitempty"`
}

type formatJSON struct {
	Format     string `json:"format"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
	Bytes      int64  `json:"bytes"`
}

type inspectionTensor struct {
	Name   string  `json:"name"`
	Shape  []int64 `json:"shape"`
	Format string  `json:"format"`
	Bytes  int64   `json:"bytes"`
	File   string  `json:"file"`
}

func inspectJSON(src *checkpoint.Source, f *footprint.Footprint) inspection {
	out := inspection{Schema: "nf4kit.inspect/1", Path: src.Path, Method: f.Method, Parameters: f.Params, Bytes: f.Bytes,
		Bits: f.Bits(), QuantParams: f.QuantParams, QuantBits: f.QuantBits(), CodeBits: f.CodeBits(), Plain16: f.Plain16(),
		OtherParams: f.OtherParams, OtherBits: f.OtherBits(), Problems: []string{}, Tensors: []inspectionTensor{}, Formats: []formatJSON{}}
	for _, sh := range src.Shards {
		out.Files = append(out.Files, fileJSON{sh.Name, sh.Size()})
	}
	for _, c := range f.Classes {
		out.Formats = append(out.Formats, formatJSON{c.DType, c.Tensors, c.Params, c.Bytes})
	}
	for i := range f.Tensors {
		t := &f.Tensors[i]
		out.Tensors = append(out.Tensors, inspectionTensor{t.Name, t.Shape, t.DType, t.Bytes, t.File})
	}
	if f.Stale != "" {
		out.Problems = append(out.Problems, f.Stale)
	}
	for _, p := range f.Problems {
		out.Problems = append(out.Problems, p.String())
	}
	return out
}
