//go:build interop

package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// versityVersion is the release of Versity's S3 gateway that is installed for the test under the tag families.
const versityVersion = "v1.8.0"

// versitygw is a real S3 server: the one that NF4KIT_VERSITYGW names, or the one on the path.
func versitygw(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("NF4KIT_VERSITYGW"); path != "" {
		return path
	}
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path
	}
	if !allFamilies {
		t.Skip("no S3 server: NF4KIT_VERSITYGW names no versitygw, and the path has none (go install github.com/versity/versitygw/cmd/versitygw@" + versityVersion + ")")
	}
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", "github.com/versity/versitygw/cmd/versitygw@"+versityVersion)
	install.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("no S3 server: %v\n%s", err, out)
	}
	return filepath.Join(dir, "versitygw")
}

// A gateway is a running S3 server behind a proxy that counts and, now and then, fails.
type gateway struct {
	root   string // of the server: a directory for each bucket
	direct string // the server's own address
	env    []string
	faults atomic.Bool
	asked  atomic.Int64
	failed atomic.Int64
	sent   atomic.Int64 // bytes of answers
	keys   aws.Credentials
}

func startGateway(t *testing.T, flags ...string) *gateway {
	t.Helper()
	program := versitygw(t)
	g := &gateway{root: t.TempDir(), keys: aws.Credentials{AccessKeyID: "user", SecretAccessKey: "password"}}
	if err := os.Mkdir(filepath.Join(g.root, "models"), 0o777); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	args := append([]string{"--quiet", "--access", g.keys.AccessKeyID, "--secret", g.keys.SecretAccessKey, "--port", host, "posix", "--sidecar", t.TempDir()}, flags...)
	server := exec.CommandContext(t.Context(), program, append(args, g.root)...)
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	g.direct = "http://" + host
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(g.direct); err == nil {
			_ = resp.Body.Close()
			break
		} else if time.Since(start) > time.Minute {
			t.Fatalf("versitygw does not answer: %v\n%s", err, said.Bytes())
		}
	}
	target, err := url.Parse(g.direct)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target) // the host stays that which was signed
	proxy.ErrorLog = log.New(io.Discard, "", 0)         // what breaks off is meant to
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(r *http.Response) error {
		most := int64(1) << 60
		if g.faults.Load() && rand.IntN(40) == 0 && r.ContentLength > 1 { // and 1 of 40 before: 5 % in all
			g.failed.Add(1)
			most = r.ContentLength / 2
		}
		r.Body = &counted{r.Body, &g.sent, most}
		return nil
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.asked.Add(1)
		if g.faults.Load() && rand.IntN(40) == 0 {
			g.failed.Add(1)
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	g.env = append(os.Environ(), "AWS_ENDPOINT_URL="+front.URL, "AWS_ACCESS_KEY_ID="+g.keys.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+g.keys.SecretAccessKey,
		"AWS_REGION=us-east-1", "HOME="+t.TempDir())
	return g
}

// counted counts what is read, and breaks off after so much.
type counted struct {
	io.ReadCloser
	n    *atomic.Int64
	most int64
}

func (c *counted) Read(p []byte) (int, error) {
	if c.most <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.most)])
	c.n.Add(int64(n))
	c.most -= int64(n)
	return n, err
}

// put has the server store a file, by the signature's own implementation.
func (g *gateway) put(t *testing.T, key, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, g.direct+"/models/"+key, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", digest)
	if err := v4.NewSigner().SignHTTP(t.Context(), g.keys, req, digest, "s3", "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("put %s: %s\n%s", key, resp.Status, said)
	}
}

// command is nf4kit with the gateway as S3, run in dir.
func (g *gateway) command(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(t.Context(), program, args...)
	out := new(bytes.Buffer)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, g.env, out, out
	return cmd, out
}

