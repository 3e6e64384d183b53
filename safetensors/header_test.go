package safetensors

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestCrossCheck changes what the first decoder found, one thing at a time, and
// expects the second one to object. No file can do that, as far as is known.
func TestCrossCheck(t *testing.T) {
	decode := func(s string, data int64) *header {
		h, err := decodeHeader([]byte(s), data)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	known := strings.ReplaceAll(small, "C64", "F64")
	tests := []struct {
		name   string
		change func(h *header)
		want   string
	}{
		{"nothing", func(h *header) {}, ""},
		{"dtype", func(h *header) { h.byName["b"].DType = F16 }, `tensor "b": two decoders read different entries`},
		{"dimension", func(h *header) { h.byName["b"].Shape[0]++ }, `tensor "b": two decoders read different entries`},
		{"rank", func(h *header) { h.byName["b"].Shape = nil }, `tensor "b": two decoders read different entries`},
		{"begin", func(h *header) { h.byName["e"].off++ }, `tensor "e": two decoders read different entries`},
		{"end", func(h *header) { h.byName["s"].size++ }, `tensor "s": two decoders read different entries`},
		{"name", func(h *header) { h.byName["s"].Name = "S" }, `tensor "S": two decoders read different entries`},
		{"tensor lost", func(h *header) { h.tensors = h.tensors[1:] }, `two decoders read different headers`},
		{"metadata lost", func(h *header) { h.metadata = nil }, `two decoders read different headers`},
		{"metadata value", func(h *header) { h.metadata["format"] = "tf" }, `two decoders read different headers`},
		{"metadata key", func(h *header) { h.metadata = map[string]string{"Format": "pt"} }, `two decoders read different headers`},
	}
	for _, tt := range tests {
		h := decode(known, 15)
		tt.change(h)
		err := h.crossCheck([]byte(known))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got error %v, want one with %q", tt.name, err, tt.want)
		}
	}
	err := decode(known, 15).crossCheck([]byte(known[1:]))
	if err == nil || !strings.Contains(err.Error(), "a second decoder refuses the header") {
		t.Errorf("broken JSON: got error %v", err)
	}
}

// TestCrossCheckScope says which headers are read twice: those of the dtypes
// that the second decoder knows, up to crossCheckLimit.
func TestCrossCheckScope(t *testing.T) {
	lacking := []DType{F4, F6_E2M3, F6_E3M2, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, C64}
	for d := range DType(numDTypes) {
		h := &header{tensors: []*Tensor{{Name: "a", DType: d}}}
		if checked, want := h.crossCheck([]byte("{}")) != nil, !slices.Contains(lacking, d); checked != want {
			t.Errorf("%v: read twice is %v, want %v", d, checked, want)
		}
	}
	for n, want := range map[int]bool{crossCheckLimit: true, crossCheckLimit + 1: false} {
		// Two decoders are made to differ by a tensor that the header does not have.
		r, err := newReader(file("{}"+strings.Repeat(" ", n-2), 0))
		if err != nil {
			t.Fatal(err)
		}
		r.h.tensors = []*Tensor{{Name: "a"}}
		if checked := r.CrossCheck() != nil; checked != want {
			t.Errorf("header of %d bytes: read twice is %v, want %v", n, checked, want)
		}
	}
}

// TestCrossCheckChanged exchanges the header of a file that is open.
func TestCrossCheckChanged(t *testing.T) {
	data := file(strings.ReplaceAll(small, "C64", "F64"), 15)
	r, err := newReader(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CrossCheck(); err != nil {
		t.Fatal(err)
	}
	data[lenSize+3]++
	checkTyped(t, r.CrossCheck())
	data[lenSize+3]--
	r, err = NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	r.r = bytes.NewReader(data[:20])
	if err := r.CrossCheck(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file cut: got error %v", err)
	}
}
