package decode

import (
	"bytes"
	"testing"
)

// BenchmarkRead reads a weight in pieces of 1 MiB on one goroutine; MB/s are of decoded bytes.
func BenchmarkRead(b *testing.B) {
	for _, bb := range []struct{ name, config, tensors string }{
		{"fp8-128x128", `{"quant_method":"fp8"}`, "a.weight F8_E4M3 4096 4096; a.weight_scale_inv F32 32 32"},
		{"fp8-e4m3-e8m0", `{"quant_method":"fp8"}`, "a.weight F8_E4M3 4096 4096; a.weight_scale_inv F8_E8M0 32 32"},
		{"mxfp8", `{"quant_method":"mxfp8","weight_block_size":[1,32]}`, "a.weight F8_E4M3 4096 4096; a.weight_scale_inv U8 4096 128"},
		{"ct-channel-bf16", `{"quant_method":"compressed-tensors"}`, "a.weight F8_E4M3 4096 4096; a.weight_scale BF16 4096 1"},
		{"fbgemm-experts", `{"quant_method":"fbgemm_fp8"}`, "a F8_E4M3 2 2048 4096; a_scale F32 2 1 4096"},
		{"fp4-experts", `{"quant_method":"fp8"}`, "a.weight I8 4096 2048; a.weight_scale_inv F8_E8M0 4096 128"},
		{"int8", `{"quant_method":"bitsandbytes"}`, "a.weight I8 4096 4096; a.SCB F32 4096"},
		{"mxfp4", `{"quant_method":"mxfp4"}`, "a_blocks U8 2 5760 90 16; a_scales U8 2 5760 90"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			tensors := parse(bb.tensors)
			for i := range tensors {
				data := make([]byte, tensors[i].Data.(pattern))
				if _, err := tensors[i].Data.ReadAt(data, 0); err != nil {
					b.Fatal(err)
				}
				tensors[i].Data = bytes.NewReader(data)
			}
			s, err := Detect(Source{Config: []byte(bb.config)}, tensors)
			if err != nil {
				b.Fatal(err)
			}
			l := s.Logical[0]
			r, size := l.Open(), elems(l.Shape)*int64(l.DType.Bits())/8
			p := make([]byte, 1<<20)
			b.SetBytes(size)
			for b.Loop() {
				for off := int64(0); off < size; off += int64(len(p)) {
					if _, err := r.ReadAt(p[:min(int64(len(p)), size-off)], off); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
