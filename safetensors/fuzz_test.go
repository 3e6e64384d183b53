package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// addReferenceFiles seeds FuzzReader with everything in testdata/reference.
func addReferenceFiles(f *testing.F) {
	add := func(file []byte) {
		if len(file) < lenSize {
			return
		}
		n, rest := binary.LittleEndian.Uint64(file), file[lenSize:]
		split := min(n, uint64(len(rest)))
		f.Add(n-split, string(rest[:split]), rest[split:])
	}
	names, err := filepath.Glob("testdata/reference/*.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		add(b)
	}
	raw, err := os.ReadFile("testdata/reference/cases.json")
	if err != nil {
		f.Fatal(err)
	}
	var cases []struct{ File []byte }
	if err := json.Unmarshal(raw, &cases); err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		add(c.File)
	}
}

// FuzzReader gives any bytes as a file: a header, its length, wrong by some
// bytes, and data. Memory stays in proportion to them; what is refused gives a
// typed error, what is read can be written and read again.
func FuzzReader(f *testing.F) {
	addReferenceFiles(f)
	f.Fuzz(func(t *testing.T, wrong uint64, header string, tensors []byte) {
		data := binary.LittleEndian.AppendUint64(nil, uint64(len(header))+wrong)
		data = append(data, header...)
		data = append(data, tensors...)
		var r *Reader
		var err error
		if n, limit := allocated(func() { r, err = newReader(data) }), uint64(64<<10+40*len(data)); n > limit {
			t.Errorf("%d bytes allocated for a file of %d, want at most %d", n, len(data), limit)
		}
		if err != nil {
			checkTyped(t, err)
			return
		}
		if again, err := r.ReadHeader(); err != nil || !bytes.Equal(again, data[lenSize:r.HeaderSize()]) {
			t.Errorf("the header read again: %v", err)
		}
		end := r.HeaderSize()
		for _, x := range r.Tensors() {
			if x.Offset() != end {
				t.Errorf("%q at %d, want %d", x.Name, x.Offset(), end)
			}
			end += x.Size()
			if x.Elems()*int64(x.DType.Bits()) != x.Size()*8 {
				t.Errorf("%q: %d elements of %v in %d bytes", x.Name, x.Elems(), x.DType, x.Size())
			}
		}
		if end != int64(len(data)) {
			t.Errorf("tensors end at %d of %d", end, len(data))
		}

		l, err := NewLayout(entriesOf(r), r.Metadata())
		if err != nil {
			t.Fatalf("what was read cannot be laid out: %v", err)
		}
		out := newBuffer(l.Size())
		copyTensors(t, out, l, r)
		again, err := newReader(out.b)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(r.Metadata(), again.Metadata()); diff != "" {
			t.Errorf("metadata (-first +again):\n%s", diff)
		}
		if len(again.Tensors()) != len(r.Tensors()) {
			t.Fatalf("%d tensors, then %d", len(r.Tensors()), len(again.Tensors()))
		}
		for _, x := range r.Tensors() {
			y := again.Lookup(x.Name)
			if y == nil || x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) || x.Elems() != y.Elems() {
				t.Fatalf("%v became %v", x, y)
			}
			if !bytes.Equal(data[x.Offset():][:x.Size()], out.b[y.Offset():][:y.Size()]) {
				t.Errorf("%q: data differs", x.Name)
			}
		}
	})
}

// fuzzEntries makes entries of names, one a line, with dtypes and shapes from
// spec: a byte of dtype, one of rank, and dimensions as uvarints.
func fuzzEntries(names string, spec []byte) []Entry {
	var entries []Entry
	next := func() byte {
		if len(spec) == 0 {
			return 0
		}
		b := spec[0]
		spec = spec[1:]
		return b
	}
	for name := range strings.SplitSeq(names, "\n") {
		e := Entry{Name: name, DType: DType(next() % (numDTypes + 1))}
		for range next() % 70 {
			dim, n := binary.Uvarint(spec)
			spec = spec[max(n, 0):]
			e.Shape = append(e.Shape, int64(dim))
		}
		entries = append(entries, e)
	}
	return entries
}

// FuzzLayout gives any entries. What can be laid out is in order, without gaps,
// independent of the order given, and read back as it was.
func FuzzLayout(f *testing.F) {
	f.Add("a\nb", []byte{17, 2, 3, 4, 4, 0}, "format", "pt")
	f.Add("", []byte{1, 2, 3, 2}, "", "\n\u2028\x00")
	f.Add("x\ny\nx", []byte{}, "k", "\xff")
	f.Add("big", []byte{19, 2, 0x80, 0x80, 0x80, 0x80, 0x10, 0xff, 0xff, 3}, "k", "v")
	f.Add("__metadata__", []byte{4, 1, 1}, "a", "b")
	f.Add("neg", binary.AppendUvarint([]byte{4, 1}, 1<<63), "a", "b")
	f.Fuzz(func(t *testing.T, names string, spec []byte, key, value string) {
		entries := fuzzEntries(names, spec)
		metadata := map[string]string{key: value}
		l, err := NewLayout(entries, metadata)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "safetensors: lay out ") {
				t.Errorf("error %v", err)
			}
			return
		}
		end := int64(len(l.Header()))
		for i, p := range l.Tensors() {
			if p.Offset != end {
				t.Errorf("%q at %d, want %d", p.Name, p.Offset, end)
			}
			end += p.Size
			if i == 0 {
				continue
			}
			if q := l.Tensors()[i-1]; q.DType < p.DType || q.DType == p.DType && q.Name >= p.Name {
				t.Errorf("%v %q before %v %q", q.DType, q.Name, p.DType, p.Name)
			}
		}
		if end != l.Size() {
			t.Errorf("size %d, tensors end at %d", l.Size(), end)
		}

		slices.Reverse(entries)
		if again, err := NewLayout(entries, metadata); err != nil || !bytes.Equal(again.Header(), l.Header()) {
			t.Errorf("the order of the entries matters: error %v", err)
		}

		r, err := NewReader(sparse{l.Header(), l.Size()}, l.Size())
		if err != nil {
			t.Fatalf("the reader refuses the layout: %v", err)
		}
		if diff := cmp.Diff(metadata, r.Metadata()); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}
		if len(r.Tensors()) != len(l.Tensors()) {
			t.Fatalf("%d tensors, want %d", len(r.Tensors()), len(l.Tensors()))
		}
		for _, p := range l.Tensors() {
			x := r.Lookup(p.Name)
			if x == nil || x.DType != p.DType || !slices.Equal(x.Shape, p.Shape) || x.Offset() != p.Offset || x.Size() != p.Size {
				t.Errorf("%v was read as %v", p, x)
			}
		}
	})
}
