package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/archive"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/feedback"
	"github.com/nf4kit/nf4kit/internal/forward"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/lora"
	"github.com/nf4kit/nf4kit/internal/remote"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A usageError is a mistake in flags or arguments.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// A checkError reports a check or threshold that was not met.
type checkError struct{ msg string }

func (e *checkError) Error() string { return e.msg }

func as[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

// exits maps errors to exit codes; the first row that matches decides. The help
// text's list of exit codes is made from it.
var exits = []struct {
	code    int
	meaning string
	match   func(error) bool
}{
	{0, "done", func(err error) bool { return err == nil }},
	{130, "interrupted", func(err error) bool { return errors.Is(err, context.Canceled) }},
	{2, "wrong flags or arguments", as[*usageError]},
	{3, "something in SRC is wrong or not supported", func(err error) bool {
		return as[*checkpoint.InputError](err) || as[*safetensors.FormatError](err) || as[*safetensors.UnsupportedError](err) ||
			as[*fourbit.Problem](err) || as[*bnb.StateError](err) || as[*weights.ValueError](err) || as[*convert.SourceError](err) ||
			as[*feedback.GramError](err) || as[*lora.Error](err) || as[*forward.Unsupported](err)
	}},
	{4, "a check or threshold was not met", func(err error) bool {
		return as[*checkError](err) || as[*convert.MissingFilesError](err) || as[*archive.DigestError](err)
	}},
	{5, "not enough disk or memory", func(err error) bool {
		return as[*checkpoint.SpaceError](err) || as[*memoryError](err) || checkpoint.IsNoSpace(err) || checkpoint.IsFileTooLarge(err)
	}},
	{1, "failed: DST exists, a file cannot be read or written, ...", func(err error) bool { return true }},
}

func exitCode(err error) int {
	for _, e := range exits {
		if e.match(err) {
			return e.code
		}
	}
	return 1
}

// exitHelp is the section on exit codes of the root command's help.
func exitHelp() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, code := range []int{0, 1, 2, 3, 4, 5, 130} {
		for _, e := range exits {
			if e.code == code {
				fmt.Fprintf(&b, "  %-4d %s\n", code, e.meaning)
			}
		}
	}
	return b.String()
}

// details are the problems behind err, where it has more than one.
func details(err error) []string {
	var lacking *convert.IncompleteError
	if errors.As(err, &lacking) && lacking.Report.Count() > 1 {
		return lacking.Report.Lines()
	}
	return nil
}

// hint is what the user can do about err, where that is known.
func hint(err error) string {
	var in *checkpoint.InputError
	var out *checkpoint.OutputError
	var src *convert.SourceError
	var adapter *lora.Error
	var missing *checkpoint.MissingError
	var server *remote.Error
	var unfinished *convert.UnfinishedError
	var refused *convert.ResumeError
	var absent *convert.MissingFilesError
	switch {
	case errors.As(err, &absent):
		return "run those tasks, and finalize again"
	case errors.As(err, &unfinished):
		text := unfinished.Hint()
		if inner := hint(unfinished.Err); inner != "" {
			text = inner + "; " + text
		}
		return text
	case errors.As(err, &refused):
		return refused.Hint()
	case errors.As(err, &adapter):
		return adapter.Hint
	case errors.As(err, &in):
		return in.Hint
	case errors.As(err, &server):
		return server.Hint
	case errors.As(err, &missing):
		return missing.Hint()
	case errors.As(err, &out):
		return out.Hint
	case errors.As(err, &src):
		return src.Hint
	case checkpoint.IsFileTooLarge(err):
		return "files of this size are not allowed here, by the file system (FAT: 4 GB) or by ulimit -f: raise that, or have smaller files by --max-shard-size"
	}
	return ""
}
