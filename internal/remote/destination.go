package remote

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// A Destination is a folder of an object store that a model is written to. It is a checkpoint.Store. Its requests end with the
// context that it was opened with, but for those that take back what was begun.
type Destination struct {
	b   *bucket
	ctx context.Context
	top string // s3://bucket/folder

	partSize int64
}

const (
	// deliveryPart is the size of the parts that a file is sent in, of which there are at most maxParts.
	deliveryPart = 64 << 20
	// partsAtOnce is how many of them are on their way.
	partsAtOnce = 4
	// backTime is how long what was begun may take to be taken back.
	backTime = 30 * time.Second
)

// LocalPath is the path that dst names, "" if it is no path of this machine. Unlike a source, org/name is one.
func LocalPath(dst string) string {
	switch loc, err := Parse(dst, DefaultEndpoint); {
	case err != nil:
		return ""
	case loc == nil:
		return dst
	case loc.Scheme == "file":
		return loc.Path
	}
	return ""
}

// OpenDestination opens a folder of an object store to write to.
func OpenDestination(ctx context.Context, dst string, opt Options) (*Destination, error) {
	if opt.Getenv == nil {
		opt.Getenv = os.Getenv
	}
	env := environmentOf(opt.Getenv)
	loc, err := Parse(dst, env.endpoint)
	if err != nil {
		return nil, err
	}
	const want = "a directory of this machine, or s3://, gs:// or azblob://BUCKET/FOLDER, to write to"
	if loc == nil || loc.Scheme == "file" {
		return nil, &Error{Path: dst, Expected: "a folder of an object store", Found: "a path of this machine"}
	}
	switch loc.Scheme {
	case "hf":
		return nil, &Error{Path: loc.String(), Expected: want, Found: "a hub",
			Hint: "write a directory, and upload it: nf4kit push DIR " + loc.String()}
	case "http", "https":
		return nil, &Error{Path: loc.String(), Expected: want, Found: "a web server"}
	}
	folder := strings.Trim(loc.URL.Path, "/")
	if folder == "" || strings.HasSuffix(folder, ".safetensors") {
		return nil, &Error{Path: loc.String(), Expected: loc.Scheme + "://BUCKET/FOLDER to write to", Found: "no folder", Hint: "name a folder for the model"}
	}
	c, err := newClient(opt.Agent, env)
	if err != nil {
		return nil, err
	}
	if opt.tune != nil {
		opt.tune(c)
	}
	b, _, err := newBucket(ctx, c, opt.Getenv, loc, folder)
	if err != nil {
		return nil, err
	}
	return &Destination{b: b, ctx: ctx, top: loc.Scheme + "://" + loc.URL.Host + "/" + folder, partSize: deliveryPart}, nil
}

// String implements checkpoint.Store.
func (d *Destination) String() string { return d.top }

// back is a context for what takes back what was begun, also when the run's own has ended.
func (d *Destination) back() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(d.ctx), backTime)
}

// List implements checkpoint.Store. It is asked of a run that was interrupted, too.
func (d *Destination) List() (map[string]checkpoint.Stored, error) {
	ctx := d.ctx
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = d.back()
		defer cancel()
	}
	list, err := d.b.list(ctx, d.b.prefix)
	if err != nil {
		return nil, err
	}
	files := map[string]checkpoint.Stored{}
	for _, f := range list {
		if rel := strings.TrimPrefix(f.Path, d.b.prefix); rel != "" { // consoles make an object of the folder's own name
			files[rel] = checkpoint.Stored{Size: f.Size, ID: f.OID}
		}
	}
	return files, nil
}

// Remove implements checkpoint.Store.
func (d *Destination) Remove(rel string) error {
	ctx, cancel := d.back()
	defer cancel()
	return d.remove(ctx, d.top+"/"+rel, d.b.address(d.b.prefix+rel))
}

func (d *Destination) remove(ctx context.Context, name string, u *url.URL) error {
	_, _, err := d.b.c.submit(ctx, name, http.MethodDelete, u, nil, bytes.NewReader(nil), 0, d.refused(name))
	var e *Error
	if errors.As(err, &e) && e.status == http.StatusNotFound {
		return nil
	}
	return err
}

// refused explains a status of a request about a file.
func (d *Destination) refused(name string) func(*answer) error {
	return func(a *answer) error {
		err := d.b.refused(a)
		var e *Error
		if errors.As(err, &e) {
			e.Path = name
		}
		return err
	}
}

