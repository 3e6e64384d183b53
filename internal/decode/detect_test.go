package decode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/panel"
	"github.com/nf4kit/nf4kit/safetensors"
)

// pattern is a file of a given size with the same bytes at the same places every time.
type pattern int64

func (size pattern) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(size) {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), int64(size)-off))
	for i := range p[:n] {
		x := uint64(off+int64(i)) * 0x9e3779b97f4a7c15
		p[i] = byte(x >> 56)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// parse reads a list of tensors: lines or semicolons, each "name dtype dims...".
func parse(list string) []Tensor {
	var out []Tensor
	for line := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == '\n' || r == ';' }) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		t := Tensor{Name: f[0], File: "f.safetensors"}
		var err error
		if t.DType, err = safetensors.ParseDType(f[1]); err != nil {
			continue
		}
		for _, s := range f[2:] {
			d, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				continue
			}
			t.Shape = append(t.Shape, d)
		}
		t.Data = pattern(max(elems(t.Shape), 0) * int64(t.DType.Bits()) / 8)
		out = append(out, t)
	}
	return out
}

const block16 = `{"quant_method":"fp8","weight_block_size":[16,16]}`

const (
	packed4 = `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"group_size":8}}}}`
	nvfp4   = `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"type":"float","strategy":"tensor_group","group_size":16}}}}`
)

