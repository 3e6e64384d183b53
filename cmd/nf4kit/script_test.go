package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nf4kit/nf4kit/internal/activations"
	"github.com/nf4kit/nf4kit/internal/remote/standin"
	"github.com/nf4kit/nf4kit/safetensors"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nf4kit": main,
	})
}

func TestScripts(t *testing.T) {
	llama, err := filepath.Abs("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("LLAMA", llama)
			env.Setenv("HF_HUB_OFFLINE", "1")
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "race" {
				return underRace, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"bucket":    bucket,
			"exits":     wantExit,
			"hub":       hub,
			"mkact":     mkact,
			"mkimatrix": mkimatrix,
			"mkst":      mkst,
			"truncf":    truncf,
		},
	})
}

// wantExit is "exits CODE COMMAND...": it runs nf4kit and checks its exit code.
func wantExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("nf4kit", args[1:]...)
	got := 0
	if err != nil {
		if _, e := fmt.Sscanf(err.Error(), "exit status %d", &got); e != nil {
			ts.Fatalf("nf4kit %s: %v", strings.Join(args[1:], " "), err)
		}
	}
	if got != want {
		ts.Fatalf("nf4kit %s: exit code %d; want %d", strings.Join(args[1:], " "), got, want)
	}
}

// hub REPO DIR [TOKEN] has a hub that has the files of DIR as REPO, until the end of the script.
func hub(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: hub REPO DIR [TOKEN]")
	}
	h := &standin.Hub{Repo: args[0], Dir: ts.MkAbs(args[1]), Token: strings.Join(args[2:], ""), SignedFor: 2}
	stop, err := h.Start()
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("HF_ENDPOINT", h.URL)
	ts.Setenv("HF_TOKEN", h.Token)
	ts.Setenv("HF_HOME", ts.MkAbs("hf"))
}

// bucket NAME has an S3 server with the bucket NAME, until the end of the script.
func bucket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: bucket NAME")
	}
	b := &standin.Bucket{Name: args[0]}
	ts.Defer(b.Start())
	for k, v := range map[string]string{"AWS_ENDPOINT_URL": b.URL, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"} {
		ts.Setenv(k, v)
	}
}

// mkst FILE HEADER [N [VALUE]] writes a safetensors file: the header as it is
// given, its length before it, and N bytes of data. VALUE is a bfloat16 written
// over and over, by default 0.5; "len=L" in place of N only sets the length field.
func mkst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mkst FILE HEADER [N [VALUE]]")
	}
	header := args[1]
	if strings.HasPrefix(header, "@") {
		header = ts.ReadFile(header[1:])
	}
	length := uint64(len(header))
	n := 0
	if len(args) > 2 {
		if l, ok := strings.CutPrefix(args[2], "len="); ok {
			v, err := strconv.ParseUint(l, 10, 64)
			ts.Check(err)
			length = v
		} else {
			v, err := strconv.Atoi(args[2])
			ts.Check(err)
			n = v
		}
	}
	value := 0.5
	if len(args) > 3 {
		v, err := strconv.ParseFloat(args[3], 32)
		ts.Check(err)
		value = v
	}
	out := binary.LittleEndian.AppendUint64(nil, length)
	out = append(out, header...)
	for i := range n {
		b := uint16(math.Float32bits(float32(value)) >> 16)
		out = append(out, byte(b>>(8*(i%2))))
	}
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o777))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o666))
}

// mkimatrix FILE NAME N writes an importance matrix of the older format: one
// entry of N ones in one call.
func mkimatrix(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mkimatrix FILE NAME N")
	}
	n, err := strconv.ParseUint(args[2], 10, 16)
	ts.Check(err)
	out := binary.LittleEndian.AppendUint32(nil, 1)
	out = append(binary.LittleEndian.AppendUint32(out, uint32(len(args[1]))), args[1]...)
	out = binary.LittleEndian.AppendUint32(out, 1)
	out = binary.LittleEndian.AppendUint32(out, uint32(n))
	for range n {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(1))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o666))
}

// mkact FILE DIR [gram] writes activations for every matrix of the layers of a checkpoint: second moments that go up and
// down, and Gram matrices of inputs that have a direction in common.
func mkact(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mkact FILE DIR [gram]")
	}
	shards, err := filepath.Glob(filepath.Join(args[1], "*.safetensors"))
	ts.Check(err)
	linears, columns := map[string]string{}, map[string]int64{}
	var entries []safetensors.Entry
	for _, shard := range shards {
		f, err := safetensors.Open(shard)
		ts.Check(err)
		for _, t := range f.Tensors() {
			if len(t.Shape) != 2 || !strings.Contains(t.Name, "layers.") {
				continue
			}
			n := t.Shape[1]
			linears[t.Name], columns[t.Name] = t.Name, n
			entries = append(entries, safetensors.Entry{Name: t.Name + ".moments", DType: safetensors.F32, Shape: []int64{n}})
			if len(args) > 2 {
				for _, part := range []string{".gram", ".heldout"} {
					entries = append(entries, safetensors.Entry{Name: t.Name + part, DType: safetensors.F32, Shape: []int64{n, n}})
				}
			}
		}
		ts.Check(f.Close())
	}
	names, err := json.Marshal(linears)
	ts.Check(err)
	layout, err := safetensors.NewLayout(entries, map[string]string{"format": activations.Format, "linears": string(names)})
	ts.Check(err)
	out := append([]byte(nil), layout.Header()...)
	moment := func(i int64) float64 { return 0.1 + float64(i*i%13) }
	for _, p := range layout.Tensors() {
		for i := range p.Shape[0] {
			if len(p.Shape) == 1 {
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(moment(i))))
				continue
			}
			for j := range p.Shape[1] {
				v := 0.7 * math.Sqrt(moment(i)*moment(j))
				if i == j {
					v = moment(i)
				}
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v)))
			}
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o666))
}

// truncf FILE N cuts a file to its first N bytes, or by N bytes if N is negative.
func truncf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncf FILE N")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	name := ts.MkAbs(args[0])
	if n < 0 {
		fi, err := os.Stat(name)
		ts.Check(err)
		n += fi.Size()
	}
	ts.Check(os.Truncate(name, n))
}
