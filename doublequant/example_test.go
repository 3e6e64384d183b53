package doublequant_test

import (
	"fmt"
	"log"

	"github.com/nf4kit/nf4kit/doublequant"
)

func Example() {
	scales := []float32{0.0512, 0.0498, 0.0605, 0.0433, 0.0551}

	offset := doublequant.Offset(scales)
	codes, nested, err := doublequant.AppendQuantize(nil, nil, scales, offset)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("offset %.5f, nested %.5f, codes %v\n", offset, nested, codes)

	decoded, err := doublequant.AppendDequantize(nil, codes, nested, offset)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.5f\n", decoded)
	// Output:
	// offset 0.05198, nested [0.00868], codes [67 53 253 0 209]
	// [0.05120 0.04983 0.06048 0.04336 0.05511]
}

// Mean takes the scales of a tensor too large to keep them all.
func ExampleMean() {
	var m doublequant.Mean
	m.Add([]float32{1, 2, 3})
	m.Add([]float32{6})
	fmt.Println(m.Offset())
	// Output: 3
}
