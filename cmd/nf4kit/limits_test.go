package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A number in a config.json is not a number of entries to be made.
func TestPlanLayers(t *testing.T) {
	dir := t.TempDir()
	tinyLlama(t, dir)
	file := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte(`"num_hidden_layers":1`), []byte(`"num_hidden_layers":10000000`), 1)
	if err := os.WriteFile(file, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"plan", file}, nil, nil, &stdout, &stderr); code != 3 || !strings.Contains(stderr.String(), "matrices of adapters") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

// inspect says where it judges no more whether a model is complete.
func TestTooMany(t *testing.T) {
	if got := tooMany(maxJudged); got != "" {
		t.Errorf("%d tensors: %s", maxJudged, got)
	}
	if got := tooMany(maxJudged + 1); !strings.HasPrefix(got, "131,073 tensors, more than 131,072: whether the model is complete is not judged") {
		t.Errorf("%d tensors: %q", maxJudged+1, got)
	}
}

// An interrupt does not wait for headers.
func TestAwait(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	begun, end := make(chan bool), make(chan bool)
	go func() { <-begun; cancel() }()
	_, err := await(ctx, func() (int, error) { begun <- true; <-end; return 1, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(end)
	if v, err := await(context.Background(), func() (int, error) { return 2, nil }); v != 2 || err != nil {
		t.Errorf("await: %d, %v", v, err)
	}
}

// A name of a megabyte is shown cut, and does not make every row as wide.
func TestLongName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model.safetensors")
	names := []string{"model.layers.0." + strings.Repeat("x", 1<<20) + ".weight"}
	for i := range 200 {
		names = append(names, strings.Replace("model.layers.#.mlp.up_proj.weight", "#", string(rune('a'+i%26))+strings.Repeat("b", i/26), 1))
	}
	tensors16(t, file, names...)
	for _, args := range [][]string{{"inspect", file, "-v"}, {"convert", file, file + ".out", "-v"}, {"measure", file, "--formats", "nf4"}} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), args, nil, nil, &stdout, &stderr); code != 0 {
			t.Errorf("nf4kit %s: exit code %d: %s", args[0], code, stderr.String())
		}
		if n := stdout.Len() + stderr.Len(); n > 200_000 {
			t.Errorf("nf4kit %s printed %d bytes", args[0], n)
		}
	}
}
