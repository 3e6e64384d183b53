package tokens

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// MaxIDs is how many ids a file may have.
const MaxIDs = 1 << 26

// TensorName is the tensor that holds the ids of a safetensors file.
const TensorName = "tokens"

// ReadIDs reads sequences of ids from a file: a safetensors file with an integer tensor "tokens" of one or two dimensions, a
// NumPy array of the same, or JSON, an array of ids or of such arrays; which of them is told by the extension .safetensors,
// .npy or .json. Ids are 0 or more and less than vocab; what is wrong is a [*checkpoint.InputError] that names the first.
func ReadIDs(path string, vocab int) ([][]int32, error) {
	var ids [][]int32
	var err error
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".safetensors":
		ids, err = readSafetensors(path, vocab)
	case ".npy":
		ids, err = readNumPy(path, vocab)
	case ".json":
		ids, err = readJSON(path, vocab)
	default:
		return nil, idsError(path, "", "a name that ends in .safetensors, .npy or .json", fmt.Sprintf("%q", ext))
	}
	if err != nil {
		return nil, err
	}
	for _, row := range ids {
		if len(row) > 0 {
			return ids, nil
		}
	}
	return nil, idsError(path, "", "ids of tokens", "none")
}

func idsError(path, where, expected, found string) error {
	return &checkpoint.InputError{File: path, Tensor: where, Expected: expected, Found: found,
		Hint: "a file of ids is safetensors with an integer tensor \"tokens\" of one or two dimensions, .npy of the same, or a JSON array"}
}

// checkID holds the id at a place to the vocabulary.
func checkID(path string, id int64, row, at, vocab int) error {
	if id >= 0 && id < int64(vocab) {
		return nil
	}
	return &checkpoint.InputError{File: path, Tensor: fmt.Sprintf("sequence %d, token %d", row, at), Expected: fmt.Sprintf("an id from 0 to %d", vocab-1),
		Found: strconv.FormatInt(id, 10), Hint: "the ids are of another model's tokenizer"}
}

// An integer is the element of an array: its size in bytes, and whether it has a sign.
type integer struct {
	size   int
	signed bool
}

var dtypes = map[safetensors.DType]integer{
	safetensors.I8: {1, true}, safetensors.U8: {1, false}, safetensors.I16: {2, true}, safetensors.U16: {2, false},
	safetensors.I32: {4, true}, safetensors.U32: {4, false}, safetensors.I64: {8, true}, safetensors.U64: {8, false},
}

// at reads an integer; one that an int64 does not hold is its largest.
func (e integer) at(b []byte) int64 {
	switch e {
	case integer{1, true}:
		return int64(int8(b[0]))
	case integer{1, false}:
		return int64(b[0])
	case integer{2, true}:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case integer{2, false}:
		return int64(binary.LittleEndian.Uint16(b))
	case integer{4, true}:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	case integer{4, false}:
		return int64(binary.LittleEndian.Uint32(b))
	case integer{8, true}:
		return int64(binary.LittleEndian.Uint64(b))
	}
	return int64(min(binary.LittleEndian.Uint64(b), math.MaxInt64))
}

func readSafetensors(path string, vocab int) ([][]int32, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	defer f.Close()
	t := f.Lookup(TensorName)
	if t == nil {
		return nil, idsError(path, "", fmt.Sprintf("a tensor %q", TensorName), "none of that name")
	}
	e, ok := dtypes[t.DType]
	if !ok {
		return nil, idsError(path, TensorName, "integers", t.DType.String())
	}
	return readArray(path, io.NewSectionReader(t, 0, t.Size()), t.Shape, e, vocab)
}

// readArray reads the elements of an array of one or two dimensions from r, which has as many.
func readArray(path string, r io.Reader, shape []int64, e integer, vocab int) ([][]int32, error) {
	rows, cols := int64(1), int64(0)
	switch len(shape) {
	case 1:
		cols = shape[0]
	case 2:
		rows, cols = shape[0], shape[1]
	default:
		return nil, idsError(path, "", "one or two dimensions", fmt.Sprintf("shape %v", shape))
	}
	if cols > 0 && rows > MaxIDs/cols {
		return nil, idsError(path, "", fmt.Sprintf("at most %d ids", MaxIDs), fmt.Sprintf("shape %v", shape))
	}
	if cols == 0 {
		return nil, nil
	}
	all := make([]int32, rows*cols)
	buf := make([]byte, 1<<16)
	for at := 0; at < len(all); {
		b := buf[:min(len(buf), (len(all)-at)*e.size)]
		if _, err := io.ReadFull(r, b); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		for ; len(b) > 0; b = b[e.size:] {
			id := e.at(b)
			if err := checkID(path, id, at/int(cols), at%int(cols), vocab); err != nil {
				return nil, err
			}
			all[at] = int32(id)
			at++
		}
	}
	out := make([][]int32, rows)
	for i := range out {
		out[i] = all[int64(i)*cols:][:cols:cols]
	}
	return out, nil
}

