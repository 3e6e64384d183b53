package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// arguments is the check that a command has these, by name.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			is := "is"
			if len(names)-len(args) > 1 {
				is = "are"
			}
			return fmt.Errorf("want %s; %s %s missing", enumerate(names), enumerate(names[len(args):]), is)
		case len(args) > len(names):
			return surplus(cmd, args[len(names):], enumerate(names))
		}
		return nil
	}
}

// enumerate is "a, b and c".
func enumerate(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// atLeast is the check that a command has these arguments, the last but one perhaps several times.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return arguments(names...)(cmd, args[:min(len(args), len(names))])
	}
}

// noArguments is the check that a command has none.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return surplus(cmd, args, "")
	}
	return nil
}

// surplus is the error of arguments too many. One of them may have been meant as the value of a switch, which takes
// it after an equals sign alone.
func surplus(cmd *cobra.Command, extra []string, want string) error {
	if want == "" {
		want = "no argument"
	}
	for _, a := range extra {
		if _, err := strconv.ParseBool(a); err != nil {
			continue
		}
		var set string
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if f.NoOptDefVal != "" && set == "" {
				set = f.Name
			}
		})
		if set != "" {
			return fmt.Errorf("want %s, found %q too; the value of a switch stands after =, as in --%s=%s", want, a, set, a)
		}
	}
	return fmt.Errorf("want %s, found %q too", want, extra[0])
}

// flagError is the usage error of a flag, with the name or the values that may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return &usageError{plainValue(err)}
	}
	near := nearFlags(cmd.Flags(), unknown.GetSpecifiedName())
	if len(near) == 0 {
		return usagef("%w; '%s --help' lists them", err, cmd.CommandPath())
	}
	return usagef("%w; did you mean --%s?", err, strings.Join(near, " or --"))
}

// nearFlags are the flags whose names are near to one that is not among them.
func nearFlags(fs *pflag.FlagSet, name string) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return near(strings.ReplaceAll(name, "_", "-"), names)
}

// near are those of the names that word may have been meant for, as cobra suggests commands.
func near(word string, names []string) []string {
	c := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, n := range names {
		c.AddCommand(&cobra.Command{Use: n, Run: func(*cobra.Command, []string) {}})
	}
	return c.SuggestionsFor(word)
}

// plainValue says what a flag takes, of a value that it does not, in place of the error of package strconv.
func plainValue(err error) error {
	var invalid *pflag.InvalidValueError
	var number *strconv.NumError
	if !errors.As(err, &invalid) || !errors.As(err, &number) {
		return err
	}
	f := invalid.GetFlag()
	want := "a number"
	switch kind := strings.TrimSuffix(f.Value.Type(), "Slice"); {
	case slices.Contains(tokenFlags, f.Name):
		want = "a number of tokens, such as 4096 or 4k"
	case kind == "bool":
		want = "true or false"
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		want = "a whole number"
	}
	if errors.Is(err, strconv.ErrRange) {
		want += ", less large"
	}
	return fmt.Errorf("--%s %q: want %s", f.Name, invalid.GetValue(), want)
}

// A spelling is a flag's value that takes other spellings of what it takes.
type spelling struct {
	pflag.Value
	plain func(string) string
}

func (s spelling) Set(v string) error { return s.Value.Set(s.plain(v)) }

// spell has flags take other spellings.
func spell(fs *pflag.FlagSet, plain func(string) string, flags ...string) {
	for _, name := range flags {
		f := fs.Lookup(name)
		if _, many := f.Value.(pflag.SliceValue); !many {
			f.Value = spelling{f.Value, plain}
		}
	}
}

// dtypes are what people call them.
var dtypes = map[string]string{"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "half": "float16", "fp32": "float32", "f32": "float32", "float": "float32"}

// lowerWord is the word in lower case; torch.bfloat16, bf16 and the like are dtypes by their usual name.
func lowerWord(s string) string {
	s = strings.TrimPrefix(strings.ToLower(s), "torch.")
	if long, ok := dtypes[s]; ok {
		return long
	}
	return s
}

// trainers are words of the Hugging Face Trainer for what plan calls otherwise.
var trainers = map[string]string{"flash-attention-2": "sdpa", "flash-attention-3": "sdpa", "flash-attn": "sdpa", "flash": "sdpa", "flash-attention": "sdpa", "adamw-torch": "adamw",
	"adamw-torch-fused": "adamw", "adamw-hf": "adamw", "adamw-bnb-8bit": "adamw-8bit", "adamw8bit": "adamw-8bit",
	"paged-adamw8bit": "paged-adamw-8bit", "pagedadamw8bit": "paged-adamw-8bit", "paged-adamw-32bit": "paged-adamw"}

// trainerWord is what plan calls a word of the Hugging Face Trainer.
func trainerWord(s string) string {
	s = strings.ReplaceAll(lowerWord(s), "_", "-")
	if own, ok := trainers[s]; ok {
		return own
	}
	return s
}

// tokenFlags are the flags of plan that take a number of tokens.
var tokenFlags = []string{"seq", "generate"}

var thousands = regexp.MustCompile(`^([0-9]{1,9}(?:\.[0-9]{1,3})?)([kKmM])$`)

// tokenCount is 4096 for 4k, and 1048576 for 1M.
func tokenCount(s string) string {
	if m := thousands.FindStringSubmatch(s); m != nil {
		n, _ := strconv.ParseFloat(m[1], 64)
		n *= 1 << 10
		if strings.EqualFold(m[2], "m") {
			n *= 1 << 10
		}
		if n == math.Trunc(n) {
			return strconv.FormatInt(int64(n), 10)
		}
	}
	return s
}

// targetWord is the word of --targets for what is the same in PEFT's spelling or in one near it; lists and expressions stay.
func targetWord(s string) string {
	switch word := strings.ReplaceAll(strings.ToLower(s), "_", "-"); word {
	case "all", "all-linear", "linear":
		return "all-linear"
	case "attention", "attn", "mlp":
		return strings.Replace(word, "attn", "attention", 1)
	}
	return s
}

// gpuMemory is 24GiB for 24, since nobody has a GPU of 24 bytes.
func gpuMemory(s string) string {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n > 0 && n <= 1024 {
		return s + "GiB"
	}
	return s
}
