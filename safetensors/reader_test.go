package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// file puts a header and n bytes of data (1, 2, 3 ...) together.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range n {
		b = append(b, byte(i+1))
	}
	return b
}

func newReader(b []byte) (*Reader, error) { return NewReader(bytes.NewReader(b), int64(len(b))) }

// Two tensors, the second one first in the header, and a scalar and an empty one.
const small = `{"__metadata__":{"format":"pt"},` +
	`"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},` +
	`"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},` +
	`"s":{"dtype":"U8","shape":[],"data_offsets":[14,15]},` +
	`"e":{"dtype":"C64","shape":[7,0],"data_offsets":[8,8]}}  `

func TestReader(t *testing.T) {
	r, err := newReader(file(small, 15))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name                string
		DType               DType
		Shape               []int64
		Elems, Size, Offset int64
		Data                []byte
	}
	base := r.HeaderSize()
	want := []row{
		{"a", F32, []int64{2, 1}, 2, 8, base, []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		{"e", C64, []int64{7, 0}, 0, 0, base + 8, []byte{}},
		{"b", BF16, []int64{3}, 3, 6, base + 8, []byte{9, 10, 11, 12, 13, 14}},
		{"s", U8, []int64{}, 1, 1, base + 14, []byte{15}},
	}
	var got []row
	for _, x := range r.Tensors() {
		data, err := io.ReadAll(x.Section())
		if err != nil {
			t.Fatal(err)
		}
		if r.Lookup(x.Name) != x {
			t.Errorf("Lookup(%q) is not the tensor of Tensors", x.Name)
		}
		got = append(got, row{x.Name, x.DType, x.Shape, x.Elems(), x.Size(), x.Offset(), data})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tensors (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"format": "pt"}, r.Metadata()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if base != int64(8+len(small)) {
		t.Errorf("HeaderSize %d, want %d", base, 8+len(small))
	}
	if r.Lookup("c") != nil || r.Lookup(metadataKey) != nil {
		t.Error("Lookup finds what is not there")
	}
}

func TestReaderMetadata(t *testing.T) {
	for header, want := range map[string]map[string]string{
		`{}`:                                nil,
		`{"__metadata__":null}`:             nil,
		`{"__metadata__":{}}`:               {},
		`{"__metadata__":{"":"","a":"\n"}}`: {"": "", "a": "\n"},
	} {
		r, err := newReader(file(header, 0))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, r.Metadata()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", header, diff)
		}
	}
}

// TestHeaderDigest shows that the digest is of length and header, not of data.
func TestHeaderDigest(t *testing.T) {
	digest := func(b []byte) [32]byte {
		r, err := newReader(b)
		if err != nil {
			t.Fatal(err)
		}
		return r.HeaderDigest()
	}
	a := file(small, 15)
	b := bytes.Clone(a)
	b[len(b)-1]++
	if digest(a) != digest(b) {
		t.Error("data changes the digest")
	}
	if digest(a) == digest(file(small+" ", 15)) {
		t.Error("padding does not change the digest")
	}
}

