package safetensors

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLayoutHeader spells one header out; that headers in general are those of
// the reference is the matter of TestReferenceFiles.
func TestLayoutHeader(t *testing.T) {
	entries := []Entry{
		{"b", U8, []int64{2, 3}},
		{"z\"\n", F32, nil},
		{"a", U8, []int64{0}},
		{"w", F6_E3M2, []int64{4}},
	}
	l, err := NewLayout(entries, map[string]string{"k": "</\u2028\x7f>"})
	if err != nil {
		t.Fatal(err)
	}
	want := "\x00\x01\x00\x00\x00\x00\x00\x00" + // 256
		`{"__metadata__":{"k":"</` + "\u2028\x7f" + `>"},` +
		`"z\"\n":{"dtype":"F32","shape":[],"data_offsets":[0,4]},` +
		`"a":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},` +
		`"b":{"dtype":"U8","shape":[2,3],"data_offsets":[4,10]},` +
		`"w":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[10,13]}}`
	want += strings.Repeat(" ", 264-len(want))
	if diff := cmp.Diff(want, string(l.Header())); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	wantPlaces := []Placement{
		{entries[1], 264, 4}, {entries[2], 268, 0}, {entries[0], 268, 6}, {entries[3], 274, 3},
	}
	if diff := cmp.Diff(wantPlaces, l.Tensors()); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	for _, p := range wantPlaces {
		if abs, size, ok := l.Offset(p.Name); abs != p.Offset || size != p.Size || !ok {
			t.Errorf("Offset(%q) = %d, %d, %v", p.Name, abs, size, ok)
		}
	}
	if _, _, ok := l.Offset("c"); ok {
		t.Error("Offset finds what is not there")
	}
	if l.Size() != 277 {
		t.Errorf("size %d, want 277", l.Size())
	}
}

