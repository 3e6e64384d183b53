package remote

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// siteFiles are the files looked for at an address that cannot be listed, beside the shards of an index: weights, config.json
// and what loaders read (transformers, utils/__init__.py and tokenization_utils_base.py).
var siteFiles = []string{
	"model.safetensors.index.json", "model.safetensors", "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
	"config.json", "generation_config.json", "nf4kit.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "chat_template.json",
	"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "README.md", "LICENSE",
	"quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json", "adapter_config.json", "adapter_model.safetensors",
}

// openSite opens a file, or the directory of a model, of a server that says no more than what is asked for.
func openSite(ctx context.Context, c *client, loc *Location) (*checkpoint.Source, error) {
	base, name := *loc.URL, ""
	if isFile(base.Path) {
		name = path.Base(base.Path)
		base.Path, base.RawPath = strings.TrimSuffix(base.Path, name), ""
	}
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	top := shown(&base)
	t := newTree(ctx, c, top)
	object := func(name string) fetcher {
		u := base
		u.Path += name
		u.RawPath = ""
		return &object{c: c, path: t.top + "/" + name, at: &u, size: -1, refused: func(a *answer) error { return notFound(t.top+"/"+name, a) }}
	}
	names := siteFiles
	if name != "" {
		names = []string{name, "config.json"}
	}
	if err := t.probe(names, object); err != nil {
		_ = t.Close() // the first error is the one to tell
		return nil, err
	}
	if name != "" && t.files[name] == nil {
		_ = t.Close()
		return nil, &Error{Path: shown(loc.URL), Found: "no such file", Err: fs.ErrNotExist, Hint: "check the address"}
	}
	if len(t.files) == 0 {
		_ = t.Close()
		return nil, &Error{Path: shown(loc.URL), Expected: "a model's config.json and weights below the address", Found: "none", Err: fs.ErrNotExist,
			Hint: "give the address of a .safetensors file, or of the directory that model.safetensors.index.json lies in"}
	}
	t.seek = func(name string) fetcher {
		if strings.HasSuffix(name, ".safetensors") { // a shard that the index names
			return object(name)
		}
		return nil
	}
	return t.source(name)
}

// probe lists those of the names that the server has.
func (t *tree) probe(names []string, object func(name string) fetcher) error {
	found := make([]*file, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	turns := make(chan struct{}, connections)
	for i, name := range names {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			f := &file{pool: t.pool, from: object(name), path: t.top + "/" + name, name: path.Base(name)}
			if errs[i] = f.open(t.pool.ctx); errs[i] == nil {
				found[i] = f
			}
		})
	}
	wg.Wait()
	for i, name := range names {
		var e *Error
		switch {
		case found[i] != nil && isPage(name, found[i].first):
		case found[i] != nil:
			t.add(name, found[i].size, nil, "").file = found[i]
		case errors.Is(errs[i], fs.ErrNotExist):
		case errors.As(errs[i], &e) && (e.status == 401 || e.status == 403) && i > 0:
			// what object stores say of names that they do not have to those who may not list them
		default:
			return errs[i]
		}
	}
	return nil
}

// isPage reports whether a server has given a web page in place of a file that it does not have.
func isPage(name string, first []byte) bool {
	head := strings.ToLower(strings.TrimSpace(string(first[:min(len(first), 64)])))
	return (strings.HasPrefix(head, "<!doctype html") || strings.HasPrefix(head, "<html")) && path.Ext(name) != ".md"
}
