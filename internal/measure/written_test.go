package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/safetensors"
)

// writeFile writes tensors, given with their bytes, and opens the file.
func writeFile(t *testing.T, entries []safetensors.Entry, data map[string][]byte) *checkpoint.Source {
	t.Helper()
	l, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Clone(l.Header())
	for _, p := range l.Tensors() {
		raw = append(raw, data[p.Name]...)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func float32s(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// TestWrittenInt8 measures an LLM.int8 weight whose decoded values are known: code * scale / 127. Codes in a GPU's tiles, as
// older versions saved them, are left out and said to be.
func TestWrittenInt8(t *testing.T) {
	src := writeFile(t, []safetensors.Entry{
		{Name: "up_proj.weight", DType: safetensors.F32, Shape: []int64{2, 2}}, {Name: "down_proj.weight", DType: safetensors.F32, Shape: []int64{2, 2}},
	}, map[string][]byte{"up_proj.weight": float32s(1, -0.5, 0, 2), "down_proj.weight": float32s(1, 1, 1, 1)})
	quant := func(upFormat byte) *checkpoint.Source {
		var entries []safetensors.Entry
		for _, m := range []string{"up_proj", "down_proj"} {
			entries = append(entries, safetensors.Entry{Name: m + ".weight", DType: safetensors.I8, Shape: []int64{2, 2}},
				safetensors.Entry{Name: m + ".SCB", DType: safetensors.F32, Shape: []int64{2}},
				safetensors.Entry{Name: m + ".weight_format", DType: safetensors.U8})
		}
		return writeFile(t, entries, map[string][]byte{
			"up_proj.weight": {127, 0xc1, 0, 127}, "up_proj.SCB": float32s(1, 2), "up_proj.weight_format": {upFormat},
			"down_proj.weight": {1, 1, 1, 1}, "down_proj.SCB": float32s(127, 127), "down_proj.weight_format": {1},
		})
	}
	got, skipped, err := Written(t.Context(), src, quant(0), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Name != "up_proj.weight" {
		t.Fatalf("measured %+v", got)
	}
	if diff := cmp.Diff([]Skipped{{"down_proj.weight", "expected weight_format 0, row-major, found 1"}}, skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	r := got[0].Results[0]
	// Only -0.5 is off: its code -63 stands for -63/127.
	if e := math.Abs(-0.5 + 63./127); math.Abs(r.Sums.Max-e) > 1e-7 || math.Abs(r.Sums.E2-e*e) > 1e-9 || r.Zeros != 1 {
		t.Errorf("largest error %v, want %v; sum of squares %v; %d zeros, want 1", r.Sums.Max, e, r.Sums.E2, r.Zeros)
	}
	if r.Codes != 4+8 || r.Bytes != 4+8+1 || r.Counts[127] != 2 || r.Counts[0xc1] != 1 {
		t.Errorf("%d bytes of codes and scales, %d in all, counts of 127 and -63: %d, %d", r.Codes, r.Bytes, r.Counts[127], r.Counts[0xc1])
	}

	var se *convert.SourceError
	if _, _, err := Written(t.Context(), src, quant(2), Options{}); !errors.As(err, &se) {
		t.Errorf("nothing that can be measured: error %v", err)
	}
}
