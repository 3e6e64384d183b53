package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/remote/standin"
)

// bucketEnv is the environment by which a stand-in is the store of each scheme.
func bucketEnv(b *standin.Bucket) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL": b.URL, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret",
		"STORAGE_EMULATOR_HOST":       b.URL,
		"AZURE_STORAGE_BLOB_ENDPOINT": b.URL, "AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_SAS_TOKEN": "sig=a%2Bb",
	}
}

func openDestination(t *testing.T, b *standin.Bucket, dst string) *Destination {
	t.Helper()
	t.Cleanup(b.Start())
	d, err := OpenDestination(t.Context(), dst, optionsOf(t, bucketEnv(b)))
	if err != nil {
		t.Fatal(err)
	}
	d.partSize = 1000
	return d
}

func data(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * i >> 3)
	}
	return p
}

// TestDestination: what is put is there, in whatever parts, listed as Put says, and can be removed.
func TestDestination(t *testing.T) {
	for name, b := range map[string]*standin.Bucket{
		"s3": {Name: "data"}, "s3, with ETags that are no digests": {Name: "data", Tags: "kms"}, "gs": {Name: "data"}, "azblob": {Name: "data", Azure: true},
	} {
		t.Run(name, func(t *testing.T) {
			scheme, _, _ := strings.Cut(name, ",")
			d := openDestination(t, b, scheme+"://data/models/x/")
			if d.String() != scheme+"://data/models/x" {
				t.Errorf("called %s", d)
			}
			for _, n := range []int{0, 1, 999, 1000, 1001, 2000, 5001, 12_345} {
				rel := fmt.Sprintf("a b+c=&/%d.bin", n)
				got, err := d.Put(rel, bytes.NewReader(data(n)), int64(n))
				if err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				files, err := d.List()
				if err != nil || files[rel] != got || got.ID == "" || got.Size != int64(n) {
					t.Errorf("%d bytes: put as %v, listed as %v, %v", n, got, files[rel], err)
				}
				if !bytes.Equal(b.Objects["models/x/"+rel], data(n)) {
					t.Errorf("%d bytes: others have arrived", n)
				}
				for range 2 { // the second time there is nothing
					if err := d.Remove(rel); err != nil {
						t.Error(err)
					}
				}
			}
			if len(b.Objects) > 0 || b.Uploads() > 0 {
				t.Errorf("left: %d objects, %d uploads", len(b.Objects), b.Uploads())
			}
		})
	}
}

