package archive

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/stream"
)

// The seek table of zstd's seekable format (contrib/seekable_format/zstd_seekable_compression_format.md): a skippable frame at
// the end of the file, with the sizes of all frames before it, and at its own end a footer by which it is found.
const (
	skippableMagic = 0x184D2A5E
	seekableMagic  = 0x8F92EAB1
	skippableHead  = 8 // magic number and length of what follows
	footerSize     = 9 // number of frames, flags, magic number
	entrySize      = 8 // compressed and decompressed size
	checksumSize   = 4 // after them, where the flags say so

	checksumFlag = 0x80
	reservedBits = 0x7c
)

// Limits of what is read. maxFrame is what one frame may hold, maxTable what the seek table may take.
const (
	maxFrame = 16 << 20
	maxTable = 128 << 20
)

// A table says where the frames of a file lie: frame i is packed[i] to packed[i+1] of the file, and plain[i] to plain[i+1] of what it
// holds.
type table struct {
	packed, plain []int64
	largest       int64 // of a frame, decompressed
}

func (t *table) frames() int { return len(t.packed) - 1 }

// size is that of what the file holds.
func (t *table) size() int64 { return t.plain[t.frames()] }

// find is the frame that has the byte at off.
func (t *table) find(off int64) int {
	return sort.Search(t.frames(), func(i int) bool { return t.plain[i+1] > off })
}

// appendTable appends the seek table for frames of these sizes, compressed and decompressed in turn.
func appendTable(b []byte, sizes []uint32) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, skippableMagic)
	b = le.AppendUint32(b, uint32(4*len(sizes)+footerSize))
	for _, n := range sizes {
		b = le.AppendUint32(b, n)
	}
	b = le.AppendUint32(b, uint32(len(sizes)/2))
	return le.AppendUint32(append(b, 0), seekableMagic)
}

// readTable reads the seek table at the end of a file of size bytes. What is wrong is a *checkpoint.InputError.
func readTable(name string, r io.ReaderAt, size int64) (*table, error) {
	bad := func(expected, found string) error {
		return &checkpoint.InputError{File: name, Expected: expected, Found: found, Hint: truncatedHint}
	}
	if size < skippableHead+footerSize {
		return nil, bad("a packed checkpoint", fmt.Sprintf("%d bytes", size))
	}
	var foot [footerSize]byte
	if err := stream.ReadFull(r, foot[:], size-footerSize); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	le := binary.LittleEndian
	if le.Uint32(foot[5:]) != seekableMagic {
		return nil, &checkpoint.InputError{File: name, Expected: "the seek table of a packed checkpoint at the end", Found: "other bytes",
			Hint: "it ends early, or nf4kit pack has not made it: tar --zstd -xf unpacks what others made"}
	}
	if foot[4]&reservedBits != 0 {
		return nil, bad("a seek table without further features", fmt.Sprintf("flags %#02x", foot[4]))
	}
	each := int64(entrySize)
	if foot[4]&checksumFlag != 0 {
		each += checksumSize
	}
	n := int64(le.Uint32(foot[:]))
	length := skippableHead + n*each + footerSize
	if length > min(size, maxTable) {
		return nil, bad(fmt.Sprintf("a seek table within the file's %d bytes, of at most %d", size, maxTable), fmt.Sprintf("one of %d bytes for %d frames", length, n))
	}
	raw := make([]byte, length-footerSize)
	if err := stream.ReadFull(r, raw, size-length); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if le.Uint32(raw) != skippableMagic || int64(le.Uint32(raw[4:])) != length-skippableHead {
		return nil, bad("a skippable frame with the seek table", "other bytes in its place")
	}
	t := &table{packed: make([]int64, n+1), plain: make([]int64, n+1)}
	for i := range n {
		e := raw[skippableHead+i*each:]
		packed, plain := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		// A frame that cannot be compressed is stored, in blocks of 128 KiB of three bytes each.
		if plain > maxFrame || plain > 0 && packed > plain+plain>>8+64 {
			return nil, &checkpoint.InputError{File: name, Expected: fmt.Sprintf("frames of at most %d bytes, that compression makes no larger", maxFrame),
				Found: fmt.Sprintf("frame %d with %d bytes for %d", i, packed, plain), Hint: "nf4kit pack has not made it: tar --zstd -xf unpacks what others made"}
		}
		t.packed[i+1], t.plain[i+1] = t.packed[i]+packed, t.plain[i]+plain
		t.largest = max(t.largest, plain)
	}
	if end := t.packed[n]; end != size-length {
		return nil, bad(fmt.Sprintf("%d bytes of frames", end), fmt.Sprint(size-length))
	}
	return t, nil
}

const truncatedHint = "the file is damaged or not whole: copy it again"
