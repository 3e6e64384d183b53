package remote

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// objects serves the files of dir as objects below models/x/ of the container or bucket "data", one to a page of a list.
func objects(t *testing.T, dir string, azure bool, allowed func(r *http.Request) bool) *httptest.Server {
	var names []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r) {
			w.WriteHeader(http.StatusForbidden)
			// As long as what S3 says of a signature that does not match.
			fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>no</Message><CanonicalRequest>%s</CanonicalRequest></Error>", strings.Repeat("x", 5000))
			return
		}
		q := r.URL.Query()
		rel, object := strings.CutPrefix(r.URL.Path, "/data/models/x/")
		switch {
		case object:
			w.Header().Set("ETag", fmt.Sprintf("%q", "tag of "+rel))
			http.ServeFile(w, r, filepath.Join(dir, rel))
		case r.URL.Path == "/data" && (q.Get("list-type") == "2" || q.Get("comp") == "list"):
			at, _ := strconv.Atoi(q.Get("continuation-token") + q.Get("marker"))
			if !strings.HasPrefix("models/x/", q.Get("prefix")) {
				at = len(names)
			}
			next := ""
			if at+1 < len(names) {
				next = strconv.Itoa(at + 1)
			}
			list := ""
			for _, name := range names[min(at, len(names)):min(at+1, len(names))] {
				var key strings.Builder
				_ = xml.EscapeText(&key, []byte("models/x/"+name))
				size := dirSize(t, filepath.Join(dir, name))
				if azure {
					list += fmt.Sprintf("<Blob><Name>%s</Name><Properties><Content-Length>%d</Content-Length><Etag>tag of %s</Etag></Properties></Blob>", key.String(), size, strings.TrimPrefix(key.String(), "models/x/"))
				} else {
					list += fmt.Sprintf("<Contents><Key>%s</Key><Size>%d</Size><ETag>&#34;tag of %s&#34;</ETag></Contents>", key.String(), size, strings.TrimPrefix(key.String(), "models/x/"))
				}
			}
			if azure {
				fmt.Fprintf(w, "<?xml version=\"1.0\"?><EnumerationResults><Blobs>%s</Blobs><NextMarker>%s</NextMarker></EnumerationResults>", list, next)
				return
			}
			fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>%s", next != "", list)
			if next != "" {
				fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", next)
			}
			fmt.Fprint(w, "</ListBucketResult>")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// signed reports whether a request is signed by the keys AKID and secret, by the signature's own implementation.
func signed(t *testing.T, r *http.Request) bool {
	date, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return false
	}
	again, err := http.NewRequest(http.MethodGet, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Header.Set("X-Amz-Content-Sha256", r.Header.Get("X-Amz-Content-Sha256"))
	keys := aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}
	s := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := s.SignHTTP(t.Context(), keys, again, emptySHA256, "s3", "eu-west-1", date); err != nil {
		t.Fatal(err)
	}
	return again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

func TestBuckets(t *testing.T) {
	dir := writeModel(t, 2, 5<<20, 4096)
	write(t, dir, "a b+c=d&e.json", "{}") // what has to be escaped
	want, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	home := t.TempDir()
	write(t, home, ".aws/credentials", "[other]\naws_access_key_id = no\n[default]\n# keys\naws_access_key_id = AKID\naws_secret_access_key=secret\n")
	write(t, home, ".aws/config", "[default]\nregion = eu-west-1\n[profile x]\nregion=us-west-2\n")
	for name, c := range map[string]struct {
		scheme  string
		allowed func(r *http.Request) bool
		env     map[string]string
		refused map[string]string // an environment that is refused
		hint    string
	}{
		"s3": {"s3", func(r *http.Request) bool { return signed(t, r) },
			map[string]string{"AWS_ENDPOINT_URL": "SERVER", "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"},
			map[string]string{"AWS_ENDPOINT_URL": "SERVER", "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_REGION": "eu-west-1"}, "AWS_ACCESS_KEY_ID"},
		"s3, keys of a file": {"s3", func(r *http.Request) bool { return signed(t, r) },
			map[string]string{"AWS_ENDPOINT_URL_S3": "SERVER", "HOME": home}, map[string]string{"AWS_ENDPOINT_URL_S3": "SERVER", "HOME": home, "AWS_PROFILE": "x"}, "AWS_"},
		"s3, public": {"s3", func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }, map[string]string{"AWS_ENDPOINT_URL": "SERVER"}, nil, ""},
		"gs": {"gs", func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer ya29" },
			map[string]string{"STORAGE_EMULATOR_HOST": "SERVER", "CLOUDSDK_AUTH_ACCESS_TOKEN": "ya29"}, map[string]string{"STORAGE_EMULATOR_HOST": "SERVER"}, "gcloud auth"},
		"azblob": {"azblob", func(r *http.Request) bool { return r.URL.Query().Get("sig") == "a+b/c" },
			map[string]string{"AZURE_STORAGE_BLOB_ENDPOINT": "SERVER", "AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_SAS_TOKEN": "?sv=2025-01-05&sig=a%2Bb%2Fc"},
			map[string]string{"AZURE_STORAGE_BLOB_ENDPOINT": "SERVER", "AZURE_STORAGE_ACCOUNT": "me"}, "AZURE_STORAGE_SAS_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			server := objects(t, dir, c.scheme == "azblob", c.allowed)
			for _, env := range []map[string]string{c.env, c.refused} {
				for k, v := range env {
					env[k] = strings.Replace(v, "SERVER", server.URL, 1)
				}
			}
			for _, at := range []string{"://data/models/x", "://data/models/x/"} {
				src, err := Open(t.Context(), c.scheme+at, optionsOf(t, c.env))
				if err != nil {
					t.Fatal(err)
				}
				sameTensors(t, want, src)
				sides, _, err := src.SideFiles()
				if err != nil || len(sides) != 3 || sides[0].Rel != "a b+c=d&e.json" {
					t.Errorf("side files %v, %v", sides, err)
				}
				if raw, err := src.ReadFile("a b+c=d&e.json", 100); string(raw) != "{}" {
					t.Errorf("%q, %v", raw, err)
				}
				if id := src.Shards[0].Identity(); !strings.Contains(id, "tag of model-00001") {
					t.Errorf("identity %q", id)
				}
				src.Close()
			}
			if err := readAll(t.Context(), c.scheme+"://data/models/y", optionsOf(t, c.env)); err == nil || !strings.Contains(err.Error(), "expected files below it, found none") {
				t.Errorf("error %v of an empty folder", err)
			}
			if c.refused == nil {
				return
			}
			_, err := Open(t.Context(), c.scheme+"://data/models/x", optionsOf(t, c.refused))
			e, ok := err.(*Error)
			if !ok || !strings.Contains(e.Found, "403 Forbidden: AccessDenied") || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("error %v; want AccessDenied with a hint at %s", err, c.hint)
			}
		})
	}
}

