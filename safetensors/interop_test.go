//go:build interop

package safetensors

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type verdict struct {
	File    string
	Error   string
	Tensors map[string][3]any // dtype, shape, SHA-256
}

// verdicts asks the reference about the files of dir. NF4KIT_PYTHON names a
// Python that has safetensors and numpy.
func verdicts(t *testing.T, dir string) []verdict {
	t.Helper()
	python := os.Getenv("NF4KIT_PYTHON")
	if python == "" {
		python = "python3"
	}
	cmd := exec.Command(python, "testdata/interop/verdict.py", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var rows []verdict
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var v verdict
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, v)
	}
	if sc.Err() != nil || len(rows) == 0 {
		t.Fatalf("no verdicts: %v", sc.Err())
	}
	return rows
}

// randomFile makes entries and metadata that can be laid out, and their file.
func randomFile(t *testing.T, rng *rand.Rand) []byte {
	t.Helper()
	const letters = "ab._0/\"\\\n\x01\x7f\u00e9\u2028\U0001f600"
	word := func() string {
		var b strings.Builder
		for range rng.IntN(8) {
			r := []rune(letters)
			b.WriteRune(r[rng.IntN(len(r))])
		}
		return b.String()
	}
	var entries []Entry
	seen := make(map[string]bool)
	for range rng.IntN(12) {
		e := Entry{Name: word(), DType: DType(rng.IntN(numDTypes))}
		for range rng.IntN(4) {
			e.Shape = append(e.Shape, rng.Int64N(4))
		}
		if _, err := e.check(); err != nil || seen[e.Name] {
			continue
		}
		seen[e.Name] = true
		entries = append(entries, e)
	}
	var metadata map[string]string
	if n := rng.IntN(3); n > 0 {
		metadata = make(map[string]string)
		if n > 1 { // one key at most: the reference's order of several is random
			metadata[word()] = word()
		}
	}
	l, err := NewLayout(entries, metadata)
	if err != nil {
		t.Fatal(err)
	}
	out := newBuffer(l.Size())
	w, err := NewWriter(out, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Tensors() {
		data := make([]byte, p.Size)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		if err := w.WriteAt(p.Name, data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.b
}

// TestInteropWrite has the reference read random files of ours, and write them
// again: the bytes must be the same.
func TestInteropWrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	dir := t.TempDir()
	const n = 1000
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("good%04d.safetensors", i))
		if err := os.WriteFile(name, randomFile(t, rng), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	again := 0
	for _, v := range verdicts(t, dir) {
		if v.Error != "" {
			t.Fatalf("%s: the reference refuses it: %s", v.File, v.Error)
		}
		f, err := Open(filepath.Join(dir, v.File))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v.Tensors, readAll(t, f.Reader)); diff != "" {
			t.Errorf("%s (-reference +ours):\n%s", v.File, diff)
		}
		f.Close()
		theirs, err := os.ReadFile(filepath.Join(dir, v.File+".again"))
		if os.IsNotExist(err) {
			continue // a dtype that the Python interface cannot write
		}
		ours, err2 := os.ReadFile(filepath.Join(dir, v.File))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if len(v.Tensors) == 0 && f.Metadata() != nil && len(f.Metadata()) == 0 {
			continue // the reference (0.8.0) writes broken JSON for no tensors and empty metadata
		}
		again++
		if !bytes.Equal(theirs, ours) {
			t.Errorf("%s: the reference writes\n%q\nwe write\n%q", v.File, theirs, ours)
		}
	}
	t.Logf("%d files read by the reference, %d of them written by it byte for byte", n, again)
	if again < n/4 {
		t.Errorf("only %d files were written again", again)
	}
}

func readAll(t *testing.T, r *Reader) map[string][3]any {
	t.Helper()
	got := make(map[string][3]any)
	for _, x := range r.Tensors() {
		h := sha256.New()
		if _, err := io.Copy(h, x.Section()); err != nil {
			t.Fatal(err)
		}
		shape := make([]any, len(x.Shape))
		for i, d := range x.Shape {
			shape[i] = float64(d)
		}
		got[x.Name] = [3]any{x.DType.String(), shape, fmt.Sprintf("%x", h.Sum(nil))}
	}
	return got
}

// tokens is what mutate splices into headers.
var tokens = []string{
	"0", "1", "-1", "4", "8", "9007199254740993", "18446744073709551616", "1.0", "1e1", "null", "true", `""`, `"a"`, "[]", "{}", "[0,0]", "[1]",
	`"dtype"`, `"shape"`, `"data_offsets"`, `"__metadata__":{}`, `"F32"`, `"U8"`, `"F4"`, `"Q8"`, ",", ":", "{", "}", "[", "]", `"`, `\`, `\u0000`, `\ud800`,
	" ", "\n", "\t", "\x00", "\xff", "\xc3", `"x":1,`, `"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`,
}

// mutate damages the header of a file in one place or two.
func mutate(rng *rand.Rand, file []byte) []byte {
	n := binary.LittleEndian.Uint64(file)
	header, data := bytes.Clone(file[lenSize:lenSize+n]), file[lenSize+n:]
	for range 1 + rng.IntN(4)/3 {
		at := rng.IntN(len(header))
		end := min(at+rng.IntN(6), len(header))
		switch rng.IntN(6) {
		case 0:
			header = slices.Replace(header, at, end)
		case 1:
			header = slices.Insert(header, at, []byte(tokens[rng.IntN(len(tokens))])...)
		case 2:
			header = slices.Replace(header, at, end, []byte(tokens[rng.IntN(len(tokens))])...)
		case 3:
			header[at] = '0' + byte(rng.IntN(10))
		case 4: // white space where it is allowed, or not
			if i := bytes.IndexAny(header[at:], ",:{}[]"); i >= 0 {
				header = slices.Insert(header, at+i, " \t\r\n"[rng.IntN(4)])
			}
		case 5: // a piece of the header a second time
			piece := bytes.Clone(header[at:min(at+rng.IntN(80), len(header))])
			header = slices.Insert(header, rng.IntN(len(header)), piece...)
		}
		if len(header) == 0 {
			header = []byte("{}")
		}
	}
	if rng.IntN(8) == 0 {
		data = append(bytes.Clone(data), make([]byte, rng.IntN(9))...)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

// knownStricter are the texts of our errors for what the reference accepts, as
// listed in doc.go.
var knownStricter = []string{
	"duplicate name", "duplicate key", "does not begin with '{'", "unknown key", "entry: expected an object, found an array",
	"more than 64 dimensions", "from 0 to 2^53",
}

// TestInteropRead damages files at random. The reference and we must agree on
// which are good and on what is in them, but for the listed differences.
func TestInteropRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	dir := t.TempDir()
	const n = 20_000
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("bad%05d.safetensors", i))
		if err := os.WriteFile(name, mutate(rng, randomFile(t, rng)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	accepted, differ := 0, 0
	for _, v := range verdicts(t, dir) {
		name := filepath.Join(dir, v.File)
		f, err := Open(name)
		if err == nil {
			accepted++
			if v.Error != "" {
				t.Errorf("%s: the reference refuses it: %s", dump(name), v.Error)
			} else if diff := cmp.Diff(v.Tensors, readAll(t, f.Reader)); diff != "" {
				t.Errorf("%s (-reference +ours):\n%s", dump(name), diff)
			}
			f.Close()
			continue
		}
		checkTyped(t, err)
		if v.Error != "" {
			continue
		}
		differ++
		if !slices.ContainsFunc(knownStricter, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%s: the reference accepts it, we say %v", dump(name), err)
		}
	}
	t.Logf("%d damaged files: %d good to both, %d refused by us alone", n, accepted, differ)
}

func dump(name string) string {
	b, err := os.ReadFile(name)
	return fmt.Sprintf("%s %q %v", filepath.Base(name), b, err)
}
