package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/manifest"
	"github.com/nf4kit/nf4kit/safetensors"
)

// tree is the digests of all files of a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, name))
		out[name] = fmt.Sprintf("%d %x", len(raw), sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, name string, raw []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, raw, 0o666)); err != nil {
		t.Fatal(err)
	}
}

// model writes a checkpoint of one file: a tensor of n bytes, an empty one and one of 3 bytes, and side files of lengths around those of blocks.
func model(t *testing.T, n int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	l, err := safetensors.NewLayout([]safetensors.Entry{
		{Name: "a", DType: safetensors.U8, Shape: []int64{n}}, {Name: "b", DType: safetensors.U8, Shape: []int64{0}},
		{Name: "c", DType: safetensors.U8, Shape: []int64{3}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Clone(l.Header())
	r := rand.NewChaCha8([32]byte{1})
	body := make([]byte, l.Size()-int64(len(raw)))
	_, _ = r.Read(body)
	for i := range body {
		body[i] &= 0x3f // something to be compressed
	}
	write(t, filepath.Join(dir, "model.safetensors"), append(raw, body...))
	write(t, filepath.Join(dir, "config.json"), []byte(`{"model_type":"llama"}`))
	for _, n := range []int{0, 1, 511, 512, 513} {
		write(t, filepath.Join(dir, "code", fmt.Sprintf("f%d.txt", n)), make([]byte, n))
	}
	write(t, filepath.Join(dir, "code", strings.Repeat("long", 40)+".py"), []byte("x")) // a name of PAX
	write(t, filepath.Join(dir, ".hidden"), []byte("x"))
	return dir
}

func mustOpen(t *testing.T, dir string) *checkpoint.Source {
	t.Helper()
	s, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustPack(t *testing.T, dir, dst string, jobs int) *Done {
	t.Helper()
	done, err := Pack(t.Context(), mustOpen(t, dir), dst, Options{Jobs: jobs})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func openPacked(t *testing.T, name string) (*FS, error) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return NewFS(name, "test", bytes.NewReader(raw), int64(len(raw)), nil)
}

// TestRoundTrip: what is packed is read by archive/tar, by tar and by Unpack, the same bytes whatever the number of jobs.
func TestRoundTrip(t *testing.T) {
	for _, n := range []int64{1, 511, frameSize - 1, frameSize, 3*frameSize + 7} {
		dir := model(t, n)
		want := tree(t, dir)
		delete(want, ".hidden")
		out := filepath.Join(t.TempDir(), "x.tar.zst")
		mustPack(t, dir, out, 1)
		again := filepath.Join(t.TempDir(), "x.tar.zst")
		mustPack(t, dir, again, 3)
		one, _ := os.ReadFile(out)
		two, _ := os.ReadFile(again)
		if !bytes.Equal(one, two) {
			t.Errorf("n=%d: one job and three make different files", n)
		}
		f, err := openPacked(t, out)
		if err != nil {
			t.Fatal(err)
		}
		src, err := checkpoint.OpenFS(out, "", f)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "new")
		done, err := Unpack(t.Context(), src, dst, []string{out}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, tree(t, dst)); diff != "" {
			t.Errorf("n=%d: unpacked (-want +got):\n%s", n, diff)
		}
		if done.Manifest || done.Tensors != 0 || done.Of != 3 || done.Files != len(want) {
			t.Errorf("n=%d: done %+v", n, done)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(one)) // that seek tables are skipped by all
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for r := tar.NewReader(dec); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			got[strings.TrimPrefix(h.Name, "x/")] = fmt.Sprintf("%d %x", len(raw), sha256.Sum256(raw))
		}
		dec.Close()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("n=%d: archive/tar (-want +got):\n%s", n, diff)
		}
		if _, err := exec.LookPath("zstd"); err == nil {
			there := t.TempDir()
			if text, err := exec.Command("tar", "-C", there, "--zstd", "-xf", out).CombinedOutput(); err != nil || len(text) > 0 {
				t.Fatalf("tar: %v %s", err, text)
			}
			if diff := cmp.Diff(want, tree(t, filepath.Join(there, "x"))); diff != "" {
				t.Errorf("n=%d: tar (-want +got):\n%s", n, diff)
			}
		}
	}
}

// TestDecodedOnce: what is read forward, by several readers side by side, is decompressed once.
func TestDecodedOnce(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.tar.zst")
	mustPack(t, model(t, 20*frameSize), out, 0)
	f, err := openPacked(t, out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed := f.reader.decoded
	if n := int64(2 * len(f.entries)); listed > n {
		t.Errorf("%d frames were decompressed for a list of %d files", listed, len(f.entries))
	}
	in, err := f.Open("model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	e := f.files["model.safetensors"]
	done := make(chan error)
	for k := range int64(3) {
		go func() {
			b := make([]byte, 100_001)
			for off := k * int64(len(b)); off < e.size; off += 3 * int64(len(b)) {
				in.(checkpoint.Hinter).Prefetch(off, 4*frameSize)
				if n, err := in.(io.ReaderAt).ReadAt(b, off); err != nil && !(errors.Is(err, io.EOF) && off+int64(n) == e.size) {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := (e.size + frameSize - 1) / frameSize; f.reader.decoded-listed > n {
		t.Errorf("%d frames were decompressed of %d", f.reader.decoded-listed, n)
	}
}

// TestDigests: what nf4kit.json says is held against what is packed and unpacked.
func TestDigests(t *testing.T) {
	dir := model(t, 2*frameSize+5)
	src := mustOpen(t, dir)
	m := &manifest.Manifest{Tool: "test", Tensors: map[string]manifest.Digest{}, Files: map[string]manifest.Digest{"config.json": manifest.Sum(src.Config)}}
	for _, x := range src.Tensors {
		d, err := manifest.DigestOf(x, x.Size(), make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		m.Tensors[x.Name] = d
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, manifest.Name), raw)
	out := filepath.Join(t.TempDir(), "x.tar.zst")
	done := mustPack(t, dir, out, 0)
	if diff := cmp.Diff(Checked{Manifest: true, Tensors: 3, Files: 1, Of: 3}, done.Checked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	weights := filepath.Join(dir, "model.safetensors")
	good, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	for tensor, at := range map[string]int{"a": 2*frameSize + 100, "c": len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		write(t, weights, bad)
		var d *DigestError
		other := filepath.Join(t.TempDir(), "y.tar.zst")
		if _, err := Pack(t.Context(), mustOpen(t, dir), other, Options{}); !errors.As(err, &d) || d.Tensor != tensor {
			t.Errorf("%s: error %v", tensor, err)
		}
		if left, _ := filepath.Glob(filepath.Dir(other) + "/*"); len(left) > 0 {
			t.Errorf("%s: left %v", tensor, left)
		}
		// packed by somebody else, of a directory that was damaged
		write(t, other, rawArchive(t, map[string]string{"model.safetensors": string(bad), "config.json": string(src.Config), manifest.Name: string(raw)}))
		f, err := openPacked(t, other)
		if err != nil {
			t.Fatal(err)
		}
		packed, err := checkpoint.OpenFS(other, "", f)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "new")
		if _, err := Unpack(t.Context(), packed, dst, nil, Options{}); !errors.As(err, &d) || d.Tensor != tensor {
			t.Errorf("%s: error %v", tensor, err)
		}
		if left, _ := filepath.Glob(dst + "*"); len(left) > 0 {
			t.Errorf("%s: left %v", tensor, left)
		}
		_ = packed.Close()
	}
}

var encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))

// frames packs raw in frames of n bytes, without goroutines, that fuzzing would take for new ways through the code.
func frames(t testing.TB, raw []byte, n int) []byte {
	t.Helper()
	var out []byte
	var sizes []uint32
	for len(raw) > 0 {
		k := min(n, len(raw))
		before := len(out)
		out = encoder.EncodeAll(raw[:k], out)
		sizes = append(sizes, uint32(len(out)-before), uint32(k))
		raw = raw[k:]
	}
	return appendTable(out, sizes)
}

func rawArchive(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return frames(t, b.Bytes(), 100_000)
}

// TestHostileNames: what no model's archive has is refused by its header.
func TestHostileNames(t *testing.T) {
	reg := func(names ...string) (list []*tar.Header) {
		for _, n := range names {
			list = append(list, &tar.Header{Name: n})
		}
		return list
	}
	for found, headers := range map[string][]*tar.Header{
		"not a path below the directory":                                     reg("m/../../x"),
		`"/etc/passwd": not a path below the directory`:                      reg("/etc/passwd"),
		`"m/a\\b": a character that not every system allows`:                 reg(`m/a\b`),
		`"m/C:x": a character that not every system allows`:                  reg("m/C:x"),
		`"m/a": a file that is there twice`:                                  reg("m/a", "m/a"),
		`"m/A": a file beside "m/a", which some systems take`:                reg("m/a", "m/A"),
		`"m/D/x": a directory beside "m/d", which some`:                      reg("m/d/y", "m/D/x"),
		`"m/straße": a file beside "m/STRAẞE"`:                               reg("m/STRAẞE", "m/straße"),
		`"m/a/b": a file in "m/a", which is a file`:                          reg("m/a", "m/a/b"),
		`"m/a": a file in the place of a directory`:                          reg("m/a/b", "m/a"),
		`".nf4kit-journal/x": a reserved name`:                               reg(".nf4kit-journal/x"),
		`"m/l", a link to "/etc/passwd"`:                                     {{Name: "m/l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
		`"m/h", a link to "m/x"`:                                             {{Name: "m/h", Typeflag: tar.TypeLink, Linkname: "m/x"}},
		`"m/d", a device or pipe`:                                            {{Name: "m/d", Typeflag: tar.TypeChar}},
		`"m/f", a device or pipe`:                                            {{Name: "m/f", Typeflag: tar.TypeFifo}},
		"a path of 5001 bytes":                                               reg(strings.Repeat("a/", 2500) + "b"),
		"expected files, found none":                                         {{Name: "m/", Typeflag: tar.TypeDir}},
		`"m/big" within the archive's 2560 bytes, found 1000000000000 bytes`: {{Name: "m/big", Size: 1e12}},
	} {
		var b bytes.Buffer
		for _, h := range headers {
			h.Mode = 0o644
			if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		raw := frames(t, append(b.Bytes(), make([]byte, 1024)...), 1000)
		_, err := NewFS("x.tar.zst", "", bytes.NewReader(raw), int64(len(raw)), nil)
		var in *checkpoint.InputError
		if !errors.As(err, &in) || !strings.Contains(in.Error(), found) {
			t.Errorf("want %q, got %v", found, err)
		}
	}
}

// TestDamaged: a file that is cut, or of which a byte is another, or that says more than it holds, is noticed.
func TestDamaged(t *testing.T) {
	good := rawArchive(t, map[string]string{"config.json": strings.Repeat("text ", 30_000), "b": strings.Repeat("0123456789", 1000)})
	want := map[string]string{}
	read := func(raw []byte) error {
		f, err := NewFS("x", "", bytes.NewReader(raw), int64(len(raw)), nil)
		if err != nil {
			return err
		}
		defer f.Close()
		got := map[string]string{}
		for name := range f.files {
			text, err := fs.ReadFile(f, name)
			if err != nil {
				return err
			}
			got[name] = string(text)
		}
		if len(want) == 0 {
			want = got
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("other files without an error: (-want +got):\n%s", diff)
		}
		return nil
	}
	if err := read(good); err != nil || len(want) != 2 {
		t.Fatal(err)
	}
	for n := range len(good) {
		if err := read(good[:n]); err == nil {
			t.Fatalf("cut to %d of %d bytes: no error", n, len(good))
		}
	}
	var in *checkpoint.InputError
	if err := read(append([]byte{0}, good...)); !errors.As(err, &in) {
		t.Errorf("a byte before: %v", err)
	}
	noticed := 0
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if read(bad) != nil {
			noticed++
		}
	}
	if noticed < len(good)*9/10 { // but for the frame behind the end of the archive
		t.Errorf("%d of %d flipped bytes were noticed", noticed, len(good))
	}
	le := binary.LittleEndian
	sizes := func(pairs ...uint32) []byte { return appendTable(nil, pairs) }
	for what, raw := range map[string][]byte{
		"a bomb":             append(make([]byte, 40), sizes(40, 1<<30)...),
		"no frames for much": append(make([]byte, 4), sizes(4, 1<<20)...),
		"expansion":          append(make([]byte, 1000), sizes(1000, 10)...),
		"many":               le.AppendUint32(append(le.AppendUint32(make([]byte, 100), 1<<31), 0), seekableMagic),
		"flags":              le.AppendUint32(append(le.AppendUint32(make([]byte, 100), 0), 4), seekableMagic),
		"empty":              {},
	} {
		if err := read(raw); !errors.As(err, &in) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCanceled: an interrupted run leaves nothing.
func TestCanceled(t *testing.T) {
	dir := model(t, 5*frameSize)
	out := filepath.Join(t.TempDir(), "x.tar.zst")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Pack(ctx, mustOpen(t, dir), out, Options{Progress: func(string, int64) { cancel() }})
	if left, _ := filepath.Glob(out + "*"); !errors.Is(err, context.Canceled) || len(left) > 0 {
		t.Errorf("error %v, left %v", err, left)
	}
}

// FuzzFile: whatever a file holds, it is refused, or its files are read with the sizes they are listed with, or not.
func FuzzFile(f *testing.F) {
	f.Add(rawArchive(f, map[string]string{"m/a": "x", "m/b": strings.Repeat("y", 2000)}))
	f.Add(appendTable(nil, []uint32{0, 0}))
	f.Fuzz(func(t *testing.T, raw []byte) { readAll(t, raw) })
}

// FuzzTar: whatever is packed.
func FuzzTar(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: strings.Repeat("m/", 100) + "a", Size: 3, PAXRecords: map[string]string{"x.y": "z"}})
	_, _ = w.Write([]byte("abc"))
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < 1<<16 {
			readAll(t, frames(t, raw, 1000))
		}
	})
}

func readAll(t *testing.T, raw []byte) {
	f, err := NewFS("x", "", bytes.NewReader(raw), int64(len(raw)), nil)
	if err != nil {
		return
	}
	defer f.Close()
	for name, e := range f.files {
		if reason := checkpoint.UnsafeName(name); reason != "" {
			t.Fatalf("%q: %s", name, reason)
		}
		if e.size > int64(len(raw))<<16 {
			continue // compression can do that
		}
		in, err := f.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.NewSectionReader(in.(io.ReaderAt), 0, e.size)); err == nil && int64(len(got)) != e.size {
			t.Fatalf("%s: %d bytes, want %d", name, len(got), e.size)
		}
	}
}
