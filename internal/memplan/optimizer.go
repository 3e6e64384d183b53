package memplan

import (
	"slices"
	"strings"
)

// Optimizer names an optimizer and where its states are. The prefix "paged-"
// puts states of 100,000 elements and more into unified memory, which the
// driver moves to the host when the GPU is full.
type Optimizer string

// The optimizers. Unless said otherwise a state has the dtype of the
// parameter it belongs to, as in PyTorch.
const (
	AdamW     Optimizer = "adamw"      // torch.optim.AdamW: two states
	AdamWF32  Optimizer = "adamw-fp32" // two float32 states whatever the parameter (bitsandbytes' 32-bit AdamW, QLoRA's ">780 GB")
	AdamWBF16 Optimizer = "adamw-bf16" // two 16-bit states
	AdamW8    Optimizer = "adamw-8bit" // bitsandbytes: two states in 8 bits, blocks of 256; float32 below 4096 elements
	SGD       Optimizer = "sgd"
	Momentum  Optimizer = "sgd-momentum" // one state
	Adafactor Optimizer = "adafactor"    // row and column sums in float32
	Lion      Optimizer = "lion"         // one state
	Lion8     Optimizer = "lion-8bit"    // one state in 8 bits
	GaLore    Optimizer = "galore"       // AdamW on gradients projected to rank 128 (Zhao et al. 2024), of the layers' weights
)

const pagedPrefix = "paged-"

var optimizers = []Optimizer{AdamW, AdamWF32, AdamWBF16, AdamW8, SGD, Momentum, Adafactor, Lion, Lion8, GaLore}

// pageable are those bitsandbytes has paged; paged AdamW is its 32-bit one.
var pageable = []Optimizer{AdamW, AdamW8, Lion, Lion8}

// Optimizers lists all names.
func Optimizers() []string {
	var out []string
	for _, o := range optimizers {
		out = append(out, string(o))
	}
	for _, o := range pageable {
		out = append(out, pagedPrefix+string(o))
	}
	return out
}

// Paged reports whether the states are in unified memory.
func (o Optimizer) Paged() bool { return strings.HasPrefix(string(o), pagedPrefix) }

func (o Optimizer) base() Optimizer { return Optimizer(strings.TrimPrefix(string(o), pagedPrefix)) }

// pagedMin is the least number of elements bitsandbytes pages
// (bitsandbytes/optim/optimizer.py, get_state_buffer: numel() < 1e5 stays).
const pagedMin = 100_000

// stateRule is what [stateBytes] needs to know; the page's JavaScript has the
// same fields.
type stateRule struct {
	PerElem  int64 `json:"per_elem"` // bytes per element
	States8  int64 `json:"states_8"` // states in 8 bits; 0: none
	Factored bool  `json:"factored"` // Adafactor: rows and columns instead of elements
	Paged    bool  `json:"paged"`    // in unified memory from pagedMin elements on
	Master   int64 `json:"master"`   // bytes per element of a master copy kept beside the states
}

// rule of an optimizer whose parameters have the given element size.
func (o Optimizer) rule(paramSize int64) stateRule {
	r := stateRule{Paged: o.Paged()}
	switch o.base() {
	case AdamW, GaLore:
		r.PerElem = 2 * paramSize
		if r.Paged { // paged_adamw_32bit
			r.PerElem = 8
		}
	case AdamWF32:
		r.PerElem = 8
	case AdamWBF16:
		r.PerElem = 4
	case AdamW8:
		r.PerElem, r.States8 = 8, 2
	case Momentum:
		r.PerElem = paramSize
	case Lion:
		r.PerElem = paramSize
		if r.Paged {
			r.PerElem = 4
		}
	case Lion8:
		r.PerElem, r.States8 = 4, 1
	case Adafactor:
		r.PerElem, r.Factored = 4, true
	}
	return r
}

// min8bit and block8bit are bitsandbytes' min_8bit_size and blocksize
// (optim/optimizer.py, Optimizer2State.init_state).
const (
	min8bit   = 4096
	block8bit = 256
)

// stateBytes is what one tensor of rows x cols costs, device and unified
// memory apart. The scales of 8-bit states are never paged.
func (r stateRule) stateBytes(rows, cols int64) (device, paged int64) {
	n := rows * cols
	var state, scales int64
	switch {
	case r.Factored && rows > 1 && cols > 1:
		state = r.PerElem * (rows + cols)
	case r.States8 > 0 && n >= min8bit:
		state, scales = r.States8*n, r.States8*4*ceilDiv(n, block8bit)
	default:
		state = r.PerElem * n
	}
	device = r.Master*n + scales
	if r.Paged && n >= pagedMin {
		return device, state
	}
	return device + state, 0
}

// tables is what bitsandbytes keeps once per process for 8-bit states: a
// signed and an unsigned dynamic map of 256 float32.
func (r stateRule) tables() int64 { return r.States8 * 256 * 4 }

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// stepsInPlace reports whether the optimizer's step needs no copy besides
// torch's for-each AdamW; Adafactor works on a float32 copy of one gradient.
func (o Optimizer) torchAdam() bool {
	return !o.Paged() && slices.Contains([]Optimizer{AdamW, AdamWF32, AdamWBF16}, o)
}

// galoreRank is the rank of GaLore's projection (transformers/trainer_optimizer.py).
const galoreRank = 128

// galoreBytes is what GaLore keeps of a weight of rows x cols: the projection of its shorter side and two states of the
// projected gradient, in the parameter's dtype.
func galoreBytes(rows, cols, paramSize int64) int64 {
	short, long := min(rows, cols), max(rows, cols)
	if short <= galoreRank {
		return 2 * rows * cols * paramSize
	}
	return paramSize * galoreRank * (short + 2*long)
}
