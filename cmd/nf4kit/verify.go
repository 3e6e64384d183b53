package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/footprint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/remote"
	"github.com/nf4kit/nf4kit/internal/report"
	"github.com/nf4kit/nf4kit/internal/verify"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// VerifyOptions are the flags of verify.
type VerifyOptions struct {
	Dir         string
	Source      string
	weighted    ScaleOptions // Imatrix and Activations
	HeadersOnly bool
	Targets     []string
	Fix         bool
	Reports     []string

	AllowIncomplete bool
	Limits
}

func newVerifyCommand(g *globals) *cobra.Command {
	var o VerifyOptions
	cmd := &cobra.Command{
		Use:        "verify DIR",
		SuggestFor: []string{"check", "validate"},
		Short:      "Check that a 4-bit checkpoint is complete and means what loaders will read",
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

--report writes the findings and figures to a file, all of them.

Of findings of one kind five are printed and the rest is counted; -v prints all.

It exits with 4 if a loader of --target would fail on the checkpoint or misread it, or
if a digest or the source says that it is not what was written. What breaks only
other loaders is a notice.

` + strings.ReplaceAll(sourceHelp, "SRC", "DIR or SRC"),
		Example: `  nf4kit verify Llama-3.2-1B-nf4
  nf4kit verify Llama-3.2-1B-nf4 --source Llama-3.2-1B
  nf4kit verify Llama-3.2-1B-nf4 --headers-only --json
  nf4kit verify somebodys-nf4 --target transformers5 --target vllm --fix`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			return runVerify(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	o.weighted.addFiles(fs)
	fs.StringVar(&o.Source, "source", "", "derive every byte from `SRC`, the checkpoint that DIR was made of, and compare")
	fs.BoolVar(&o.HeadersOnly, "headers-only", false, "read headers and records, no codes and no scales")
	fs.StringArrayVar(&o.Targets, "target", nil, "loader to check for: transformers5, transformers4, vllm, sglang, diffusers or unsloth; default those of the first two that have the model's class, for a model of diffusers the last (repeatable)")
	allowIncomplete(fs, &o.AllowIncomplete)
	fs.BoolVar(&o.Fix, "fix", false, "mend config.json first, if that is what is wrong")
	enum(cmd, "target", arch.TargetNames()...)
	fs.StringArrayVar(&o.Reports, "report", nil, "write a report to `FILE`, by its extension a page (.html), .md, .json or .csv (repeatable)")
	o.Limits.addFlags(fs)
	return cmd
}

// fixConfig is --fix: config.json, and its digest in nf4kit.json, are replaced
// by renaming. It reports a model that is plain, of which there is no more to
// verify once its config.json says so.
func fixConfig(g *globals, dir string, targets arch.Target) (plain bool, err error) {
	if remote.IsRemote(dir) {
		return false, usagef("--fix: %s is no directory of this machine", dir)
	}
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
	if err := checkReportNames(o.Reports); err != nil {
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
	if err := keepSource(o.Reports, src); err != nil {
		return err
	}
	opt := verify.Options{Targets: targets, StructureOnly: o.HeadersOnly, AllowIncomplete: o.AllowIncomplete, Stream: so}
	total := src.TensorBytes()
	if o.Source != "" {
		if opt.Source, err = g.openSource(ctx, o.Source); err != nil {
			return err
		}
		defer opt.Source.Close()
		inputs, identity, closeInputs, err := o.weighted.open(bnb.AbsMax)
		if err != nil {
			return err
		}
		defer closeInputs()
		if inputs != nil {
			opt.Inputs = &verify.Inputs{Identity: identity, Columns: inputs.Columns}
		}
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
	out := verified(g, o, r, f)
	if err := writeReports(out, o.Reports); err != nil {
		return err
	}
	if g.JSON {
		err = writeJSON(g.Stdout, verification{"nf4kit.verify/2", o.Dir, *out.Sizes, *out.Verification})
	} else {
		printVerify(g, g.Stdout, out)
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

func printVerify(g *globals, w io.Writer, r *report.Report) {
	fold(r.Verification.Findings, func(x report.Finding) string { return x.Severity + x.Kind }, g.Verbose,
		func(x report.Finding) { escape.Fprintf(w, "%s\n", x.String()) },
		func(x report.Finding, n int) {
			escape.Fprintf(w, "%s: %d more like it; -v lists them\n", x.Severity, n)
		})
	if g.Quiet {
		return
	}
	escape.Fprintf(w, "%s: %s\n", r.Against, r.Verdict())
	for _, l := range r.Lines() {
		escape.Fprintf(w, "  %-11s %s\n", l[0], l[1])
	}
}

// verification is the schema of verify --json. The members are those of a report.
type verification struct {
	Schema string `json:"schema"`
	Path   string `json:"path"`
	report.Sizes
	report.Verification
}

// verified is the report of a verification.
func verified(g *globals, o VerifyOptions, r *verify.Report, f *footprint.Footprint) *report.Report {
	v := &report.Verification{OK: !r.Failed(), Targets: r.Targets.Names(), Serves: r.Serves().Names(), Findings: []report.Finding{},
		Formula: r.Formula, Plain16: f.Plain16(), HeadersOnly: o.HeadersOnly, Digests: r.Digests}
	for _, x := range r.Findings {
		if x.Severity == fourbit.Notice && g.Quiet {
			continue
		}
		finding := report.Finding{Kind: x.Kind, Severity: x.Severity.String(), File: x.File, Tensor: x.Tensor, Text: x.Text}
		for _, l := range x.Breaks {
			finding.Breaks = append(finding.Breaks, string(l))
		}
		v.Findings = append(v.Findings, finding)
	}
	if r.Manifest != nil {
		v.Manifest, v.ManifestBy, v.Recorded = true, r.Manifest.Tool, len(r.Manifest.Tensors)
	}
	if p := r.Proof; p != nil {
		v.Proof = &report.Proof{Exact: p.Exact, Weights: p.Weights, Plain: p.Plain, Codes: p.Codes, Constants: p.Scales,
			WrongCodes: p.WrongCodes, WrongConstants: p.WrongScales, WrongPlain: p.WrongPlain, Unproven: p.Unproven}
		v.Tolerated = &report.Tolerated{NearCodes: p.NearCodes, ZeroCodes: p.ZeroCodes, NestedCodes: p.NestedCodes, Offsets: p.Offsets,
			MaxOffset: p.MaxOffset, Padding: p.Padding}
	}
	out := report.New(nil)
	out.Command, out.Tool, out.Source, out.Against, out.Verification = "verify", "nf4kit "+versionText(), o.Source, o.Dir, v
	out.Sizes = &report.Sizes{Parameters: f.Params, QuantParameters: f.QuantParams, QuantTensors: r.Weights, KeptTensors: r.Plain, OutputBytes: f.Bytes,
		QuantBits: f.QuantBits(), QuantCodeBits: f.CodeBits(), BitsPerParameter: f.Bits()}
	return out
}
