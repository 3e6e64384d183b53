package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// images writes an image of each program for Linux, from scratch, as the file that docker load and skopeo read.
// release/Dockerfile says the same of it.
func (r *release) images(list []binary) error {
	for _, b := range list {
		image, err := r.image(b)
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		tag, err := name.NewTag("ghcr.io/nf4kit/nf4kit:v" + r.version)
		if err != nil {
			return err
		}
		f, err := r.create(fmt.Sprintf("nf4kit_%s_%s_%s.oci.tar", r.version, b.os, b.arch))
		if err != nil {
			return err
		}
		if err := tarball.Write(tag, image, f); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) image(b binary) (v1.Image, error) {
	var content bytes.Buffer
	if err := r.tar(&content, []member{{filepath.Base(b.path), b.path, 0o755}}); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	made := v1.Time{Time: r.date}
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{Created: made, CreatedBy: "COPY nf4kit /nf4kit"}})
	if err != nil {
		return nil, err
	}
	c, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = b.os, b.arch, made
	c.Config.Entrypoint = []string{"/nf4kit"}
	c.Config.Labels = map[string]string{
		"org.opencontainers.image.source":   "https://github.com/nf4kit/nf4kit",
		"org.opencontainers.image.revision": r.commit,
		"org.opencontainers.image.version":  "v" + r.version,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	return mutate.ConfigFile(image, c)
}