func TestDetectErrors(t *testing.T) {
	ct := `{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"g":{"weights":{"strategy":"channel"}}}}`
	tests := []struct {
		name, config, tensors string
		want                  error
	}{
		{"no scales", block16, "a.weight F8_E4M3 32 32",
			&TensorError{"f.safetensors", "a.weight", "a tensor of its scales, such as a.weight_scale_inv", "none"}},
		{"two scales", block16, "a.weight F8_E4M3 32 32; a.weight_scale_inv F32 2 2; a.weight_scale F32",
			&TensorError{"f.safetensors", "a.weight", "one tensor of scales", "a.weight_scale_inv and a.weight_scale"}},
		{"scale grid", block16, "a.weight F8_E4M3 33 32; a.weight_scale_inv F32 2 2",
			&TensorError{"f.safetensors", "a.weight_scale_inv", "scales for a.weight, [3 2] in blocks of 16x16", "[2 2]"}},
		{"scale grid of experts", block16, "a F8_E4M3 4 33 32; a_scale_inv F32 3 3 2",
			&TensorError{"f.safetensors", "a_scale_inv", "scales for a, [4 3 2] in blocks of 16x16", "[3 3 2]"}},
		// transformers would take blocks of 65x16.
		{"divisor of the shape", block16, "a.weight F8_E4M3 130 32; a.weight_scale_inv F32 2 2",
			&TensorError{"f.safetensors", "a.weight_scale_inv", "scales for a.weight, [9 2] in blocks of 16x16", "[2 2]"}},
		{"scale dtype", block16, "a.weight F8_E4M3 16 16; a.weight_scale_inv I32 1 1",
			&TensorError{"f.safetensors", "a.weight_scale_inv", "scales in F32, BF16, F16, F8_E8M0 or U8", "I32"}},
		{"orphan scale", block16, "a.weight_scale_inv F32 1 1",
			&TensorError{"f.safetensors", "a.weight_scale_inv", "the FP8 weight a.weight", "no such tensor"}},
		{"scale of a plain weight", ct, "a.weight BF16 4 4; a.weight_scale F32 4 1",
			&TensorError{"f.safetensors", "a.weight_scale", "the FP8 weight a.weight", "it in BF16"}},
		{"group size", ct, "a.weight F8_E4M3 4 64; a.weight_scale F32 4 2",
			&TensorError{"f.safetensors", "a.weight_scale", "scales for a.weight, one for the tensor, one a row or one a block of [4 64]", "[4 2]"}},
		{"FNUZ", block16, "a.weight F8_E4M3FNUZ 16 16; a.weight_scale_inv F32 1 1",
			&UnsupportedError{"fp8", "FP8", "a.weight", "F8_E4M3FNUZ elements do not say whether their scales are doubled"}},
		{"ComfyUI", `{"quant_method":"fp8"}`, "a.scale_weight F32; a.weight F8_E4M3 16 16",
			&UnsupportedError{"fp8", "FP8", "a.scale_weight", "ComfyUI's scaled FP8 has no reference that it could be checked against"}},
		{"packed", `{"quant_method":"compressed-tensors","format":"pack-quantized"}`, "a.weight_packed I32 4 4; a.weight_scale BF16 4 1",
			&UnsupportedError{"compressed-tensors", "compressed-tensors pack-quantized", "a.weight_packed", "packed weights, and no config_groups that say how"}},
		{"packed without scales", packed4, "a.weight_packed I32 4 4; a.weight_shape I64 2",
			&TensorError{"f.safetensors", "a.weight_packed", "a tensor of its scales, a.weight_scale", "none"}},
		{"words do not fit", packed4, "a.weight_packed I32 4 5; a.weight_scale BF16 4 4",
			&TensorError{"f.safetensors", "a.weight_packed", "its shape in a.weight_shape, or words and scales that tell it by config_groups", "[4 5] under scales [4 4] alone"}},
		{"scales do not fit", packed4, "a.weight_packed I32 4 4; a.weight_scale BF16 3 4",
			&TensorError{"f.safetensors", "a.weight_packed", "4 bits in groups of 8 (config_groups.g)", "[4 4] for [4 32] under scales [3 4]"}},
		{"no zero points", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"group_size":8,"symmetric":false}}}}`,
			"a.weight_packed I32 4 4; a.weight_scale BF16 4 4",
			&TensorError{"f.safetensors", "a.weight_packed", "its zero points, a.weight_zero_point", "no such tensor"}},
		{"zero points do not fit", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"group_size":8,"symmetric":false}}}}`,
			"a.weight_packed I32 12 4; a.weight_scale BF16 12 4; a.weight_zero_point I32 1 4",
			&TensorError{"f.safetensors", "a.weight_zero_point", "I32 [2 4], packed along out, or I8 [12 4]", "I32 [1 4]"}},
		{"zero points of a symmetric scheme", packed4, "a.weight_packed I32 8 4; a.weight_scale BF16 8 4; a.weight_zero_point I32 1 4",
			&TensorError{"f.safetensors", "a.weight_zero_point", "I8 [8 4]", "I32 [1 4]"}},
		{"order of other columns", packed4, "a.weight_packed I32 8 4; a.weight_scale BF16 8 4; a.weight_g_idx I32 31",
			&TensorError{"f.safetensors", "a.weight_g_idx", "I32 [32], the groups of the columns", "I32 [31]"}},
		{"order of too many columns", packed4, "a.weight_packed I32 8 65536; a.weight_scale BF16 8 65536; a.weight_g_idx I32 524288",
			&TensorError{"f.safetensors", "a.weight_g_idx", "at most 1048576 columns in 16384 groups", "524288 in 65536"}},
		{"scales of NVFP4", nvfp4, "a.weight_packed U8 8 16; a.weight_scale F8_E4M3 8 1; a.weight_global_scale F32 1",
			&TensorError{"f.safetensors", "a.weight_packed", "4 bits in groups of 16 (config_groups.g)", "[8 16] for [8 32] under scales [8 1]"}},
		{"scales of NVFP4 in BF16", nvfp4, "a.weight_packed U8 8 16; a.weight_scale BF16 8 2; a.weight_global_scale F32 1",
			&TensorError{"f.safetensors", "a.weight_scale", "scales in F8_E4M3", "BF16"}},
		{"second scale of NVFP4", nvfp4, "a.weight_packed U8 8 16; a.weight_scale F8_E4M3 8 2; a.weight_global_scale F32 8",
			&TensorError{"f.safetensors", "a.weight_global_scale", "F32 [1], the scale of the scales", "F32 [8]"}},
		{"format of a group", `{"quant_method":"compressed-tensors","config_groups":{"g":{"format":"int7-spiral","weights":{"num_bits":4}}}}`, "a.weight_packed I32 4 4",
			&UnsupportedError{"compressed-tensors", "compressed-tensors", "", `its config_groups.g.format "int7-spiral" is not decoded`}},
		{"group size 0", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"strategy":"group","group_size":0}}}}`, "a.weight_packed I32 4 4; a.weight_scale BF16 4 4",
			&ConfigError{"config_groups.g.weights.group_size", "a positive integer", "0"}},
		{"bits of a group", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":9,"group_size":8}}}}`, "a.weight_packed I32 4 4; a.weight_scale BF16 4 4",
			&ConfigError{"config_groups.g.weights.num_bits", "1 to 8", "9"}},
		{"type of a group", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"type":"bool"}}}}`, "a.weight_packed I32 4 4; a.weight_scale BF16 4 4",
			&ConfigError{"config_groups.g.weights.type", `"int" or "float"`, `"bool"`}},
		{"strategy of a group", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"strategy":"spiral"}}}}`, "a.weight_packed I32 4 4; a.weight_scale BF16 4 4",
			&ConfigError{"config_groups.g.weights.strategy", "tensor, channel, group, tensor_group or block", `"spiral"`}},
		{"modelopt without a config", `{"quant_method":"modelopt"}`, "a.weight U8 8 16",
			&UnsupportedError{"modelopt", "NVIDIA ModelOpt ", "", `its quant_algo "" is not decoded`}},
		{"modelopt AWQ", `{"quant_method":"modelopt","quant_algo":"NVFP4_AWQ"}`, "a.weight U8 8 16",
			&UnsupportedError{"modelopt", "NVIDIA ModelOpt NVFP4_AWQ", "", `its quant_algo "NVFP4_AWQ" is not decoded`}},
		{"modelopt without its second scale", `{"quant_method":"modelopt","quant_algo":"NVFP4"}`, "a.weight U8 8 16; a.weight_scale F8_E4M3 8 2",
			&TensorError{"f.safetensors", "a.weight", "scales in F8_E4M3 and their own in a.weight_scale_2", "others"}},
		{"modelopt in other groups", `{"quant_method":"modelopt","quant_algo":"NVFP4"}`, "a.weight U8 8 16; a.weight_scale F8_E4M3 8 4; a.weight_scale_2 F32",
			&TensorError{"f.safetensors", "a.weight_scale", "scales for a.weight, one for the tensor, one a row or one a block of [8 32]", "[8 4]"}},
		{"modelopt smoothed", `{"quant_method":"modelopt","quant_algo":"NVFP4"}`, "a.pre_quant_scale BF16 8",
			&UnsupportedError{"modelopt", "NVIDIA ModelOpt NVFP4", "a.pre_quant_scale", "its inputs are scaled, or a second product added, in the runtime"}},
		{"zero point", ct, "a.weight_zero_point I8 4 1",
			&UnsupportedError{"compressed-tensors", "compressed-tensors float-quantized", "a.weight_zero_point", "zero points of a weight that is not of integers"}},
		{"sparse", `{"quant_method":"compressed-tensors","sparsity_config":{"format":"sparse-24-bitmask"}}`, "",
			&UnsupportedError{"compressed-tensors", "compressed-tensors", "", `its sparse format "sparse-24-bitmask" is not decoded`}},
		{"rotated", `{"quant_method":"compressed-tensors","transform_config":{"config_groups":{"u":{}}}}`, "",
			&UnsupportedError{"compressed-tensors", "compressed-tensors", "", "its weights are rotated (transform_config), which the activations must be too"}},
		{"GPTQ", `{"quant_method":"gptq","bits":4}`, "a.qweight I32 4 4",
			&UnsupportedError{"gptq", "gptq", "", "its codes can only be decoded by its own kernels"}},
		{"bitsandbytes 4-bit", `{"quant_method":"bitsandbytes","load_in_4bit":true}`, "",
			&UnsupportedError{"bitsandbytes", "bitsandbytes", "", "4-bit weights are read by the packages for bitsandbytes' own format"}},
		{"bitsandbytes 4-bit among 8-bit", `{"quant_method":"bitsandbytes"}`, "a.weight.quant_state.bitsandbytes__nf4 U8 80",
			&UnsupportedError{"bitsandbytes", "LLM.int8", "a.weight.quant_state.bitsandbytes__nf4", "4-bit weights are read by the packages for bitsandbytes' own format"}},
		{"no SCB", `{"quant_method":"bitsandbytes"}`, "a.weight I8 4 4",
			&TensorError{"f.safetensors", "a.weight", "its scales a.SCB", "no such tensor"}},
		{"SCB alone", `{"quant_method":"bitsandbytes"}`, "a.weight F16 4 4; a.SCB F32 4",
			&TensorError{"f.safetensors", "a.SCB", "the I8 weight a.weight", "it in F16"}},
		{"SCB shape", `{"quant_method":"bitsandbytes"}`, "a.weight I8 4 3; a.SCB F32 3",
			&TensorError{"f.safetensors", "a.SCB", "F32 [4], one scale for each row of a.weight", "F32 [3]"}},
		{"weight_format", `{"quant_method":"bitsandbytes"}`, "a.weight I8 4 3; a.SCB F32 4; a.weight_format U8 2",
			&TensorError{"f.safetensors", "a.weight_format", "U8 []", "U8 [2]"}},
		{"no blocks", `{"quant_method":"mxfp4"}`, "a_scales U8 1 2 3",
			&TensorError{"f.safetensors", "a_scales", "a tensor a_blocks beside it", "none"}},
		{"no scales of blocks", `{"quant_method":"mxfp4"}`, "a_blocks U8 1 2 3 16",
			&TensorError{"f.safetensors", "a_blocks", "a tensor a_scales beside it", "none"}},
		{"blocks of 8", `{"quant_method":"mxfp4"}`, "a_blocks U8 1 2 3 8; a_scales U8 1 2 3",
			&TensorError{"f.safetensors", "a_blocks", "a shape [experts, out, groups, 16]", "[1 2 3 8]"}},
		{"scales of blocks", `{"quant_method":"mxfp4"}`, "a_blocks U8 1 2 3 16; a_scales U8 1 2 4",
			&TensorError{"f.safetensors", "a_scales", "shape [1 2 3], one scale for each group of a_blocks", "[1 2 4]"}},
		{"name taken", `{"quant_method":"mxfp4"}`, "a BF16 1; a_blocks U8 1 2 3 16; a_scales U8 1 2 3",
			&TensorError{"f.safetensors", "a", "no tensor of the name that a_blocks decodes to", "it"}},
		{"name twice", block16, "a BF16 1; a BF16 1", &TensorError{"f.safetensors", "a", "each tensor once", "it in f.safetensors too"}},
		{"shape", block16, "a BF16 1099511627776 1099511627776",
			&TensorError{"f.safetensors", "a", "a shape of fewer than 2^56 elements", "[1099511627776 1099511627776]"}},
		{"block size", `{"quant_method":"fp8","weight_block_size":[128,0]}`, "",
			&ConfigError{"weight_block_size", "two positive integers", "[128,0]"}},
		{"block structure", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"strategy":"block"}}}}`, "",
			&ConfigError{"config_groups.g.weights.block_structure", "two positive integers", ""}},
	}
	for _, tt := range tests {
		_, err := Detect(Source{Config: []byte(tt.config)}, parse(tt.tensors))
		if diff := cmp.Diff(tt.want, err); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if _, err := Detect(Source{Config: []byte(`{"quant_method":7}`)}, nil); !errors.As(err, new(*ConfigError)) {
		t.Errorf("a number for a method gives %v", err)
	}
}

func TestDetectNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		src     Source
		tensors string
	}{
		"plain":       {Source{}, "a.weight BF16 4 4"},
		"an F8 dtype": {Source{Method: "fp8", Label: "FP8"}, "a.weight F8_E4M3 4 4"},
	} {
		if s, err := Detect(tt.src, parse(tt.tensors)); s != nil || err != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	// A config that outlived its weights is still told.
	s, err := Detect(Source{Config: []byte(block16)}, parse("a.weight BF16 4 4"))
	if err != nil || s == nil || len(s.Logical) != 0 || s.Method != "fp8" {
		t.Errorf("a stale config gives %+v, %v", s, err)
	}
}

// TestBareFile: without a config the method comes from the tensors, and blocks are 128x128.
func TestBareFile(t *testing.T) {
	s, err := Detect(Source{Method: "fp8", Label: "FP8"}, parse("a.weight F8_E4M3 576 300; a.weight_scale_inv F32 5 3; b.weight F8_E4M3 4 4"))
	if err != nil || len(s.Logical) != 1 || s.Label != "FP8 E4M3 in blocks of 128x128" || s.Consumes("b.weight") {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestWeightFormat(t *testing.T) {
	tensors := parse("a.weight I8 4 3; a.SCB F32 4; a.weight_format U8")
	tensors[2].Data = bytes.NewReader([]byte{2})
	s, err := Detect(Source{Config: []byte(`{"quant_method":"bitsandbytes","load_in_8bit":true}`)}, tensors)
	if err != nil {
		t.Fatal(err)
	}
	want := &TensorError{"f.safetensors", "a.weight_format", "0, row-major", "2"}
	if diff := cmp.Diff(error(want), s.Check()); diff != "" {
		t.Errorf("Check (-want +got):\n%s", diff)
	}
	if _, err := s.Logical[0].Open().ReadAt(make([]byte, 4), 0); !errors.As(err, new(*TensorError)) {
		t.Errorf("ReadAt gives %v", err)
	}
}

// TestShortSource: a source that ends early is an error that names the tensor, and a failed read is not remembered.
func TestShortSource(t *testing.T) {
	for _, path := range goldens(t) {
		for which := range 2 {
			g := openGolden(t, path)
			flaky := make(map[string]*flakyReader)
			for i := range g.tensors {
				f := &flakyReader{ReaderAt: g.tensors[i].Data}
				flaky[g.tensors[i].Name], g.tensors[i].Data = f, f
			}
			s := g.detect(t)
			for _, l := range s.Logical {
				part := flaky[l.Parts[which]]
				part.broken = true
				p := make([]byte, elems(l.Shape)*int64(l.DType.Bits())/8)
				if _, err := l.Open().ReadAt(p, 0); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), l.Name) {
					t.Errorf("%s: %s gives %v", path, l.Name, err)
				}
				part.broken = false
				if n, err := l.Open().ReadAt(p, 0); n != len(p) || err != nil {
					t.Errorf("%s: %s, mended: %d, %v", path, l.Name, n, err)
				}
			}
		}
	}
}

type flakyReader struct {
	io.ReaderAt
	broken bool
}

func (f *flakyReader) ReadAt(p []byte, off int64) (int, error) {
	if f.broken {
		return len(p) / 2, io.EOF
	}
	return f.ReaderAt.ReadAt(p, off)
}

// counted adds up what is read of several sources.
type counted struct {
	io.ReaderAt
	bytes *atomic.Int64
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	c.bytes.Add(int64(len(p)))
	return c.ReaderAt.ReadAt(p, off)
}

// TestBounded reads a little of tensors of a terabyte and looks at what it costs.
func TestBounded(t *testing.T) {
	tests := []struct {
		name, config, tensors string
		most                  int64 // bytes read for a range of 64 Ki elements in the middle
	}{
		{"blocks", `{"quant_method":"fp8"}`, "a.weight F8_E4M3 1048576 1048576; a.weight_scale_inv F32 8192 8192", 64<<10 + 4*8192},
		{"channels", `{"quant_method":"fp8"}`, "a.weight F8_E4M3 536870912 2048; a.weight_scale_inv F32 536870912 1", 64<<10 + 4*33},
		{"int8", `{"quant_method":"bitsandbytes"}`, "a.weight I8 1048576 1048576; a.SCB F32 1048576", 64<<10 + 8},
		{"one long row", `{"quant_method":"fp8"}`, "a.weight F8_E4M3 1 1099511627776; a.weight_scale_inv F32 1 8589934592", 64<<10 + 4*513},
		{"packed", packed4, "a.weight_packed I32 1048576 131072; a.weight_scale BF16 1048576 131072", 64<<9 + 2*8193},
		{"zero points", `{"quant_method":"compressed-tensors","config_groups":{"g":{"weights":{"num_bits":4,"group_size":8,"symmetric":false}}}}`,
			"a.weight_packed I32 8 17179869184; a.weight_scale BF16 8 17179869184; a.weight_zero_point I32 1 17179869184", 64<<9 + 6*16384},
		// Three panels are the most that such a range crosses.
		{"mxfp4", `{"quant_method":"mxfp4"}`, "a_blocks U8 64 1048576 512 16; a_scales U8 64 1048576 512", 3 * panelBytes},
	}
	for _, tt := range tests {
		tensors := parse(tt.tensors)
		var read atomic.Int64
		for i := range tensors {
			tensors[i].Data = counted{tensors[i].Data, &read}
		}
		s, err := Detect(Source{Config: []byte(tt.config)}, tensors)
		if err != nil {
			t.Fatal(err)
		}
		l := s.Logical[0]
		p := make([]byte, 64<<10*l.DType.Bits()/8)
		mid := elems(l.Shape) / 2 * int64(l.DType.Bits()) / 8
		if _, err := l.Open().ReadAt(p, mid); err != nil {
			t.Fatal(err)
		}
		if read.Load() > tt.most {
			t.Errorf("%s: %d bytes read for 65536 elements, want at most %d", tt.name, read.Load(), tt.most)
		}
	}
}

// TestPanels: more goroutines than panels, on more experts than panels, with every value right.
func TestPanels(t *testing.T) {
	tensors := parse("a_blocks U8 7 40 3 16; a_scales U8 7 40 3; b_blocks U8 7 40 3 16; b_scales U8 7 40 3")
	detect := func() *Scheme {
		s, err := Detect(Source{Method: "mxfp4"}, tensors)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	whole := readAll(t, detect().Logical[0].Open(), 7*40*96*2)
	s := detect()
	tiled(s, 7, 1)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			r := s.Logical[i%2].Open()
			p := make([]byte, 1000)
			for round := range 40 {
				off := (i*7919 + round*104729) % (len(whole) - len(p))
				if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, whole[off:off+len(p)]) {
					t.Errorf("read at %d: %v, or other bytes", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	cache := s.Logical[0].reader.(*elements).d.(*mxfp4Reader).cache
	if n, held := cache.Held(); n == 0 || n > panel.Bytes/panelBytes || held != 0 {
		t.Errorf("%d panels, %d of them still held", n, held)
	}
}

func ExampleDetect() {
	tensors := []Tensor{
		{Name: "model.layers.0.mlp.up_proj.weight", DType: safetensors.F8_E4M3, Shape: []int64{2, 2}, Data: bytes.NewReader([]byte{0x38, 0x40, 0xb8, 0})},
		{Name: "model.layers.0.mlp.up_proj.weight_scale_inv", DType: safetensors.F32, Shape: []int64{1, 1}, Data: bytes.NewReader([]byte{0, 0, 0, 0x40})},
	}
	s, err := Detect(Source{Config: []byte(`{"quant_method": "fp8", "weight_block_size": [128, 128]}`)}, tensors)
	if err != nil {
		panic(err)
	}
	l := s.Logical[0]
	b := make([]byte, 16)
	if _, err := l.Open().ReadAt(b, 0); err != nil {
		panic(err)
	}
	fmt.Println(s.Label)
	fmt.Println(l.Name, l.DType, l.Shape)
	fmt.Println(b)
	// Output:
	// FP8 E4M3 per tensor
	// model.layers.0.mlp.up_proj.weight F32 [2 2]
	// [0 0 0 64 0 0 128 64 0 0 0 192 0 0 0 0]
}

// TestDropComfy: ComfyUI's record of a weight's format means nothing without the format.
func TestDropComfy(t *testing.T) {
	s, err := Detect(Source{Method: "fp8"}, parse("a.weight F8_E4M3 4 4; a.weight_scale F32; a.comfy_quant U8 27; b.comfy_quant U8 27"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.comfy_quant"}, s.Dropped); diff != "" || s.Consumes("b.comfy_quant") {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
}
