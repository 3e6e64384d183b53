// Command pack quantizes a matrix and writes it as a file that bitsandbytes and transformers load.
package main

import (
	"log"
	"os"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

func main() {
	weight := make([]float32, 64*128) // 64 rows of 128
	for i := range weight {
		weight[i] = float32(i*i%251-125) / 1250
	}
	bf16, err := nf4.AppendBytes(nil, weight, nf4.BFloat16)
	if err != nil {
		log.Fatal(err)
	}
	tensors, err := bnb.Format{}.Pack("model.layers.0.self_attn.q_proj.weight", [2]int64{64, 128}, bf16, nf4.BFloat16)
	if err != nil {
		log.Fatal(err)
	}
	if err := safetensors.WriteFile(os.Args[1], tensors, map[string]string{"format": "pt"}); err != nil {
		log.Fatal(err)
	}
}
