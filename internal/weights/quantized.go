package weights

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/decode"
	"github.com/nf4kit/nf4kit/internal/fourbit"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Quantized says what quantized the tensors of src, nil if they are plain. Where config.json or a file beside it says
// otherwise than the tensors, stale is what it says: a model that was merged back to 16 bits often keeps the
// quantization_config of before, and the tensors are what there is.
func Quantized(src *checkpoint.Source) (q, stale *fourbit.Quantized, err error) {
	said, err := claimed(src)
	if err != nil {
		return nil, nil, err
	}
	tensors := BnbTensors(src)
	found := fourbit.DetectTensors(tensors)
	switch {
	case said == nil:
		return found, nil, nil
	case found != nil && found.Method == bitsandbytes && (said.Method != bitsandbytes || said.FourBit != found.FourBit):
		return found, said, nil // no other method has its records
	case found == nil && said.LeavesTraces() && fourbit.Plain(tensors) && !decodes(src, said):
		return nil, said, nil
	}
	return said, nil, nil
}

const bitsandbytes = "bitsandbytes"

// claimed is what config.json, or a file beside it, says.
func claimed(src *checkpoint.Source) (*fourbit.Quantized, error) {
	if src.Config != nil {
		if q := fourbit.DetectConfig(src.Config); q != nil {
			return q, nil
		}
	}
	if src.IsFile {
		return nil, nil
	}
	for _, name := range fourbit.SideFiles {
		raw, err := src.ReadFile(name, checkpoint.MaxConfigSize)
		if err != nil {
			return nil, err
		}
		if q := fourbit.DetectFile(name, raw); raw != nil && q != nil {
			return q, nil
		}
	}
	return nil, nil
}

// decodes reports whether package decode has something to do, or to refuse, in weights that look plain: rotated ones.
func decodes(src *checkpoint.Source, q *fourbit.Quantized) bool {
	if q.FourBit {
		return false
	}
	s, err := detect(src, q)
	var unsupported *decode.UnsupportedError
	if errors.As(err, &unsupported) {
		return unsupported.Tensor != "" || q.Method == "compressed-tensors"
	}
	return err != nil || s != nil && len(s.Logical) > 0
}

func detect(src *checkpoint.Source, q *fourbit.Quantized) (*decode.Scheme, error) {
	tensors := make([]decode.Tensor, len(src.Tensors))
	for i, t := range inFileOrder(src) {
		tensors[i] = decode.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, File: t.Shard.Name, Data: t}
	}
	return decode.Detect(decode.Source{Method: q.Method, Label: q.Label, Config: q.Raw}, tensors)
}

// Stale says what a claim that the tensors contradict has wrong.
func Stale(claim *fourbit.Quantized, q *fourbit.Quantized) string {
	are := "plain"
	if q != nil {
		are = q.Label
	}
	return fmt.Sprintf("%s: %s says %s, but the weights are %s: taken as they are", claim.File, claim.Where, claim.Label, are)
}

// StaleHint says how to get rid of a claim.
func StaleHint(src *checkpoint.Source, claim *fourbit.Quantized) string {
	if claim.File != "config.json" {
		return "remove " + claim.File
	}
	return "nf4kit verify --fix " + src.Path + " removes it"
}

// schemeOf finds the way to decode a source that a method other than
// bitsandbytes' 4 bits has quantized. Methods without a way are refused.
func schemeOf(src *checkpoint.Source, q *fourbit.Quantized) (*decode.Scheme, error) {
	s, err := detect(src, q)
	if err == nil && s != nil {
		err = s.Check()
	}
	var unsupported *decode.UnsupportedError
	if errors.As(err, &unsupported) {
		e := refusal(src, q)
		e.Msg += ": " + unsupported.Reason
		return nil, e
	}
	if err != nil {
		return nil, &SourceError{Path: src.Path, Msg: err.Error()}
	}
	return s, nil
}

// OtherScheme is the way to decode what another method than bitsandbytes has quantized, by headers alone; nil for plain weights and
// bitsandbytes'.
func OtherScheme(src *checkpoint.Source, q *fourbit.Quantized) (*decode.Scheme, error) {
	if q == nil || q.Method == bitsandbytes {
		return nil, nil
	}
	return detect(src, q)
}

// refusal is the error for a source that is quantized.
func refusal(src *checkpoint.Source, q *fourbit.Quantized) *SourceError {
	e := &SourceError{Path: src.Path, Msg: q.Error(), Hint: "start from 16-bit weights: another release of the model, or what the method's own tools decode this one to"}
	if q.FourBit {
		e.Hint = "nf4kit inspect says what is in it, nf4kit dequantize gives back 16-bit weights"
	}
	return e
}

// BnbTensors lists a source's tensors as package fourbit takes them. Of one that is not on this machine the records, which lie
// far apart and are read one after the other, are asked for together.
func BnbTensors(src *checkpoint.Source) []fourbit.Tensor {
	out := make([]fourbit.Tensor, len(src.Tensors))
	for i, t := range src.Tensors {
		if !src.IsLocal() && t.Size() <= bnb.MaxStateSize && strings.Contains(t.Name, bnb.StateSuffix) {
			t.Prefetch(0, t.Size())
		}
		out[i] = fourbit.Tensor{Tensor: t.Tensor, Shard: t.Shard.Name}
	}
	return out
}