// numpyHeader is the dictionary of a .npy file of integers.
var numpyHeader = regexp.MustCompile(`^\{'descr': *'([<|=>])([iu])([1248])', *'fortran_order': *(True|False), *'shape': *\(([0-9, ]*)\),? *\} *\n?$`)

func readNumPy(path string, vocab int) ([][]int32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	bad := func(expected, found string) error { return idsError(path, "", expected, found) }
	var start [12]byte
	if n, err := io.ReadFull(f, start[:]); err != nil || string(start[:6]) != "\x93NUMPY" {
		return nil, bad("a NumPy array", fmt.Sprintf("%q", start[:n]))
	}
	begin, size := 10, int(binary.LittleEndian.Uint16(start[8:]))
	if start[6] > 1 {
		begin, size = 12, int(min(binary.LittleEndian.Uint32(start[8:]), 1<<30))
	}
	if size > 1<<16 {
		return nil, bad("a header of at most 65536 bytes", strconv.Itoa(size))
	}
	header := make([]byte, size)
	if _, err := f.ReadAt(header, int64(begin)); err != nil {
		return nil, bad("the header of a NumPy array", "the end of the file")
	}
	m := numpyHeader.FindStringSubmatch(string(header))
	if m == nil {
		return nil, bad("a NumPy array of integers", strings.TrimSpace(string(header)))
	}
	if m[1] == ">" || m[4] == "True" {
		return nil, bad("little-endian integers in C order", strings.TrimSpace(string(header)))
	}
	var shape []int64
	for _, d := range strings.FieldsFunc(m[5], func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.ParseInt(d, 10, 32)
		if err != nil {
			return nil, bad("dimensions below 2^31", d)
		}
		shape = append(shape, n)
	}
	e := integer{int(m[3][0] - '0'), m[2] == "i"}
	n := int64(e.size)
	for _, d := range shape {
		if n *= d; n > info.Size() { // n was at most the file's size, and d is below 2^31
			break
		}
	}
	data := int64(begin + size)
	if data+n > info.Size() {
		return nil, bad(fmt.Sprintf("an array of shape %v", shape), fmt.Sprintf("a file of %d bytes", info.Size()))
	}
	return readArray(path, io.NewSectionReader(f, data, n), shape, e, vocab)
}

// maxJSON is the largest file of ids in JSON, some ten bytes for each.
const maxJSON = 10 * MaxIDs

func readJSON(path string, vocab int) ([][]int32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxJSON {
		return nil, errors.Join(err, idsError(path, "", fmt.Sprintf("at most %d bytes", maxJSON), "more"))
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	r := jsonIDs{path: path, vocab: vocab, d: d}
	if err := r.array(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, idsError(path, fmt.Sprintf("byte %d", d.InputOffset()), "the end of the file", "more")
	}
	return r.out, nil
}

type jsonIDs struct {
	path  string
	vocab int
	d     *json.Decoder
	out   [][]int32
	row   []int32
	total int
}

// array reads the array of ids or of arrays of ids.
func (r *jsonIDs) array() error {
	depth := 0
	for {
		t, err := r.d.Token()
		if err != nil {
			return idsError(r.path, fmt.Sprintf("byte %d", r.d.InputOffset()), "a JSON array of ids", err.Error())
		}
		number, isNumber := t.(json.Number)
		switch {
		case t == json.Delim('[') && depth < 2:
			if depth++; depth == 2 && r.row != nil {
				return r.mixed()
			}
		case t == json.Delim(']'):
			if depth == 2 || r.row != nil {
				r.out = append(r.out, r.row)
				r.row = nil
			}
			if depth--; depth == 0 {
				return nil
			}
		case isNumber && depth > 0:
			if depth == 1 && len(r.out) > 0 {
				return r.mixed()
			}
			if err := r.id(number); err != nil {
				return err
			}
		default:
			return idsError(r.path, fmt.Sprintf("byte %d", r.d.InputOffset()), "a JSON array of ids, or of such arrays", fmt.Sprint(t))
		}
	}
}

func (r *jsonIDs) mixed() error {
	return idsError(r.path, fmt.Sprintf("byte %d", r.d.InputOffset()), "ids or arrays of ids", "both in one array")
}

func (r *jsonIDs) id(number json.Number) error {
	id, err := number.Int64()
	if err != nil {
		return idsError(r.path, fmt.Sprintf("byte %d", r.d.InputOffset()), "an integer", number.String())
	}
	if err := checkID(r.path, id, len(r.out), len(r.row), r.vocab); err != nil {
		return err
	}
	if r.total++; r.total > MaxIDs {
		return idsError(r.path, "", fmt.Sprintf("at most %d ids", MaxIDs), "more")
	}
	r.row = append(r.row, int32(id))
	return nil
}
