// Package remote opens checkpoints that lie elsewhere: on a hub of models, at a web server, in an object store. They are read by
// ranges, several at once and ahead of their readers, and nothing of them is kept on disk.
//
// A file is pinned when it is opened, by the commit of its repository, its size and its ETag; one that changes while it is read is an
// error. Requests that fail are tried again, after a time that grows. Of a source at most Memory is held.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// Options are those of Open. The zero value is the default.
type Options struct {
	Getenv func(string) string // os.Getenv, if it is nil
	Agent  string              // that servers are told
	Told   func(text string)   // is told what a user should know: the commit, what comes from the cache

	tune func(*client) // of tests
}

// Open opens the checkpoint that src names: a local path as checkpoint.Open does, else what a Location is. What looks like a
// repository of a hub, and is no path of this machine, is taken for one. Requests end with ctx, or when the source is closed.
func Open(ctx context.Context, src string, opt Options) (*checkpoint.Source, error) {
	if opt.Getenv == nil {
		opt.Getenv = os.Getenv
	}
	if opt.Told == nil {
		opt.Told = func(string) {}
	}
	env := environmentOf(opt.Getenv)
	loc, err := Parse(src, env.endpoint)
	if err != nil {
		return nil, err
	}
	implied := loc == nil && IsRepository(src)
	switch {
	case implied:
		if loc, err = Parse("hf://"+src, env.endpoint); err != nil {
			return nil, err
		}
		opt.Told(fmt.Sprintf("%s: no such path here; taken for %s", src, loc))
	case loc == nil:
		return openLocal(src)
	case loc.Scheme == "file":
		return openLocal(loc.Path)
	}
	c, err := newClient(opt.Agent, env)
	if err != nil {
		return nil, err
	}
	if opt.tune != nil {
		opt.tune(c)
	}
	switch loc.Scheme {
	case "hf":
		s, err := openHub(ctx, c, env, loc, opt.Told)
		var e *Error
		if implied && errors.As(err, &e) {
			return nil, &impliedError{src, e}
		}
		return s, err
	case "http", "https":
		return openSite(ctx, c, loc)
	}
	return openBucket(ctx, c, opt.Getenv, loc)
}

func openLocal(path string) (*checkpoint.Source, error) {
	if isPacked(path) {
		return openPacked(path)
	}
	return checkpoint.Open(path)
}

// An impliedError is of a name that is no path, and was taken for a repository's.
type impliedError struct {
	src string
	e   *Error
}

func (e *impliedError) Error() string {
	return fmt.Sprintf("%s: no such path here, and %v", e.src, e.e)
}
func (e *impliedError) Unwrap() error { return e.e }

var repository = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[^/]+)?$`)

// IsRepository reports whether src, which is no path, looks like org/name: nothing of that name is here, nor a directory org.
func IsRepository(src string) bool {
	if !repository.MatchString(src) {
		return false
	}
	if _, err := os.Lstat(src); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	org, name, _ := strings.Cut(src, "/")
	if isFile(name) {
		return false
	}
	_, err := os.Stat(org)
	return errors.Is(err, fs.ErrNotExist)
}

// IsRemote reports whether src names something that is not a path of this machine.
func IsRemote(src string) bool {
	loc, err := Parse(src, DefaultEndpoint)
	return err != nil || loc != nil && loc.Scheme != "file" || IsRepository(src)
}