// TestReaderErrors holds a row for every way a header can be wrong; the errors
// name the tensor, the place, what was expected and what was found. That the
// reference refuses them too is the matter of TestReferenceVerdicts.
func TestReaderErrors(t *testing.T) {
	const at = `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b\n":`
	entry := func(s string) string { return at + s + `}` }
	// where is the text of the header that ends at the error's offset, or, with
	// a sign, the distance of that offset from the end of the header.
	tests := []struct {
		name   string
		header string
		data   int
		tensor string
		where  string
		msg    string
	}{
		{"not an object", `[]`, 0, "", "", `the header does not begin with '{': found "["`},
		{"leading space", ` {}`, 0, "", "", `the header does not begin with '{': found " "`},
		{"JSON cut", at, 4, "b\n", at, `header is not valid JSON: unexpected EOF`},
		{"JSON syntax", `{"a" 1}`, 0, "a", `{"a" `, `header is not valid JSON: invalid character '1' after object name (expecting ':')`},
		{"UTF-8", "{\"a\xc3\":1}", 0, "", `{"a`, `header is not UTF-8: found byte 0xc3`},
		{"text after", `{} {}`, 0, "", `{} {`, `expected only white space after the header's closing '}'`},
		{"metadata twice", `{"__metadata__":{},"__metadata__":{}}`, 0, "", `},"__metadata__"`, `duplicate __metadata__`},
		{"metadata array", `{"__metadata__":["format"]}`, 0, "", `{"__metadata__"`, `__metadata__: expected an object, found an array`},
		{"metadata number", `{"__metadata__":{"k\n":7}}`, 0, "", `"k\n"`, `__metadata__: value of key "k\n": expected a string, found a number`},
		{"metadata key", `{"__metadata__":{"k":"","k":""}}`, 0, "", `,"k"`, `duplicate key "k" in __metadata__`},
		{"name", at[:len(at)-6] + `"a":{}}`, 4, "a", `},"a"`, `duplicate name`},
		{"entry", entry(`[]`), 4, "b\n", `"b\n"`, `entry: expected an object, found an array`},
		{"key unknown", entry(`{"x":{"y":{}}}`), 4, "b\n", `"x"`, `unknown key "x": expected dtype, shape and data_offsets`},
		{"key twice", entry(`{"shape":[],"shape":[]}`), 4, "b\n", `:[],"shape"`, `duplicate key "shape"`},
		{"no dtype", entry(`{"shape":[],"data_offsets":[4,4]}`), 4, "b\n", `[4,4]}`, `missing key "dtype"`},
		{"no shape", entry(`{"dtype":"U8","data_offsets":[4,4]}`), 4, "b\n", `[4,4]}`, `missing key "shape"`},
		{"no data_offsets", entry(`{"dtype":"U8","shape":[]}`), 4, "b\n", `[]}`, `missing key "data_offsets"`},
		{"dtype", entry(`{"dtype" :8}`), 4, "b\n", `\n":{"dtype"`, `dtype: expected a string, found a number`},
		{"shape", entry(`{"shape" :null}`), 4, "b\n", `{"shape"`, `shape: expected an array, found null`},
		{"dimension string", entry(`{"shape":["1"]}`), 4, "b\n", `{"shape":[`, `shape: expected an integer, found a string`},
		{"dimension nested", entry(`{"shape":[` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `]}`), 4, "b\n", `{"shape":[`,
			`shape: expected an integer, found an array`},
		{"dimension negative", entry(`{"shape":[2,-3]}`), 4, "b\n", `-3`, `shape: expected an integer from 0 to 2^53, found the negative "-3"`},
		{"dimension fraction", entry(`{"shape":[2.5]}`), 4, "b\n", `2.5`, `shape: expected an integer from 0 to 2^53 without fraction or exponent, found "2.5"`},
		{"dimension exponent", entry(`{"shape":[1e3]}`), 4, "b\n", `1e3`, `shape: expected an integer from 0 to 2^53 without fraction or exponent, found "1e3"`},
		{"dimension over 2^53", entry(`{"shape":[9007199254740993]}`), 4, "b\n", `0993`, `shape: expected an integer from 0 to 2^53, found "9007199254740993"`},
		{"dimension long", entry(`{"shape":[` + strings.Repeat("7", 99) + `]}`), 4, "b\n", strings.Repeat("7", 99),
			`shape: expected an integer from 0 to 2^53, found "77777777777777777777777777777777"...`},
		{"rank", entry(`{"shape":[` + strings.Repeat("1,", 64) + `2]}`), 4, "b\n", `,2`, `shape has more than 64 dimensions`},
		{"one offset", entry(`{"data_offsets":[5]}`), 4, "b\n", `[5]`, `data_offsets: expected 2 numbers, found 1`},
		{"three offsets", entry(`{"data_offsets":[4,5,6]}`), 4, "b\n", `,6`, `data_offsets: expected 2 numbers, found more`},
		{"offsets reversed", entry(`{"data_offsets":[5,4]}`), 4, "b\n", `5,4]`, `data_offsets: begin 5 is after end 4`},
		{"offset negative", entry(`{"data_offsets":[-4,4]}`), 4, "b\n", `-4`, `data_offsets: expected an integer from 0 to 2^53, found the negative "-4"`},

		{"product overflow", entry(`{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[4,4]}`), 4, "b\n", "+4",
			`the product of shape [4294967296 4294967296] overflows 64 bits`},
		{"bits overflow", entry(`{"dtype":"F64","shape":[4294967296,2147483648],"data_offsets":[4,4]}`), 4, "b\n", "+4",
			`F64 of shape [4294967296 2147483648] overflows 64 bits`},
		{"bits", entry(`{"dtype":"F6_E2M3","shape":[3],"data_offsets":[4,7]}`), 7, "b\n", "+4", `F6_E2M3 of shape [3] takes 18 bits, expected whole bytes`},
		{"size", entry(`{"dtype":"U16","shape":[3],"data_offsets":[4,9]}`), 9, "b\n", "+4", `U16 of shape [3] takes 6 bytes, data_offsets [4 9] give it 5`},
		{"scalar size", entry(`{"dtype":"U16","shape":[],"data_offsets":[4,4]}`), 4, "b\n", "+4", `U16 of shape [] takes 2 bytes, data_offsets [4 4] give it 0`},
		{"overlap", entry(`{"dtype":"U8","shape":[3],"data_offsets":[3,6]}`), 6, "b\n", "+3", `data_offsets [3 6]: expected to begin at 4: it overlaps tensor "a"`},
		{"gap", entry(`{"dtype":"U8","shape":[3],"data_offsets":[5,8]}`), 8, "b\n", "+5", `data_offsets [5 8]: expected to begin at 4: the gap belongs to no tensor`},
		{"truncated", entry(`{"dtype":"U8","shape":[3],"data_offsets":[4,7]}`), 6, "b\n", "+4", `it ends at byte 123 of the file, which has 122: the file is truncated`},
		{"trailing", entry(`{"dtype":"U8","shape":[3],"data_offsets":[4,7]}`), 8, "", "+7", `the tensors end at byte 123 of the file, which has 124: the rest belongs to no tensor`},
		{"no tensors", `{}`, 1, "", "+0", `the tensors end at byte 10 of the file, which has 11: the rest belongs to no tensor`},
	}
	seen := make(map[string]string)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newReader(file(tt.header, tt.data))
			fe, ok := errors.AsType[*FormatError](err)
			if !ok {
				t.Fatalf("got error %T: %v", err, err)
			}
			offset := int64(lenSize + strings.Index(tt.header, tt.where) + len(tt.where))
			if n, ok := strings.CutPrefix(tt.where, "+"); ok {
				k, _ := strconv.Atoi(n)
				offset = int64(lenSize + len(tt.header) + k)
			}
			got := []any{fe.Tensor, fe.Offset, fe.Msg}
			if diff := cmp.Diff([]any{tt.tensor, offset, tt.msg}, got); diff != "" {
				t.Errorf("tensor, offset, message (-want +got):\n%s", diff)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("control character in %q", err)
			}
			if tt.tensor != "" && !strings.Contains(err.Error(), fmt.Sprintf("tensor %q", tt.tensor)) {
				t.Errorf("%q does not name the tensor", err)
			}
			if other, ok := seen[fe.Msg]; ok {
				t.Errorf("same message as %s", other)
			}
			seen[fe.Msg] = tt.name
		})
	}
}

