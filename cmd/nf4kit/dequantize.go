package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
)

// DequantizeOptions are the flags of dequantize.
type DequantizeOptions struct {
	Src, Dst     string
	DType        string
	MaxShardSize string
	Staging      string
	Limits
	Force   bool
	Restart bool

	AllowIncomplete bool

	settings map[string]string // flags that were given and reach the output
}

func newDequantizeCommand(g *globals) *cobra.Command {
	var o DequantizeOptions
	cmd := &cobra.Command{
		Use:        "dequantize SRC DST",
		SuggestFor: []string{"unquantize", "unpack", "restore", "decode"},
		Short:      "Decode a quantized checkpoint to 16 or 32 bits",
		Long: `dequantize reads SRC, a bitsandbytes NF4 or FP4 checkpoint made by nf4kit or by
save_pretrained, and writes DST, a directory without quantization_config that loads
as a plain model. Every decoded value is the one that bitsandbytes computes: the
code's table entry times the decoded scale in float32, rounded to the dtype.

It takes LLM.int8, FP8, MXFP4, NVFP4 and compressed-tensors' FP8, int8 and packed
weights too, as convert does. Of a single file without a config.json beside it, tensors that are not
quantized keep their dtype unless --dtype is given.

` + resumeHelp + `

` + sourceHelp + `

` + destinationHelp,
		Example: `  nf4kit dequantize Llama-3.2-1B-nf4 Llama-3.2-1B-bf16
  nf4kit dequantize Llama-3.2-1B-nf4 out --dtype float32`,
		Args: arguments("SRC", "DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Src, o.Dst = args[0], args[1]
			o.settings = given(cmd.Flags(), []string{"dtype", "max-shard-size"})
			return runDequantize(cmd.Context(), g, o)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.DType, "dtype", "auto", "dtype of the result: auto (as quant_state says, else config.json), bfloat16, float16 or float32")
	fs.StringVar(&o.MaxShardSize, "max-shard-size", "5GB", "largest weights file")
	staging(fs, &o.Staging)
	o.Limits.addFlags(fs)
	fs.BoolVar(&o.Force, "force", false, "replace DST, once the new one is complete")
	restart(fs, &o.Restart)
	allowIncomplete(fs, &o.AllowIncomplete)
	enum(cmd, "dtype", "auto", "bfloat16", "float16", "float32")
	return cmd
}

// runDequantize is the command without cobra.
func runDequantize(ctx context.Context, g *globals, o DequantizeOptions) error {
	x, err := o.Limits.execution()
	if err != nil {
		return err
	}
	size, err := parseSize("max-shard-size", o.MaxShardSize)
	if err != nil {
		return err
	}
	x.NoError = true
	collectGarbage(x.MaxMemory)
	start := time.Now()
	to, err := g.destination(ctx, o.Dst, o.Staging)
	if err != nil {
		return err
	}
	g.tellLeft(to.path, o.Restart)
	src, err := g.open(ctx, o.Src)
	if err != nil {
		return err
	}
	defer src.Close()
	p, err := g.planned(ctx, func() (*convert.Plan, error) {
		return convert.NewDequantizePlan(src, convert.DequantizeOptions{DType: o.DType, MaxShardSize: size, AllowIncomplete: o.AllowIncomplete})
	})
	if err != nil {
		return err
	}
	resume := &convert.Resume{Tool: "nf4kit " + versionText(), Command: "dequantize", Settings: o.settings, Restart: o.Restart}
	if err := write(ctx, g, p, to, convert.WriteOptions{Execution: x, Force: o.Force, Resume: resume}); err != nil {
		return err
	}
	t := p.Stats()
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{
			"schema": "nf4kit.dequantize/1", "source": o.Src, "destination": o.Dst, "dtype": strings.ToLower(p.RunDType().String()),
			"parameters": t.Params, "dequantized_parameters": t.QuantParams, "dequantized_tensors": t.QuantCount,
			"kept_tensors": t.KeptCount, "source_bytes": t.SrcBytes, "output_bytes": t.OutBytes,
			"seconds": time.Since(start).Seconds(),
		})
	}
	if g.Quiet {
		return nil
	}
	escape.Fprintf(g.Stdout, "%s -> %s in %s\n\n  %s parameters, %s of them decoded from %d tensors to %s; %d tensors kept\n  %s, was %s\n",
		o.Src, o.Dst, durationText(time.Since(start)), countText(t.Params), countText(t.QuantParams), t.QuantCount,
		strings.ToLower(p.RunDType().String()), t.KeptCount, bytesText(t.OutBytes), bytesText(t.SrcBytes))
	return nil
}
