package convert

import (
	"fmt"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/safetensors"
)

// outputTensors is how many tensors the output has, before any of them is laid out.
func (p *Plan) outputTensors() int {
	n := 0
	for i := range p.items {
		switch it := &p.items[i]; {
		case !it.Quantize:
			n++
		case it.Spec.NoDoubleQuant:
			n += 4 // codes, scales, their table, the record
		default:
			n += 6 // and the constants and the table of the second level
		}
	}
	return n
}

// layOut gives every output tensor its shard and place.
func (p *Plan) layOut(opt *Options) error {
	groups := make([]checkpoint.Group, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		g := &groups[i]
		g.Name = it.Name
		if it.Quantize {
			var err error
			g.Entries, err = it.Spec.Entries(it.Name, [2]int64(it.Shape))
			if err != nil {
				return &SourceError{Path: p.src.Path, Tensor: it.Name, Msg: err.Error(),
					Hint: "keep it with --skip or use --quant-storage uint8"}
			}
			w := opt.Packed[it.Name]
			if it.packed = packedParts(it, w, g.Entries); it.packed != nil {
				it.offset = w.State.NestedOffset
			}
		} else {
			g.Entries = []safetensors.Entry{{Name: it.Name, DType: it.Out, Shape: it.Shape}}
		}
		it.OutBytes = groupSize(g.Entries)
		p.stats.OutBytes += it.OutBytes
		if it.Quantize {
			size, err := it.Spec.Size(it.Shape...)
			if err != nil {
				return &SourceError{Path: p.src.Path, Tensor: it.Name, Msg: err.Error()}
			}
			p.stats.QuantBytes += size.Total
			p.stats.CodeBytes += size.Data
		}
	}
	return p.split(groups, opt.MaxShardSize)
}

// split spreads groups over files and fixes the layout of each.
func (p *Plan) split(groups []checkpoint.Group, maxSize int64) error {
	base := p.src.Base
	switch {
	case p.model != nil && p.model.Diffusers: // also where the source is one file, such as diffusion_pytorch_model.fp16.safetensors
		base = checkpoint.DiffusersBase
	case base == "":
		base = "model"
	}
	files, err := checkpoint.SplitShards(groups, maxSize, base)
	if err != nil {
		return err
	}
	p.shardOf = map[string]int{}
	fileOf := map[string]string{}
	for s, f := range files {
		for _, e := range f.Entries {
			if _, ok := p.shardOf[e.Name]; ok {
				return &SourceError{Path: p.src.Path, Tensor: e.Name,
					Msg: "two tensors of the output would have this name"}
			}
			p.shardOf[e.Name] = s
			fileOf[e.Name] = f.Name
		}
		l, err := safetensors.NewLayout(f.Entries, map[string]string{"format": "pt"})
		if err != nil {
			return fmt.Errorf("lay out %s: %w", f.Name, err)
		}
		p.shards = append(p.shards, Shard{f.Name, l})
		p.stats.FileBytes += l.Size()
	}
	for i := range p.items {
		p.items[i].Shard = p.shardOf[p.items[i].Name]
	}
	if len(files) > 1 {
		ix := checkpoint.Index{TotalParameters: p.stats.Params, TotalSize: p.stats.OutBytes, WeightMap: fileOf}
		p.indexJSON, p.indexName = ix.Encode(), checkpoint.IndexName(base)
	}
	return nil
}

func groupSize(entries []safetensors.Entry) int64 {
	var sum int64
	for _, e := range entries {
		n := int64(e.DType.Bits())
		for _, d := range e.Shape {
			n *= d
		}
		sum += n / 8
	}
	return sum
}
