package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/bnb"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/verify"
)

func newVerifyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Check that a 4-bit checkpoint is complete and means what loaders will read",
		Long: `verify checks DIR, a bitsandbytes 4-bit checkpoint made by nf4kit or anyone else:
every weight with its sidecars, names, dtypes and shapes, quant_state records, code
tables, the index, and config.json with its skip list against the match rules of the
loaders. It exits with 4 if some loader would fail on the checkpoint or misread it.`,
		Example: `  nf4kit verify Llama-3.2-1B-nf4`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVerify(cmd.Context(), g, args[0])
		},
	}
}

// runVerify is the command without cobra.
func runVerify(_ context.Context, g *globals, path string) error {
	src, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	for _, w := range src.Warnings {
		warnf(g.Stderr, "%s", w)
	}
	r, err := verify.Structure(src, arch.Transformers5|arch.Transformers4)
	if err != nil {
		return err
	}
	type findingJSON struct {
		Severity string       `json:"severity"`
		File     string       `json:"file,omitempty"`
		Tensor   string       `json:"tensor,omitempty"`
		Text     string       `json:"text"`
		Breaks   []bnb.Loader `json:"breaks,omitempty"`
	}
	findings := []findingJSON{}
	for _, f := range r.Findings {
		if f.Severity == bnb.Notice && g.Quiet {
			continue
		}
		findings = append(findings, findingJSON{f.Severity.String(), f.File, f.Tensor, f.Text, f.Breaks})
	}
	if g.JSON {
		err := writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.verify/1", "path": path, "ok": !r.Failed(),
			"quantized_weights": r.Weights, "plain_tensors": r.Plain, "findings": findings})
		if err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			line := f.Severity + ": "
			for _, part := range []string{f.File, f.Tensor} {
				if part != "" {
					line += part + ": "
				}
			}
			line += f.Text
			for i, l := range f.Breaks {
				sep := ", "
				if i == 0 {
					sep = "; breaks "
				}
				line += sep + string(l)
			}
			fmt.Fprintln(g.Stdout, line)
		}
		verdict := "ok"
		if r.Failed() {
			verdict = "FAILED"
		}
		fmt.Fprintf(g.Stdout, "%s: %s: %d quantized weights, %d plain tensors\n", path, verdict, r.Weights, r.Plain)
	}
	if r.Failed() {
		return &checkError{fmt.Sprintf("%s does not verify", path)}
	}
	return nil
}
