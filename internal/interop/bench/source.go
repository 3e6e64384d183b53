//go:build interop && linux

package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The shape of TinyLlama 1.1B.
const (
	hidden       = 2048
	intermediate = 5632
	layers       = 22
	heads        = 32
	kvHeads      = 4
	vocab        = 32000
	shards       = 3
	spread       = 0.02 // standard deviation of the weights, Llama's initializer_range
	seed         = 20260911
)

type tensor struct {
	name  string
	shape []int
}

func (t tensor) elems() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

func tinyLlama() []tensor {
	list := []tensor{{"model.embed_tokens.weight", []int{vocab, hidden}}}
	kv := hidden / heads * kvHeads
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		list = append(list,
			tensor{p + "input_layernorm.weight", []int{hidden}},
			tensor{p + "mlp.down_proj.weight", []int{hidden, intermediate}},
			tensor{p + "mlp.gate_proj.weight", []int{intermediate, hidden}},
			tensor{p + "mlp.up_proj.weight", []int{intermediate, hidden}},
			tensor{p + "post_attention_layernorm.weight", []int{hidden}},
			tensor{p + "self_attn.k_proj.weight", []int{kv, hidden}},
			tensor{p + "self_attn.o_proj.weight", []int{hidden, hidden}},
			tensor{p + "self_attn.q_proj.weight", []int{hidden, hidden}},
			tensor{p + "self_attn.v_proj.weight", []int{kv, hidden}})
	}
	return append(list, tensor{"model.norm.weight", []int{hidden}}, tensor{"lm_head.weight", []int{vocab, hidden}})
}

// makeTinyLlama writes the checkpoint shard by shard, through a buffer: no tensor is ever held whole.
func makeTinyLlama(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	list := tinyLlama()
	total := 0
	for _, t := range list {
		total += 2 * t.elems()
	}
	random := newBF16(seed)
	weightMap := map[string]string{}
	for shard, begin := 1, 0; shard <= shards; shard++ {
		end, size := begin, 0
		for end < len(list) && (size < total/shards || shard == shards) {
			size += 2 * list[end].elems()
			end++
		}
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", shard, shards)
		for _, t := range list[begin:end] {
			weightMap[t.name] = name
		}
		if err := writeShard(filepath.Join(dir, name), list[begin:end], random); err != nil {
			return err
		}
		begin = end
	}
	config := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
		"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
		"num_key_value_heads": kvHeads, "vocab_size": vocab, "max_position_embeddings": 2048, "initializer_range": spread,
		"rms_norm_eps": 1e-5, "rope_theta": json.Number("10000.0"), "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
	}
	if err := writeJSON(filepath.Join(dir, "config.json"), config); err != nil {
		return err
	}
	index := map[string]any{"metadata": map[string]int{"total_size": total}, "weight_map": weightMap}
	return writeJSON(filepath.Join(dir, "model.safetensors.index.json"), index)
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o666)
}

// header returns the first bytes of a safetensors file of these bfloat16 tensors, in this order.
func header(list []tensor) ([]byte, error) {
	entries := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	at := 0
	for _, t := range list {
		next := at + 2*t.elems()
		entries[t.name] = map[string]any{"dtype": "BF16", "shape": t.shape, "data_offsets": []int{at, next}}
		at = next
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), nil
}

func writeShard(path string, list []tensor, random *bf16) error {
	head, err := header(list)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := w.Write(head); err != nil {
		return err
	}
	var buf [4096]byte
	for _, t := range list {
		for n := 2 * t.elems(); n > 0; {
			chunk := buf[:min(n, len(buf))]
			random.fill(chunk, len(t.shape) == 1)
			if _, err := w.Write(chunk); err != nil {
				return err
			}
			n -= len(chunk)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// bf16 draws normally distributed bfloat16 weights.
type bf16 struct{ *rand.Rand }

func newBF16(seed uint64) *bf16 { return &bf16{rand.New(rand.NewPCG(seed, 0))} }

// fill fills dst with little-endian N(0, spread), or N(1, spread) for a norm.
func (r *bf16) fill(dst []byte, norm bool) {
	mean := 0.0
	if norm {
		mean = 1
	}
	for i := 0; i+1 < len(dst); i += 2 {
		bits := math.Float32bits(float32(mean + spread*r.NormFloat64()))
		bits += 0x7fff + bits>>16&1 // to nearest, ties to even
		binary.LittleEndian.PutUint16(dst[i:], uint16(bits>>16))
	}
}

// makeSparse writes one file with one tensor of 16 GiB, whose data is a hole.
func makeSparse(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	list := []tensor{{"model.layers.0.mlp.down_proj.weight", []int{1 << 16, 1 << 17}}}
	head, err := header(list)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(path, head, 0o666); err != nil {
		return err
	}
	return os.Truncate(path, int64(len(head))+2*int64(list[0].elems()))
}
