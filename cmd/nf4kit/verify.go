package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/footprint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/report"
	"github.com/nf4kit/nf4kit/internal/verify"
)

// VerifyOptions are the flags of verify.
type VerifyOptions struct {
	Dir         string
	Source      string
	HeadersOnly bool
	Targets     []string
	Fix         bool

	AllowIncomplete bool
	Limits
}

func newVerifyCommand(g *globals) *cobra.Command {
	var o VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check that a 4-bit checkpoint is complete and means what loaders will read",
		Long: `verify checks DIR, a bitsandbytes 4-bit checkpoint made by nf4kit or anyone else:
every weight with its sidecars, names, dtypes and shapes, quant_state records, code
tables, the index, and config.json with its skip list against the match rules of the
loaders; that every scale decodes to a finite number; the BLAKE3 digest of every
tensor, where nf4kit.json has them; and the bits per parameter against the formula.

--source SRC derives every code and every constant from the source again and compares
the bytes. Checkpoints that nf4kit wrote must be equal; in those of others a few
differences between implementations are counted and tolerated: codes one step away
where the scaled value is within 1e-6 of the threshold, FP4's two zeros, offsets
within 4e-6 of their value, and codes of scales that are the nearest to a number
within 1/65535 of the group's largest magnitude, as bitsandbytes' lookup on a CPU
makes them. More of them than any bitsandbytes makes are a failure.

--fix rewrites config.json, and its digest in nf4kit.json, where that is what is wrong:
its quantization_config is made to say what the tensors are, with a skip list that
holds in every loader of --target, or is removed where they are plain.

Of findings of one kind five are printed and the rest is counted; -v prints all.

It exits with 4 if a loader of --target would fail on the checkpoint or misread it, or
if a digest or the source says that it is not what was written. What breaks only
other loaders is a notice.`,
		Example: `  nf4kit verify Llama-3.2-1B-nf4
  nf4kit verify Llama-3.2-1B-nf4 --source Llama-3.2-1B
  nf4kit verify Llama-3.2-1B-nf4 --headers-only --json
  nf4kit verify somebodys-nf4 --target transformers5 --target vllm --fix`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			return runVerify(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Source, "source", "", "derive every byte from `SRC`, the checkpoint that DIR was made of, and compare")
	fs.BoolVar(&o.HeadersOnly, "headers-only", false, "read headers and records, no codes and no scales")
	fs.StringArrayVar(&o.Targets, "target", nil, "loader to check for: transformers5, transformers4, vllm, sglang or diffusers; default those of the first two that have the model's class, for a model of diffusers the last (repeatable)")
	allowIncomplete(fs, &o.AllowIncomplete)
	fs.BoolVar(&o.Fix, "fix", false, "mend config.json first, if that is what is wrong")
	enum(cmd, "target", arch.TargetNames()...)
	o.Limits.addFlags(fs)
	return cmd
}

// fixConfig is --fix: config.json, and its digest in nf4kit.json, are replaced
// by renaming. It reports a model that is plain, of which there is no more to
// verify once its config.json says so.
func fixConfig(g *globals, dir string, targets arch.Target) (plain bool, err error) {
	src, err := checkpoint.Open(dir)
	if err != nil {
		return false, err
	}
	defer src.Close()
	fixed, err := verify.Fix(src, targets)
	if err != nil {
		return false, err
	}
	if fixed == nil {
		if !g.Quiet {
			noticef(g.Stderr, "--fix: config.json says what the tensors are already")
		}
		return false, nil
	}
	m, err := manifest.Read(src)
	if err != nil {
		return false, err
	}
	write := func(name string, raw []byte) error {
		return createFile(filepath.Join(src.Dir, name), func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		})
	}
	if m != nil {
		m.Files["config.json"] = manifest.Sum(fixed)
		raw, err := m.Encode()
		if err != nil {
			return false, err
		}
		if err := write(manifest.Name, raw); err != nil {
			return false, err
		}
	}
	if err := write("config.json", fixed); err != nil {
		return false, err
	}
	plain = fourbit.DetectConfig(fixed) == nil
	switch {
	case g.Quiet:
	case plain:
		noticef(g.Stderr, "--fix: quantization_config removed from config.json: the weights are plain")
	default:
		noticef(g.Stderr, "--fix: config.json rewritten")
	}
	return plain, nil
}

