package main

import (
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/kernel"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version = ""

func versionText() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "devel"
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(g)
		},
	}
}

// checkedAgainst are the versions that the interop tests load and compare with: internal/interop/py/requirements-*.txt.
var checkedAgainst = map[string][]string{
	"bitsandbytes": {"0.50.2"},
	"peft":         {"0.21.2"},
	"transformers": {"5.23.0", "4.57.6"},
}

// commit is the commit of the build, with + where the tree had changes; "" if it is not known.
func commit() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var id, changed string
	for _, s := range bi.Settings {
		switch {
		case s.Key == "vcs.revision":
			id = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if id == "" {
		return ""
	}
	return id[:min(len(id), 12)] + changed
}

func printVersion(g *globals) error {
	if g.JSON {
		return writeJSON(g.Stdout, map[string]any{"schema": "nf4kit.version/1", "version": versionText(), "commit": commit(),
			"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "kernels": kernel.Current(), "checked_against": checkedAgainst})
	}
	escape.Fprintf(g.Stdout, "nf4kit %s (%s, %s/%s)\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if id := commit(); id != "" {
		escape.Fprintf(g.Stdout, "commit           %s\n", id)
	}
	escape.Fprintf(g.Stdout, "kernels          %s (this processor has %s)\n", kernel.Current(), strings.Join(kernel.List(), ", "))
	var checked []string
	for _, name := range slices.Sorted(maps.Keys(checkedAgainst)) {
		checked = append(checked, name+" "+strings.Join(checkedAgainst[name], " and "))
	}
	escape.Fprintf(g.Stdout, "checked against  %s\n", strings.Join(checked, ", "))
	return nil
}