// Put implements checkpoint.Store: the file goes in one request, or in parts. Each bears its digest, by which the store tells whether it
// has arrived as it was sent. Then the store is asked for the size and the ETag of the whole. One that is the MD5 it must be is enough;
// where it is something else, a server that may not look at digests has the file read back.
func (d *Destination) Put(rel string, r io.ReaderAt, size int64) (checkpoint.Stored, error) {
	key, name := d.b.prefix+rel, d.top+"/"+rel
	u := d.b.address(key)
	sum, err := "", error(nil)
	switch {
	case size <= d.partSize:
		sum, err = d.whole(name, u, r, size)
	case d.b.loc.Scheme == "azblob":
		sum, err = d.blocks(name, u, r, size)
	default:
		sum, err = d.parts(name, u, r, size)
	}
	if err != nil {
		return checkpoint.Stored{}, err
	}
	list, err := d.b.list(d.ctx, key)
	if err != nil {
		return checkpoint.Stored{}, err
	}
	i := slices.IndexFunc(list, func(f listed) bool { return f.Path == key })
	switch {
	case i < 0:
		return checkpoint.Stored{}, &Error{Path: name, Expected: "the file that was sent", Found: "none", Hint: "is something else removing files there?"}
	case list[i].Size != size:
		return checkpoint.Stored{}, &Error{Path: name, Expected: fmt.Sprintf("the %d bytes that were sent", size), Found: fmt.Sprint(list[i].Size), Hint: "is something else writing there?"}
	case list[i].OID != sum && d.b.loc.Scheme == "s3":
		if err := d.compare(name, u, r, size); err != nil {
			return checkpoint.Stored{}, err
		}
	}
	return checkpoint.Stored{Size: size, ID: list[i].OID}, nil
}

// at is the address with more in its query.
func at(u *url.URL, query url.Values) *url.URL {
	v := *u
	if v.RawQuery != "" {
		v.RawQuery += "&"
	}
	v.RawQuery += query.Encode()
	return &v
}

// put sends a part, with its digests, and returns its MD5 and its ETag.
func (d *Destination) put(name string, u *url.URL, header http.Header, r io.ReaderAt, size int64) (sum []byte, etag string, err error) {
	m, s := md5.New(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(m, s), contextReader{d.ctx, io.NewSectionReader(r, 0, size)}); err != nil {
		return nil, "", err
	}
	sum = m.Sum(nil)
	h := http.Header{"Content-Md5": {base64.StdEncoding.EncodeToString(sum)}}
	if d.b.loc.Scheme == "s3" {
		h.Set("X-Amz-Content-Sha256", hex.EncodeToString(s.Sum(nil)))
	}
	for k, v := range header {
		h[k] = v
	}
	_, answer, err := d.b.c.submit(d.ctx, name, http.MethodPut, u, h, r, size, d.refused(name))
	return sum, answer.Get("ETag"), err
}

func (d *Destination) whole(name string, u *url.URL, r io.ReaderAt, size int64) (string, error) {
	var h http.Header
	if d.b.loc.Scheme == "azblob" {
		h = http.Header{"X-Ms-Blob-Type": {"BlockBlob"}}
	}
	sum, _, err := d.put(name, u, h, r, size)
	return hex.EncodeToString(sum), err
}

// step is the size of the parts of a file.
func (d *Destination) step(size int64) int64 { return max(d.partSize, (size+maxParts-1)/maxParts) }