// parseTargets reads --target; 0 is the default.
func parseTargets(names []string) (arch.Target, error) {
	var all arch.Target
	for _, name := range names {
		t, err := arch.ParseTarget(name)
		if err != nil {
			return 0, usagef("--target: %w", err)
		}
		all |= t
	}
	return all, nil
}

// runVerify is the command without cobra.
func runVerify(ctx context.Context, g *globals, o VerifyOptions) error {
	if o.HeadersOnly && o.Source != "" {
		return usagef("--headers-only: --source has to read everything")
	}
	so, err := o.Limits.stream()
	if err != nil {
		return err
	}
	collectGarbage(so.Memory)
	targets, err := parseTargets(o.Targets)
	if err != nil {
		return err
	}
	if o.Fix {
		plain, err := fixConfig(g, o.Dir, targets)
		if err != nil || plain {
			return err
		}
	}
	src, err := g.open(ctx, o.Dir)
	if err != nil {
		return err
	}
	defer src.Close()
	opt := verify.Options{Targets: targets, StructureOnly: o.HeadersOnly, AllowIncomplete: o.AllowIncomplete, Stream: so}
	total := src.TensorBytes()
	if o.Source != "" {
		if opt.Source, err = g.open(ctx, o.Source); err != nil {
			return err
		}
		defer opt.Source.Close()
		total *= 2
	}
	bar := newProgress(g.Stderr, "verifying", total, g.Quiet)
	opt.Progress = bar.advance
	r, err := verify.Check(ctx, src, opt)
	bar.finish()
	if err != nil {
		return err
	}
	f, err := await(ctx, func() (*footprint.Footprint, error) { return footprint.Of(src) })
	if err != nil {
		return err
	}
	if g.JSON {
		err = writeJSON(g.Stdout, verifyReportJSON(g, o, r, f))
	} else {
		printVerify(g, g.Stdout, o, r, f)
	}
	if err != nil {
		return err
	}
	if r.Failed() {
		return &checkError{verdict(o.Dir, r)}
	}
	return nil
}

// verdict says for which targets a checkpoint fails.
func verdict(dir string, r *verify.Report) string {
	if good := r.Serves(); good != 0 {
		return fmt.Sprintf("%s does not verify for %s; it does for %s", dir, r.Targets&^good, good)
	}
	return dir + " does not verify"
}

func printVerify(g *globals, w io.Writer, o VerifyOptions, r *verify.Report, f *footprint.Footprint) {
	type kind struct {
		severity fourbit.Severity
		kind     string
	}
	findings := r.Findings
	if g.Quiet {
		findings = slices.DeleteFunc(slices.Clone(findings), func(x verify.Finding) bool { return x.Severity == fourbit.Notice })
	}
	fold(findings, func(x verify.Finding) kind { return kind{x.Severity, x.Kind} }, g.Verbose,
		func(x verify.Finding) { escape.Fprintf(w, "%s\n", findingText(x)) },
		func(x verify.Finding, n int) {
			escape.Fprintf(w, "%s: %d more like it; -v lists them\n", x.Severity, n)
		})
	if g.Quiet {
		return
	}
	line := func(label, format string, args ...any) {
		escape.Fprintf(w, "  %-11s %s\n", label, fmt.Sprintf(format, args...))
	}
	verdict := "ok"
	if r.Failed() {
		verdict = "FAILED"
	}
	escape.Fprintf(w, "%s: %s: %d quantized weights, %d plain tensors\n", o.Dir, verdict, r.Weights, r.Plain)
	if f.QuantParams > 0 {
		line("bits/param", "%.4f measured, %.4f by the formula, for codes and constants; %.4f with tables and records", f.CodeBits(), r.Formula, f.QuantBits())
		line("size", "%s; %s in 16 bits: %.1f %% saved", bytesText(f.Bytes), bytesText(f.Plain16()), 100-percent(f.Bytes, f.Plain16()))
	}
	switch {
	case o.HeadersOnly:
	case r.Manifest == nil:
		line("digests", "none: there is no nf4kit.json")
	default:
		line("digests", "%d of %d tensors compared with those that %s recorded", r.Digests, len(r.Manifest.Tensors), r.Manifest.Tool)
	}
	if p := r.Proof; p != nil {
		line("source", "%s codes and %s constants of %d weights derived again, %d plain tensors compared",
			countText(p.Codes), countText(p.Scales), p.Weights, p.Plain)
		line("", "%s codes, %s constants and %d plain tensors differ; %d tensors without a counterpart",
			countText(p.WrongCodes), countText(p.WrongScales), p.WrongPlain, p.Unproven)
		if !p.Exact {
			line("tolerated", "%d differences: %d codes near a threshold, %d zeros of FP4, %d nested codes, %d offsets (at most %.1e off), %d paddings",
				p.Tolerated.Total(), p.NearCodes, p.ZeroCodes, p.NestedCodes, p.Offsets, p.MaxOffset, p.Padding)
		}
	}
}

