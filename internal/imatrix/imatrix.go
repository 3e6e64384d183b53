// Package imatrix reads importance matrices in GGUF, as llama.cpp's llama-imatrix writes them since August 2025
// (tools/imatrix/imatrix.cpp, pull request 9400): for each matrix the sums of squared activations of its input columns.
//
// It is a reader of exactly that: the header of a GGUF file (docs/gguf.md of ggml-org/ggml), of which it keeps
// names, shapes and places, and float32 tensors. A full GGUF library brings an HTTP client and a JSON engine along for
// remote files and model estimates that nothing here needs.
package imatrix

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// Bounds on what a file may announce; models have some thousands of tensors.
const (
	maxTensors = 1 << 20
	maxPairs   = 1 << 16
	maxString  = 1 << 16
	maxArray   = 1 << 24
	maxValues  = 1 << 28 // of one tensor
)

// Matrix is an importance matrix.
type Matrix struct {
	file    string
	entries map[string]*entry // by llama.cpp's name of the weight
}

type entry struct {
	columns, matrices int64
	sum2              []float32
	counts            []float32
}

// Open reads a file. What is wrong with it is a *checkpoint.InputError.
func Open(path string) (*Matrix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open importance matrix: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open importance matrix: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &checkpoint.InputError{File: path, Expected: "a regular file", Found: info.Mode().String()}
	}
	return read(f, info.Size(), path)
}

func read(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	d := &decoder{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), left: size}
	tensors, err := d.header()
	if err != nil {
		return nil, &checkpoint.InputError{File: name, Expected: "an importance matrix in GGUF", Found: err.Error(),
			Hint: "make one with llama-imatrix of August 2025 or later; older ones write another format (.dat)"}
	}
	m := &Matrix{file: name, entries: map[string]*entry{}}
	for _, t := range tensors {
		base, sums := strings.CutSuffix(t.name, ".in_sum2")
		if !sums {
			var counts bool
			if base, counts = strings.CutSuffix(t.name, ".counts"); !counts {
				continue
			}
		}
		v, err := t.read(r, d.data, size)
		if err != nil {
			return nil, &checkpoint.InputError{File: name, Tensor: t.name, Expected: "float32 values within the file", Found: err.Error()}
		}
		e := m.entries[base]
		if e == nil {
			e = new(entry)
			m.entries[base] = e
		}
		if sums {
			e.columns, e.matrices, e.sum2 = t.dims[0], int64(len(v))/max(t.dims[0], 1), v
		} else {
			e.counts = v
		}
	}
	for base, e := range m.entries {
		if e.sum2 == nil || int64(len(e.counts)) != e.matrices || e.matrices == 0 {
			return nil, &checkpoint.InputError{File: name, Tensor: base, Expected: "sums of squares and a count for each matrix",
				Found: fmt.Sprintf("%d sums and %d counts", len(e.sum2), len(e.counts))}
		}
	}
	if len(m.entries) == 0 {
		return nil, &checkpoint.InputError{File: name, Expected: "an importance matrix", Found: "a GGUF file without .in_sum2 tensors"}
	}
	return m, nil
}

// Len is the number of weights that the matrix knows.
func (m *Matrix) Len() int { return len(m.entries) }

// Columns are the mean squared activations of the input columns of a weight, named as in a checkpoint of Hugging Face;
// nil if the matrix has none for it, or none was seen. A matrix of another width is an error: it is of another model.
func (m *Matrix) Columns(tensor string, columns int64) ([]float32, error) {
	base, index := llamaName(tensor)
	e := m.entries[base]
	if e == nil || index >= e.matrices {
		return nil, nil
	}
	if e.columns != columns {
		return nil, &checkpoint.InputError{File: m.file, Tensor: base, Expected: fmt.Sprintf("%d columns, as %s has", columns, tensor),
			Found: fmt.Sprint(e.columns), Hint: "the importance matrix is of another model"}
	}
	n := e.counts[index]
	if !(n > 0) {
		return nil, nil
	}
	out := make([]float32, columns)
	for i := range out {
		out[i] = e.sum2[index*columns+int64(i)] / n
		if !(out[i] >= 0) || math.IsInf(float64(out[i]), 0) {
			return nil, &checkpoint.InputError{File: m.file, Tensor: base, Expected: "sums of squares", Found: fmt.Sprint(out[i])}
		}
	}
	return out, nil
}

var (
	layerName = regexp.MustCompile(`^(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers\.(\d+)\.(.+)\.weight$`)
	expert    = regexp.MustCompile(`^(?:mlp|block_sparse_moe|feed_forward)\.experts\.(\d+)\.(.+)$`)
)

// modules maps the modules of a layer to llama.cpp's names (gguf-py/gguf/tensor_mapping.py).
var modules = map[string]string{
	"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
	"self_attn.qkv_proj": "attn_qkv", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
	"mlp.gate_up_proj": "ffn_up", "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
	"mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
	"mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
	"self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_b_proj": "attn_kv_b",
}