// TestRegion: a bucket of another region says which, and is asked again by its name.
func TestRegion(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if strings.Contains(r.Header.Get("Authorization"), "/ap-south-1/") {
			fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
			return
		}
		w.Header().Set("X-Amz-Bucket-Region", "ap-south-1")
		w.WriteHeader(http.StatusMovedPermanently)
	}))
	defer server.Close()
	env := map[string]string{"AWS_ENDPOINT_URL": server.URL, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
	if err := readAll(t.Context(), "s3://data/x", optionsOf(t, env)); err == nil || !strings.Contains(err.Error(), "found none") || asked.Load() != 2 {
		t.Errorf("error %v after %d requests", err, asked.Load())
	}
}

func FuzzObjects(f *testing.F) {
	f.Add([]byte("<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"), "[a]\nb=c\n")
	f.Add([]byte("<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs><NextMarker>x</NextMarker></EnumerationResults>"), "[profile  x]\n")
	f.Fuzz(func(t *testing.T, raw []byte, ini string) {
		files, next, err := parseObjects("s3://b", raw)
		if err != nil && (len(files) > 0 || next != "") {
			t.Error("files of what is refused")
		}
		for _, file := range files {
			if file.Size < 0 {
				t.Errorf("size %d", file.Size)
			}
		}
		parseINI(ini, "a", "profile x")
	})
}

func TestParseINI(t *testing.T) {
	const text = "x=0\n[a]\nk = v=w \n#c=d\n[ profile   b ]\nk=2\n[a]\nk=3\n"
	for name, want := range map[string]map[string]string{"a": {"k": "v=w"}, "profile b": {"k": "2"}, "c": nil} {
		if diff := cmp.Diff(want, parseINI(text, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
