//go:build hostile && linux

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostileMemory and hostileTime are what no file of less than 100 MB may cost a command: resident memory, and processor
// time with room for a slow machine.
const (
	hostileMemory = 1 << 30
	hostileTime   = time.Minute
)

// A hostileFile is made to hurt. The table in docs/limits.md is of these.
type hostileFile struct {
	what string
	make func(t *testing.T, dir string) string // SRC
	runs []hostileRun
}

type hostileRun struct {
	args string // SRC and DST stand for paths
	code int    // -1: not what this test is about
}

var hostileFiles = []hostileFile{
	{"one name of 1 MB beside 2,000 short ones", makeLongName, []hostileRun{{"convert SRC DST -v", 0}, {"measure SRC", 0}, {"inspect SRC -v", 0}}},
	{"header of 96 MB", makeManyTensors, []hostileRun{{"inspect SRC", 3}, {"measure SRC", 3}, {"convert SRC DST", 3}, {"plan SRC", 3}}},
	{"524,288 tensors of no dimension", makeScalars, []hostileRun{{"inspect SRC", 0}, {"measure SRC", -1}, {"plan SRC", -1}}},
	{"524,288 matrices of experts", makeMatrices, []hostileRun{{"inspect SRC", 0}, {"measure SRC", 3}, {"plan SRC", -1}}},
	{"nf4kit.json of 93 MB, 1,192,307 digests", makeDigests, []hostileRun{{"verify SRC", 4}}},
	{"nf4kit.json of 81 MB, 1,048,576 digests", makeMostDigests, []hostileRun{{"verify SRC", 4}}},
	{"nf4kit.json of 93 MB, 7,750,000 settings", makeSettings, []hostileRun{{"verify SRC", 4}}},
	{"config.json of 8 MB", makeKeys, []hostileRun{{"plan SRC", 3}}},
	{"config.json of 10,000,000 layers", makeLayers, []hostileRun{{"plan SRC", 3}}},
	{"64 weights below one another, 300,000 names below them all", makeNested, []hostileRun{{"inspect SRC", -1}, {"verify SRC", -1}, {"dequantize SRC DST", -1}}},
}

// TestHostileFiles runs the binary on files made to hurt, and prints the rows of the table in docs/limits.md.
func TestHostileFiles(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "nf4kit")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, h := range hostileFiles {
		t.Run(h.what, func(t *testing.T) {
			dir := t.TempDir()
			src := h.make(t, dir)
			for i, r := range h.runs {
				dst := filepath.Join(dir, fmt.Sprint("dst", i))
				runHostile(t, exec.Command(bin, strings.Fields(strings.NewReplacer("SRC", src, "DST", dst).Replace(r.args))...), h, r)
			}
		})
	}
}

