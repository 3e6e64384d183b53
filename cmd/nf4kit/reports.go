package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/report"
)

// reportWriters are the renderings of --report, by the extension of the file's name.
var reportWriters = map[string]func(*report.Report, io.Writer) error{
	".html": (*report.Report).WriteHTML, ".md": (*report.Report).WriteMarkdown, ".json": (*report.Report).WriteJSON, ".csv": (*report.Report).WriteCSV,
}

func reportWriter(name string) func(*report.Report, io.Writer) error {
	return reportWriters[strings.ToLower(filepath.Ext(name))]
}

// checkReportNames refuses, before any work, a report that could not be written.
func checkReportNames(names []string) error {
	for _, name := range names {
		if reportWriter(name) == nil {
			return usagef("--report %s: want a name that ends in .html, .md, .json or .csv", name)
		}
		if err := checkNewFile("report", name); err != nil {
			return err
		}
	}
	return nil
}

// checkNewFile tries whether the file of a flag can be written, which is found
// out too late once the work is done.
func checkNewFile(flag, name string) error {
	dir := filepath.Dir(name)
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return usagef("--%s %s: %s is not a directory", flag, name, dir)
	}
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		return usagef("--%s %s: it is a directory", flag, name)
	}
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return fmt.Errorf("write --%s %s: %w", flag, name, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// keepSource refuses a report that would replace a file of SRC.
func keepSource(reports []string, src *checkpoint.Source) error {
	for _, r := range reports {
		ext := strings.ToLower(filepath.Ext(r))
		if ext != ".json" && ext != ".md" || fileOf(r, src.Dir) == "" {
			continue // no model has a file of the other kinds
		}
		if src.IsFile && filepath.Base(r) != "config.json" {
			continue // a file beside others that have nothing to do with it
		}
		if _, err := os.Lstat(r); err == nil {
			return usagef("--report %s: it is a file of %s", r, src.Path)
		}
	}
	return nil
}

// fileOf is the name of a file within dir, with slashes; "" if it is elsewhere.
func fileOf(name, dir string) string {
	parent, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return ""
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "" // not there yet
	}
	abs, err1 := filepath.Abs(filepath.Join(parent, filepath.Base(name)))
	root, err2 := filepath.Abs(dir)
	rel, err3 := filepath.Rel(root, abs)
	if errors.Join(err1, err2, err3) != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return filepath.ToSlash(rel)
}

// writeReports writes the files of --report.
func writeReports(r *report.Report, names []string) error {
	for _, name := range names {
		if err := createFile(name, func(w io.Writer) error { return reportWriter(name)(r, w) }); err != nil {
			return fmt.Errorf("write report %s: %w", name, err)
		}
	}
	return nil
}

const tempPattern = ".nf4kit-*.tmp"

// createFile writes a report through a temporary name, so that a failure
// leaves no half of it.
func createFile(name string, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), tempPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o666 &^ umask()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
