package decode

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// FuzzDetect: no config and no list of tensors makes Detect or a reader panic; a reader asks for nothing outside its
// sources, and any part it yields is that part of the whole.
func FuzzDetect(f *testing.F) {
	for _, seed := range []struct{ method, config, tensors string }{
		{"fp8", block16, "a.weight F8_E4M3 33 20; a.weight_scale_inv F32 3 2; e F8_E5M2 2 4 4; e_scale_inv BF16 2 1 1"},
		{"fp8", `{"weight_block_size":null}`, "a.weight F8_E4M3 4 4; a.weight_scale F32; a.input_scale F32; b.weight I8 4 16; b.scale F8_E8M0 4 1"},
		{"mxfp8", `{"weight_block_size":[1,32]}`, "a.weight F8_E4M3 3 40; a.weight_scale_inv U8 3 2"},
		{"fbgemm_fp8", `{}`, "a.weight F8_E4M3 5 3; a.weight_scale F32 5 1; e F8_E4M3 2 3 3; e_scale F32 2 3 1"},
		{"compressed-tensors", `{"format":"float-quantized","config_groups":{"g":{"weights":{"strategy":"group","group_size":2}}}}`,
			"a.weight F8_E4M3 5 4; a.weight_scale F16 5 2; b.weight I8 5 4; b.weight_scale BF16 5 1"},
		{"compressed-tensors", `{"config_groups":{"g":{"weights":{"num_bits":4,"symmetric":false,"group_size":8}},"h":{"weights":{"num_bits":3,"symmetric":false,"group_size":10}}}}`,
			"a.weight_packed I32 9 4; a.weight_scale BF16 9 4; a.weight_zero_point I32 2 4; b.weight_packed I32 11 2; b.weight_scale F16 11 2; b.weight_zero_point I32 2 2; a.weight_g_idx I32 32"},
		{"compressed-tensors", `{"config_groups":{"g":{"weights":{"num_bits":4,"type":"float","group_size":16}},"h":{"weights":{"num_bits":6,"type":"float","group_size":32}}}}`,
			"a.weight_packed U8 9 16; a.weight_scale F8_E4M3 9 2; a.weight_global_scale F32 1; b.weight_packed U8 3 48; b.weight_scale U8 3 2"},
		{"modelopt", `{"quantization":{"quant_algo":"NVFP4","group_size":16}}`, "a.weight U8 2 3 16; a.weight_scale F8_E4M3 2 3 2; a.weight_scale_2 F32 2; a.input_scale F32"},
		{"mxfp4", "", "a_blocks U8 2 5 3 16; a_scales U8 2 5 3"},
		{"bitsandbytes", `{"load_in_8bit":true}`, "a.weight I8 7 5; a.SCB F32 7"},
		{"gptq", "", "a.qweight I32 1 1"},
	} {
		f.Add(seed.method, []byte(seed.config), seed.tensors, uint64(1))
	}
	f.Fuzz(func(t *testing.T, method string, config []byte, list string, seed uint64) {
		tensors := parse(list)
		for i := range tensors {
			tensors[i].Data = strict{t, tensors[i].Data.(pattern)}
		}
		s, err := Detect(Source{Method: method, Config: config}, tensors)
		if err != nil || s == nil {
			return
		}
		if seed%2 == 0 {
			tiled(s, 3, 1)
		}
		for _, l := range s.Logical {
			n := elems(l.Shape) * int64(l.DType.Bits()) / 8
			if n > 1<<18 {
				n = 1 << 18
			}
			whole := make([]byte, n)
			if k, err := l.Open().ReadAt(whole, 0); int64(k) != n || err != nil && (n > 0 || err != io.EOF) {
				return // such as a weight_format that is not 0
			}
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 4 {
				lo := rng.Int64N(n + 1)
				p := make([]byte, rng.Int64N(n-lo+1))
				if k, _ := l.Open().ReadAt(p, lo); k != len(p) || !bytes.Equal(p, whole[lo:lo+int64(k)]) {
					t.Fatalf("%s: %d bytes from %d on are not those of the whole", l.Name, len(p), lo)
				}
			}
		}
	})
}

// strict fails the test if it is asked for bytes that it does not have.
type strict struct {
	t    *testing.T
	data pattern
}

func (s strict) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(s.data) {
		s.t.Fatalf("read of %d bytes at %d from %d", len(p), off, int64(s.data))
	}
	return s.data.ReadAt(p, off)
}
