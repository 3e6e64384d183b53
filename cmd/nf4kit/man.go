package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "man [DIR]",
		Short: "Print the manual page, or write one page a command into DIR",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The date is today's, or that of SOURCE_DATE_EPOCH.
			head := &doc.GenManHeader{Title: "NF4KIT", Section: "1", Source: "nf4kit " + versionText()}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if len(args) == 0 {
				return doc.GenMan(root, head, g.Stdout)
			}
			if fi, err := os.Stat(args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			} else if !fi.IsDir() {
				return fmt.Errorf("write manual pages: %s is not a directory", args[0])
			}
			return doc.GenManTree(root, head, args[0])
		},
	}
}
