// Classify answers, for the checks in gen, what package arch makes of a
// checkpoint: it reads JSON objects {config, names, targets, towers, keep} from
// stdin and writes one {class, quantized, list, bad} for each. A null list
// means that llm_int8_skip_modules can stay null.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/nf4kit/nf4kit/internal/arch"
)

type request struct {
	Config         json.RawMessage `json:"config"`
	Names          []string        `json:"names"`
	Targets        []string        `json:"targets"`
	Towers         bool            `json:"towers"`          // quantize towers and projectors too
	AsBitsandbytes bool            `json:"as_bitsandbytes"` // quantize what modeling code misreads
	Keep           []string        `json:"keep"`            // names that are kept whatever they are
}

type answer struct {
	Class     string              `json:"class"`
	Quantized []string            `json:"quantized"`
	Float32   map[string][]string `json:"float32"` // names written in float32, by the dtype of the rest
	List      []string            `json:"list"`
	Bad       []string            `json:"bad"`
	Unknown   []string            `json:"unknown"`
	Error     string              `json:"error,omitempty"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var r request
		err := in.Decode(&r)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = out.Encode(classify(r))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "classify:", err)
			os.Exit(1)
		}
	}
}

func classify(r request) answer {
	var targets arch.Target
	for i, name := range []string{"transformers5", "transformers4", "vllm", "sglang", "diffusers"} {
		for _, t := range r.Targets {
			if t == name {
				targets |= 1 << i
			}
		}
	}
	q, err := arch.ParseConfig(r.Config)
	if err != nil {
		return answer{Error: err.Error()}
	}
	m, err := arch.Resolve(q, r.Names)
	if err != nil {
		return answer{Error: err.Error()}
	}
	a := answer{Class: m.Class, Quantized: []string{}, Float32: map[string][]string{}}
	var kept, quantized []arch.Tensor
	for _, name := range r.Names {
		c := m.Classify(name)
		switch {
		case !slices.Contains(r.Keep, name) && (r.AsBitsandbytes || len(m.Misread(c, targets)) == 0) && c.Quantize(targets) && (r.Towers || !c.Tower && !c.Projector):
			quantized = append(quantized, arch.Tensor{Name: name, Class: c})
			a.Quantized = append(a.Quantized, name)
		case c.Module:
			kept = append(kept, arch.Tensor{Name: name, Class: c})
		case !c.Known:
			a.Unknown = append(a.Unknown, name)
		}
		for i, dtype := range []string{"bfloat16", "float16"} {
			if c.Float32(targets, i == 1) {
				a.Float32[dtype] = append(a.Float32[dtype], name)
			}
		}
	}
	list, bad := m.SkipList(targets, kept, quantized)
	a.List = list
	for _, v := range bad {
		a.Bad = append(a.Bad, v.String())
	}
	return a
}
