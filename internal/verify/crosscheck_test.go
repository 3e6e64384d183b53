package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/safetensors"
)

const headerText = `{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},` +
	`"e":{"dtype":"U8","shape":[0,3],"data_offsets":[8,8]},"s":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}`

// fileOf is a file with that header, its data zeros.
func fileOf(header string, data int) []byte {
	raw := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(raw, header...), make([]byte, data)...)
}

func readerOf(t *testing.T, raw []byte) *safetensors.Reader {
	t.Helper()
	r, err := safetensors.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCrossCheck changes what the first decoder found, one thing at a time, and expects the second one to object. No file
// can do that, as far as is known.
func TestCrossCheck(t *testing.T) {
	fresh := func() *headerRead {
		return &headerRead{metadata: map[string]string{"format": "pt"}, tensors: []entryRead{
			{"b", safetensors.F32, []int64{2}, 0, 8}, {"e", safetensors.U8, []int64{0, 3}, 8, 8}, {"s", safetensors.BF16, nil, 8, 10}}}
	}
	for _, c := range []struct {
		name   string
		change func(h *headerRead)
		want   string
	}{
		{"nothing", func(h *headerRead) {}, ""},
		{"dtype", func(h *headerRead) { h.tensors[0].dtype = safetensors.I32 }, `tensor "b": two decoders read different entries`},
		{"dimension", func(h *headerRead) { h.tensors[0].shape[0]++ }, `tensor "b": two decoders read different entries`},
		{"rank", func(h *headerRead) { h.tensors[0].shape = nil }, `tensor "b": two decoders read different entries`},
		{"begin", func(h *headerRead) { h.tensors[1].begin++ }, `tensor "e": two decoders read different entries`},
		{"end", func(h *headerRead) { h.tensors[2].end++ }, `tensor "s": two decoders read different entries`},
		{"name", func(h *headerRead) { h.tensors[2].name = "S" }, `tensor "S": two decoders read different entries`},
		{"tensor lost", func(h *headerRead) { h.tensors = h.tensors[1:] }, `two decoders read different headers`},
		{"metadata lost", func(h *headerRead) { h.metadata = nil }, `two decoders read different headers`},
		{"metadata value", func(h *headerRead) { h.metadata["format"] = "tf" }, `two decoders read different headers`},
		{"metadata key", func(h *headerRead) { h.metadata = map[string]string{"Format": "pt"} }, `two decoders read different headers`},
	} {
		h := fresh()
		c.change(h)
		err := h.compare([]byte(headerText))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
	if err := fresh().compare([]byte(headerText[1:])); err == nil || !strings.Contains(err.Error(), "a second decoder refuses the header") {
		t.Errorf("broken JSON: got error %v", err)
	}
}

// TestCrossCheckScope says which headers are read twice: those of the dtypes that the second decoder knows, up to
// crossCheckLimit.
func TestCrossCheckScope(t *testing.T) {
	lacking := map[string]bool{"F4": true, "F6_E2M3": true, "F6_E3M2": true, "F8_E5M2": true, "F8_E4M3": true, "F8_E8M0": true,
		"F8_E4M3FNUZ": true, "F8_E5M2FNUZ": true, "C64": true}
	for d := safetensors.BOOL; d <= safetensors.U64; d++ {
		h := &headerRead{tensors: []entryRead{{name: "a", dtype: d}}}
		if checked, want := h.compare([]byte("{}")) != nil, !lacking[d.String()]; checked != want {
			t.Errorf("%v: read twice is %v, want %v", d, checked, want)
		}
	}
	// A header that changed under the reader tells whether it was read again.
	for n, want := range map[int]bool{crossCheckLimit - 8: true, crossCheckLimit - 7: false} {
		raw := fileOf("{}"+strings.Repeat(" ", n-2), 0)
		r := readerOf(t, raw)
		raw[len(raw)-1] = '\n'
		if checked := crossCheck(r) != nil; checked != want {
			t.Errorf("header of %d bytes: read twice is %v, want %v", n, checked, want)
		}
	}
}

// TestCrossCheckFile reads a sound file twice, and one that changes while it is open.
func TestCrossCheckFile(t *testing.T) {
	raw := fileOf(headerText, 10)
	r := readerOf(t, raw)
	if err := crossCheck(r); err != nil {
		t.Fatal(err)
	}
	raw[11]++
	var fe *safetensors.FormatError
	if err := crossCheck(r); !errors.As(err, &fe) || !strings.Contains(err.Error(), "no longer what it was") {
		t.Errorf("changed header: got error %v", err)
	}
	raw[11]--
	cut := &cutReader{r: bytes.NewReader(raw), size: int64(len(raw))}
	r, err := safetensors.NewReader(cut, cut.size)
	if err != nil {
		t.Fatal(err)
	}
	cut.size = 20
	if err := crossCheck(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file cut: got error %v", err)
	}
}

// cutReader ends at size.
type cutReader struct {
	r    io.ReaderAt
	size int64
}

func (c *cutReader) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(c.r, 0, c.size).ReadAt(p, off)
}

// FuzzCrossCheck: what package safetensors takes the second decoder reads alike.
func FuzzCrossCheck(f *testing.F) {
	f.Add(headerText, 10)
	f.Add(`{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}   `, 8)
	f.Add(`{"\u0061":{"shape":[],"data_offsets":[0,1],"dtype":"BOOL"},"__metadata__":{"k":"\ud83d\ude00"}}`, 1)
	f.Fuzz(func(t *testing.T, header string, data int) {
		if data < 0 || data > 1<<16 {
			return
		}
		raw := fileOf(header, data)
		r, err := safetensors.NewReader(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		if err := crossCheck(r); err != nil {
			t.Errorf("%q: %v", header, err)
		}
	})
}
