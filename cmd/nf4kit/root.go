package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/kernel"
)

// globals are what every command shares.
type globals struct {
	JSON    bool
	Quiet   bool
	Verbose bool
	Wide    bool

	getenv    func(name string) string
	continued convert.Continued // what a conversion has found of earlier runs
	profiles  profiles
	complete  string // DST, once it is there: an error after that has not undone it

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// run is the program: it returns the exit code and is the only place that
// prints errors.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := printer(stdout)
	g := &globals{Stdin: stdin, Stdout: out, Stderr: stderr, getenv: lookup(environ)}
	root := newRootCommand(g, environ)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if stopErr := g.profiles.stop(); err == nil && stopErr != nil {
		err = fmt.Errorf("write profile: %w", stopErr)
	}
	if err == nil && out.err != nil {
		err = fmt.Errorf("write to standard output: %w", out.err)
	}
	switch {
	case err == nil:
	case g.complete != "":
		err = fmt.Errorf("%s is complete, but: %w", g.complete, err)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = interrupt(err)
	}
	code := exitCode(err)
	if err != nil {
		g.widen()
		stderr = g.Stderr
		msg := err.Error()
		errorf(stderr, "%s", msg)
		for _, line := range details(err) {
			errorf(stderr, "%s", line)
		}
		if h := hint(err); h != "" {
			noticef(stderr, "hint: %s", h)
		}
		if code == 2 {
			escape.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		}
		if g.JSON {
			_ = json.NewEncoder(out).Encode(map[string]any{"schema": "nf4kit.error/1", "error": msg, "details": append([]string{}, details(err)...), "exit_code": code})
		}
	}
	return code
}

// lookup is os.Getenv of environ.
func lookup(environ []string) func(name string) string {
	return func(name string) string {
		for _, v := range slices.Backward(environ) {
			if k, v, _ := strings.Cut(v, "="); k == name {
				return v
			}
		}
		return ""
	}
}

// stickyWriter keeps the first error of writing: most commands print line by
// line, and none may end well whose result did not arrive.
type stickyWriter struct {
	w       io.Writer
	err     error
	columns int  // of the terminal, beyond which lines are broken; 0: it is none, or nothing is to be broken
	colours bool // it takes them
}

// printer breaks the lines that are printed on w where it is a terminal.
func printer(w io.Writer) *stickyWriter {
	return &stickyWriter{w: w, columns: terminalWidth(w), colours: colours(w)}
}

func (s *stickyWriter) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	out := p
	if s.columns > 0 {
		lines := strings.Split(string(p), "\n")
		for i := range lines {
			lines[i] = wrapLine(lines[i], s.columns)
		}
		out = []byte(strings.Join(lines, "\n"))
	}
	if _, err := s.w.Write(out); err != nil {
		s.err = err
		return 0, err
	}
	return len(p), nil
}

// widen does what --wide asks.
func (g *globals) widen() {
	if !g.Wide {
		return
	}
	if out, ok := g.Stdout.(*stickyWriter); ok {
		out.columns = 0
	}
	if f, ok := g.Stderr.(*os.File); ok {
		g.Stderr = wide{f}
	}
}

// help is show, as wide as --wide asks.
func (g *globals) help(show func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		g.widen()
		show(cmd, args)
	}
}

// interrupted is the error of a run that a signal ended.
type interrupted struct{ dst string } // which was not written; "" where nothing is kept

func (e interrupted) Error() string {
	if e.dst == "" {
		return "interrupted: nothing was written"
	}
	return fmt.Sprintf("interrupted: %s was not written", e.dst)
}

func (interrupted) Unwrap() error { return context.Canceled }

// interrupt is the error of a run that a signal ended, by what it says of itself.
func interrupt(err error) error {
	var u *convert.UnfinishedError
	if !errors.As(err, &u) {
		return interrupted{}
	}
	kept := *u
	kept.Err = interrupted{u.Dst}
	return &kept
}

