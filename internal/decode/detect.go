package decode

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/safetensors"
)

// A Tensor is a stored tensor: what its header says, and its bytes.
type Tensor struct {
	Name  string
	DType safetensors.DType
	Shape []int64
	File  string // for messages; may be ""
	Data  io.ReaderAt
}

// A Source says how a checkpoint is quantized, in the terms of package bnb's Quantized.
type Source struct {
	Method string // as quant_method spells it, "bitsandbytes" for both widths; "" reads it from Config
	Label  string // for people; "" is Method
	Config []byte // the quantization_config object; nil if only the tensors tell
}

// A Scheme is the way from the stored tensors to the logical ones.
type Scheme struct {
	Method string // "fp8", "mxfp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp4" or "bitsandbytes"
	Label  string // for people, such as "FP8 E4M3 in blocks of 128x128"
	// Logical are the weights that are decoded, in the order of their first part. It is empty if the config names a
	// method that no tensor follows.
	Logical []Logical
	// Dropped are tensors that belong to no weight and mean nothing without the method: scales of activations and
	// of the key-value cache.
	Dropped []string

	consumed map[string]bool
	checks   []func() error
}

// A Logical is a weight as it was before it was quantized.
type Logical struct {
	Name     string
	Shape    []int64
	DType    safetensors.DType // of the elements that Open's reader yields
	File     string            // of the first part
	Parts    []string          // the stored tensors, codes first; none of them survives
	SrcBytes int64             // their size

	reader io.ReaderAt
}

// Open returns a reader of the elements, row-major, little-endian. It takes any offset and length, may be used by any
// number of goroutines, and holds no more memory than a few hundred kilobytes a call; MXFP4 adds a cache of at most
// 32 MiB for all readers of a Scheme.
func (l *Logical) Open() io.ReaderAt { return l.reader }

// Consumes reports whether a stored tensor is a part of a logical one or dropped. All others are plain.
func (s *Scheme) Consumes(name string) bool { return s.consumed[name] }

// Consumed is how many stored tensors are parts of logical ones or dropped.
func (s *Scheme) Consumed() int { return len(s.consumed) }

// Check reads the few bytes beside the weights that decide whether they can be decoded: bitsandbytes' weight_format,
// one byte a weight; the order of columns in compressed-tensors. Readers check it too, each on its first use.
func (s *Scheme) Check() error {
	for _, check := range s.checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// Detect sorts the tensors of a checkpoint quantized by src into logical weights and the rest. It reads no tensor but
// compressed-tensors' weight_shape, of a few bytes. It returns nil if nothing is quantized: src names no method, or FP8 without a config and without any scale, which is
// just a dtype. Errors are [*UnsupportedError], [*TensorError] and [*ConfigError].
func Detect(src Source, tensors []Tensor) (*Scheme, error) {
	cfg, err := parseConfig(src)
	if err != nil || cfg.method == "" {
		return nil, err
	}
	d := &detector{cfg: cfg, byName: make(map[string]*Tensor, len(tensors)), leaves: make(map[string]bool),
		out: Scheme{Method: cfg.method, consumed: make(map[string]bool, len(tensors))}}
	for i := range tensors {
		t := &tensors[i]
		if first, ok := d.byName[t.Name]; ok {
			return nil, &TensorError{File: t.File, Tensor: t.Name, Expected: "each tensor once", Found: "it in " + first.File + " too"}
		}
		if elems(t.Shape) < 0 {
			return nil, &TensorError{File: t.File, Tensor: t.Name,
				Expected: "a shape of fewer than 2^56 elements", Found: fmt.Sprint(t.Shape)}
		}
		d.byName[t.Name] = t
		d.leaves[t.Name[strings.LastIndexByte(t.Name, '.')+1:]] = true
	}
	switch cfg.method {
	case "compressed-tensors":
		if err = d.packed(tensors); err == nil {
			err = d.scaled(tensors)
		}
	case "fp8", "mxfp8", "fbgemm_fp8", modelopt:
		err = d.scaled(tensors)
	case "mxfp4":
		err = d.mxfp4(tensors)
	case "bitsandbytes":
		err = d.int8(tensors)
	default:
		err = cfg.unsupported("", "its codes can only be decoded by its own kernels")
	}
	if err != nil {
		return nil, err
	}
	if len(d.out.Logical) == 0 && len(src.Config) == 0 {
		return nil, nil
	}
	d.out.Label = d.label()
	return &d.out, nil
}

type detector struct {
	cfg    *config
	byName map[string]*Tensor
	leaves map[string]bool // last components of their names
	out    Scheme
	forms  []string // distinct descriptions of how the scales lie, in order of appearance
}

// add files a logical weight and takes its parts.
func (d *detector) add(l Logical, form string, parts ...*Tensor) error {
	if t, ok := d.byName[l.Name]; ok && t != parts[0] {
		return &TensorError{File: t.File, Tensor: t.Name, Expected: "no tensor of the name that " + parts[0].Name + " decodes to",
			Found: "it"}
	}
	l.File = parts[0].File
	l.Parts = slices.Grow(l.Parts, len(parts))
	for _, p := range parts {
		l.Parts = append(l.Parts, p.Name)
		l.SrcBytes += elems(p.Shape) * int64(p.DType.Bits()) / 8
		d.out.consumed[p.Name] = true
	}
	d.out.Logical = append(d.out.Logical, l)
	if !slices.Contains(d.forms, form) {
		d.forms = append(d.forms, form)
	}
	return nil
}

// drop takes tensors that are not part of a weight, if they are there.
func (d *detector) drop(names ...string) {
	for _, name := range names {
		if _, ok := d.byName[name]; ok && !d.out.consumed[name] {
			d.out.consumed[name] = true
			d.out.Dropped = append(d.out.Dropped, name)
		}
	}
}

// label names the method and up to three ways its scales lie.
func (d *detector) label() string {
	const most = 3
	forms := d.forms
	if len(forms) > most {
		forms = append(forms[:most:most], "...")
	}
	return strings.TrimSpace(d.cfg.label + " " + strings.Join(forms, ", "))
}

// split parts a name after its last dot; module keeps the dot.
func split(name string) (module, leaf string) {
	dot := strings.LastIndexByte(name, '.')
	return name[:dot+1], name[dot+1:]
}

// maxElems keeps byte counts, offsets and sums of them within an int64.
const maxElems = math.MaxInt64 >> 7

// elems is the number of elements of a shape, -1 if it is negative or beyond maxElems.
func elems(shape []int64) int64 {
	n, empty := int64(1), false
	for _, d := range shape {
		switch {
		case d < 0:
			return -1
		case d == 0:
			empty = true
		case n > maxElems/d:
			n = maxElems + 1 // stays, unless a dimension is 0
		default:
			n *= d
		}
	}
	if empty {
		return 0
	}
	if n > maxElems {
		return -1
	}
	return n
}