func TestReaderLength(t *testing.T) {
	tests := []struct {
		name string
		file string
		msg  string
		err  error
	}{
		{"empty", "", "the file has 0 bytes, too few for a header", nil},
		{"8 bytes", strings.Repeat("\x00", 8), "the file has 8 bytes, too few for a header", nil},
		{"length 0", "\x00\x00\x00\x00\x00\x00\x00\x00{}", `the header is empty, expected at least "{}"`, nil},
		{"longer than file", "\x03\x00\x00\x00\x00\x00\x00\x00{}", "the header of 3 bytes is longer than the 2 bytes that follow its length", nil},
		{"at the limit", "\x00\xe1\xf5\x05\x00\x00\x00\x00{}", "the header of 100000000 bytes is longer than the 2 bytes that follow its length", nil},
		{"over the limit", "\x01\xe1\xf5\x05\x00\x00\x00\x00{}", "the file of 10 bytes announces a header of 100000001", ErrHeaderTooLarge},
		{"over int64", "\x00\x00\x00\x00\x00\x00\x00\x80{}", "the file of 10 bytes announces a header of 9223372036854775808", ErrHeaderTooLarge},
		{"LFS", "version https://git-lfs.github.com/spec/v1\n", "the file is a Git LFS pointer, not the content: fetch it with git lfs pull", nil},
		{"zip", "PK\x03\x04\x00\x00\x08\x08\x00\x00", "the file is a zip archive, such as torch.save writes, not safetensors", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newReader([]byte(tt.file))
			fe, ok := errors.AsType[*FormatError](err)
			if !ok || fe.Msg != tt.msg || fe.Err != tt.err {
				t.Errorf("got error %v, want %q wrapping %v", err, tt.msg, tt.err)
			}
			if tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v is not %v", err, tt.err)
			}
		})
	}
	if _, err := NewReader(strings.NewReader("{}"), -1); err == nil {
		t.Error("negative size accepted")
	}
}

