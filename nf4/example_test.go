package nf4_test

import (
	"fmt"
	"log"

	"github.com/nf4kit/nf4kit/nf4"
)

func Example() {
	weights := []float32{0.02, -0.011, 0.003, 0, -0.04, 0.019, 0.0005}

	var c nf4.Config // NF4 in blocks of 64
	codes, absmax, err := c.AppendQuantize(nil, nil, weights)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("codes % x, absmax %v\n", codes, absmax)

	decoded, err := c.AppendDequantize(nil, codes, absmax, len(weights))
	if err != nil {
		log.Fatal(err)
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
func ExampleConfig_AppendQuantizeBytes() {
	src := []byte{0x80, 0x3f, 0x00, 0xbf, 0x00, 0x00} // 1, -0.5, 0
	codes, absmax, err := nf4.Config{Type: nf4.FP4, BlockSize: 128}.AppendQuantizeBytes(nil, nil, src, nf4.BFloat16)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("% x %v\n", codes, absmax)
	// Output: 3d 00 [1]
}

// Scales that went through double quantization are not the absmax of their blocks any more. Encoding against what a
// decoder will have, instead of what was there before, loses less.
func ExampleConfig_Encode() {
	weights := []float32{0.02, -0.011, 0.003, 0, -0.04, 0.019, 0.0005, 0.0061}
	stored := []float32{-0.0391} // negative, which decoders take as they take any other

	var c nf4.Config
	codes := make([]byte, c.CodesLen(len(weights)))
	if err := c.Encode(codes, stored, weights); err != nil {
		log.Fatal(err)
	}
	decoded, err := c.AppendDequantize(nil, codes, stored, len(weights))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.4f\n", decoded)
	// Output: [0.0205 -0.0096 0.0036 -0.0000 -0.0391 0.0205 -0.0000 0.0072]
}
