package nf4_test

import (
	"fmt"

	"github.com/nf4kit/nf4kit/nf4"
)

func Example() {
	weights := []float32{0.02, -0.011, 0.003, 0, -0.04, 0.019, 0.0005}

	var c nf4.Config // NF4 in blocks of 64
	codes := make([]byte, c.CodesLen(len(weights)))
	absmax := make([]float32, c.Blocks(len(weights)))
	if err := c.Quantize(codes, absmax, weights); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("codes % x, absmax %v\n", codes, absmax)

	decoded := make([]float32, len(weights))
	if err := c.Dequantize(decoded, codes, absmax); err != nil {
		fmt.Println(err)
		return
	}
	for i := range weights {
		fmt.Printf("%7.4f -> %7.4f\n", weights[i], decoded[i])
	}
	// Output:
	// codes c4 87 0c 77, absmax [0.04]
	//  0.0200 ->  0.0176
	// -0.0110 -> -0.0114
	//  0.0030 ->  0.0032
	//  0.0000 ->  0.0000
	// -0.0400 -> -0.0400
	//  0.0190 ->  0.0176
	//  0.0005 ->  0.0000
}

// The weights of a checkpoint are usually bfloat16. Their bytes are taken as they lie in the file.
func ExampleConfig_QuantizeBytes() {
	src := []byte{0x80, 0x3f, 0x00, 0xbf, 0x00, 0x00} // 1, -0.5, 0
	c := nf4.Config{Type: nf4.FP4, BlockSize: 128}
	codes := make([]byte, c.CodesLen(3))
	absmax := make([]float32, c.Blocks(3))
	if err := c.QuantizeBytes(codes, absmax, src, nf4.BFloat16); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("% x %v\n", codes, absmax)
	// Output: 3d 00 [1]
}
