package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// writeModel writes a model of shards of tensors of so many bytes each, with an index, and returns its directory.
func writeModel(t testing.TB, shards int, tensors ...int) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	var index []string
	for s := range shards {
		var header []string
		var data []byte
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", s+1, shards)
		for i, n := range tensors {
			tensor := fmt.Sprintf("model.layers.%d.w%d.weight", s, i)
			header = append(header, fmt.Sprintf(`%q:{"dtype":"BF16","shape":[%d],"data_offsets":[%d,%d]}`, tensor, n/2, len(data), len(data)+n))
			index = append(index, fmt.Sprintf("%q:%q", tensor, name))
			for range n / 8 {
				data = binary.LittleEndian.AppendUint64(data, r.Uint64())
			}
		}
		head := "{" + strings.Join(header, ",") + "}"
		raw := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
		write(t, dir, name, string(append(raw, data...)))
	}
	write(t, dir, "model.safetensors.index.json", `{"metadata":{},"weight_map":{`+strings.Join(index, ",")+"}}")
	write(t, dir, "config.json", `{"model_type":"llama"}`)
	write(t, dir, "tokenizer.json", strings.Repeat(" ", 40_000)+"{}")
	write(t, dir, "code/modeling.py", "pass")
	write(t, dir, "images/a.png", "no part of a model")
	return dir
}

// sparseModel writes a model of one shard of zeros.
func sparseModel(t testing.TB, size int64) string {
	t.Helper()
	dir := writeModel(t, 1, 0)
	header := fmt.Sprintf(`{"a.weight":{"dtype":"BF16","shape":[%d],"data_offsets":[0,%d]}}`, size/2, size)
	write(t, dir, "model-00001-of-00001.safetensors", string(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))+header)
	write(t, dir, "model.safetensors.index.json", `{"metadata":{},"weight_map":{"a.weight":"model-00001-of-00001.safetensors"}}`)
	if err := os.Truncate(filepath.Join(dir, "model-00001-of-00001.safetensors"), 8+int64(len(header))+size); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	name = filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// start runs a stand-in, and returns options by which it is the hub.
func start(t testing.TB, h *standin.Hub) Options {
	t.Helper()
	stop, err := h.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return optionsOf(t, map[string]string{"HF_ENDPOINT": h.URL, "HF_TOKEN": h.Token})
}

// optionsOf are options of an environment without a home, that wait for nothing.
func optionsOf(t testing.TB, env map[string]string) Options {
	home := t.TempDir()
	return Options{
		Getenv: func(name string) string {
			if name == "HOME" && env[name] == "" {
				return home
			}
			return env[name]
		},
		tune: func(c *client) {
			c.sleep = func(ctx context.Context, d time.Duration) error { return ctx.Err() }
			c.stall = 5 * time.Second
		},
	}
}

// sameTensors reads every tensor of got as the engine does, and compares it with that of want.
func sameTensors(t testing.TB, want, got *checkpoint.Source) {
	t.Helper()
	if len(want.Tensors) != len(got.Tensors) {
		t.Fatalf("%d tensors; want %d", len(got.Tensors), len(want.Tensors))
	}
	const step = 1 << 20
	for i, w := range want.Tensors {
		g := got.Tensors[i]
		data := make([]byte, w.Size())
		if _, err := w.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		turns := make(chan struct{}, 4)
		g.Prefetch(0, 8*step)
		for off := int64(0); off < g.Size(); off += step {
			turns <- struct{}{}
			wg.Go(func() {
				defer func() { <-turns }()
				g.Prefetch(off+8*step, step)
				p := make([]byte, min(step, g.Size()-off))
				if n, err := g.ReadAt(p, off); n != len(p) || err != nil && err != io.EOF {
					t.Errorf("%s at %d: %d bytes, %v", g.Name, off, n, err)
				} else if !bytes.Equal(p, data[off:off+int64(n)]) {
					t.Errorf("%s at %d: other bytes", g.Name, off)
				}
				g.Drop(off, step)
			})
		}
		wg.Wait()
	}
}