func TestLayoutKeepsNoReference(t *testing.T) {
	shape := []int64{2}
	l, err := NewLayout([]Entry{{"a", U8, shape}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	shape[0] = 7
	if got := l.Tensors()[0].Shape[0]; got != 2 {
		t.Errorf("the caller's slice changes the layout: dimension %d", got)
	}
}

// TestLayoutPadding goes through all lengths modulo the alignment.
func TestLayoutPadding(t *testing.T) {
	for n := range 17 {
		l, err := NewLayout([]Entry{{strings.Repeat("n", n), F64, []int64{1}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := l.Header()
		if len(h)%headerAlign != 0 {
			t.Errorf("name of %d: header of %d bytes", n, len(h))
		}
		if pad := len(h) - len(bytes.TrimRight(h, " ")); pad >= headerAlign {
			t.Errorf("name of %d: %d bytes of padding", n, pad)
		}
	}
}

// TestLayoutAligned holds every tensor to a multiple of its element's size.
func TestLayoutAligned(t *testing.T) {
	var entries []Entry
	for d := range DType(numDTypes) {
		for i := range 3 {
			entries = append(entries, Entry{fmt.Sprint(d, i), d, []int64{4, int64(i) + 1}})
		}
	}
	l, err := NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Tensors() {
		if w := int64(max(p.DType.Bits(), 8) / 8); p.Offset%w != 0 {
			t.Errorf("%s at %d", p.Name, p.Offset)
		}
	}
}

func TestLayoutErrors(t *testing.T) {
	one := []int64{1}
	manyKeys := make(map[string]string)
	for i := range maxMetadata + 1 {
		manyKeys[strconv.Itoa(i)] = ""
	}
	tests := []struct {
		name     string
		entries  []Entry
		metadata map[string]string
		want     string
	}{
		{"duplicate", []Entry{{"a", U8, one}, {"b", U8, one}, {"a", U8, one}}, nil, `tensor "a": duplicate name`},
		{"duplicate of other dtype", []Entry{{"a", U8, one}, {"a", F32, one}}, nil, `tensor "a": duplicate name`},
		{"reserved", []Entry{{"__metadata__", U8, one}}, nil, `tensor "__metadata__": the name is reserved for metadata`},
		{"not UTF-8", []Entry{{"a\xff", U8, one}}, nil, `tensor "a\xff": the name is not UTF-8`},
		{"dtype", []Entry{{"a", numDTypes, one}}, nil, `tensor "a": unknown DType(22)`},
		{"rank", []Entry{{"a", U8, make([]int64, 65)}}, nil, `tensor "a": the shape has 65 dimensions, at most 64 are allowed`},
		{"negative", []Entry{{"a", U8, []int64{2, -1}}}, nil, `tensor "a": dimension -1 of shape [2 -1] is not from 0 to 2^53`},
		{"over 2^53", []Entry{{"a", U8, []int64{0, 1<<53 + 1}}}, nil, `tensor "a": dimension 9007199254740993 of shape [0 9007199254740993] is not from 0 to 2^53`},
		{"product", []Entry{{"a", U8, []int64{1 << 40, 1 << 40}}}, nil, `tensor "a": the product of shape [1099511627776 1099511627776] overflows 64 bits`},
		{"product before zero", []Entry{{"a", U8, []int64{1 << 40, 1 << 40, 0}}}, nil, `overflows 64 bits`},
		{"bits", []Entry{{"a", U64, []int64{1 << 58}}}, nil, `is not from 0 to 2^53`},
		{"bits overflow", []Entry{{"a", U64, []int64{1 << 29, 1 << 29}}}, nil, `tensor "a": U64 of shape [536870912 536870912] overflows 64 bits`},
		{"size", []Entry{{"a", U16, []int64{1<<52 + 1}}}, nil, `tensor "a": U16 of shape [4503599627370497] takes 9007199254740994 bytes, over 2^53`},
		{"sum", []Entry{{"a", U8, []int64{1 << 53}}, {"b", U8, one}}, nil, `tensor "b": ends at byte 9007199254740993, over 2^53`},
		{"part of a byte", []Entry{{"a", F4, []int64{3}}}, nil, `tensor "a": F4 of shape [3] takes 12 bits, expected whole bytes`},
		{"metadata key", nil, map[string]string{"\xff": ""}, `metadata: key "\xff" or its value is not UTF-8`},
		{"metadata keys", nil, manyKeys, `metadata: 65537 keys, at most 65536 are allowed`},
		{"metadata value", nil, map[string]string{"k": "\xed\xa0\x80"}, `metadata: key "k" or its value is not UTF-8`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewLayout(tt.entries, tt.metadata)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "safetensors: lay out ") {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestLayoutLimits goes to what NewLayout just allows, and the reader with it.
func TestLayoutLimits(t *testing.T) {
	rank64 := make([]int64, 64)
	for i := range rank64 {
		rank64[i] = 1
	}
	for _, e := range []Entry{
		{"", U8, rank64},
		{"a", U8, []int64{1 << 53}},
		{"a", F4, []int64{1 << 53, 2}},
		{"a", U64, []int64{1 << 53, 1 << 4, 0}},
		{"a", U64, []int64{0, 1 << 53, 1 << 53}},
	} {
		l, err := NewLayout([]Entry{e}, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := NewReader(sparse{l.Header(), l.Size()}, l.Size()); err != nil {
			t.Error(err)
		}
	}
}

// TestLayoutHeaderTooLarge sets a lower limit, since the real one takes seconds.
func TestLayoutHeaderTooLarge(t *testing.T) {
	for n := 1; n < 100; n++ {
		l, err := NewLayout(manyEntries(n), map[string]string{"format": "pt"})
		if err != nil {
			t.Fatal(err)
		}
		size := len(l.Header()) - lenSize
		for i := range l.tensors { // as they are when NewLayout encodes the header
			l.tensors[i].Offset -= int64(len(l.header))
		}
		if err := l.encodeHeader(map[string]string{"format": "pt"}, size); err != nil {
			t.Errorf("header of %d bytes, limit of as many: %v", size, err)
		}
		if err := l.encodeHeader(map[string]string{"format": "pt"}, size-1); !errors.Is(err, ErrHeaderTooLarge) {
			t.Errorf("header of %d bytes, limit one less: error %v", size, err)
		}
	}
}

// TestLayoutOrderOfEntries shows that it does not matter.
func TestLayoutOrderOfEntries(t *testing.T) {
	entries := manyEntries(300)
	for i := range entries {
		entries[i].DType = DType(i % numDTypes)
	}
	a, err := NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	b, err := NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Header(), b.Header()) {
		t.Error("the order of entries changes the header")
	}
}
