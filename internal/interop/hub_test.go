//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// TestHub: the stand-in that internal/remote is tested against is a hub to the real client too, and what that has put into its
// cache is a source without the hub.
func TestHub(t *testing.T) {
	t.Parallel()
	h := &standin.Hub{Repo: "org/llama", Dir: llama(), Token: "hf_secret", Uploads: standin.Uploads{PartSize: 500_000}}
	stop, err := h.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	home := t.TempDir()
	hubEnv := append(os.Environ(), "HF_ENDPOINT="+h.URL, "HF_TOKEN=hf_secret", "HF_HOME="+home, "HF_HUB_CACHE="+filepath.Join(home, "hub"),
		"HF_HUB_DISABLE_XET=1", "HF_HUB_OFFLINE=0", "PYTHONDONTWRITEBYTECODE=1")
	client := exec.CommandContext(t.Context(), t5.python(), script("hub.py"), h.Repo, llama())
	var stderr bytes.Buffer
	client.Env, client.Stderr = hubEnv, &stderr
	raw, err := client.Output()
	if err != nil {
		t.Fatalf("huggingface_hub: %v\n%s", err, stderr.Bytes())
	}
	var got struct {
		Commit, Snapshot string
		Files            map[string]int64
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.Commit != h.Commit() || got.Snapshot != filepath.Join(home, "hub", "models--org--llama", "snapshots", h.Commit()) {
		t.Errorf("the client saw commit %s in %s", got.Commit, got.Snapshot)
	}
	for name, size := range got.Files {
		want, err1 := os.ReadFile(filepath.Join(llama(), name))
		have, err2 := os.ReadFile(filepath.Join(got.Snapshot, name))
		if err1 != nil || err2 != nil || int64(len(have)) != size || !bytes.Equal(want, have) {
			t.Errorf("%s of %d bytes: the client has %d (%v, %v)", name, size, len(have), err1, err2)
		}
	}
	if len(got.Files) == 0 || h.Leaked.Load() > 0 {
		t.Errorf("%d files; the token went to the second host %d times", len(got.Files), h.Leaked.Load())
	}

	// What the client uploads to it is what nf4kit does.
	theirs := h.Uploads.Files
	h.Uploads.Objects = map[string][]byte{}
	push := exec.CommandContext(t.Context(), program, "push", llama(), "hf://org/llama")
	push.Env = hubEnv
	if out, err := push.CombinedOutput(); err != nil {
		t.Fatalf("push: %v\n%s", err, out)
	}
	if len(theirs) == 0 || !maps.EqualFunc(theirs, h.Uploads.Files, bytes.Equal) {
		t.Errorf("the client has uploaded %d files, nf4kit %d, or others", len(theirs), len(h.Uploads.Files))
	}

	convert := func(src string, env ...string) string {
		dst := filepath.Join(t.TempDir(), "out")
		cmd := exec.CommandContext(t.Context(), program, "convert", src, dst)
		cmd.Env = append(hubEnv, env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("convert %s: %v\n%s", src, err, out)
		}
		return dst
	}
	online := convert("hf://org/llama", "HF_HUB_CACHE="+t.TempDir())
	sent := h.Sent.Load()
	half := convert("hf://org/llama") // the hub says which commit, the cache has the files
	if h.Sent.Load() != sent {
		t.Errorf("%d bytes were fetched that the cache had", h.Sent.Load()-sent)
	}
	stop()
	offline := convert("hf://org/llama", "HF_HUB_OFFLINE=1")
	for _, name := range []string{"model.safetensors", "config.json", "nf4kit.json", "README.md", "tokenizer.json"} {
		want, err := os.ReadFile(filepath.Join(online, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{half, offline} {
			if have, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(want, have) {
				t.Errorf("%s of %s differs (%v)", name, dir, err)
			}
		}
	}
}
