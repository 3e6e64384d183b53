package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/safetensors"
)

// memoryStore is a checkpoint.Store. It fails at what fail says, and looks at the disk when a file comes.
type memoryStore struct {
	name string
	fail func(rel string) error
	seen func(rel string)

	mu    sync.Mutex
	files map[string]string
	order []string // files as they came, and "-" before those that went
	turns map[string]int
}

func newMemoryStore() *memoryStore {
	return &memoryStore{name: "s3://data/x", files: map[string]string{}, turns: map[string]int{}}
}

func (m *memoryStore) String() string { return m.name }

func (m *memoryStore) List() (map[string]checkpoint.Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]checkpoint.Stored{}
	for name, text := range m.files {
		out[name] = checkpoint.Stored{Size: int64(len(text)), ID: fmt.Sprint(m.turns[name])}
	}
	return out, nil
}

func (m *memoryStore) Put(rel string, r io.ReaderAt, size int64) (checkpoint.Stored, error) {
	raw := make([]byte, size)
	if n, err := r.ReadAt(raw, 0); n < len(raw) {
		return checkpoint.Stored{}, err
	}
	if m.seen != nil {
		m.seen(rel)
	}
	if m.fail != nil {
		if err := m.fail(rel); err != nil {
			return checkpoint.Stored{}, err
		}
	}
	m.put(rel, string(raw))
	list, _ := m.List()
	return list[rel], nil
}

func (m *memoryStore) put(rel, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[rel] = text
	m.order = append(m.order, rel)
	m.turns[rel] = len(m.order)
}

func (m *memoryStore) Remove(rel string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, rel)
	m.order = append(m.order, "-"+rel)
	return nil
}

func (m *memoryStore) weights() (n int) {
	for name := range m.files {
		if strings.HasSuffix(name, ".safetensors") {
			n++
		}
	}
	return n
}

// to is a run into the store.
func (r *resumable) to(m *memoryStore, change func(w *WriteOptions)) (*Outcome, error) {
	r.t.Helper()
	out, _, err := r.run(func(_ *Options, w *WriteOptions, _ func()) {
		w.Store = m
		if change != nil {
			change(w)
		}
	})
	return out, err
}

// arrived holds what the store has to what a directory would.
func (r *resumable) arrived(m *memoryStore, files map[string]string, results []Result, out *Outcome) {
	r.t.Helper()
	if diff := cmp.Diff(results, out.Results); diff != "" {
		r.t.Errorf("figures (-want +got):\n%s", diff)
	}
	if !maps.Equal(files, m.files) {
		r.t.Errorf("the store has %v, and should have %v, or their contents differ", slices.Sorted(maps.Keys(m.files)), slices.Sorted(maps.Keys(files)))
	}
	if left, _ := filepath.Glob(r.dst + "*"); len(left) > 0 {
		r.t.Errorf("left behind: %v", left)
	}
}

// TestDelivered: a store gets what a directory would have, one weights file after the other, what loaders begin with last; and no more
// than two files are on the disk at a time, whatever the number of workers.
func TestDelivered(t *testing.T) {
	r := newResumable(t)
	files, results := r.whole()
	for _, jobs := range []int{1, 8} {
		m := newMemoryStore()
		m.seen = func(rel string) {
			if n := len(r.finished()); n > stagedFiles {
				t.Errorf("%d finished files are on the disk", n)
			}
		}
		out, err := r.to(m, func(w *WriteOptions) { w.Jobs = jobs })
		if err != nil {
			t.Fatal(err)
		}
		r.arrived(m, files, results, out)
		if n := len(m.order); m.order[0] != ".nf4kit-incomplete" || !slices.Equal(m.order[n-3:], []string{"model.safetensors.index.json", "nf4kit.json", "-.nf4kit-incomplete"}) {
			t.Errorf("in the order %v", m.order)
		}
	}
}

// TestDeliveredResumed: a run that ends on its way goes on with what the store has, which it compares with what it had; the result is the same.
func TestDeliveredResumed(t *testing.T) {
	r := newResumable(t)
	files, results := r.whole()
	broken := errors.New("no way")
	for name, c := range map[string]struct {
		change func(m *memoryStore)
		kept   int
		redone string
	}{
		"as it was":      {func(*memoryStore) {}, 2, ""},
		"a file is gone": {func(m *memoryStore) { delete(m.files, "model-00001-of-00005.safetensors") }, 1, "it is not there"},
		"another's file": {func(m *memoryStore) {
			m.put("model-00002-of-00005.safetensors", m.files["model-00002-of-00005.safetensors"])
		}, 1, "it was of "},
		"something more": {func(m *memoryStore) { m.put("model-00004-of-00005.safetensors", "x") }, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.again(t)
			m := newMemoryStore()
			m.fail = func(rel string) error {
				if rel >= "model-00003-of-00005.safetensors" {
					return broken
				}
				return nil
			}
			_, err := r.to(m, nil)
			var u *UnfinishedError
			if !errors.Is(err, broken) || !errors.As(err, &u) || u.Files != 2 || u.Dst != m.name || u.Staging != m.name+", by the journal in "+r.staging() {
				t.Fatalf("error %#v", err)
			}
			if m.files["model.safetensors.index.json"] != "" || len(r.finished()) > stagedFiles {
				t.Errorf("the store has %d files, the disk %d", len(m.files), len(r.finished()))
			}
			c.change(m)
			m.fail = nil
			r.told = nil
			out, err := r.to(m, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.arrived(m, files, results, out)
			if was := r.told[0]; was.Files != c.kept || !strings.Contains(strings.Join(was.Redone, ""), c.redone) {
				t.Errorf("told %+v", was)
			}
		})
	}
}

