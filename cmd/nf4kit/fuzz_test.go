package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// fuzzCommands are what is run on a mutated directory: SRC is it, DST a destination that does not exist, GOOD a sound
// checkpoint, OUT a directory for reports, EXTRA a file of mutated bytes.
var fuzzCommands = [][]string{
	{"inspect", "SRC", "-v"},
	{"inspect", "SRC", "--json"},
	{"convert", "SRC", "DST", "-v", "--report", "OUT/r.csv", "--report", "OUT/r.html", "--report", "OUT/r.md", "--report", "OUT/r.json"},
	{"convert", "SRC", "DST", "--json", "--type", "fp4", "--block-size", "128", "--double-quant=false", "--max-shard-size", "20kB"},
	{"convert", "SRC/model.safetensors", "DST", "--only", ".", "--dtype", "float16"},
	{"convert", "SRC", "DST", "--moe", "per-expert", "--target", "transformers4", "--towers", "quantize"},
	{"convert", "SRC", "DST", "--dry-run", "-v"},
	{"convert", "SRC", "DST", "--recipe", "EXTRA"},
	{"dequantize", "SRC", "DST"},
	{"dequantize", "SRC/model.safetensors", "DST", "--dtype", "float32"},
	{"measure", "SRC", "--formats", "nf4,fp4,int4,mxfp4,nvfp4,int8,fp8", "--report", "OUT/m.csv", "--report", "OUT/m.html"},
	{"measure", "SRC", "--imatrix", "EXTRA", "--formats", "nf4"},
	{"measure", "SRC", "GOOD", "--json"},
	{"measure", "GOOD", "SRC"},
	{"verify", "SRC", "-v"},
	{"verify", "SRC", "--json", "--source", "GOOD"},
	{"verify", "GOOD", "--source", "SRC"},
	{"verify", "SRC", "--fix", "--target", "transformers5", "--target", "vllm"},
	{"plan", "SRC", "--html", "OUT/p.html"},
	{"plan", "SRC/config.json", "--json", "--generate", "100", "--gpu", "T4"},
}

// fuzzAlloc bounds what one command may allocate in all: its input is below a megabyte, and its buffers are fixed.
const fuzzAlloc = 1 << 30