func runHostile(t *testing.T, cmd *exec.Cmd, h hostileFile, r hostileRun) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(20*hostileTime, func() { cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait() // what it says is in ProcessState
	state := cmd.ProcessState
	rss := state.SysUsage().(*syscall.Rusage).Maxrss << 10
	cpu := state.UserTime() + state.SystemTime()
	t.Logf("| %s | %s | %d MB, %.1f s | exit code %d", h.what, r.args, rss/1e6, cpu.Seconds(), state.ExitCode())
	switch code := state.ExitCode(); {
	case code < 0 || code > 5:
		t.Errorf("%s: exit code %d (%s)\n%.2000s", r.args, code, state, stderr.String())
	case r.code >= 0 && code != r.code:
		t.Errorf("%s: exit code %d; want %d\n%.2000s", r.args, code, r.code, stderr.String())
	}
	if rss > hostileMemory {
		t.Errorf("%s: %d MB resident", r.args, rss/1e6)
	}
	if cpu > hostileTime {
		t.Errorf("%s: %v of processor time", r.args, cpu)
	}
}

// writeFile writes what put does to dir/name, behind the length of a header if it is a safetensors file, and size bytes
// of data that take no place on the disk.
func writeFile(t *testing.T, dir, name string, put func(w *bufio.Writer) (size int64)) string {
	t.Helper()
	file := filepath.Join(dir, name)
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	tensors := strings.HasSuffix(name, ".safetensors")
	if tensors {
		_, _ = w.Write(make([]byte, 8))
	}
	size := put(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if !tensors {
		return file
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(info.Size()-8)), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(info.Size() + size); err != nil {
		t.Fatal(err)
	}
	return file
}

// writeEntries writes a file of n tensors of one dtype and shape, of size bytes each, until its header has most bytes.
func writeEntries(t *testing.T, dir string, n, most int, dtype, shape string, size int64, name func(i int) string) string {
	return writeFile(t, dir, "model.safetensors", func(w *bufio.Writer) int64 {
		sep, off, written := "{", int64(0), 0
		for i := 0; i < n && written < most; i++ {
			k, _ := fmt.Fprintf(w, `%s"%s":{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, sep, name(i), dtype, shape, off, off+size)
			written += k
			sep, off = ",", off+size
		}
		_ = w.WriteByte('}')
		return off
	})
}

const maxHeader = 96_000_000

func makeLongName(t *testing.T, dir string) string {
	return writeEntries(t, dir, 2001, maxHeader, "BF16", "[4,4]", 32, func(i int) string {
		if i == 2000 {
			return "model.layers.0." + strings.Repeat("x", 1_000_000) + ".weight"
		}
		return fmt.Sprintf("model.layers.%d.self_attn.q_proj.weight", i)
	})
}

func makeManyTensors(t *testing.T, dir string) string {
	return writeEntries(t, dir, 1<<30, maxHeader, "I8", "[]", 1, func(i int) string { return fmt.Sprintf("%x", i) })
}

func makeScalars(t *testing.T, dir string) string {
	return writeEntries(t, dir, 1<<19, maxHeader, "I8", "[]", 1, func(i int) string { return fmt.Sprintf("%x", i) })
}

func makeMatrices(t *testing.T, dir string) string {
	return writeEntries(t, dir, 1<<19, maxHeader, "BF16", "[1,1]", 2, func(i int) string {
		return fmt.Sprintf("model.layers.%d.mlp.experts.%d.up_proj.weight", i/8192, i%8192)
	})
}

// makeNested: each name is below every weight, so that what is wrong with it could be said 64 times.
func makeNested(t *testing.T, dir string) string {
	const depth = 64
	return writeEntries(t, dir, 2*depth+300_000, maxHeader, "F32", "[1]", 4, func(i int) string {
		switch {
		case i < depth:
			return strings.Repeat("w.", i) + "w"
		case i < 2*depth:
			return strings.Repeat("w.", i-depth) + "w.absmax"
		}
		return strings.Repeat("w.", depth) + fmt.Sprintf("%x", i)
	})
}

const manifestHead = `{"schema":"nf4kit.manifest/1","tool":"nf4kit 1","digest":"blake3-256","source":{"name":"s","files":[]},"files":{},`

// makeManifest has convert write a whole checkpoint, and gives it an nf4kit.json of n members of the same form.
func makeManifest(t *testing.T, dir, key, value string, n int) string {
	plain, src := filepath.Join(dir, "plain"), filepath.Join(dir, "src")
	if err := os.Mkdir(plain, 0o777); err != nil {
		t.Fatal(err)
	}
	tinyLlama(t, plain)
	var stderr strings.Builder
	if code := run(t.Context(), []string{"convert", plain, src, "-q"}, nil, nil, &stderr, &stderr); code != 0 {
		t.Fatalf("convert: exit code %d: %s", code, stderr.String())
	}
	writeFile(t, src, "nf4kit.json", func(w *bufio.Writer) int64 {
		fmt.Fprintf(w, `%s%q:{`, manifestHead, key)
		sep := ""
		for i := range n {
			fmt.Fprintf(w, `%s"%x":%q`, sep, i, value)
			sep = ","
		}
		_, _ = w.WriteString("}}")
		return 0
	})
	return src
}

func makeDigests(t *testing.T, dir string) string {
	return makeManifest(t, dir, "tensors", strings.Repeat("0", 64), 1_192_307)
}

func makeMostDigests(t *testing.T, dir string) string {
	return makeManifest(t, dir, "tensors", strings.Repeat("0", 64), 1<<20)
}

func makeSettings(t *testing.T, dir string) string {
	return makeManifest(t, dir, "settings", "", 7_750_000)
}

const configHead = `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_attention_heads":4,` +
	`"num_key_value_heads":4,"vocab_size":128,"rms_norm_eps":1e-6,"num_hidden_layers":`

func makeKeys(t *testing.T, dir string) string {
	return writeFile(t, dir, "config.json", func(w *bufio.Writer) int64 {
		_, _ = w.WriteString(configHead + "2")
		for i := range 806_971 {
			fmt.Fprintf(w, `,"%x":0`, i)
		}
		_ = w.WriteByte('}')
		return 0
	})
}

func makeLayers(t *testing.T, dir string) string {
	return writeFile(t, dir, "config.json", func(w *bufio.Writer) int64 {
		_, _ = w.WriteString(configHead + "10000000}")
		return 0
	})
}
