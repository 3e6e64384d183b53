package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConsumeReadOnly: a source that nothing may be removed from is refused before anything is begun.
func TestConsumeReadOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"model.safetensors": string(consumable("a"))})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := tree(t, dir)
	if err := s.CheckConsumable(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("the question has left something (-before +after):\n%s", diff)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	if f, err := os.CreateTemp(dir, "x"); err == nil {
		_ = f.Close()
		t.Skip("whoever runs this may write everywhere")
	}
	if err := s.CheckConsumable(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

// TestConsume: a shard that is used up has its header and its identity, and no weights; of the whole nothing is left.
func TestConsume(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"model-00001-of-00002.safetensors": string(consumable("a")), "model-00002-of-00002.safetensors": string(consumable("b")),
		"model.safetensors.index.json": `{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Shards[0].ContentID()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.CheckConsumable(), s.Consume(s.Shards[0]), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sh := s.Shards[0]
	if again, err := sh.ContentID(); err != nil || again != id || !sh.Consumed() || s.Shards[1].Consumed() {
		t.Errorf("identity %q, was %q; %v", again, id, err)
	}
	var in *InputError
	x, _ := s.Lookup("a")
	if _, err := x.ReadAt(make([]byte, 2), 0); !errors.As(err, &in) {
		t.Errorf("reading: %v", err)
	}
	if err := errors.Join(s.CheckConsumable(), s.Consume(sh), s.Discard()); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left %v", left)
	}
	for _, bad := range []string{"", "short", string(consumable("a")), string(bytes.TrimSuffix(consumable("a"), []byte{1, 2})) + "x y\n"} {
		if err := os.WriteFile(filepath.Join(dir, "model-00001-of-00002.safetensors"+consumedSuffix), []byte(bad), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.As(err, &in) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// consumable is a file of one tensor of two bytes.
func consumable(name string) []byte {
	header := []byte(`{"` + name + `":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), 1, 2)
}

// FuzzConsumed: whatever such a file holds, its header lies in it.
func FuzzConsumed(f *testing.F) {
	f.Add(append(bytes.TrimSuffix(consumable("a"), []byte{1, 2}), "60 changed\n"...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, size, ok := parseConsumed(raw)
		if ok && (!bytes.HasPrefix(raw, c.header) || size < int64(len(c.header)) || c.id == "") {
			t.Fatalf("%d bytes of header, size %d, identity %q", len(c.header), size, c.id)
		}
	})
}
