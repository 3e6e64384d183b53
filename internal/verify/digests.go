package verify

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// digests compares every tensor with its digest in nf4kit.json.
func (r *Report) digests(ctx context.Context, src *checkpoint.Source, m *manifest.Manifest, opt Options) error {
	got := make([]manifest.Digest, len(src.Tensors))
	err := stream.Run(ctx, opt.Stream, newScratch, len(src.Tensors), func(int) int64 { return 0 }, func(i int, each stream.Each[*scratch]) error {
		t := src.Tensors[i]
		return each(1, func(w *scratch, _ int) error {
			var err error
			if got[i], err = manifest.DigestOf(t, t.Size(), w.buf); err != nil {
				return fmt.Errorf("%s: read %s: %w", t.Shard.Name, t.Name, err)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for i, t := range src.Tensors {
		want, ok := m.Tensors[t.Name]
		switch {
		case !ok:
			r.find(fourbit.Warning, t.Shard.Name, t.Name, "expected a digest of it in %s, found none", manifest.Name)
		case got[i] != want:
			r.find(fourbit.Error, t.Shard.Name, t.Name, "expected the BLAKE3 digest %s recorded in %s, found %s", want, manifest.Name, got[i])
		}
		if ok {
			r.Digests++
		}
	}
	r.absent(src, m)
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		r.file(src, name, m.Files[name])
	}
	return nil
}

// maxAbsent bounds the tensors that are named one by one because nf4kit.json has digests of them and the checkpoint has
// not them: the file is of any length, whatever the checkpoint is.
const maxAbsent = 1000

// absent finds the tensors that nf4kit.json has digests of and src has not.
func (r *Report) absent(src *checkpoint.Source, m *manifest.Manifest) {
	n := 0
	for _, name := range m.TensorNames() {
		if _, ok := src.Lookup(name); ok {
			continue
		}
		if n++; n <= maxAbsent {
			r.find(fourbit.Error, "", name, "expected the tensor, for %s has its digest, found none", manifest.Name)
		}
	}
	if n > maxAbsent {
		r.find(fourbit.Error, "", "", "expected another %d tensors, for %s has their digests, found none of them", n-maxAbsent, manifest.Name)
	}
}

// file compares a side file with its digest.
func (r *Report) file(src *checkpoint.Source, name string, want manifest.Digest) {
	if !filepath.IsLocal(name) {
		r.find(fourbit.Warning, manifest.Name, "", "files: expected names within the directory, found %.80q", name)
		return
	}
	raw, err := src.ReadFile(filepath.ToSlash(name), checkpoint.MaxIndexSize)
	switch {
	case err != nil:
		r.find(fourbit.Warning, name, "", "expected the file, for %s has its digest: %v", manifest.Name, err)
		return
	case raw == nil:
		r.find(fourbit.Warning, name, "", "expected the file, for %s has its digest, found none", manifest.Name)
		return
	}
	if got := manifest.Sum(raw); got != want {
		r.find(fourbit.Warning, name, "", "expected the BLAKE3 digest %s recorded in %s, found %s: it was changed after the conversion", want, manifest.Name, got)
	}
}
