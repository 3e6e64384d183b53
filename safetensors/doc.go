// Package safetensors reads and writes the safetensors file format as a
// stream: tensors are sections of a file, never a copy of it in memory.
//
// # The common use
//
// [Open] a file, look a tensor up and read what is wanted of it; to write one, say what it will hold, [Create] it, write
// the tensors in any order and close it:
//
//	f, err := safetensors.Open("model.safetensors")
//	n, err := f.Lookup("lm_head.weight").ReadAt(buf, 0)
//
//	layout, err := safetensors.NewLayout([]safetensors.Entry{{Name: "x", DType: safetensors.F32, Shape: []int64{2}}}, nil)
//	w, err := safetensors.Create("out.safetensors", layout)
//	err = w.WriteAt("x", data, 0)
//	err = w.Close()
//
// # The format
//
// A file is, in this order and with nothing between or after:
//
//   - 8 bytes: the length of the header, an unsigned little-endian integer of at
//     most 100,000,000;
//   - the header: one JSON object in UTF-8, which begins with '{' and may end in
//     white space. The reference serializer pads it with spaces to a multiple of
//     8 bytes, so that the data begins aligned;
//   - the data: the elements of every tensor, little-endian, row-major and
//     contiguous. The tensors cover it without gap or overlap.
//
// Each member of the header's object is a tensor: its name and
//
//	{"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [0, 33554432]}
//
// where data_offsets are the begin and the end of its bytes, counted from the
// end of the header. A shape of no dimensions is a scalar, of one element; a
// dimension of 0 makes an empty tensor, of no bytes. The member __metadata__ is
// not a tensor but free text, an object of strings. For the definition see
// https://github.com/huggingface/safetensors#format.
//
// The reference serializer orders tensors by dtype, the last of the [DType]
// constants first, then by the bytes of their names. Because the constants
// ascend in width, BOOL apart, every tensor begins at a multiple of its element's size.
//
// # Reading
//
// [Open] or [NewReader] reads the header, checks all of it against the size of
// the file and gives a [Reader]. A tensor's bytes are then read with
// [Tensor.ReadAt] or [Tensor.Section]; nothing is cached. What a header says is
// compared with the file's real size before memory is taken on its word; what it
// takes is in proportion to the header's bytes, about three times them for a
// model of 100,000 tensors, and nothing for the data.
//
// A file that is wrong gives a [*FormatError], a dtype that this package does
// not know an [*UnsupportedError]. What the reference implementation (0.8.0)
// refuses is refused here. In addition, these are refused though the reference
// accepts them:
//
//   - a tensor's name, or a key of __metadata__, that appears twice. The reference
//     keeps the last, another reader may keep the first;
//   - white space before the '{', which the format forbids;
//   - a tensor's entry with keys other than the three, or written as an array;
//   - more than 64 dimensions, or more than 65,536 keys of __metadata__;
//   - a dimension over 2^53, which readers of JSON numbers as float64 round. It
//     could only stand beside a dimension of 0.
//
// # Writing
//
// [NewLayout] takes the names, types and shapes of all tensors and decides every
// byte's place; its header is byte for byte the reference serializer's. A
// [Writer] then takes the data in any order, from any number of goroutines, and
// [Writer.Close] fails if a byte is missing. [Create] makes one of a file on disk,
// [WriteFile] a whole file of what is in memory. With several keys of metadata the
// reference writes them in a random order, this package in ascending order.
//
// The package knows nothing of what the numbers mean: it converts no element,
// and quantization is not its business.
package safetensors