func dirSize(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var info os.FileInfo
			if info, err = d.Info(); err == nil {
				n += info.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHub: a model is read whole through redirects to a second host, signed addresses that end and faults; no byte twice but for
// what broke off, no token to the second host, and never more requests than there are connections.
func TestHub(t *testing.T) {
	dir := writeModel(t, 2, 9<<20, 4096, 64, 100_000, 5<<20, 20_000)
	h := &standin.Hub{Repo: "org/name", Dir: dir, Token: "hf_secret", SignedFor: 3, FaultEach: 20}
	opt := start(t, h)
	var told []string
	opt.Told = func(text string) { told = append(told, text) }
	src, err := Open(t.Context(), "hf://org/name", opt)
	if err != nil {
		t.Fatal(err)
	}
	if src.Repo != "org/name" || src.Commit != h.Commit() || src.IsLocal() {
		t.Errorf("opened as %q %q, local: %v", src.Repo, src.Commit, src.IsLocal())
	}
	if len(told) != 1 || !strings.Contains(told[0], h.Commit()) {
		t.Errorf("told %q; want the commit", told)
	}
	if n := h.Sent.Load(); n > 200_000 {
		t.Errorf("opening has read %d bytes", n)
	}
	want, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	sameTensors(t, want, src)
	if most := dirSize(t, dir) * 101 / 100; h.Sent.Load() > most+100_000 { // what was sent of answers that broke off
		t.Errorf("%d bytes were sent; want at most %d", h.Sent.Load(), most)
	}
	if h.Leaked.Load() > 0 {
		t.Errorf("%d requests of the second host had the token", h.Leaked.Load())
	}
	if h.Most.Load() > connections {
		t.Errorf("%d requests at once", h.Most.Load())
	}
	sides, _, err := src.SideFiles()
	if err != nil || len(sides) != 2 || sides[0].Rel != "code/modeling.py" || sides[1].Rel != "tokenizer.json" {
		t.Errorf("side files %v, %v", sides, err)
	}
	if id := src.Shards[0].Identity(); id == "" || id == src.Shards[1].Identity() {
		t.Errorf("identity %q", id)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if _, err := src.Tensors[0].ReadAt(make([]byte, 1<<20), 1<<20); err == nil {
		t.Error("read after Close")
	}
}

// TestParallel: whoever reads forward, however little at a time, has as many requests under way as there are connections.
func TestParallel(t *testing.T) {
	const blocks, atOnce = 14, 5
	h := &standin.Hub{Repo: "org/name", Dir: sparseModel(t, blocks*blockSize)}
	var held atomic.Int64
	all := make(chan struct{})
	h.Contents = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
		var off int64
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
		// The first blocks come at once, those after them when so many are asked for.
		if off >= atOnce*blockSize && held.Add(1) == connections {
			close(all)
		}
		if off >= atOnce*blockSize {
			select {
			case <-all:
			case <-time.After(20 * time.Second):
			}
		}
		serve(w, r)
	}
	opt := start(t, h)
	tune := opt.tune
	opt.tune = func(c *client) { tune(c); c.stall = time.Minute }
	src, err := Open(t.Context(), "hf://org/name", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	p := make([]byte, 1<<20)
	for off := int64(0); off < src.Tensors[0].Size(); off += int64(len(p)) {
		if _, err := src.Tensors[0].ReadAt(p, off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	select {
	case <-all:
	default:
		t.Errorf("never %d requests at once", connections)
	}
	if n := h.Asked.Load(); n > blocks+5 { // the last block, the head, the first read, the index and config.json
		t.Errorf("%d requests for %d blocks", n, blocks)
	}
}

// TestFewBytes: records that lie far apart are read without what lies between.
func TestFewBytes(t *testing.T) {
	sizes := make([]int, 64)
	for i := range sizes {
		sizes[i] = 256 + i%2*(1<<20)
	}
	h := &standin.Hub{Repo: "org/name", Dir: writeModel(t, 1, sizes...)}
	src, err := Open(t.Context(), "hf://org/name", start(t, h))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	before := h.Sent.Load()
	for _, i := range []int{60, 2, 30, 16} {
		w, _ := src.Lookup(fmt.Sprintf("model.layers.0.w%d.weight", i))
		if _, err := w.ReadAt(make([]byte, 256), 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	if n := h.Sent.Load() - before; n > 4*pageSize {
		t.Errorf("%d bytes for four records of 256", n)
	}
}

// Of a server with 50 ms of latency that gives a connection 20 MB/s.
func BenchmarkConnections(b *testing.B) {
	const size = 256 << 20
	dir := sparseModel(b, size)
	for _, conns := range []int{1, connections} {
		b.Run(fmt.Sprintf("connections=%d", conns), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				opt := start(b, &standin.Hub{Repo: "org/name", Dir: dir, Latency: 50 * time.Millisecond, Rate: 20_000_000})
				tune := opt.tune
				opt.tune = func(c *client) { tune(c); c.conns = conns }
				src, err := Open(b.Context(), "hf://org/name", opt)
				if err != nil {
					b.Fatal(err)
				}
				p := make([]byte, 1<<20)
				src.Tensors[0].Prefetch(0, 8<<20) // as the engine
				for off := int64(0); off < size; off += int64(len(p)) {
					src.Tensors[0].Prefetch(off+8<<20, 1<<20)
					if _, err := src.Tensors[0].ReadAt(p, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
				src.Close()
			}
		})
	}
}

// TestRecords: records that were announced are asked for side by side, without what lies between.
func TestRecords(t *testing.T) {
	sizes := make([]int, 80)
	for i := range sizes {
		sizes[i] = 96 + i%2*(200<<10)
	}
	h := &standin.Hub{Repo: "org/name", Dir: writeModel(t, 1, sizes...)}
	src, err := Open(t.Context(), "hf://org/name", start(t, h))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	before, asked := h.Sent.Load(), h.Asked.Load()
	for _, w := range src.Tensors {
		if w.Size() == 96 {
			w.Prefetch(0, 96)
		}
	}
	for _, w := range src.Tensors {
		if w.Size() != 96 {
			continue
		}
		if _, err := w.ReadAt(make([]byte, 96), 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	if n, m := h.Sent.Load()-before, h.Asked.Load()-asked; n > 80*pageSize || m > 80 {
		t.Errorf("%d bytes in %d requests for 40 records", n, m)
	}
}