func newRootCommand(g *globals, environ []string) *cobra.Command {
	showVersion := false
	root := &cobra.Command{
		Use:   "nf4kit",
		Short: "Convert checkpoints to NF4 and measure what it cost",
		Long: strings.TrimSpace(`
nf4kit turns a full-precision safetensors checkpoint into the 4-bit NormalFloat
(NF4) checkpoint that QLoRA trains on: codes, double-quantized constants and
quant_state as bitsandbytes writes them, loaded by transformers, PEFT and vLLM
as they are. It needs no Python, no GPU and no memory for the whole model.

Every flag can also be given as an environment variable, such as
NF4KIT_BLOCK_SIZE=64 for --block-size 64; repeatable flags take one value a line.
The command line wins.`) + "\n\n" + strings.TrimSuffix(exitHelp(), "\n"),
		Example: `  nf4kit convert Llama-3.2-1B Llama-3.2-1B-nf4
  nf4kit convert Llama-3.2-1B out --dry-run
  nf4kit inspect Llama-3.2-1B-nf4
  nf4kit verify Llama-3.2-1B-nf4
  nf4kit dequantize Llama-3.2-1B-nf4 Llama-3.2-1B-bf16`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return printVersion(g)
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := kernel.EnvError(); err != nil {
				warnf(g.Stderr, "%v", err)
			}
			if err := applyEnv(cmd, environ, g.Stderr); err != nil {
				return err
			}
			g.widen()
			if out, ok := g.Stdout.(*stickyWriter); ok && (g.JSON || program(cmd)) {
				out.columns = 0
			}
			return g.profiles.start()
		},
	}
	fs := root.PersistentFlags()
	fs.BoolVar(&g.JSON, "json", false, "print the result as JSON (versioned, additive) on stdout")
	fs.BoolVarP(&g.Quiet, "quiet", "q", false, "print nothing but warnings and errors (inspect and plan: and the result)")
	fs.BoolVarP(&g.Verbose, "verbose", "v", false, "say more: every tensor and why it is kept")
	fs.BoolVar(&g.Wide, "wide", false, "all columns of tables, and no line broken, however narrow the terminal")
	g.profiles.flags(fs)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newCalibrateCommand(g),
		newConvertCommand(g),
		newDequantizeCommand(g),
		newEvalCommand(g),
		newFinalizeCommand(g),
		newInspectCommand(g),
		newLoraCommand(g),
		newMeasureCommand(g),
		newPackCommand(g),
		newPlanCommand(g),
		newPushCommand(g),
		newUnpackCommand(g),
		newVerifyCommand(g),
		newVersionCommand(g),
		newCalibrationScriptCommand(g),
		newManCommand(g),
	)
	root.Flags().BoolVar(&showVersion, "version", false, "print the version, and stop")
	root.SetHelpFunc(g.help(root.HelpFunc()))
	root.SetHelpCommand(newHelpCommand(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if shells, _, err := root.Find([]string{"completion"}); err == nil {
		shells.Args = unknownCommand
		shells.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	misuse(root)
	return root
}

// program reports whether what a command prints is for a program, and stays as it is.
func program(cmd *cobra.Command) bool {
	for ; cmd != nil; cmd = cmd.Parent() {
		if slices.Contains([]string{"completion", "man", "calibration-script", cobra.ShellCompRequestCmd}, cmd.Name()) {
			return true
		}
	}
	return false
}

// newHelpCommand is cobra's own, but that it fails where there is no such command.
func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if of, rest, err := root.Find(args); err == nil && len(rest) == 0 {
				for _, c := range of.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		Args: func(_ *cobra.Command, args []string) error {
			_, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, append(rest, args...))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			of, _, err := root.Find(args)
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// unknownCommand refuses what is no command, and says what may have been meant.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := ""
	if s := meant(cmd, args[0]); len(s) > 0 {
		near = "; did you mean " + strings.Join(s, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q%s", args[0], near)
}

// meant are the commands that a word may stand for: by another word for one, by a similar name, or one of another
// command's.
func meant(cmd *cobra.Command, word string) []string {
	var names, below []string
	for _, c := range cmd.Commands() {
		if slices.Contains(c.SuggestFor, strings.ToLower(word)) {
			return []string{c.Name()}
		}
		if !c.IsAvailableCommand() {
			continue
		}
		names = append(names, c.Name())
		for _, s := range c.Commands() {
			if s.Name() == strings.ToLower(word) {
				below = append(below, c.Name()+" "+s.Name())
			}
		}
	}
	if cmd.HasParent() {
		for _, c := range cmd.Root().Commands() {
			if c.Name() == strings.ToLower(word) {
				below = append(below, c.CommandPath())
			}
		}
	}
	if len(below) > 0 {
		return below
	}
	return near(word, names)
}

// misuse makes the argument errors of cobra usage errors.
func misuse(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{fmt.Errorf("%s: %w", cmd.CommandPath(), err)}
			}
			return nil
		}
	}
	for _, s := range c.Commands() {
		misuse(s)
	}
}

// writeJSON prints v as indented JSON.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