var experts = map[string]string{
	"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps", "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}

// llamaName is llama.cpp's name of a weight and the number of the matrix in it, not 0 for an expert alone. A name it
// does not know is taken as it stands.
func llamaName(tensor string) (string, int64) {
	p := layerName.FindStringSubmatch(tensor)
	if p == nil {
		return tensor, 0
	}
	if e := expert.FindStringSubmatch(p[2]); e != nil && experts[e[2]] != "" {
		index, err := strconv.ParseInt(e[1], 10, 32)
		if err != nil {
			return tensor, 0
		}
		return "blk." + p[1] + "." + experts[e[2]] + ".weight", index
	}
	if name := modules[p[2]]; name != "" {
		return "blk." + p[1] + "." + name + ".weight", 0
	}
	return tensor, 0
}

// decoder reads the header of a GGUF file.
type decoder struct {
	r    *bufio.Reader
	left int64 // bytes of the file not yet read
	at   int64
	data int64 // where the tensors' bytes begin
}

type tensor struct {
	name   string
	dims   []int64
	typ    uint32
	offset uint64
}

func (d *decoder) take(n int64) ([]byte, error) {
	if n < 0 || n > d.left || n > maxString {
		return nil, fmt.Errorf("%d bytes announced at byte %d, %d left", n, d.at, d.left)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(d.r, p); err != nil {
		return nil, fmt.Errorf("read at byte %d: %w", d.at, err)
	}
	d.left -= n
	d.at += n
	return p, nil
}

func (d *decoder) u32() (uint32, error) {
	p, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(p), nil
}

func (d *decoder) u64(limit uint64) (uint64, error) {
	p, err := d.take(8)
	if err != nil {
		return 0, err
	}
	v := binary.LittleEndian.Uint64(p)
	if v > limit {
		return 0, fmt.Errorf("%d announced at byte %d, at most %d allowed", v, d.at-8, limit)
	}
	return v, nil
}

func (d *decoder) string() (string, error) {
	n, err := d.u64(maxString)
	if err != nil {
		return "", err
	}
	p, err := d.take(int64(n))
	return string(p), err
}

func (d *decoder) header() ([]tensor, error) {
	magic, err := d.take(4)
	if err != nil || string(magic) != "GGUF" {
		return nil, fmt.Errorf("%q at the start", magic)
	}
	version, err := d.u32()
	if err != nil {
		return nil, err
	}
	if version != 2 && version != 3 {
		return nil, fmt.Errorf("GGUF version %d; 2 and 3 are known", version)
	}
	count, err := d.u64(maxTensors)
	if err != nil {
		return nil, err
	}
	pairs, err := d.u64(maxPairs)
	if err != nil {
		return nil, err
	}
	align := uint64(32)
	for range pairs {
		if err := d.pair(&align); err != nil {
			return nil, err
		}
	}
	var out []tensor
	for range count {
		t, err := d.tensor()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	d.data = (d.at + int64(align) - 1) / int64(align) * int64(align)
	return out, nil
}

// The value types of GGUF.
const (
	typeString = 8
	typeArray  = 9
	typeU32    = 4
	typeF32    = 0 // of a tensor
)

var scalarSize = map[uint32]int64{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

func (d *decoder) pair(align *uint64) error {
	key, err := d.string()
	if err != nil {
		return err
	}
	typ, err := d.u32()
	if err != nil {
		return err
	}
	if key == "general.type" && typ == typeString {
		v, err := d.string()
		if err == nil && v != "imatrix" {
			return fmt.Errorf("a GGUF file of type %.40q", v)
		}
		return err
	}
	if key == "general.alignment" && typ == typeU32 {
		v, err := d.u32()
		if err == nil && (v == 0 || v > 1<<20) {
			return fmt.Errorf("alignment %d", v)
		}
		*align = uint64(v)
		return err
	}
	return d.skip(typ)
}

func (d *decoder) skip(typ uint32) error {
	switch size, ok := scalarSize[typ]; {
	case ok:
		_, err := d.take(size)
		return err
	case typ == typeString:
		_, err := d.string()
		return err
	case typ != typeArray:
		return fmt.Errorf("value type %d at byte %d", typ, d.at)
	}
	elem, err := d.u32()
	if err != nil {
		return err
	}
	n, err := d.u64(maxArray)
	if err != nil {
		return err
	}
	if elem == typeArray {
		return fmt.Errorf("an array of arrays at byte %d", d.at)
	}
	for range n {
		if err := d.skip(elem); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) tensor() (tensor, error) {
	var t tensor
	var err error
	if t.name, err = d.string(); err != nil {
		return t, err
	}
	dims, err := d.u32()
	if err != nil {
		return t, err
	}
	if dims == 0 || dims > 4 {
		return t, fmt.Errorf("tensor %.80q with %d dimensions", t.name, dims)
	}
	for range dims {
		n, err := d.u64(maxValues)
		if err != nil {
			return t, err
		}
		t.dims = append(t.dims, int64(n))
	}
	if t.typ, err = d.u32(); err != nil {
		return t, err
	}
	t.offset, err = d.u64(math.MaxInt64)
	return t, err
}

// read reads the values of a float32 tensor of a file of the given size.
func (t *tensor) read(r io.ReaderAt, data, size int64) ([]float32, error) {
	if t.typ != typeF32 {
		return nil, fmt.Errorf("type %d", t.typ)
	}
	n := int64(1)
	for _, d := range t.dims {
		if d > 0 && n > maxValues/d {
			return nil, fmt.Errorf("shape %v", t.dims)
		}
		n *= d
	}
	if data > size || t.offset > uint64(size-data) || 4*n > size-data-int64(t.offset) {
		return nil, fmt.Errorf("%d values at byte %d of %d", n, t.offset, size)
	}
	p := make([]byte, 4*n)
	if _, err := r.ReadAt(p, data+int64(t.offset)); err != nil && err != io.EOF {
		return nil, err
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return v, nil
}
