package remote

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// TestPush: every file arrives whole, large ones by Git LFS at once or in parts, through faults, in one commit; what is there is not
// sent again, and the token goes to the hub alone.
func TestPush(t *testing.T) {
	dir := writeModel(t, 3, 900_000)
	write(t, dir, ".git/config", "not part of the model")
	write(t, dir, ".secret", "not part of the model")
	write(t, dir, "empty.txt", "")
	h := &standin.Hub{Repo: "org/name", Dir: t.TempDir(), Token: "hf_secret", FaultEach: 3, Uploads: standin.Uploads{PartSize: 400_000}}
	opt := PushOptions{Options: start(t, h), Message: "more"}
	var told int64
	opt.Progress = func(name string, n int64) { told += n }
	got, err := Push(t.Context(), dir, "hf://org/name", opt)
	if err != nil {
		t.Fatal(err)
	}
	if got.Commit != h.Commit() || got.Files != 9 || got.Present != 0 || got.Sent != told || told < 3*900_000 {
		t.Errorf("pushed %+v, told of %d bytes", got, told)
	}
	if len(h.Uploads.Files) != 9 {
		t.Errorf("%d files have arrived", len(h.Uploads.Files))
	}
	for name, data := range h.Uploads.Files {
		if want, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(want) != string(data) {
			t.Errorf("%s: %d bytes have arrived of %d (%v)", name, len(data), len(want), err)
		}
	}
	puts := h.Uploads.Puts
	if got, err = Push(t.Context(), dir, "hf://org/name@main", opt); err != nil || got.Sent != 0 || h.Uploads.Puts != puts {
		t.Errorf("again: %+v, %v, %d uploads", got, err, h.Uploads.Puts-puts)
	}
	if h.Leaked.Load() > 0 {
		t.Error("the token went to the second host")
	}

	for name, c := range map[string]struct {
		dst, want string
		env       map[string]string
	}{
		"no token":    {"hf://org/name", "no token to upload with", map[string]string{"HF_ENDPOINT": h.URL}},
		"wrong token": {"hf://org/name", "a token that the hub does not know", map[string]string{"HF_ENDPOINT": h.URL, "HF_TOKEN": "hf_other"}},
		"offline":     {"hf://org/name", "no upload allowed", map[string]string{"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"}},
		"a folder":    {"hf://org/name/folder", "expected hf://org/name[@branch]", nil},
		"no org":      {"hf://name", "expected hf://org/name[@branch]", nil},
		"a path":      {"name", "expected hf://org/name[@branch]", nil},
		"s3":          {"s3://a/b", "expected hf://org/name[@branch]", nil},
	} {
		_, err := Push(t.Context(), dir, c.dst, PushOptions{Options: optionsOf(t, c.env)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v; want %q", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Push(ctx, dir, "hf://org/name", opt); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
