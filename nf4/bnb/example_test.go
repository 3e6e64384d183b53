package bnb_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/nf4/bnb"
	"github.com/nf4kit/nf4kit/safetensors"
)

// Write a file of one weight, as transformers and bitsandbytes load it, and read it back.
func Example() {
	dir, err := os.MkdirTemp("", "bnb")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "model.safetensors")
	weight := []float32{0.02, -0.011, 0.003, 0, -0.04, 0.019, 0.0005, 0.0061} // 2 rows of 4

	bf16, err := nf4.AppendBytes(nil, weight, nf4.BFloat16)
	if err != nil {
		log.Fatal(err)
	}
	tensors, err := bnb.Format{}.Pack("proj.weight", [2]int64{2, 4}, bf16, nf4.BFloat16)
	if err != nil {
		log.Fatal(err)
	}
	if err := safetensors.WriteFile(name, tensors, map[string]string{"format": "pt"}); err != nil {
		log.Fatal(err)
	}

	f, err := safetensors.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	values, state, err := bnb.Unpack(f.Reader, "proj.weight")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(state, state.Shape, state.DType)
	fmt.Printf("%.4f\n", values)
	// Output:
	// nf4,block=64,dq [2 4] bfloat16
	// [0.0177 -0.0114 0.0032 0.0000 -0.0400 0.0177 0.0000 0.0064]
}

// What stands beside the weights in config.json.
func ExampleQuantizationConfig_Encode() {
	c := bnb.QuantizationConfig{Type: nf4.NF4, DoubleQuant: true, ComputeDType: "bfloat16", SkipModules: []string{"lm_head"}}
	object, err := c.Encode()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", object)
	// Output: {"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": ["lm_head"], "llm_int8_threshold": 6.0, "load_in_4bit": true, "load_in_8bit": false, "quant_method": "bitsandbytes"}
}

// The size of a weight is known from its shape alone.
func ExampleFormat_Size() {
	for _, f := range []bnb.Format{{}, {NoDoubleQuant: true}} {
		size, err := f.Size(4096, 14336)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v: %d bytes, %.4f bits per parameter\n", f, size.Total, 8*float64(size.Data)/float64(size.Elems))
	}
	// Output:
	// nf4,block=64,dq: 30293312 bytes, 4.1270 bits per parameter
	// nf4,block=64,nodq: 33030464 bytes, 4.5000 bits per parameter
}
