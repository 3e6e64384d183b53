// Package golden reads the vectors made by the real bitsandbytes. See README.md for what they are.
package golden

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

//go:embed bitsandbytes.safetensors.zst
var compressed []byte

// File is the set of tensors by name.
type File map[string][]byte

var load = sync.OnceValues(func() (File, error) {
	d, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	raw, err := io.ReadAll(d)
	if err != nil {
		return nil, err
	}
	header, data := raw[8:], raw[8:]
	n := binary.LittleEndian.Uint64(raw)
	header, data = header[:n], data[n:]
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(header, &entries); err != nil {
		return nil, err
	}
	delete(entries, "__metadata__")
	f := make(File, len(entries))
	for name, e := range entries {
		var t struct {
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(e, &t); err != nil {
			return nil, err
		}
		f[name] = data[t.Offsets[0]:t.Offsets[1]:t.Offsets[1]]
	}
	return f, nil
})

// Load returns the vectors. They are shared by all tests and must not be changed.
func Load(t testing.TB) File {
	t.Helper()
	f, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Names returns the names that start with prefix and end with suffix, sorted, without the two.
func (f File) Names(t testing.TB, prefix, suffix string) []string {
	t.Helper()
	var names []string
	for name := range f {
		if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			names = append(names, name[len(prefix):len(name)-len(suffix)])
		}
	}
	if len(names) == 0 {
		t.Fatalf("no golden tensor is named %s*%s", prefix, suffix)
	}
	sort.Strings(names)
	return names
}

// Bytes returns the bytes of a tensor.
func (f File) Bytes(t testing.TB, name string) []byte {
	t.Helper()
	b, ok := f[name]
	if !ok {
		t.Fatalf("no golden tensor is named %s", name)
	}
	return b
}

// Float32s returns the values of a float32 tensor.
func (f File) Float32s(t testing.TB, name string) []float32 {
	t.Helper()
	b := f.Bytes(t, name)
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}
