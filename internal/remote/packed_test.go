package remote

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/archive"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// TestPackedElsewhere: a packed checkpoint at a web server and in an object store is read by ranges: little for what it is, a part for
// a tensor, and all of it once.
func TestPackedElsewhere(t *testing.T) {
	dir := writeModel(t, 2, 8<<20, 4096)
	wanted, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer wanted.Close()
	packed := filepath.Join(t.TempDir(), "m.tar.zst")
	if _, err := archive.Pack(t.Context(), wanted, packed, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewTLSServer(http.FileServer(http.Dir(filepath.Dir(packed))))
	defer web.Close()
	b := &standin.Bucket{Name: "data"}
	defer b.Start()()
	b.Objects["models/m.tar.zst"] = raw
	for src, transport := range map[string]http.RoundTripper{web.URL + "/m.tar.zst": web.Client().Transport, "s3://data/models/m.tar.zst": nil} {
		scheme, _, _ := strings.Cut(src, ":")
		t.Run(scheme, func(t *testing.T) {
			var c *client
			opt := optionsOf(t, bucketEnv(b))
			tune := opt.tune
			opt.tune = func(cl *client) {
				tune(cl)
				if c = cl; transport != nil {
					cl.http.Transport = transport
				}
			}
			s, err := Open(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			last := s.Tensors[len(s.Tensors)-1]
			if _, err := last.ReadAt(make([]byte, 100), 0); err != nil {
				t.Fatal(err)
			}
			if n := c.received.Load(); n > int64(len(raw))/2 {
				t.Errorf("%d bytes of %d to open it, and for 100 bytes of a tensor", n, len(raw))
			}
			before := c.received.Load()
			for i, tensor := range s.Tensors {
				want, got := make([]byte, tensor.Size()), make([]byte, tensor.Size())
				if _, err := io.ReadFull(io.NewSectionReader(wanted.Tensors[i], 0, tensor.Size()), want); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(io.NewSectionReader(tensor, 0, tensor.Size()), got); err != nil || !bytes.Equal(want, got) {
					t.Errorf("%s: other bytes, or %v", tensor.Name, err)
				}
			}
			const first = 4 << 20 // of some frames, that are asked for by themselves until it shows that reading goes forward
			if n := c.received.Load() - before; float64(n) > 1.01*float64(len(raw))+first {
				t.Errorf("%d bytes of %d for all of it", n, len(raw))
			}
			if raw, err := s.ReadFile("config.json", 100); string(raw) != `{"model_type":"llama"}` {
				t.Errorf("config.json is %q, %v", raw, err)
			}
		})
	}
}

// TestHostileList: names of a store that lead out of a directory, or that none could have, are no files of the model.
func TestHostileList(t *testing.T) {
	b := &standin.Bucket{Name: "data"}
	defer b.Start()()
	dir := writeModel(t, 1, 4096)
	for _, name := range []string{"model-00001-of-00001.safetensors", "model.safetensors.index.json", "config.json"} {
		b.Objects["x/"+name] = []byte(read(t, dir, name))
	}
	for _, name := range []string{"../tokenizer.json", "../../etc/passwd", "/tokenizer.json", "a/../vocab.json", "a//merges.txt", `a\vocab.txt`, "./LICENSE", "code/"} {
		b.Objects["x/"+name] = []byte("{}")
	}
	s, err := Open(t.Context(), "s3://data/x", optionsOf(t, bucketEnv(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sides, _, err := s.SideFiles()
	if err != nil || len(sides) > 0 {
		t.Errorf("side files %v, %v", sides, err)
	}
	for _, name := range []string{"../tokenizer.json", "/tokenizer.json", "a/../vocab.json"} {
		if raw, _ := s.ReadFile(name, 100); len(raw) > 0 {
			t.Errorf("%s: read %q", name, raw)
		}
	}
}
