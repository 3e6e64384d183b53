package lora

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/stream"
	"github.com/nf4kit/nf4kit/safetensors"
)

// A Made is an adapter that is about to be written. Its factors are computed module by module.
type Made struct {
	Config  []byte // adapter_config.json
	modules []madeModule
	copies  []Saved // tensors that are taken over as they are, under the names that they have
}

type madeModule struct {
	path           string
	embedding      bool
	aShape, bShape []int64
	factors        func() (a, b []float32, err error)
}

// keys are the names of a module's factors in the file.
func (m *madeModule) keys() (a, b string) {
	p := "base_model.model." + m.path
	if m.embedding {
		return p + ".lora_embedding_A", p + ".lora_embedding_B"
	}
	return p + ".lora_A.weight", p + ".lora_B.weight"
}

// Write writes the adapter in float32 into the directory dst, which appears when it is complete.
func (m *Made) Write(ctx context.Context, dst string, opt checkpoint.Options, done func(module string, bytes int64)) (err error) {
	var entries []safetensors.Entry
	for i := range m.modules {
		a, b := m.modules[i].keys()
		entries = append(entries, safetensors.Entry{Name: a, DType: safetensors.F32, Shape: m.modules[i].aShape},
			safetensors.Entry{Name: b, DType: safetensors.F32, Shape: m.modules[i].bShape})
	}
	for _, c := range m.copies {
		entries = append(entries, safetensors.Entry{Name: "base_model.model." + c.Name, DType: c.Tensor.DType, Shape: c.Tensor.Shape})
	}
	layout, err := safetensors.NewLayout(entries, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	out, err := checkpoint.Create(dst, opt)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Abort())
		}
	}()
	if err := checkpoint.CheckSpace(out.Staging(), layout.Size()); err != nil {
		return err
	}
	w, err := out.CreateShard(WeightsName, layout)
	if err != nil {
		return err
	}
	if err := m.fill(ctx, w, done); err != nil {
		return errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := out.WriteFile(ConfigName, m.Config); err != nil {
		return err
	}
	return out.Commit(ctx)
}

func (m *Made) fill(ctx context.Context, w *checkpoint.ShardWriter, done func(string, int64)) error {
	for i := range m.modules {
		if err := ctx.Err(); err != nil {
			return err
		}
		x := &m.modules[i]
		a, b, err := x.factors()
		if err != nil {
			return fmt.Errorf("%s: %w", x.path, err)
		}
		keyA, keyB := x.keys()
		for _, f := range []struct {
			key    string
			values []float32
			shape  []int64
		}{{keyA, a, x.aShape}, {keyB, b, x.bShape}} {
			if int64(len(f.values)) != elements(f.shape) {
				return fmt.Errorf("lora: internal error: %s has %d elements of %v", f.key, len(f.values), f.shape)
			}
			raw := make([]byte, 4*len(f.values))
			kernel.Narrow(raw, kernel.F32, f.values)
			if at := kernel.FirstNonFinite(kernel.F32, raw, len(f.values)); at >= 0 {
				return fmt.Errorf("%s: element %d of the result is %v", f.key, at, f.values[at])
			}
			if err := w.WriteAt(f.key, raw, 0); err != nil {
				return err
			}
		}
		if done != nil {
			done(x.path, 4*int64(len(a)+len(b)))
		}
	}
	for _, c := range m.copies {
		raw := make([]byte, c.Tensor.Size())
		if err := stream.ReadFull(c.Tensor, raw, 0); err != nil {
			return err
		}
		if err := w.WriteAt("base_model.model."+c.Name, raw, 0); err != nil {
			return err
		}
	}
	return nil
}

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// Size is the largest rank of the adapter and the number of its modules.
func (m *Made) Size() (rank int64, modules int) {
	for i := range m.modules {
		rank = max(rank, m.modules[i].aShape[0])
	}
	return rank, len(m.modules)
}

// newConfig is the adapter_config.json of an adapter made here, with PEFT's defaults for all that is not said.
func newConfig(base string, rank int64, alpha float64, modules []madeModule, more map[string]any) ([]byte, error) {
	names := make([]string, len(modules))
	for i, m := range modules {
		names[i] = m.path
	}
	slices.Sort(names)
	c := map[string]any{
		"peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha, "target_modules": names,
		"bias": "none", "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "lora_dropout": 0.0,
		"use_dora": false, "use_rslora": false, "lora_bias": false, "rank_pattern": map[string]int64{}, "alpha_pattern": map[string]int64{},
		"modules_to_save": nil, "task_type": nil, "revision": nil,
	}
	for k, v := range more {
		c[k] = v
	}
	return json.MarshalIndent(c, "", "  ")
}