func (g *gateway) nf4kit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd, out := g.command(t, dir, args...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("nf4kit %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out.String()
}

// sums are the digests of all files below dir. Of those that name the source, nothing.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		sum := sha256.Sum256(raw)
		if list[rel] = hex.EncodeToString(sum[:]); rel == "nf4kit.json" || rel == "README.md" {
			list[rel] = "there"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// largeFile writes a file of weights whose conversion is one of more than a part of an upload: a kept tensor of 70 MB, and 16 MB to quantize.
func largeFile(t *testing.T) string {
	t.Helper()
	entries := []safetensors.Entry{{Name: "model.embed_tokens.weight", DType: safetensors.BF16, Shape: []int64{35_000, 1024}}}
	for i := range 4 {
		entries = append(entries, safetensors.Entry{Name: fmt.Sprintf("model.layers.%d.mlp.up_proj.weight", i), DType: safetensors.BF16, Shape: []int64{2048, 1024}})
	}
	layout, err := safetensors.NewLayout(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, layout.Size())
	copy(raw, layout.Header())
	r := rand.New(rand.NewPCG(1, 2))
	for i := len(layout.Header()); i+1 < len(raw); i += 2 {
		raw[i], raw[i+1] = byte(r.Uint32()), 0x3c|byte(r.Uint32()&0x81) // of every size between 2^-7 and 2^-5
	}
	path := filepath.Join(t.TempDir(), "weights.safetensors")
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestS3 converts from and to a real S3 server, behind a proxy that fails 5 % of the requests: before they arrive, or in the middle of
// the answer. What comes of it is what a conversion from and to this machine gives.
func TestS3(t *testing.T) {
	t.Parallel()
	g := startGateway(t)
	g.faults.Store(true)
	dir := t.TempDir()

	// A source: the same bytes as the local one, and each is fetched once.
	large := largeFile(t)
	info, err := os.Stat(large)
	if err != nil {
		t.Fatal(err)
	}
	g.put(t, "large/weights.safetensors", large)
	local := convert(t, large)
	before := g.sent.Load()
	g.nf4kit(t, dir, "convert", "s3://models/large/weights.safetensors", "large")
	if diff := cmp.Diff(sums(t, local), sums(t, filepath.Join(dir, "large"))); diff != "" {
		t.Errorf("from S3 (-local +S3):\n%s", diff)
	}
	if n := g.sent.Load() - before; float64(n) > 1.01*float64(info.Size()) {
		t.Errorf("%d bytes were fetched of a source of %d", n, info.Size())
	}

	// A directory, of which all commands read.
	for name := range sums(t, llama()) {
		g.put(t, "llama/"+name, filepath.Join(llama(), name))
	}
	small := []string{"--max-shard-size", "90kB", "--double-quant=false"}
	local = convert(t, llama(), small...)
	g.nf4kit(t, dir, append([]string{"convert", "s3://models/llama", "small"}, small...)...)
	if diff := cmp.Diff(sums(t, local), sums(t, filepath.Join(dir, "small"))); diff != "" {
		t.Errorf("from S3 (-local +S3):\n%s", diff)
	}
	g.nf4kit(t, dir, "verify", "small", "--source", "s3://models/llama")

	// A destination, killed twice on the way.
	g.faults.Store(false)
	there := filepath.Join(g.root, "models", "nf4")
	args := append([]string{"convert", "s3://models/llama", "s3://models/nf4", "--jobs", "1"}, small...)
	killed := 0
	for _, n := range []int{2, 6} {
		cmd, _ := g.command(t, dir, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for alive := true; alive; {
			list, _ := filepath.Glob(filepath.Join(there, "*.safetensors"))
			select {
			case err := <-ended:
				if alive = false; err != nil {
					killed++
				}
			default:
				if len(list) >= n {
					_ = cmd.Process.Kill()
				}
				time.Sleep(time.Millisecond)
			}
		}
		if _, err := os.Stat(filepath.Join(there, "config.json")); err == nil && killed > 0 {
			t.Error("a half model has its config.json")
		}
	}
	g.faults.Store(true)
	said := g.nf4kit(t, dir, args...)
	if killed == 0 || !strings.Contains(said, "weights files are finished and stay") {
		t.Errorf("%d runs were killed; the next one said\n%s", killed, said)
	}
	if diff := cmp.Diff(sums(t, local), sums(t, there)); diff != "" {
		t.Errorf("to S3 (-local +S3):\n%s", diff)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.nf4kit-*")); len(left) > 0 {
		t.Errorf("left here: %v", left)
	}
	g.nf4kit(t, dir, "verify", "s3://models/nf4", "--source", "s3://models/llama")
	t.Logf("%d of %d requests failed, %d runs were killed", g.failed.Load(), g.asked.Load(), killed)
}

// TestS3Parts sends a file of more than one part to a server whose ETags are MD5s, and to one whose are not, which has it read back.
func TestS3Parts(t *testing.T) {
	t.Parallel()
	large := largeFile(t)
	local := convert(t, large)
	for name, flags := range map[string][]string{"MD5": nil, "other ETags": {"--data-integrity-etag"}} {
		g := startGateway(t, flags...)
		g.nf4kit(t, t.TempDir(), "convert", large, "s3://models/a/large nf4")
		if diff := cmp.Diff(sums(t, local), sums(t, filepath.Join(g.root, "models", "a", "large nf4"))); diff != "" {
			t.Errorf("%s (-local +S3):\n%s", name, diff)
		}
		size := int64(0)
		for path := range sums(t, local) {
			if info, err := os.Stat(filepath.Join(local, path)); err == nil {
				size += info.Size()
			}
		}
		if back := g.sent.Load(); (back >= size) != (flags != nil) {
			t.Errorf("%s: %d bytes came back of %d", name, back, size)
		}
	}
}