// TestDeliveredRefused: what lies in a store is not touched without Force, and with it is gone before the new one is there.
func TestDeliveredRefused(t *testing.T) {
	r := newResumable(t)
	files, results := r.whole()
	old := map[string]string{"config.json": "{}", "model.safetensors.index.json": "{}", "model-00001-of-00005.safetensors": "old", "model-00009-of-00009.safetensors": "old", "code/x.py": ""}
	m := newMemoryStore()
	m.files = maps.Clone(old)
	var oe *checkpoint.OutputError
	if _, err := r.to(m, nil); !errors.As(err, &oe) || !strings.HasPrefix(oe.Error(), "write s3://data/x: it holds 5 files already") || !maps.Equal(old, m.files) {
		t.Errorf("error %v", err)
	}
	out, err := r.to(m, func(w *WriteOptions) { w.Force = true })
	if err != nil {
		t.Fatal(err)
	}
	r.arrived(m, files, results, out)
	if !slices.Equal(m.order[:2], []string{".nf4kit-incomplete", "-config.json"}) {
		t.Errorf("in the order %v", m.order)
	}

	others := map[string]string{"a/config.json": "", "b/model.safetensors": ""}
	m.files = maps.Clone(others)
	if _, err := r.to(m, func(w *WriteOptions) { w.Force = true }); err == nil || !strings.Contains(err.Error(), "holds 2 files, and none is of a model in it") || !maps.Equal(others, m.files) {
		t.Errorf("error %v", err)
	}
	for _, src := range []string{"s3://data/x", "s3://data/x/", "s3://data", "s3://data/x/sub"} {
		m.files = map[string]string{}
		if _, err := r.to(m, func(w *WriteOptions) { w.Sources = []string{src} }); err == nil || !strings.Contains(err.Error(), "the same as the source "+src) {
			t.Errorf("%s: error %v", src, err)
		}
	}
	if _, err := r.to(m, func(w *WriteOptions) { w.Sources = []string{"s3://data/x2"} }); err != nil {
		t.Error(err)
	}
}

// TestDeliveredNothing: a run that leaves nothing to go on with leaves nothing in the store either, of its own or of earlier ones.
func TestDeliveredNothing(t *testing.T) {
	r := newResumable(t)
	broken := errors.New("no way")
	m := newMemoryStore()
	m.fail = func(rel string) error {
		if rel != ".nf4kit-incomplete" {
			m.put(rel, "a part of it")
			return broken
		}
		return nil
	}
	if _, err := r.to(m, func(w *WriteOptions) { w.Jobs = 8 }); !errors.Is(err, broken) || len(m.files) > 0 {
		t.Errorf("error %v; the store has %v", err, slices.Sorted(maps.Keys(m.files)))
	}
	for name, change := range map[string]func(w *WriteOptions){"journalled": nil, "without a journal": func(w *WriteOptions) { w.Resume = nil }} {
		m := newMemoryStore()
		r := r.again(t)
		list := []testTensor{}
		for i := range 8 {
			list = append(list, testTensor{name: fmt.Sprintf("layers.%d.mlp.up_proj.weight", i), dtype: safetensors.BF16, shape: []int64{64, 160}})
		}
		r.src = filepath.Join(t.TempDir(), "weights.safetensors")
		writeTensors(t, r.src, list, 1)
		edit(t, r.src, func(raw []byte) []byte {
			bits := math.Float32bits(float32(math.NaN())) >> 16
			raw[len(raw)-2], raw[len(raw)-1] = byte(bits), byte(bits>>8)
			return raw
		})
		_, err := r.to(m, func(w *WriteOptions) {
			if w.Jobs = 8; change != nil {
				change(w)
			}
		})
		var bad *weights.ValueError
		if !errors.As(err, &bad) || len(m.files) > 0 {
			t.Errorf("%s: error %v; the store has %v", name, err, slices.Sorted(maps.Keys(m.files)))
		}
		if left, _ := filepath.Glob(r.dst + "*"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// TestDeliveredStopped: the end of the context is not waited for by those that wait for room.
func TestDeliveredStopped(t *testing.T) {
	r := newResumable(t)
	m := newMemoryStore()
	_, _, err := r.run(func(_ *Options, w *WriteOptions, stop func()) {
		w.Store, w.Jobs = m, 8
		m.fail = func(rel string) error {
			if rel == "model-00001-of-00005.safetensors" {
				stop()
				return context.Canceled
			}
			return nil
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestDeliveredByTasks: tasks send their files to one store, and the last step finds all of them there.
func TestDeliveredByTasks(t *testing.T) {
	r := newResumable(t)
	files, results := r.whole()
	m := newMemoryStore()
	for i := range 2 {
		if _, err := r.to(m, func(w *WriteOptions) { w.Resume.Task = Task{i + 1, 2} }); err != nil {
			t.Fatal(err)
		}
	}
	if m.weights() != weightsOf || len(m.files) != weightsOf+1 {
		t.Errorf("the store has %v", slices.Sorted(maps.Keys(m.files)))
	}
	out, err := r.to(m, func(w *WriteOptions) { w.Resume.Finalize = true })
	if err != nil {
		t.Fatal(err)
	}
	r.arrived(m, files, results, out)
}
