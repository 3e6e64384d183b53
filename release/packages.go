package main

import (
	"bytes"
	"fmt"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the formats of nfpm.Get
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
	"go.yaml.in/yaml/v4"
)

// packages writes a package in each format of the configuration, by the library of the program that goreleaser calls.
func (r *release) packages(b binary) error {
	var own struct {
		Formats []string `yaml:"formats"`
	}
	settings := map[string]any{"name": r.Packages[0]["package_name"], "arch": b.arch, "version": r.version}
	for _, key := range []string{"vendor", "homepage", "maintainer", "description", "license", "section", "contents"} {
		settings[key] = r.Packages[0][key]
	}
	raw, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	if again, err := yaml.Marshal(r.Packages[0]); err != nil {
		return err
	} else if err := yaml.Unmarshal(again, &own); err != nil {
		return err
	}
	for _, format := range own.Formats {
		if err := r.pack(b, format, raw); err != nil {
			return fmt.Errorf("%s: %w", format, err)
		}
	}
	return nil
}

// pack writes one package.
func (r *release) pack(b binary, format string, settings []byte) error {
	c, err := nfpm.Parse(bytes.NewReader(settings))
	if err != nil {
		return err
	}
	info, err := c.Get(format)
	if err != nil {
		return err
	}
	info.MTime = r.date
	info.RPM.BuildHost = "nf4kit"
	for _, f := range info.Contents {
		f.Source = filepath.Join(r.root, f.Source)
	}
	info.Contents = append(info.Contents, &files.Content{Source: b.path, Destination: "/usr/bin/nf4kit", FileInfo: &files.ContentFileInfo{Mode: 0o755, MTime: r.date}})
	for _, f := range info.Contents {
		if f.FileInfo == nil { // the umask and the time of a checkout are in no package
			f.FileInfo = &files.ContentFileInfo{Mode: 0o644, MTime: r.date}
		}
	}
	p, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	f, err := r.create(fmt.Sprintf("nf4kit_%s_%s_%s.%s", r.version, b.os, b.arch, format))
	if err != nil {
		return err
	}
	if err := p.Package(nfpm.WithDefaults(info), f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
