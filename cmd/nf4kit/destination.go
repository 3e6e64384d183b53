package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/remote"
)

const destinationHelp = `DST may be a folder of an object store: s3://, gs:// or azblob://BUCKET/FOLDER. Each weights
file is staged on this machine, uploaded, verified and removed here, two at a time; index,
nf4kit.json and config.json come last, so that nobody takes a half of a model for one.
Journal and staged files lie in NAME~DIGEST.nf4kit-staging in the directory of --staging, where
the same command goes on. A folder that holds something is refused without --force.`

// A destination is DST: a directory of this machine, or a folder of a store.
type destination struct {
	name  string           // as it was given
	path  string           // of the directory; with a store, what its files are staged beside
	store checkpoint.Store // nil: a directory
}

// staging is where the files for a store are on their way.
func staging(fs *pflag.FlagSet, to *string) {
	fs.StringVar(to, "staging", ".", "`DIR` of this machine for the journal and the files under way, where DST is in an object store")
}

// destination finds what DST names.
func (g *globals) destination(ctx context.Context, dst, staging string) (destination, error) {
	opt := remote.Options{Agent: "nf4kit/" + versionText(), Getenv: g.getenv}
	if path := remote.LocalPath(dst); path != "" {
		return destination{dst, path, nil}, nil
	}
	to, err := await(ctx, func() (*remote.Destination, error) { return remote.OpenDestination(ctx, dst, opt) })
	if err != nil {
		return destination{}, err
	}
	return destination{to.String(), filepath.Join(staging, to.LocalName()), to}, nil
}