// each sends the parts of a file, some at a time, and returns the MD5 of each.
func (d *Destination) each(r io.ReaderAt, size int64, send func(i int, part io.ReaderAt, n int64) ([]byte, error)) ([][]byte, error) {
	step := d.step(size)
	n := int((size + step - 1) / step)
	sums, errs := make([][]byte, n), make([]error, n)
	turns := make(chan struct{}, partsAtOnce)
	var wg sync.WaitGroup
	var failed sync.Once
	stop := make(chan struct{})
parts:
	for i := range n {
		select {
		case turns <- struct{}{}:
		case <-stop:
			break parts
		}
		wg.Go(func() {
			defer func() { <-turns }()
			off := int64(i) * step
			k := min(step, size-off)
			if sums[i], errs[i] = send(i, io.NewSectionReader(r, off, k), k); errs[i] != nil {
				failed.Do(func() { close(stop) })
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// parts sends a file in the parts of S3, which Google's store has too, and returns the ETag that S3 makes of their MD5s.
func (d *Destination) parts(name string, u *url.URL, r io.ReaderAt, size int64) (_ string, err error) {
	post := func(query url.Values, body []byte, out any) error {
		h := http.Header{"Content-Type": {"application/xml"}}
		if d.b.loc.Scheme == "s3" {
			digest := sha256.Sum256(body)
			h.Set("X-Amz-Content-Sha256", hex.EncodeToString(digest[:]))
		}
		raw, _, err := d.b.c.submit(d.ctx, name, http.MethodPost, at(u, query), h, bytes.NewReader(body), int64(len(body)), d.refused(name))
		if err != nil {
			return err
		}
		if err := xml.Unmarshal(raw, out); err != nil {
			return &Error{Path: name, Expected: "an answer about an upload in parts", Found: clip(string(raw))}
		}
		return nil
	}
	var begun struct {
		ID string `xml:"UploadId"`
	}
	if err := post(url.Values{"uploads": {""}}, nil, &begun); err != nil {
		return "", err
	}
	if begun.ID == "" {
		return "", &Error{Path: name, Expected: "the name of an upload", Found: "none"}
	}
	upload := url.Values{"uploadId": {begun.ID}}
	defer func() {
		if err != nil {
			ctx, cancel := d.back()
			defer cancel()
			err = errors.Join(err, d.remove(ctx, name, at(u, upload)))
		}
	}()
	type part struct {
		PartNumber int
		ETag       string
	}
	all := struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []part
	}{Part: make([]part, (size+d.step(size)-1)/d.step(size))}
	sums, err := d.each(r, size, func(i int, p io.ReaderAt, n int64) ([]byte, error) {
		sum, etag, err := d.put(name, at(u, url.Values{"partNumber": {fmt.Sprint(i + 1)}, "uploadId": {begun.ID}}), nil, p, n)
		all.Part[i] = part{i + 1, etag}
		return sum, err
	})
	if err != nil {
		return "", err
	}
	body, err := xml.Marshal(all)
	if err != nil {
		return "", err
	}
	if err := d.complete(name, func(out any) error { return post(upload, body, out) }); err != nil {
		return "", err
	}
	whole := md5.Sum(slices.Concat(sums...))
	return fmt.Sprintf("%x-%d", whole, len(sums)), nil
}

// complete ends an upload in parts. S3 begins its answer before it knows how that ends, so that failures come as successes; and of
// an answer that was lost, the next says that there is no such upload any more, whose file is looked at afterwards.
func (d *Destination) complete(name string, post func(out any) error) error {
	for failures := 1; ; failures++ {
		var said struct {
			XMLName       xml.Name
			Code, Message string
		}
		err := post(&said)
		var e *Error
		switch {
		case errors.As(err, &e) && e.status == http.StatusNotFound:
			return nil
		case err != nil:
			return err
		case said.XMLName.Local != "Error":
			return nil
		}
		err = &transient{err: &Error{Path: name, Found: "the answer " + clip(said.Code), Hint: "the same command goes on"}}
		if err := d.b.c.again(d.ctx, err, failures); err != nil {
			return err
		}
	}
}

// blocks sends a file in the blocks of Azure, which become the file by a list of them. Blocks that no list names go by themselves.
func (d *Destination) blocks(name string, u *url.URL, r io.ReaderAt, size int64) (string, error) {
	id := func(i int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d", i)) }
	sums, err := d.each(r, size, func(i int, p io.ReaderAt, n int64) ([]byte, error) {
		sum, _, err := d.put(name, at(u, url.Values{"comp": {"block"}, "blockid": {id(i)}}), nil, p, n)
		return sum, err
	})
	if err != nil {
		return "", err
	}
	list := struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}{}
	for i := range sums {
		list.Latest = append(list.Latest, id(i))
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return "", err
	}
	_, _, err = d.put(name, at(u, url.Values{"comp": {"blocklist"}}), nil, bytes.NewReader(body), int64(len(body)))
	return "", err
}

// compare reads a file back.
func (d *Destination) compare(name string, u *url.URL, r io.ReaderAt, size int64) error {
	o := &object{c: d.b.c, path: name, at: u, size: size, refused: d.refused(name)}
	_, err := d.each(r, size, func(i int, p io.ReaderAt, n int64) ([]byte, error) {
		off := int64(i) * d.step(size)
		have, want := make([]byte, 1<<20), make([]byte, 1<<20)
		for k := int64(0); k < n; k += int64(len(have)) {
			have, want = have[:min(int64(len(have)), n-k)], want[:min(int64(len(want)), n-k)]
			if err := o.fetch(d.ctx, have, off+k); err != nil {
				return nil, err
			}
			if _, err := p.ReadAt(want, k); err != nil && err != io.EOF {
				return nil, err
			}
			if !bytes.Equal(have, want) {
				return nil, &Error{Path: name, Expected: "the bytes that were sent", Found: fmt.Sprintf("others from %d on", off+k), Hint: "the same command sends it again"}
			}
		}
		return nil, nil
	})
	return err
}

// LocalName is what a destination in a store is called on this machine: by its last element and a digest of the whole.
func (d *Destination) LocalName() string {
	sum := sha256.Sum256([]byte(d.top))
	return path.Base(d.top) + "~" + hex.EncodeToString(sum[:4])
}