// TestDestinationFaults: what goes wrong on the way is tried again where that may help; what is there in the end is never taken for what
// was sent if it is not, and an upload in parts that fails is taken back.
func TestDestinationFaults(t *testing.T) {
	size := int64(4500)
	var n atomic.Int64
	once := func(r *http.Request, method, has string) bool {
		return r.Method == method && strings.Contains(r.URL.RawQuery, has) && n.Add(1) == 1
	}
	for name, c := range map[string]struct {
		size int64
		meet func(b *standin.Bucket, w http.ResponseWriter, r *http.Request) bool
		want string
	}{
		"busy": {size, func(_ *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if n.Add(1)%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}, ""},
		"always busy": {size, func(_ *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return r.Method == http.MethodPut
		}, "s3://data/x/f: the answer 503 Service Unavailable, 6 times in a row"},
		"a lost answer to the last request": {size, func(b *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if once(r, http.MethodPost, "uploadId=") {
				b.Meet = nil
				inner := &bytes.Buffer{}
				req, _ := http.NewRequest(r.Method, b.URL+r.URL.RequestURI(), r.Body)
				req.Header = r.Header
				if resp, err := http.DefaultClient.Do(req); err == nil {
					_, _ = inner.ReadFrom(resp.Body)
					_ = resp.Body.Close()
				}
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		}, ""},
		"an error that comes as a success": {size, func(_ *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if once(r, http.MethodPost, "uploadId=") {
				fmt.Fprint(w, "<Error><Code>InternalError</Code></Error>")
				return true
			}
			return false
		}, ""},
		"no such upload any more": {size, func(b *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.Contains(r.URL.RawQuery, "uploadId=") {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		}, "s3://data/x/f: expected the file that was sent, found none"},
		"no rights": {size, func(_ *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, "<Error><Code>AccessDenied</Code></Error>")
			}
			return r.Method == http.MethodPut
		}, "s3://data/x/f: the answer 403 Forbidden: AccessDenied"},
		"cut": {900, func(b *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && b.Objects["x/f"] != nil {
				b.Objects["x/f"] = b.Objects["x/f"][:800]
			}
			return false
		}, "s3://data/x/f: expected the 900 bytes that were sent, found 800"},
		"other bytes, and an ETag that says nothing": {900, func(b *standin.Bucket, w http.ResponseWriter, r *http.Request) bool {
			if o := b.Objects["x/f"]; r.Method == http.MethodGet && o != nil {
				o[850] = ^data(900)[850]
			}
			return false
		}, "s3://data/x/f: expected the bytes that were sent, found others from 0 on"},
	} {
		t.Run(name, func(t *testing.T) {
			n.Store(0)
			b := &standin.Bucket{Name: "data"}
			if strings.Contains(name, "says nothing") {
				b.Tags = "kms"
			}
			d := openDestination(t, b, "s3://data/x")
			b.Meet = func(w http.ResponseWriter, r *http.Request) bool { return c.meet(b, w, r) }
			got, err := d.Put("f", bytes.NewReader(data(int(c.size))), c.size)
			switch {
			case c.want == "" && (err != nil || got.Size != c.size || !bytes.Equal(b.Objects["x/f"], data(int(c.size)))):
				t.Errorf("%v, %v; want it made up for", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v; want one with %q", err, c.want)
			}
			if b.Uploads() > 0 && name != "no such upload any more" { // which is not true of the stand-in
				t.Error("an upload in parts was left behind")
			}
		})
	}
}

// TestDestinationCanceled: what was begun is taken back after the end of the run, too.
func TestDestinationCanceled(t *testing.T) {
	b := &standin.Bucket{Name: "data"}
	t.Cleanup(b.Start())
	ctx, cancel := context.WithCancel(t.Context())
	b.Meet = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body) // else nobody notices the client's end
			<-r.Context().Done()
			return true
		}
		return false
	}
	d, err := OpenDestination(ctx, "s3://data/x", optionsOf(t, bucketEnv(b)))
	if err != nil {
		t.Fatal(err)
	}
	d.partSize = 1000
	if _, err := d.Put("f", bytes.NewReader(data(5000)), 5000); err == nil || ctx.Err() == nil {
		t.Errorf("error %v", err)
	}
	if _, err := d.List(); err != nil || b.Uploads() > 0 {
		t.Errorf("%d uploads left, %v", b.Uploads(), err)
	}
}

// TestNoDestination: what cannot be written to says what can.
func TestNoDestination(t *testing.T) {
	b := &standin.Bucket{Name: "data"}
	t.Cleanup(b.Start())
	for dst, want := range map[string]string{
		"hf://org/name":           "expected a directory of this machine, or s3://, gs:// or azblob://BUCKET/FOLDER, to write to, found a hub",
		"https://host/x":          "found a web server",
		"ftp://host/x":            "expected a local path, or one of",
		"s3://data":               "found no folder",
		"s3://data/":              "found no folder",
		"s3://data/m.safetensors": "found no folder",
		"s3://data/a/../b":        "another address",
		"s3://other/x":            "no such bucket",
	} {
		if LocalPath(dst) != "" {
			t.Errorf("%s is a path", dst)
		}
		if _, err := OpenDestination(t.Context(), dst, optionsOf(t, bucketEnv(b))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v; want %q", dst, err, want)
		}
	}
	for dst, want := range map[string]string{"out": "out", "org/name": "org/name", "file:///a/b": "/a/b", "c:/x": "c:/x"} {
		if got := LocalPath(dst); got != want {
			t.Errorf("%s: path %q; want %q", dst, got, want)
		}
	}
}

var _ checkpoint.Store = (*Destination)(nil)
