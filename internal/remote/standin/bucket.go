package standin

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Bucket is an object store for tests: one bucket of S3, or with Azure a container of Azure's, in memory. It checks the digests of what
// it is sent as the real ones do. Its exported fields are set before Start, or under Lock.
type Bucket struct {
	Name  string
	Azure bool
	Tags  string // in the place of MD5s as ETags, as a bucket with keys of its own has them

	// Meet, if it is not nil, sees every request first. If it returns true it has answered.
	Meet func(w http.ResponseWriter, r *http.Request) bool

	sync.Mutex
	Objects map[string][]byte
	Order   []string // keys as they came and, after "-", went
	URL     string

	tags    map[string]string
	uploads map[string]map[string][]byte // by upload or key, the parts or blocks
	serial  int
}

// Start serves until stop is called.
func (b *Bucket) Start() (stop func()) {
	b.Objects, b.tags, b.uploads = map[string][]byte{}, map[string]string{}, map[string]map[string][]byte{}
	s := httptest.NewServer(http.HandlerFunc(b.serve))
	b.URL = s.URL
	return s.Close
}

// Uploads is how many uploads in parts have begun and not ended.
func (b *Bucket) Uploads() int {
	b.Lock()
	defer b.Unlock()
	return len(b.uploads)
}

func fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func (b *Bucket) serve(w http.ResponseWriter, r *http.Request) {
	if b.Meet != nil && b.Meet(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.Lock()
	defer b.Unlock()
	key, ok := strings.CutPrefix(r.URL.Path, "/"+b.Name+"/")
	m, s := md5.Sum(body), sha256.Sum256(body)
	switch sent := r.Header.Get("X-Amz-Content-Sha256"); {
	case !ok && r.URL.Path != "/"+b.Name:
		fail(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodPut && r.Header.Get("Content-MD5") != base64.StdEncoding.EncodeToString(m[:]):
		fail(w, http.StatusBadRequest, "BadDigest")
	case sent != "" && sent != hex.EncodeToString(s[:]):
		fail(w, http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	case !ok:
		b.list(w, r)
	case r.Method == http.MethodGet:
		b.get(w, r, key)
	case r.Method == http.MethodPut && b.Azure:
		b.block(w, r, key, body)
	case r.Method == http.MethodPut || r.Method == http.MethodPost:
		b.part(w, r, key, body)
	case r.Method == http.MethodDelete && r.URL.Query().Get("uploadId") != "":
		delete(b.uploads, r.URL.Query().Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		if b.Azure && b.Objects[key] == nil {
			fail(w, http.StatusNotFound, "BlobNotFound")
			return
		}
		delete(b.Objects, key)
		b.Order = append(b.Order, "-"+key)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (b *Bucket) get(w http.ResponseWriter, r *http.Request, key string) {
	data, ok := b.Objects[key]
	if !ok {
		fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("ETag", `"`+b.tags[key]+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (b *Bucket) list(w http.ResponseWriter, r *http.Request) {
	var list strings.Builder
	for _, key := range slices.Sorted(maps.Keys(b.Objects)) {
		if !strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			continue
		}
		var name strings.Builder
		_ = xml.EscapeText(&name, []byte(key))
		if b.Azure {
			fmt.Fprintf(&list, "<Blob><Name>%s</Name><Properties><Content-Length>%d</Content-Length><Etag>%s</Etag></Properties></Blob>", name.String(), len(b.Objects[key]), b.tags[key])
		} else {
			fmt.Fprintf(&list, "<Contents><Key>%s</Key><Size>%d</Size><ETag>&#34;%s&#34;</ETag></Contents>", name.String(), len(b.Objects[key]), b.tags[key])
		}
	}
	if b.Azure {
		fmt.Fprintf(w, "<EnumerationResults><Blobs>%s</Blobs></EnumerationResults>", list.String())
		return
	}
	fmt.Fprintf(w, "<ListBucketResult>%s</ListBucketResult>", list.String())
}

// keep stores an object.
func (b *Bucket) keep(w http.ResponseWriter, key string, data []byte, tag string) {
	if b.Tags != "" || b.Azure {
		b.serial++
		tag = fmt.Sprintf("0x%s%d", b.Tags, b.serial)
	}
	b.Objects[key], b.tags[key] = append([]byte{}, data...), tag
	b.Order = append(b.Order, key)
	w.Header().Set("ETag", `"`+tag+`"`)
}

// part is a request of an upload to S3: whole, or in parts.
func (b *Bucket) part(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	q := r.URL.Query()
	id := q.Get("uploadId")
	sum := md5.Sum(body)
	switch parts, known := b.uploads[id]; {
	case q.Has("uploads"):
		b.serial++
		id = fmt.Sprintf("up+load/%d", b.serial)
		b.uploads[id] = map[string][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case id == "":
		b.keep(w, key, body, hex.EncodeToString(sum[:]))
	case !known:
		fail(w, http.StatusNotFound, "NoSuchUpload")
	case r.Method == http.MethodPut:
		parts[q.Get("partNumber")] = body
		w.Header().Set("ETag", fmt.Sprintf("%q", hex.EncodeToString(sum[:])))
	default:
		var all struct {
			Part []struct{ PartNumber, ETag string }
		}
		if err := xml.Unmarshal(body, &all); err != nil || len(all.Part) != len(parts) {
			fail(w, http.StatusBadRequest, "MalformedXML")
			return
		}
		var data, sums []byte
		for _, p := range all.Part {
			sum := md5.Sum(parts[p.PartNumber])
			if strings.Trim(p.ETag, `"`) != hex.EncodeToString(sum[:]) {
				fail(w, http.StatusBadRequest, "InvalidPart")
				return
			}
			data, sums = append(data, parts[p.PartNumber]...), append(sums, sum[:]...)
		}
		delete(b.uploads, id)
		b.keep(w, key, data, fmt.Sprintf("%x-%d", md5.Sum(sums), len(all.Part)))
		fmt.Fprint(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
	}
}

// block is a request of an upload to Azure: whole, a block, or the list of blocks.
func (b *Bucket) block(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	w.WriteHeader(http.StatusCreated)
	switch r.URL.Query().Get("comp") {
	case "block":
		if b.uploads[key] == nil {
			b.uploads[key] = map[string][]byte{}
		}
		b.uploads[key][r.URL.Query().Get("blockid")] = body
	case "blocklist":
		var list struct{ Latest []string }
		_ = xml.Unmarshal(body, &list) // what is none has no blocks
		var data []byte
		for _, id := range list.Latest {
			data = append(data, b.uploads[key][id]...)
		}
		delete(b.uploads, key)
		b.keep(w, key, data, "")
	default:
		if r.Header.Get("X-Ms-Blob-Type") == "BlockBlob" {
			b.keep(w, key, body, "")
		}
	}
}