func TestReaderUnsupported(t *testing.T) {
	_, err := newReader(file(`{"x\t":{"dtype":"F3_\n","shape":[8],"data_offsets":[0,3]}}`, 3))
	ue, ok := errors.AsType[*UnsupportedError](err)
	if !ok || ue.Tensor != "x\t" || ue.DType != "F3_\n" {
		t.Fatalf("got error %#v", err)
	}
	if want := `unsupported safetensors: tensor "x\t": unknown dtype "F3_\n", known are BOOL F4 `; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %q, want it to begin with %q", err, want)
	}
	_, err = newReader(file(`{"":{"dtype":"?","shape":[8],"data_offsets":[0,3]}}`, 3))
	if err == nil || !strings.Contains(err.Error(), `tensor "": `) {
		t.Errorf("got %v, which does not name the tensor", err)
	}
}

// TestErrorTextBounded gives names of a megabyte, which must not fill a log.
func TestErrorTextBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, header := range []string{
		`{"` + long + `":1}`,
		`{"` + long + `":{"dtype":"` + long + `"}}`,
		`{"a":{"` + long + `":1}}`,
		`{"__metadata__":{"` + long + `":1}}`,
		`{"a":{"dtype":"U8","shape":[` + strings.Repeat("9", 1<<20) + `]}}`,
		`{"` + long + `":{"dtype":"U8","shape":[` + strings.Repeat("9007199254740992,", 63) + `0],"data_offsets":[0,0]}}`,
	} {
		_, err := newReader(file(header, 0))
		if err == nil {
			t.Fatalf("%.40q accepted", header)
		}
		checkTyped(t, err)
	}
}

// tracker records which bytes of a file are read.
type tracker struct {
	r     io.ReaderAt
	reads []span
}

func (tr *tracker) ReadAt(p []byte, off int64) (int, error) {
	tr.reads = append(tr.reads, span{off, off + int64(len(p))})
	return tr.r.ReadAt(p, off)
}

// TestReaderTouches proves that opening reads the header once and nothing else,
// and reading a part of a tensor that part and nothing else.
func TestReaderTouches(t *testing.T) {
	b := file(small, 15)
	tr := &tracker{r: bytes.NewReader(b)}
	r, err := NewReader(tr, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	h := r.HeaderSize()
	if diff := cmp.Diff([]span{{0, 9}, {9, h}}, tr.reads, cmp.AllowUnexported(span{})); diff != "" {
		t.Errorf("opening (-want +got):\n%s", diff)
	}
	tr.reads = nil
	p := make([]byte, 100)
	if n, err := r.Lookup("b").ReadAt(p, 2); n != 4 || err != io.EOF {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	if n, err := r.Lookup("b").ReadAt(p[:6], 0); n != 6 || err != nil {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	for _, off := range []int64{6, 7, 1 << 62} {
		if n, err := r.Lookup("b").ReadAt(p, off); n != 0 || err != io.EOF {
			t.Errorf("ReadAt(%d) = %d, %v", off, n, err)
		}
	}
	if n, err := r.Lookup("b").ReadAt(p, -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("ReadAt(-1) = %d, %v", n, err)
	}
	if n, err := r.Lookup("b").ReadAt(nil, 6); n != 0 || err != nil {
		t.Errorf("empty ReadAt at the end = %d, %v", n, err)
	}
	if diff := cmp.Diff([]span{{h + 10, h + 14}, {h + 8, h + 14}}, tr.reads, cmp.AllowUnexported(span{})); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
}

func TestSection(t *testing.T) {
	r, err := newReader(file(small, 15))
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r.Lookup("a").Section(), []byte{1, 2, 3, 4, 5, 6, 7, 8}); err != nil {
		t.Error(err)
	}
	if err := iotest.TestReader(r.Lookup("e").Section(), nil); err != nil {
		t.Error(err)
	}
}

// limited is a file that ends before its size, or fails there.
type limited struct {
	b   []byte
	err error
}

func (l limited) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(l.b)) {
		n = copy(p, l.b[off:])
	}
	if n == len(p) {
		return n, nil
	}
	return n, l.err
}

