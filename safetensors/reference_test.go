package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entriesOf returns what NewLayout needs to make a file with r's tensors.
func entriesOf(r *Reader) []Entry {
	entries := make([]Entry, 0, len(r.Tensors()))
	for _, t := range r.Tensors() {
		entries = append(entries, Entry{Name: t.Name, DType: t.DType, Shape: t.Shape})
	}
	return entries
}

// buffer is an io.WriterAt of fixed size that counts the writes of each byte.
type buffer struct {
	b      []byte
	writes []uint8
}

func newBuffer(size int64) *buffer {
	return &buffer{make([]byte, size), make([]uint8, size)}
}

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	for i := range p {
		b.writes[off+int64(i)]++
	}
	return copy(b.b[off:], p), nil
}

// TestReferenceFiles makes the files of testdata/reference again from what the
// reader finds in them: header and data must be the reference's, byte for byte.
func TestReferenceFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/reference/*.safetensors")
	if err != nil || len(files) == 0 {
		t.Fatal("no reference files", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			entries := entriesOf(r.Reader)
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(entries), func(i, j int) {
				entries[i], entries[j] = entries[j], entries[i]
			})
			l, err := NewLayout(entries, r.Metadata())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want[:r.HeaderSize()]), string(l.Header())); diff != "" {
				t.Fatalf("header (-want +got):\n%s", diff)
			}
			if l.Size() != int64(len(want)) {
				t.Fatalf("layout has %d bytes, the file %d", l.Size(), len(want))
			}
			out := newBuffer(l.Size())
			copyTensors(t, out, l, r.Reader)
			if !bytes.Equal(out.b, want) {
				t.Error("data differs")
			}
		})
	}
}

// copyTensors writes l's file to w with the data of r.
func copyTensors(t *testing.T, out *buffer, l *Layout, r *Reader) {
	t.Helper()
	w, err := NewWriter(out, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Tensors() {
		p := make([]byte, x.Size())
		if _, err := x.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteAt(x.Name, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReferenceDTypes ensures that the files above show each type that the
// reference's Python interface can write, that is all but F6.
func TestReferenceDTypes(t *testing.T) {
	r, err := Open("testdata/reference/dtypes.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []DType
	for _, x := range r.Tensors() {
		if !slices.Contains(got, x.DType) {
			got = append(got, x.DType)
		}
	}
	want := []DType{U64, I64, F64, C64, F32, U32, I32, BF16, F16, U16, I16, F8_E5M2FNUZ, F8_E4M3FNUZ, F8_E8M0, F8_E4M3, F8_E5M2, I8, U8, F4, BOOL}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("types in file order (-want +got):\n%s", diff)
	}
}

// stricter holds the cases that the reference accepts and this package refuses,
// as doc.go lists them, with what our error must say.
var stricter = map[string]string{
	"leading space":                        "does not begin with '{'",
	"metadata key twice":                   "duplicate key \"k\" in __metadata__",
	"entry as array":                       "entry: expected an object, found an array",
	"unknown key":                          "unknown key \"x\"",
	"unknown key nested 100":               "unknown key \"x\"",
	"duplicate name, same entry":           "duplicate name",
	"duplicate name, other dtype":          "duplicate name",
	"duplicate name, escaped":              "duplicate name",
	"rank 65":                              "more than 64 dimensions",
	"rank 1000":                            "more than 64 dimensions",
	"dimension 9007199254740993 and 0":     "from 0 to 2^53",
	"dimension 4611686018427387903 and 0":  "from 0 to 2^53",
	"dimension 4611686018427387904 and 0":  "from 0 to 2^53",
	"dimension 4611686018427387905 and 0":  "from 0 to 2^53",
	"dimension 9223372036854775807 and 0":  "from 0 to 2^53",
	"dimension 9223372036854775808 and 0":  "from 0 to 2^53",
	"dimension 9223372036854775809 and 0":  "from 0 to 2^53",
	"dimension 18446744073709551615 and 0": "from 0 to 2^53",
}

// TestReferenceVerdicts compares, on some hundred small files, what the
// reference accepts and reads with what this package does.
func TestReferenceVerdicts(t *testing.T) {
	raw, err := os.ReadFile("testdata/reference/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string
		File    []byte
		Error   string
		Tensors map[string][]any // dtype, shape, bytes
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			r, err := NewReader(bytes.NewReader(c.File), int64(len(c.File)))
			if err != nil {
				checkTyped(t, err)
			}
			if want, ok := stricter[c.Name]; ok {
				used++
				if c.Error != "" {
					t.Errorf("the reference refuses it too: %s", c.Error)
				}
				if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
				return
			}
			if (err != nil) != (c.Error != "") {
				t.Fatalf("got error %v, the reference %q", err, c.Error)
			}
			if err != nil {
				return
			}
			got := make(map[string][]any)
			for _, x := range r.Tensors() {
				shape := make([]any, len(x.Shape))
				for i, d := range x.Shape {
					shape[i] = float64(d)
				}
				got[x.Name] = []any{x.DType.String(), shape, float64(x.Size())}
			}
			if diff := cmp.Diff(c.Tensors, got); diff != "" {
				t.Errorf("tensors (-want +got):\n%s", diff)
			}
		})
	}
	if used != len(stricter) {
		t.Errorf("%d of %d known differences were seen", used, len(stricter))
	}
}

// checkTyped fails unless err, of a bad file, is one of the two types that say so.
func checkTyped(t *testing.T, err error) {
	t.Helper()
	_, isFormat := errors.AsType[*FormatError](err)
	_, isUnsupported := errors.AsType[*UnsupportedError](err)
	if isFormat == isUnsupported {
		t.Errorf("error %T is not one of FormatError and UnsupportedError: %v", err, err)
	}
	if n := len(err.Error()); n > 2000 {
		t.Errorf("error text of %d bytes", n)
	}
}