func findingText(x verify.Finding) string {
	line := x.Severity.String() + ": "
	for _, part := range []string{x.File, x.Tensor} {
		if part != "" {
			line += part + ": "
		}
	}
	line += x.Text
	for i, l := range x.Breaks {
		sep := ", "
		if i == 0 {
			sep = "; breaks "
		}
		line += sep + string(l)
	}
	return line
}

// verification is the schema of verify --json. The figures have the names that they have in a report.
type verification struct {
	Schema   string        `json:"schema"`
	Path     string        `json:"path"`
	OK       bool          `json:"ok"`
	Targets  []string      `json:"targets"`
	Serves   []string      `json:"serves"`
	Findings []findingJSON `json:"findings"`
	report.Sizes
	Formula    float64        `json:"bits_per_parameter_formula"`
	Plain16    int64          `json:"bytes_in_16_bits"`
	Manifest   bool           `json:"manifest"`
	ManifestBy string         `json:"manifest_tool,omitempty"`
	Digests    int            `json:"digests_compared"`
	Source     *proofJSON     `json:"source,omitempty"`
	Tolerated  *toleratedJSON `json:"tolerated,omitempty"`
}

type findingJSON struct {
	Severity string           `json:"severity"`
	File     string           `json:"file,omitempty"`
	Tensor   string           `json:"tensor,omitempty"`
	Text     string           `json:"text"`
	Breaks   []fourbit.Loader `json:"breaks,omitempty"`
}

type proofJSON struct {
	Exact          bool  `json:"exact"`
	Weights        int64 `json:"weights"`
	Plain          int64 `json:"plain_tensors"`
	Codes          int64 `json:"codes"`
	Constants      int64 `json:"constants"`
	WrongCodes     int64 `json:"wrong_codes"`
	WrongConstants int64 `json:"wrong_constants"`
	WrongPlain     int64 `json:"wrong_plain_tensors"`
	Unproven       int   `json:"tensors_without_counterpart"`
}

type toleratedJSON struct {
	NearCodes   int64   `json:"codes_near_threshold"`
	ZeroCodes   int64   `json:"fp4_zeros"`
	NestedCodes int64   `json:"nested_codes"`
	Offsets     int64   `json:"offsets"`
	MaxOffset   float64 `json:"max_offset_difference"`
	Padding     int64   `json:"paddings"`
}

func verifyReportJSON(g *globals, o VerifyOptions, r *verify.Report, f *footprint.Footprint) verification {
	out := verification{Schema: "nf4kit.verify/2", Path: o.Dir, OK: !r.Failed(), Targets: r.Targets.Names(), Serves: r.Serves().Names(), Findings: []findingJSON{},
		Sizes: report.Sizes{Parameters: f.Params, QuantParameters: f.QuantParams, QuantTensors: r.Weights, KeptTensors: r.Plain, OutputBytes: f.Bytes,
			QuantBits: f.QuantBits(), QuantCodeBits: f.CodeBits(), BitsPerParameter: f.Bits()},
		Formula: r.Formula, Plain16: f.Plain16(), Digests: r.Digests}
	for _, x := range r.Findings {
		if x.Severity > fourbit.Notice || !g.Quiet {
			out.Findings = append(out.Findings, findingJSON{x.Severity.String(), x.File, x.Tensor, x.Text, x.Breaks})
		}
	}
	if r.Manifest != nil {
		out.Manifest, out.ManifestBy = true, r.Manifest.Tool
	}
	if p := r.Proof; p != nil {
		out.Source = &proofJSON{p.Exact, p.Weights, p.Plain, p.Codes, p.Scales, p.WrongCodes, p.WrongScales, p.WrongPlain, p.Unproven}
		out.Tolerated = &toleratedJSON{p.NearCodes, p.ZeroCodes, p.NestedCodes, p.Offsets, p.MaxOffset, p.Padding}
	}
	return out
}
