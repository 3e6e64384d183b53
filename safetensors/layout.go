package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Entry declares one tensor of a file to be written.
type Entry struct {
	Name  string
	DType DType
	Shape []int64 // row-major; empty for a scalar
}

// Placement is an [Entry] with its place in the file.
type Placement struct {
	Entry
	Offset int64 // of the first byte, counted from the start of the file
	Size   int64 // in bytes
}

// Layout is the plan of a file: its header and where every tensor goes. It is
// the same for the same entries and metadata, in whatever order they are given.
type Layout struct {
	header  []byte
	tensors []Placement
	byName  map[string]int
	size    int64
}

// NewLayout places the entries in the order of the reference serializer: DType
// descending, so that wide elements come first and all stay aligned, then name.
// A nil metadata writes none, an empty one an empty object. The keys of metadata
// are written in ascending order.
//
// It is an error if a name is used twice, is "__metadata__" or is not UTF-8; if
// a shape has over 64 dimensions, one below 0 or over 2^53, or a product that
// is no whole number of bytes or over 2^53 of them; if there are over [MaxTensors]; if metadata has over 65,536
// keys; and if the header is over 100,000,000 bytes ([ErrHeaderTooLarge]).
func NewLayout(entries []Entry, metadata map[string]string) (*Layout, error) {
	if len(entries) > MaxTensors {
		return nil, fmt.Errorf("safetensors: lay out %d tensors: at most %d are allowed in a file", len(entries), MaxTensors)
	}
	l := &Layout{
		tensors: make([]Placement, len(entries)),
		byName:  make(map[string]int, len(entries)),
	}
	for i, e := range entries {
		size, err := e.check()
		if err != nil {
			return nil, fmt.Errorf("safetensors: lay out tensor %s: %w", quote(e.Name), err)
		}
		e.Shape = slices.Clone(e.Shape)
		l.tensors[i] = Placement{Entry: e, Size: size}
	}
	slices.SortFunc(l.tensors, func(a, b Placement) int {
		return cmp.Or(cmp.Compare(b.DType, a.DType), cmp.Compare(a.Name, b.Name))
	})
	var end int64
	for i := range l.tensors {
		t := &l.tensors[i]
		if _, ok := l.byName[t.Name]; ok {
			return nil, fmt.Errorf("safetensors: lay out tensor %s: duplicate name", quote(t.Name))
		}
		l.byName[t.Name] = i
		t.Offset = end
		if end += t.Size; end > maxInt {
			return nil, fmt.Errorf("safetensors: lay out tensor %s: ends at byte %d, over 2^53", quote(t.Name), end)
		}
	}
	if err := l.encodeHeader(metadata, maxHeaderSize); err != nil {
		return nil, err
	}
	for i := range l.tensors {
		l.tensors[i].Offset += int64(len(l.header))
	}
	l.size = int64(len(l.header)) + end
	return l, nil
}

// check validates one entry and returns its size in bytes.
func (e *Entry) check() (int64, error) {
	if !utf8.ValidString(e.Name) {
		return 0, fmt.Errorf("the name is not UTF-8")
	}
	if e.Name == metadataKey {
		return 0, fmt.Errorf("the name is reserved for metadata")
	}
	if !e.DType.valid() {
		return 0, fmt.Errorf("unknown %v", e.DType)
	}
	if len(e.Shape) > maxRank {
		return 0, fmt.Errorf("the shape has %d dimensions, at most %d are allowed", len(e.Shape), maxRank)
	}
	for _, dim := range e.Shape {
		if dim < 0 || dim > maxInt {
			return 0, fmt.Errorf("dimension %d of shape %v is not from 0 to 2^53", dim, e.Shape)
		}
	}
	_, size, err := sizeOf(e.DType, e.Shape)
	if err != nil {
		return 0, err
	}
	if size > maxInt {
		return 0, fmt.Errorf("%v of shape %v takes %d bytes, over 2^53", e.DType, e.Shape, size)
	}
	return size, nil
}

// encodeHeader writes the header as serde_json does for the reference: no
// spaces, keys dtype, shape, data_offsets, tensors in file order, and only the
// escapes that JSON demands. JSON and padding may have limit bytes.
func (l *Layout) encodeHeader(metadata map[string]string, limit int) error {
	b := make([]byte, lenSize, lenSize+128*len(l.tensors)+2)
	b = append(b, '{')
	if len(metadata) > maxMetadata {
		return fmt.Errorf("safetensors: lay out metadata: %d keys, at most %d are allowed", len(metadata), maxMetadata)
	}
	if metadata != nil {
		b = append(b, `"`+metadataKey+`":{`...)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b = append(b, ',')
			}
			if !utf8.ValidString(k) || !utf8.ValidString(metadata[k]) {
				return fmt.Errorf("safetensors: lay out metadata: key %s or its value is not UTF-8", quote(k))
			}
			b = appendString(b, k)
			b = append(b, ':')
			b = appendString(b, metadata[k])
		}
		b = append(b, '}')
	}
	for i := range l.tensors {
		t := &l.tensors[i]
		if i > 0 || metadata != nil {
			b = append(b, ',')
		}
		b = appendString(b, t.Name)
		b = append(b, `:{"dtype":"`...)
		b = append(b, t.DType.String()...)
		b = append(b, `","shape":[`...)
		for j, dim := range t.Shape {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, dim, 10)
		}
		b = append(b, `],"data_offsets":[`...)
		b = strconv.AppendInt(b, t.Offset, 10)
		b = append(b, ',')
		b = strconv.AppendInt(b, t.Offset+t.Size, 10)
		b = append(b, "]}"...)
		if len(b)-lenSize > limit {
			break
		}
	}
	b = append(b, '}')
	for len(b)%headerAlign != 0 {
		b = append(b, ' ')
	}
	if len(b)-lenSize > limit {
		return fmt.Errorf("safetensors: lay out %d tensors: %w", len(l.tensors), ErrHeaderTooLarge)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-lenSize))
	l.header = b
	return nil
}

// appendString quotes valid UTF-8.
func appendString(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		panic("safetensors: internal error: " + err.Error())
	}
	return b
}

// Size returns the size of the whole file in bytes.
func (l *Layout) Size() int64 { return l.size }

// Header returns the first bytes of the file, up to the first tensor: length,
// JSON and padding. It must not be changed.
func (l *Layout) Header() []byte { return l.header }

// Tensors returns the tensors in the order of the file. It must not be changed.
func (l *Layout) Tensors() []Placement { return l.tensors }

// Offset returns the place of a tensor's first byte, counted from the start of
// the file, and its size in bytes; ok is false if there is none of that name.
func (l *Layout) Offset(name string) (abs, size int64, ok bool) {
	i, ok := l.byName[name]
	if !ok {
		return 0, 0, false
	}
	return l.tensors[i].Offset, l.tensors[i].Size, true
}