// FuzzCommands runs every command on a directory of mutated files. Whatever they hold: no panic, an exit code that is
// documented, nothing that acts on a terminal, bounded memory, nothing left behind, and DST whole or absent.
//
//	go test -run '^$' -fuzz 'FuzzCommands$' -fuzztime 30m -fuzzminimizetime 10x -parallel 1 ./cmd/nf4kit
//
// Without a limit of its own the search for a smaller input takes a minute for each new path, in which nothing else is tried.
func FuzzCommands(f *testing.F) {
	inMemory(f)
	plain, good := fuzzSeeds(f)
	for i := range fuzzCommands {
		f.Add(byte(i), plain.header, plain.data, plain.config, plain.index, plain.manifest, []byte("type: fp4\nskip: [q_proj]\n"))
		f.Add(byte(i), good.header, good.data, good.config, good.index, good.manifest, []byte("---\nlicense: mit\n---\n"))
	}
	sound := f.TempDir()
	good.write(f, sound, nil)
	f.Fuzz(func(t *testing.T, command byte, header, data, config, index, manifest, extra []byte) {
		work := t.TempDir()
		src, out := filepath.Join(work, "src"), filepath.Join(t.TempDir(), "out")
		for _, d := range []string{src, out} {
			if err := os.Mkdir(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		c := fuzzDir{header, data, config, index, manifest}
		c.write(t, src, extra)
		dst := filepath.Join(work, "dst")
		args := slices.Clone(fuzzCommands[int(command)%len(fuzzCommands)])
		for i := range args {
			args[i] = strings.NewReplacer("SRC", src, "DST", dst, "GOOD", sound, "OUT", out, "EXTRA", filepath.Join(src, "README.md")).Replace(args[i])
		}
		if args[0] != "inspect" && args[0] != "plan" {
			args = append(args, "--jobs", "2", "--max-memory", "64MiB")
		}
		var stdout, stderr bytes.Buffer
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		code := run(context.Background(), args, nil, nil, &stdout, &stderr)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > fuzzAlloc {
			t.Errorf("nf4kit %q allocated %d bytes", args, n)
		}
		if code < 0 || code > 5 {
			t.Errorf("nf4kit %q: exit code %d", args, code)
		}
		if !slices.Contains(args, "--json") {
			inert(t, "stdout", stdout.String())
		}
		inert(t, "stderr", stderr.String())
		left, err := os.ReadDir(work)
		if err != nil {
			t.Fatal(err)
		}
		made := false
		for _, e := range left {
			made = made || e.Name() == "dst"
			if e.Name() != "src" && e.Name() != "dst" {
				t.Errorf("nf4kit %q left %s behind", args, e.Name())
			}
		}
		if made != (code == 0 && slices.Contains(args, dst) && !slices.Contains(args, "--dry-run")) {
			t.Errorf("nf4kit %q: exit code %d, destination there: %v\n%s", args, code, made, stderr.String())
		}
		if made && args[0] != "measure" {
			s, err := checkpoint.Open(dst)
			if err != nil {
				t.Fatalf("nf4kit %q wrote what it does not read: %v", args, err)
			}
			s.Close()
		}
	})
}

// inMemory has temporary directories made where nothing waits for a disk: convert syncs all that it writes, which is all of the
// time that an input takes on a disk.
func inMemory(f *testing.F) {
	f.Helper()
	const shm = "/dev/shm"
	if dir, err := os.MkdirTemp(shm, "nf4kit-fuzz-"); err == nil {
		f.Cleanup(func() { os.RemoveAll(dir) })
		f.Setenv("TMPDIR", dir)
	}
}

// A fuzzDir is the files of a model directory. header is the JSON of model.safetensors; data is repeated to the length that it asks for.
type fuzzDir struct{ header, data, config, index, manifest []byte }

const maxFuzzData = 1 << 20

func (d fuzzDir) write(t testing.TB, dir string, extra []byte) {
	t.Helper()
	size := len(d.data)
	var entries map[string]struct {
		Offsets []int `json:"data_offsets"`
	}
	_ = json.Unmarshal(d.header, &entries) // of what cannot be read the data is as it is given
	for _, e := range entries {
		for _, o := range e.Offsets {
			size = max(size, min(o, maxFuzzData))
		}
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(d.header)))
	file = append(file, d.header...)
	for begin := len(file); len(file)-begin < size; {
		file = append(file, d.data[:min(len(d.data), size-(len(file)-begin))]...)
		if len(d.data) == 0 {
			file = append(file, 0x3f)
		}
	}
	for name, raw := range map[string][]byte{"model.safetensors": file, "config.json": d.config, "model.safetensors.index.json": d.index,
		"nf4kit.json": d.manifest, "README.md": extra, "tokenizer.json": []byte("{}")} {
		if raw == nil || len(raw) == 0 && name != "model.safetensors" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// fuzzSeeds are a tiny Llama and what convert makes of it.
func fuzzSeeds(f *testing.F) (plain, quantized fuzzDir) {
	f.Helper()
	src, dst := filepath.Join(f.TempDir(), "src"), filepath.Join(f.TempDir(), "dst")
	if err := os.Mkdir(src, 0o777); err != nil {
		f.Fatal(err)
	}
	tinyLlama(f, src)
	var stderr bytes.Buffer
	if code := run(context.Background(), []string{"convert", src, dst, "-q"}, nil, nil, &stderr, &stderr); code != 0 {
		f.Fatalf("convert: exit code %d: %s", code, stderr.String())
	}
	read := func(dir string) fuzzDir {
		var d fuzzDir
		raw, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			f.Fatal(err)
		}
		n := binary.LittleEndian.Uint64(raw)
		d.header, d.data = raw[8:8+n], raw[8+n:]
		d.config, _ = os.ReadFile(filepath.Join(dir, "config.json"))
		d.manifest, _ = os.ReadFile(filepath.Join(dir, "nf4kit.json"))
		return d
	}
	plain = read(src)
	plain.data = plain.data[:64]
	return plain, read(dst)
}
