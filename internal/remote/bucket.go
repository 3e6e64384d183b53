package remote

import (
	"cmp"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// A bucket is a place in an object store, asked by plain HTTP: all that is needed is a list, ranges of objects and their upload in parts.
type bucket struct {
	c      *client
	loc    *Location
	base   *url.URL // of its objects, with a slash at the end
	prefix string   // of the model's objects: "" or with a slash at the end
	query  string   // sent with every request, as a shared access signature is
	lists  func(prefix, next string) url.Values
	login  string // what to do about a refusal
	region string // that S3 says the bucket is in
}

// openBucket opens a directory or a file in an object store.
func openBucket(ctx context.Context, c *client, getenv func(string) string, loc *Location) (*checkpoint.Source, error) {
	name := strings.Trim(loc.URL.Path, "/")
	file := ""
	if isFile(name) {
		name, file = strings.TrimSuffix(path.Dir(name), "."), path.Base(name)
	}
	b, files, err := newBucket(ctx, c, getenv, loc, name)
	if err != nil {
		return nil, err
	}
	t := newTree(ctx, c, loc.Scheme+"://"+loc.URL.Host+"/"+name)
	for _, f := range files {
		rel := strings.TrimPrefix(f.Path, b.prefix)
		if rel == checkpoint.StoreMark {
			_ = t.Close() // there is nothing under way
			return nil, &Error{Path: t.top, Expected: "a whole model", Found: "one that is being written, or that a run which did not end has left: " + rel + " lies there",
				Hint: "wait for the run, or give its command again"}
		}
		t.add(rel, f.Size, &object{c: c, path: t.top + "/" + rel, at: b.address(f.Path), size: f.Size, etag: f.OID, refused: b.refused}, "")
	}
	if len(t.files) == 0 {
		_ = t.Close() // there is nothing under way
		return nil, &Error{Path: t.top, Expected: "files below it", Found: "none", Hint: "check bucket and folder"}
	}
	return t.source(file)
}

// newBucket finds the store of loc, and lists what lies below the folder.
func newBucket(ctx context.Context, c *client, getenv func(string) string, loc *Location, folder string) (*bucket, []listed, error) {
	if folder != "" && path.Clean("/"+folder) != "/"+folder || loc.URL.RawQuery != "" || loc.URL.User != nil {
		return nil, nil, &Error{Path: shown(loc.URL), Expected: loc.Scheme + "://BUCKET/FOLDER", Found: "another address"}
	}
	b := &bucket{c: c, loc: loc}
	if b.prefix = folder; folder != "" {
		b.prefix += "/"
	}
	env := func(name string) string { return strings.TrimSpace(getenv(name)) }
	var err error
	switch loc.Scheme {
	case "s3":
		err = b.s3(env)
	case "gs":
		err = b.gs(env)
	case "azblob":
		err = b.azure(env)
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := b.list(ctx, b.prefix)
	if err != nil && b.region != "" { // once more, signed for where the bucket is
		if err := b.s3(func(name string) string {
			if name == "AWS_REGION" {
				return b.region
			}
			return env(name)
		}); err != nil {
			return nil, nil, err
		}
		files, err = b.list(ctx, b.prefix)
	}
	return b, files, err
}

// address is that of an object. Its name is escaped as the signature of S3 has it.
func (b *bucket) address(key string) *url.URL {
	u := *b.base
	u.Path, u.RawQuery = b.base.Path+key, b.query
	u.RawPath = b.base.EscapedPath() + strings.NewReplacer("+", "%2B", "=", "%3D", "@", "%40", ":", "%3A", "$", "%24", "&", "%26").Replace(escaped(key))
	return &u
}

// endpoint parses a variable that names a server.
func endpoint(name, value string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(value, "/"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, &Error{Path: name, Expected: "an address such as https://host", Found: clip(redact(value))}
	}
	return u, nil
}

// s3 is Amazon's protocol, by signature version 4, without one where there are no keys.
func (b *bucket) s3(env func(string) string) error {
	region := cmp.Or(env("AWS_REGION"), env("AWS_DEFAULT_REGION"))
	keys, shared := awsKeys(env)
	region = cmp.Or(region, shared, "us-east-1")
	at := cmp.Or(env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"))
	name := b.loc.URL.Host
	var err error
	switch {
	case at != "":
		if b.base, err = endpoint("AWS_ENDPOINT_URL", at); err != nil {
			return err
		}
		b.base.Path += "/" + name + "/"
	case strings.Contains(name, "."): // which no certificate of a host for each bucket covers
		b.base = &url.URL{Scheme: "https", Host: "s3." + region + ".amazonaws.com", Path: "/" + name + "/"}
	default:
		b.base = &url.URL{Scheme: "https", Host: name + ".s3." + region + ".amazonaws.com", Path: "/"}
	}
	b.lists = b.listS3
	b.login = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN name the keys (aws configure export-credentials --format env), AWS_REGION the region"
	if keys.AccessKeyID != "" {
		signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
		b.c.sign = func(req *http.Request) error {
			if !sameOrigin(req.URL, b.base) {
				return nil
			}
			digest := cmp.Or(req.Header.Get("X-Amz-Content-Sha256"), emptySHA256)
			req.Header.Set("X-Amz-Content-Sha256", digest)
			return signer.SignHTTP(req.Context(), keys, req, digest, "s3", region, time.Now())
		}
	}
	return nil
}

// emptySHA256 is the digest of a request without a body.
const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// awsKeys are those of the environment, else of the profile in the files of the AWS command line, whose region is told too.
func awsKeys(env func(string) string) (keys aws.Credentials, region string) {
	home, _ := os.UserHomeDir() // without one there are no files
	home = cmp.Or(env("HOME"), home)
	profile := cmp.Or(env("AWS_PROFILE"), "default")
	config := iniSection(cmp.Or(env("AWS_CONFIG_FILE"), filepath.Join(home, ".aws", "config")), "profile "+profile, profile)
	region = config["region"]
	if id := env("AWS_ACCESS_KEY_ID"); id != "" {
		return aws.Credentials{AccessKeyID: id, SecretAccessKey: env("AWS_SECRET_ACCESS_KEY"), SessionToken: env("AWS_SESSION_TOKEN")}, region
	}
	for _, m := range []map[string]string{iniSection(cmp.Or(env("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(home, ".aws", "credentials")), profile), config} {
		if id := m["aws_access_key_id"]; id != "" {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: m["aws_secret_access_key"], SessionToken: m["aws_session_token"]}, region
		}
	}
	return aws.Credentials{}, region
}

// maxINI bounds the files of the AWS command line.
const maxINI = 1 << 20

// iniSection reads the first section of one of the names out of such a file; nil if there is none.
func iniSection(file string, names ...string) map[string]string {
	raw, err := checkpoint.ReadRegular(file, maxINI)
	if err != nil {
		return nil
	}
	return parseINI(string(raw), names...)
}

func parseINI(text string, names ...string) map[string]string {
	var m map[string]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if section, ok := strings.CutPrefix(line, "["); ok {
			if m != nil {
				return m
			}
			section = strings.Join(strings.Fields(strings.TrimSuffix(section, "]")), " ")
			for _, n := range names {
				if section == n {
					m = map[string]string{}
				}
			}
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok && m != nil && !strings.HasPrefix(line, "#") {
			m[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return m
}

// gs is Google's store by its XML protocol, whose lists are those of S3, with a token of OAuth if there is one.
func (b *bucket) gs(env func(string) string) error {
	var err error
	if b.base, err = endpoint("STORAGE_EMULATOR_HOST", cmp.Or(env("STORAGE_EMULATOR_HOST"), "https://storage.googleapis.com")); err != nil {
		return err
	}
	b.base.Path += "/" + b.loc.URL.Host + "/"
	b.lists = b.listS3
	b.login = "CLOUDSDK_AUTH_ACCESS_TOKEN holds the token: gcloud auth print-access-token makes one for an hour"
	if token := cmp.Or(env("CLOUDSDK_AUTH_ACCESS_TOKEN"), env("GOOGLE_OAUTH_ACCESS_TOKEN")); token != "" {
		b.c.sign = func(req *http.Request) error {
			if sameOrigin(req.URL, b.base) {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			return nil
		}
	}
	return nil
}

// azure is Microsoft's store, with a shared access signature if there is one.
func (b *bucket) azure(env func(string) string) error {
	account := env("AZURE_STORAGE_ACCOUNT")
	if account == "" {
		return &Error{Path: b.loc.String(), Expected: "the storage account in AZURE_STORAGE_ACCOUNT", Found: "none", Hint: "export AZURE_STORAGE_ACCOUNT=NAME"}
	}
	if strings.ContainsAny(account, "/.:@?#") {
		return &Error{Path: "AZURE_STORAGE_ACCOUNT", Expected: "the name of a storage account", Found: clip(account)}
	}
	var err error
	if b.base, err = endpoint("AZURE_STORAGE_BLOB_ENDPOINT", cmp.Or(env("AZURE_STORAGE_BLOB_ENDPOINT"), "https://"+account+".blob.core.windows.net")); err != nil {
		return err
	}
	b.base.Path += "/" + b.loc.URL.Host + "/"
	b.query = strings.TrimPrefix(env("AZURE_STORAGE_SAS_TOKEN"), "?")
	b.login = "AZURE_STORAGE_SAS_TOKEN holds a shared access signature that may read and list, for a DST create, write and delete too (az storage container generate-sas)"
	b.lists = func(prefix, next string) url.Values {
		q := url.Values{"restype": {"container"}, "comp": {"list"}, "prefix": {prefix}}
		if next != "" {
			q.Set("marker", next)
		}
		return q
	}
	return nil
}

func (b *bucket) listS3(prefix, next string) url.Values {
	q := url.Values{"list-type": {"2"}, "prefix": {prefix}}
	if next != "" {
		q.Set("continuation-token", next)
	}
	return q
}

// list lists the objects whose names begin so.
func (b *bucket) list(ctx context.Context, prefix string) ([]listed, error) {
	var all []listed
	next := ""
	for range maxPages {
		u := *b.base
		u.Path = strings.TrimSuffix(u.Path, "/")
		if u.Path == "" {
			u.Path = "/"
		}
		u.RawQuery = strings.ReplaceAll(b.lists(prefix, next).Encode(), "+", "%20")
		if b.query != "" {
			u.RawQuery += "&" + b.query
		}
		raw, _, err := b.c.fetchAll(ctx, b.loc.String(), &u, maxPage, b.refused)
		if err != nil {
			return nil, err
		}
		var page []listed
		if page, next, err = parseObjects(b.loc.String(), raw); err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == "" {
			return all, nil
		}
		if len(all) > maxFiles {
			break
		}
	}
	return nil, &Error{Path: b.loc.String(), Expected: fmt.Sprintf("at most %d objects", maxFiles), Found: "more", Hint: "give a folder of it"}
}

// parseObjects reads a page of the list of a bucket: S3's ListBucketResult, which Google's store has too, or Azure's
// EnumerationResults. next asks for the page after it, "" if there is none.
func parseObjects(path string, raw []byte) (files []listed, next string, err error) {
	var page struct {
		XMLName  xml.Name
		Contents []struct {
			Key, ETag string
			Size      int64
		}
		IsTruncated           bool
		NextContinuationToken string

		Blobs struct {
			Blob []struct {
				Name       string
				Properties struct {
					Size int64  `xml:"Content-Length"`
					ETag string `xml:"Etag"`
				}
			}
		}
		NextMarker string
	}
	err = xml.Unmarshal(raw, &page)
	if err != nil || page.XMLName.Local != "ListBucketResult" && page.XMLName.Local != "EnumerationResults" {
		return nil, "", &Error{Path: path, Expected: "a list of objects", Found: "another answer", Hint: "is the address that of an object store?"}
	}
	for _, o := range page.Contents {
		files = append(files, listed{Path: o.Key, Size: o.Size, OID: strings.Trim(o.ETag, `"`)})
	}
	for _, o := range page.Blobs.Blob {
		files = append(files, listed{Path: o.Name, Size: o.Properties.Size, OID: strings.Trim(o.Properties.ETag, `"`)})
	}
	for _, f := range files {
		if f.Size < 0 || f.Size > 1<<50 {
			return nil, "", &Error{Path: path, Expected: "the size of " + clip(f.Path), Found: fmt.Sprint(f.Size)}
		}
	}
	if page.IsTruncated && page.NextContinuationToken == "" {
		return nil, "", &Error{Path: path, Expected: "the rest of a list of objects", Found: "no way to ask for it"}
	}
	return files, cmp.Or(page.NextContinuationToken, page.NextMarker), nil
}

var regionPattern = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// refused explains a status of the store.
func (b *bucket) refused(a *answer) error {
	e := &Error{Path: b.loc.String(), Found: "the answer " + a.Status, status: a.StatusCode}
	var said struct{ Code string }
	_ = xml.NewDecoder(io.LimitReader(a.body, maxPage)).Decode(&said) // what is none of S3 has no code
	if said.Code != "" {
		e.Found += ": " + clip(said.Code)
	}
	if region := a.Header.Get("X-Amz-Bucket-Region"); regionPattern.MatchString(region) && b.region == "" {
		b.region = region
	}
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusConflict: // Azure's, where public access is not allowed
		e.Hint = cmp.Or(e.Hint, b.login)
	case http.StatusNotFound:
		e.Found, e.Hint = "no such bucket or object", "check the name; "+b.login
	}
	return e
}
