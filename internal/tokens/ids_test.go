package tokens

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// array is a safetensors file with one tensor.
func array(t testing.TB, name string, d safetensors.DType, shape []int64, data []byte) string {
	t.Helper()
	l, err := safetensors.NewLayout([]safetensors.Entry{{Name: name, DType: d, Shape: shape}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(l.Header()) + string(data)
}

// numpy is what numpy 2 saves: np.save(f, np.array(ids, dtype)).
func numpy(header string, data []byte) string {
	h := header + strings.Repeat(" ", 117-len(header)) + "\n"
	return "\x93NUMPY\x01\x00" + string(binary.LittleEndian.AppendUint16(nil, uint16(len(h)))) + h + string(data)
}

// saved is a file of numpy 2.4: np.save(f, np.array([[1, 2, 3], [4, 5, 6]])).
const saved = "k05VTVBZAQB2AHsnZGVzY3InOiAnPGk4JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDIsIDMpLCB9ICAgICAgICAgICAgICAgICAgICAg" +
	"ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoBAAAAAAAAAAIAAAAAAAAAAwAAAAAAAAAEAAAAAAAAAAUAAAAAAAAABgAAAAAAAAA="

func TestReadIDs(t *testing.T) {
	real, err := base64.StdEncoding.DecodeString(saved)
	if err != nil {
		t.Fatal(err)
	}
	i32 := []byte{7, 0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 0, 5, 0, 0, 0}
	for i, c := range []struct {
		name, file string
		want       [][]int32
		wrong      string // "" if it is read
	}{
		{"a.json", "[1, 2, 3]", [][]int32{{1, 2, 3}}, ""},
		{"a.json", "[[1, 2], [3]]", [][]int32{{1, 2}, {3}}, ""},
		{"a.json", "[[1, 2], []]", [][]int32{{1, 2}, nil}, ""},
		{"a.json", "[]", nil, "none"},
		{"a.json", "[[]]", nil, "none"},
		{"a.json", "[1, 300]", nil, "sequence 0, token 1: expected an id from 0 to 299, found 300"},
		{"a.json", "[[1], [0, -1]]", nil, "sequence 1, token 1: expected an id from 0 to 299, found -1"},
		{"a.json", "[1, [2]]", nil, "both"},
		{"a.json", "[[2], 1]", nil, "both"},
		{"a.json", "[[[1]]]", nil, "or of such arrays"},
		{"a.json", "[1.5]", nil, "1.5"},
		{"a.json", `["1"]`, nil, "byte 4"},
		{"a.json", "[1] 2", nil, "the end of the file"},
		{"a.json", "[1", nil, "found EOF"},
		{"a.json", "7", nil, "byte 1"},
		{"a.txt", "[1]", nil, `".txt"`},
		{"a.npy", string(real), [][]int32{{1, 2, 3}, {4, 5, 6}}, ""},
		{"a.npy", numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }", i32), [][]int32{{7, 9, 257, 5}}, ""},
		{"a.npy", numpy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }", []byte{1, 2, 3, 255}), [][]int32{{1, 2}, {3, 255}}, ""},
		{"a.npy", numpy("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 2), }", i32), nil, "C order"},
		{"a.npy", numpy("{'descr': '>i4', 'fortran_order': False, 'shape': (4,), }", i32), nil, "little-endian"},
		{"a.npy", numpy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", i32), nil, "integers"},
		{"a.npy", numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (5,), }", i32), nil, "bytes"},
		{"a.npy", numpy("{'descr': '<i8', 'fortran_order': False, 'shape': (2147483647, 2147483647, 2147483647), }", i32), nil, "bytes"},
		{"a.npy", numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2, 2), }", i32), nil, "dimensions"},
		{"a.npy", numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (), }", i32), nil, "dimensions"},
		{"a.npy", "\x93NUMPY\x01\x00\xff\xff{'descr'", nil, "NumPy"},
		{"a.npy", "\x93NUM", nil, "NumPy"},
		{"a.safetensors", array(t, "tokens", safetensors.I32, []int64{4}, i32), [][]int32{{7, 9, 257, 5}}, ""},
		{"a.safetensors", array(t, "tokens", safetensors.I32, []int64{2, 2}, i32), [][]int32{{7, 9}, {257, 5}}, ""},
		{"a.safetensors", array(t, "tokens", safetensors.U16, []int64{8}, i32), [][]int32{{7, 0, 9, 0, 257, 0, 5, 0}}, ""},
		{"a.safetensors", array(t, "tokens", safetensors.I64, []int64{2}, i32), nil, "found 38654705671"},
		{"a.safetensors", array(t, "tokens", safetensors.I8, []int64{1}, []byte{0xff}), nil, "found -1"},
		{"a.safetensors", array(t, "tokens", safetensors.U64, []int64{1}, []byte{255, 255, 255, 255, 255, 255, 255, 255}), nil, "found 9223372036854775807"},
		{"a.safetensors", array(t, "tokens", safetensors.F32, []int64{4}, i32), nil, "integers"},
		{"a.safetensors", array(t, "tokens", safetensors.I32, []int64{0}, nil), nil, "none"},
		{"a.safetensors", array(t, "ids", safetensors.I32, []int64{4}, i32), nil, `"tokens"`},
	} {
		t.Run(fmt.Sprint(i, c.name), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.name)
			if err := os.WriteFile(path, []byte(c.file), 0o666); err != nil {
				t.Fatal(err)
			}
			got, err := ReadIDs(path, 300)
			if c.wrong == "" {
				if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
					t.Errorf("error %v, ids (-want +got)\n%s", err, diff)
				}
				return
			}
			var input *checkpoint.InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("error %v, want an InputError with %q", err, c.wrong)
			}
		})
	}
}

// FuzzNumPy: no header makes it panic, or give ids that are not of the file.
func FuzzNumPy(f *testing.F) {
	f.Add([]byte(numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1), }", []byte{7, 0, 0, 0})))
	f.Add([]byte("\x93NUMPY\x02\x00\x10\x00\x00\x00{'descr': '<i1'"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(dir, "a.npy")
		if err := os.WriteFile(path, raw, 0o666); err != nil {
			t.Fatal(err)
		}
		ids, err := ReadIDs(path, 1<<31-1)
		n := 0
		for _, row := range ids {
			n += len(row)
		}
		if err == nil && n > len(raw) {
			t.Errorf("%d ids of %d bytes", n, len(raw))
		}
	})
}
