package safetensors_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A layout is made first; then the bytes of the tensors come in any order.
func Example() {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "model.safetensors")

	layout, err := safetensors.NewLayout([]safetensors.Entry{
		{Name: "norm.weight", DType: safetensors.BF16, Shape: []int64{2}},
		{Name: "proj.weight", DType: safetensors.F32, Shape: []int64{1, 2}},
	}, map[string]string{"format": "pt"})
	if err != nil {
		log.Fatal(err)
	}
	w, err := safetensors.Create(name, layout)
	if err != nil {
		log.Fatal(err)
	}
	w.WriteAt("norm.weight", []byte{0x80, 0x3f, 0x00, 0x40}, 0) // 1, 2
	w.WriteAt("proj.weight", []byte{0x00, 0x00, 0x80, 0xbf}, 4) // second element: -1
	w.WriteAt("proj.weight", []byte{0x00, 0x00, 0x00, 0x3f}, 0) // first element: 0.5
	if err := w.Close(); err != nil {                           // errors of WriteAt come again
		log.Fatal(err)
	}

	f, err := safetensors.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Metadata())
	for _, t := range f.Tensors() {
		data, err := io.ReadAll(t.Section())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %v%v at %d: %x\n", t.Name, t.DType, t.Shape, t.Offset(), data)
	}
	// Output:
	// map[format:pt]
	// proj.weight F32[1 2] at 176: 0000003f000080bf
	// norm.weight BF16[2] at 184: 803f0040
}

// A reader needs no file: anything with ReadAt and a size will do.
func ExampleNewReader() {
	file := strings.NewReader("\x3b\x00\x00\x00\x00\x00\x00\x00" +
		`{"a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}    ` + "\x01\x02\x03\x04")
	r, err := safetensors.NewReader(file, file.Size())
	if err != nil {
		log.Fatal(err)
	}
	second := make([]byte, 2)
	if _, err := r.Lookup("a").ReadAt(second, 2); err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Lookup("a").Shape, second)
	// Output: [2 2] [3 4]
}

// The type of an error says whether a file is broken or only too new.
func ExampleFormatError() {
	for _, header := range []string{
		`{"w":{"dtype":"F16","shape":[8,2],"data_offsets":[0,30]}}`,
		`{"w":{"dtype":"F128","shape":[2],"data_offsets":[0,32]}}`,
	} {
		file := strings.NewReader(string(rune(len(header))) + "\x00\x00\x00\x00\x00\x00\x00" + header + strings.Repeat("\x00", 32))
		_, err := safetensors.NewReader(file, file.Size())
		if e, ok := errors.AsType[*safetensors.FormatError](err); ok {
			fmt.Println("broken:", e.Tensor, e.Msg)
		}
		if e, ok := errors.AsType[*safetensors.UnsupportedError](err); ok {
			fmt.Println("too new:", e.Tensor, e.DType)
		}
	}
	// Output:
	// broken: w F16 of shape [8 2] takes 32 bytes, data_offsets [0 30] give it 30
	// too new: w F128
}

// A layout says where everything goes and how large the file becomes before a
// byte is written.
func ExampleNewLayout() {
	layout, err := safetensors.NewLayout([]safetensors.Entry{
		{Name: "codes", DType: safetensors.U8, Shape: []int64{2048, 1}},
		{Name: "absmax", DType: safetensors.F32, Shape: []int64{64}},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range layout.Tensors() {
		fmt.Println(t.Name, t.Offset, t.Size)
	}
	fmt.Println("file", layout.Size())
	// Output:
	// absmax 136 256
	// codes 392 2048
	// file 2440
}
