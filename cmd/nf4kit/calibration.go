package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/activations"
)

func newCalibrationScriptCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "calibration-script",
		Short: "Print the Python program that writes a file for convert --activations",
		Long: `calibration-script prints a Python program that runs a model on a calibration text through
transformers, on the CPU or a GPU, and writes how large the inputs of every Linear are:
second moments, and with --gram Gram matrices. convert --activations reads the file.

The text should be like what the model will be used for, some 32,000 tokens of it.`,
		Example: `  nf4kit calibration-script > calibrate.py
  python calibrate.py Llama-3.2-1B --text sample.txt -o llama.act.safetensors --gram`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(g.Stdout, activations.Script)
			return err
		},
	}
}
