package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const envPrefix = "NF4KIT_"

// Variables that are not flags.
var otherEnv = map[string]bool{
	"NF4KIT_KERNEL":          true, // forces a kernel implementation, see internal/kernel
	"NF4KIT_REQUIRE_KERNELS": true, // tests: fail if a kernel of this CPU was not run
	"NF4KIT_INTEROP_HOME":    true, // tests: where the Python environments live
	"NF4KIT_VERSITYGW":       true, // tests: an S3 server
	"NF4KIT_INTEROP_BINARY":  true, // tests: the program under test, in place of one that is built
}

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnv sets the flags of cmd that the command line left alone from the
// environment. Repeatable flags take one value a line. A name that is no flag
// of any command is a warning, since it is most likely a typing mistake.
func applyEnv(cmd *cobra.Command, environ []string, stderr io.Writer) error {
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, envPrefix) {
			env[k] = v
		}
	}
	if len(env) == 0 {
		return nil
	}
	known := map[string]string{} // by variable, a command that has the flag
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		note := func(f *pflag.Flag) { known[envName(f.Name)] = c.CommandPath() }
		c.Flags().VisitAll(note)
		c.PersistentFlags().VisitAll(note)
		for _, s := range c.Commands() {
			visit(s)
		}
	}
	visit(cmd.Root())
	var unknown []string
	for k := range env {
		if known[k] == "" && !otherEnv[k] {
			unknown = append(unknown, k)
		}
	}
	sort.Strings(unknown)
	for _, k := range unknown {
		meant := near(k, slices.Collect(maps.Keys(known)))
		if len(meant) > 0 {
			slices.Sort(meant)
			warnf(stderr, "%s is set but no flag has that name; did you mean %s?", k, strings.Join(meant, " or "))
			continue
		}
		warnf(stderr, "%s is set but no flag has that name", k)
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(k, envPrefix), "_", "-"))
		if known[k] != "" && !otherEnv[k] && env[k] != "" && cmd.Flags().Lookup(flag) == nil && !quiet(cmd) {
			noticef(stderr, "%s is set: a flag of %s, not of %s", k, known[k], cmd.CommandPath())
		}
	}
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v := env[envName(f.Name)] // one that is empty is as good as none: FLAG= unsets it for one command
		if v == "" || f.Changed || err != nil || f.Name == "help" {
			return
		}
		err = setFlag(cmd.Flags(), f, strings.Split(v, "\n"))
		if err != nil {
			err = usagef("environment variable %s=%q: %w", envName(f.Name), v, err)
		}
	})
	return err
}

// quiet reports whether -q is given.
func quiet(cmd *cobra.Command) bool {
	f := cmd.Flags().Lookup("quiet")
	return f != nil && f.Value.String() == "true"
}

// setFlag gives values to a flag that the command line did not set.
func setFlag(fs *pflag.FlagSet, f *pflag.Flag, values []string) error {
	if _, many := f.Value.(pflag.SliceValue); !many && len(values) > 1 {
		return fmt.Errorf("flag --%s takes one value", f.Name)
	}
	for _, v := range values {
		if v == "" && len(values) > 1 {
			continue
		}
		if err := fs.Set(f.Name, v); err != nil {
			return plainValue(err)
		}
	}
	return nil
}
