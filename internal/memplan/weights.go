package memplan

import (
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/modelshape"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

const (
	offsetScalar  = 4 // the mean absmax, a tensor in memory, a JSON number in the file
	quantEmbedded = 2 // bytes per element of a weight decoded for a matrix product
)

// NF4Bytes is what one weight of n elements takes in 4 bits with the given block size: in a file of this converter, and
// in GPU memory, where the quant_state record is a Python object but the double quantization's offset is a tensor. Both
// are 0 for a weight without elements.
func NF4Bytes(n, block int64, doubleQuant bool) (file, device int64) {
	size, err := bnb.Format{BlockSize: int(block), NoDoubleQuant: !doubleQuant}.Size(n)
	if err != nil {
		return 0, 0
	}
	device = size.Total - bnb.StateSize
	if doubleQuant {
		device += offsetScalar
	}
	return size.Total, device
}

// quantized reports whether the run keeps the group in 4 bits.
func (r Run) quantized(g modelshape.Group) bool {
	if r.Method != QLoRA {
		return false
	}
	switch g.Kind {
	case modelshape.Linear:
		return r.QuantTowers || g.Part != modelshape.Tower && g.Part != modelshape.Projector
	case modelshape.Expert:
		return r.QuantExperts && len(g.Shape) == 2
	}
	return false
}

// quantBytes is what one quantized weight of the group takes: in 8 bits a byte an element and a float32 scale a row
// (Dettmers et al. 2022, LLM.int8).
func (r Run) quantBytes(g modelshape.Group) (file, device int64) {
	if r.Bits == 8 {
		n := g.Elems() + 4*g.Shape[0]
		return n, n
	}
	return NF4Bytes(g.Elems(), r.BlockSize, !r.NoDoubleQuant)
}

// Weights is what the base weights take.
type Weights struct {
	Params      int64 `json:"params"`
	QuantParams int64 `json:"quantized_params"`
	File        int64 `json:"file_bytes"`             // tensors of the checkpoint that the run loads, without headers
	Device      int64 `json:"device_bytes"`           // in GPU memory, on one GPU without sharding
	Quantized   int64 `json:"quantized_device_bytes"` // of them in 4 bits, constants and tables included
	Upcast      int64 `json:"upcast_bytes"`           // of them float32 copies of what the file has in 16 bits
}

// Bits is the measured bits per parameter of the file.
func (w Weights) Bits() float64 {
	if w.Params == 0 {
		return 0
	}
	return 8 * float64(w.File) / float64(w.Params)
}

// keptSize is the bytes of an element that is not in 4 bits.
func (r Run) keptSize() int64 {
	switch {
	case r.Method == QLoRA && !r.NoKbitPrep:
		return 4 // prepare_model_for_kbit_training (peft/utils/other.py) casts every 16-bit parameter
	case r.Method == Full && r.Precision == Autocast:
		return 4
	}
	return r.Base.Size()
}

// weights sums over the groups. T5's wo and the like are float32 in memory
// anyway; that is left out.
func (r Run) weights(m *modelshape.Model) Weights {
	var w Weights
	kept := r.keptSize()
	for _, g := range m.Groups {
		w.Params += g.Params()
		if r.quantized(g) {
			file, device := r.quantBytes(g)
			w.QuantParams += g.Params()
			w.File += g.Count * file
			w.Device += g.Count * device
			w.Quantized += g.Count * device
			continue
		}
		w.File += g.Params() * r.Base.Size()
		w.Device += g.Params() * kept
		w.Upcast += g.Params() * (kept - r.Base.Size())
	}
	return w
}

// Adapter is the pair of one adapted group of layers: A is [rank, In], B is
// [Out, rank].
type Adapter struct {
	Name  string `json:"name"`
	In    int64  `json:"in"`
	Out   int64  `json:"out"`
	Count int64  `json:"count"`
}

// adapters lists what the targets match.
func (r Run) adapters(m *modelshape.Model) []Adapter {
	if r.Method == Full {
		return nil
	}
	t, err := ParseTargets(r.Targets)
	if err != nil {
		return nil
	}
	var out []Adapter
	for _, g := range m.Groups {
		if in, o := inOut(m, g); in > 0 && t.Match(g) {
			out = append(out, Adapter{Name: g.Name, In: in, Out: o, Count: g.Count})
		}
	}
	return out
}

// idleTarget is the first name of a list of targets that no linear layer has, "" if there is none. peft ignores it.
func (r Run) idleTarget(m *modelshape.Model) string {
	if strings.HasPrefix(r.Targets, "re:") {
		return ""
	}
	for name := range strings.SplitSeq(r.Targets, ",") {
		one := r
		if one.Targets = strings.TrimSpace(name); len(one.adapters(m)) == 0 {
			return one.Targets
		}
	}
	return ""
}

// linearNames are the last parts of the names of what all-linear matches, each once.
func (r Run) linearNames(m *modelshape.Model) []string {
	r.Targets = "all-linear"
	var names []string
	for _, a := range r.adapters(m) {
		module := strings.TrimSuffix(a.Name, ".weight")
		if leaf := module[strings.LastIndex(module, ".")+1:]; !slices.Contains(names, leaf) {
			names = append(names, leaf)
		}
	}
	return names
}

// AdapterParams is the number of adapter parameters at a rank.
func AdapterParams(adapters []Adapter, rank int64) int64 {
	var n int64
	for _, a := range adapters {
		n += a.Count * rank * (a.In + a.Out)
	}
	return n
}

// KVCache is the bytes of keys and values that generation keeps for one
// sequence of the given length: 2 x key-value heads x head dimension x layers a
// token, windowed layers no more than their window, layers of linear attention
// none.
func KVCache(s modelshape.Stack, length int64, elem int64) int64 {
	if s.Bidirect {
		return 0
	}
	perToken := s.KVHeads * (s.HeadDim + s.ValDim) * elem
	layers := s.Layers - s.LinearLayers
	windowed := min(s.WindowLayers, layers)
	if s.Window == 0 {
		windowed = 0
	}
	return perToken * ((layers-windowed)*length + windowed*min(length, s.Window))
}