// TestReaderShort cuts a file at every byte behind the back of the reader, with
// all that a careless io.ReaderAt may return there.
func TestReaderShort(t *testing.T) {
	whole := file(small, 15)
	broken := errors.New("broken")
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, nil, broken} {
		want := io.ErrUnexpectedEOF
		if cause == broken {
			want = broken
		}
		for cut := range whole {
			r, err := NewReader(limited{whole[:cut], cause}, int64(len(whole)))
			if cut < 8+len(small) {
				if !errors.Is(err, want) {
					t.Fatalf("cut at %d with %v: got error %v", cut, cause, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("cut at %d, after the header: %v", cut, err)
			}
			for _, x := range r.Tensors() {
				p := make([]byte, x.Size())
				n, err := x.ReadAt(p, 0)
				if have := min(max(int64(cut)-x.Offset(), 0), x.Size()); int64(n) != have {
					t.Fatalf("cut at %d: read %d bytes of %s, want %d", cut, n, x.Name, have)
				}
				if int64(cut) >= x.Offset()+x.Size() || x.Size() == 0 {
					if err != nil {
						t.Fatalf("cut at %d, after %s: %v", cut, x.Name, err)
					}
					continue
				}
				if !errors.Is(err, want) || !strings.Contains(err.Error(), fmt.Sprintf("tensor %q", x.Name)) {
					t.Fatalf("cut at %d with %v: got error %v", cut, cause, err)
				}
			}
		}
	}
}

// TestReaderOneByte gives the bytes one at a time, through the standard adapter.
func TestReaderOneByte(t *testing.T) {
	r, err := newReader(file(small, 15))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(iotest.OneByteReader(r.Lookup("b").Section()))
	if err != nil || !bytes.Equal(got, []byte{9, 10, 11, 12, 13, 14}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// sparse is a file that is all zeros after its first bytes.
type sparse struct {
	head []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(s.size-off, 0)))
	clear(p[:n])
	if off < int64(len(s.head)) {
		copy(p[:n], s.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestReaderLarge goes past 32-bit sizes and offsets with a file of 8 TiB.
func TestReaderLarge(t *testing.T) {
	l, err := NewLayout([]Entry{
		{"small", F32, []int64{3}},
		{"large", BF16, []int64{1 << 21, 1 << 21}},
		{"last", U8, []int64{1}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(sparse{l.Header(), l.Size()}, l.Size())
	if err != nil {
		t.Fatal(err)
	}
	x := r.Lookup("large")
	if x.Elems() != 1<<42 || x.Size() != 1<<43 || x.Offset() != r.HeaderSize()+12 {
		t.Errorf("elems %d, size %d, offset %d", x.Elems(), x.Size(), x.Offset())
	}
	p := make([]byte, 3)
	if n, err := x.ReadAt(p, 1<<43-2); n != 2 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if got, want := r.Lookup("last").Offset(), x.Offset()+x.Size(); got != want {
		t.Errorf("last at %d, want %d", got, want)
	}
	if _, err := NewReader(sparse{l.Header(), l.Size() - 1}, l.Size()-1); err == nil {
		t.Error("one byte short is accepted")
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	f()
	runtime.ReadMemStats(&b)
	return b.TotalAlloc - a.TotalAlloc
}

// TestReaderAllocation gives headers that announce much and hold little.
func TestReaderAllocation(t *testing.T) {
	for name, head := range map[string]string{
		"header beyond the file": "\x00\xe1\xf5\x05\x00\x00\x00\x00{}",
		"header over the limit":  "\xff\xff\xff\xff\xff\xff\xff\x7f{}",
		"huge tensor":            string(file(`{"a":{"dtype":"U8","shape":[9007199254740992],"data_offsets":[0,9007199254740992]}}`, 0)),
	} {
		n := allocated(func() {
			if _, err := newReader([]byte(head)); err == nil {
				t.Errorf("%s: accepted", name)
			}
		})
		if n > 64<<10 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
	// A file as large as its header says, but all zeros.
	n := allocated(func() {
		if _, err := NewReader(sparse{[]byte("\x00\xe1\xf5\x05"), 1 << 40}, 1<<40); err == nil {
			t.Error("zeros: accepted")
		}
	})
	if n > 64<<10 {
		t.Errorf("zeros: %d bytes allocated", n)
	}
}

// TestReaderMany bounds what the header of a very large model costs in memory.
func TestReaderMany(t *testing.T) {
	l, err := NewLayout(manyEntries(100_000), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := allocated(func() {
		r, err := NewReader(bytes.NewReader(l.Header()), l.Size())
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Tensors()) != 100_000 {
			t.Errorf("%d tensors", len(r.Tensors()))
		}
	})
	if limit := uint64(4 * len(l.Header())); n > limit {
		t.Errorf("%d bytes allocated for a header of %d, want at most %d", n, len(l.Header()), limit)
	}
}

// TestReaderManyKeys bounds what free text costs that is made of as many keys as
// a header holds.
func TestReaderManyKeys(t *testing.T) {
	header := func(n int) []byte {
		b := []byte(`{"__metadata__":{`)
		for i := range n {
			if i > 0 {
				b = append(b, ',')
			}
			b = fmt.Appendf(b, `"%x":""`, i)
		}
		return file(string(b)+"}}", 0)
	}
	r, err := newReader(header(maxMetadata))
	if err != nil || len(r.Metadata()) != maxMetadata {
		t.Errorf("%d keys: %v", maxMetadata, err)
	}
	data := header(10 * maxMetadata)
	n := allocated(func() {
		_, err = newReader(data)
	})
	checkTyped(t, err)
	if err == nil || !strings.Contains(err.Error(), "more than 65536 keys") {
		t.Errorf("got error %v", err)
	}
	if limit := uint64(2*len(data) + 16<<20); n > limit {
		t.Errorf("%d bytes allocated for a header of %d, want at most %d", n, len(data), limit)
	}
}

// TestReaderConcurrent is for the race detector.
func TestReaderConcurrent(t *testing.T) {
	r, err := newReader(file(small, 15))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, x := range r.Tensors() {
				if b, err := io.ReadAll(r.Lookup(x.Name).Section()); err != nil || int64(len(b)) != x.Size() {
					t.Errorf("%s: %d bytes, %v", x.Name, len(b), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := write("good.safetensors", file(small, 15))
	f, err := Open(good)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != good {
		t.Errorf("Name %q", f.Name())
	}
	// The file shrinks while it is open.
	if err := os.Truncate(good, f.HeaderSize()+3); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(f.Lookup("a").Section())
	fe, ok := errors.AsType[*FormatError](err)
	if !ok || fe.File != good || fe.Tensor != "a" || fe.Offset != f.HeaderSize()+3 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shrunk file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Lookup("a").ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	bad := write("bad.safetensors", file(small, 14))
	for name, target := range map[string]func(error) bool{
		bad:  func(err error) bool { e, ok := errors.AsType[*FormatError](err); return ok && e.File == bad },
		good: func(err error) bool { return strings.Contains(err.Error(), "truncated") },
		write("dtype.safetensors", file(`{"a":{"dtype":"Q4","shape":[],"data_offsets":[0,0]}}`, 0)): func(err error) bool {
			e, ok := errors.AsType[*UnsupportedError](err)
			return ok && filepath.Base(e.File) == "dtype.safetensors"
		},
		filepath.Join(dir, "none"): func(err error) bool { return errors.Is(err, os.ErrNotExist) },
		dir:                        func(err error) bool { return strings.Contains(err.Error(), "found a directory") },
		os.DevNull:                 func(err error) bool { return strings.Contains(err.Error(), "expected a regular file") },
	} {
		f, err := Open(name)
		if err == nil {
			f.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !target(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}
