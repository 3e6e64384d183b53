package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// member is a file in an archive.
type member struct {
	name, path string
	mode       int64
}

// members are the files of an archive: the program, and what the configuration adds.
func (r *release) members(b binary) ([]member, error) {
	list := []member{{filepath.Base(b.path), b.path, 0o755}}
	for _, f := range r.Archives[0].Files {
		found, err := filepath.Glob(filepath.Join(r.root, filepath.FromSlash(f.Src)))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("archive: %s matches no file: %w", f.Src, os.ErrNotExist)
		}
		for _, name := range found {
			list = append(list, member{path.Join(f.Dst, filepath.Base(name)), name, 0o644})
		}
	}
	return list, nil
}

// archive writes NAME.tar.gz, or NAME.zip for Windows.
func (r *release) archive(b binary) (err error) {
	list, err := r.members(b)
	if err != nil {
		return err
	}
	ext, pack := ".tar.gz", r.tarball
	if b.os == "windows" {
		ext, pack = ".zip", r.zip
	}
	f, err := r.create(fmt.Sprintf("nf4kit_%s_%s_%s%s", r.version, b.os, b.arch, ext))
	if err != nil {
		return err
	}
	if err := pack(f, list); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (r *release) tarball(w io.Writer, list []member) error {
	z := gzip.NewWriter(w)
	if err := r.tar(z, list); err != nil {
		return err
	}
	return z.Close()
}

// tar writes files with the time of the commit and no owner.
func (r *release) tar(w io.Writer, list []member) error {
	t := tar.NewWriter(w)
	for _, m := range list {
		raw, err := os.ReadFile(m.path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: m.name, Mode: m.mode, Size: int64(len(raw)), ModTime: r.date, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(raw); err != nil {
			return err
		}
	}
	return t.Close()
}

func (r *release) zip(w io.Writer, list []member) error {
	z := zip.NewWriter(w)
	for _, m := range list {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: r.date}
		h.SetMode(os.FileMode(m.mode))
		to, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		from, err := os.Open(m.path)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from)
		from.Close()
		if err != nil {
			return err
		}
	}
	return z.Close()
}
