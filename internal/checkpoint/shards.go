package checkpoint

import (
	"fmt"

	"github.com/nf4kit/nf4kit/safetensors"
)

// DefaultMaxShardSize is the hub's convention, 5 GB of tensor bytes in a file.
const DefaultMaxShardSize int64 = 5_000_000_000

// Group is tensors that must stay in one file: a quantized weight with its sidecars, or a single tensor.
type Group struct {
	Name    string
	Entries []safetensors.Entry
}

// ShardPlan is one file to be written.
type ShardPlan struct {
	Name    string
	Entries []safetensors.Entry // in the order of the groups; safetensors.NewLayout sorts them
	Size    int64               // bytes of tensors
}

// SplitShards deals groups, in their order, into files of at most maxShardSize tensor bytes (0: DefaultMaxShardSize) and
// safetensors.MaxTensors tensors.
// A group is never split, so one that is larger gets a file of its own. One file is called base.safetensors, several
// base-00001-of-0000N.safetensors.
func SplitShards(groups []Group, maxShardSize int64, base string) ([]ShardPlan, error) {
	if maxShardSize == 0 {
		maxShardSize = DefaultMaxShardSize
	}
	if maxShardSize < 0 {
		return nil, fmt.Errorf("split shards: maximum size %d is negative", maxShardSize)
	}
	var plans []ShardPlan
	for _, g := range groups {
		size := int64(0)
		for _, e := range g.Entries {
			n, err := entrySize(e)
			if err != nil {
				return nil, fmt.Errorf("split shards: %w", err)
			}
			if size += n; size > maxTensorBytes {
				return nil, fmt.Errorf("split shards: %s: over %d bytes", g.Name, maxTensorBytes)
			}
		}
		if n := len(plans); n == 0 || size > 0 && plans[n-1].Size > 0 && size > maxShardSize-plans[n-1].Size ||
			n > 0 && len(plans[n-1].Entries)+len(g.Entries) > safetensors.MaxTensors {
			plans = append(plans, ShardPlan{})
		}
		p := &plans[len(plans)-1]
		p.Entries = append(p.Entries, g.Entries...)
		p.Size += size
	}
	for i := range plans {
		plans[i].Name = ShardName(base, i+1, len(plans))
	}
	return plans, nil
}

// ShardName is the name of the i-th of n files, i counting from 1.
func ShardName(base string, i, n int) string {
	if n == 1 {
		return base + weightExt
	}
	return fmt.Sprintf("%s-%05d-of-%05d%s", base, i, n, weightExt)
}

// IndexName is the name of the index of several files.
func IndexName(base string) string { return base + indexSuffix }

// maxTensorBytes is the format's limit on a tensor, and far beyond any disk for a sum of them.
const maxTensorBytes = int64(1) << 53

func entrySize(e safetensors.Entry) (int64, error) {
	bits := int64(e.DType.Bits())
	if bits == 0 {
		return 0, fmt.Errorf("%s: unknown dtype", e.Name)
	}
	n := int64(1)
	for _, d := range e.Shape {
		if d < 0 || d > maxTensorBytes {
			return 0, fmt.Errorf("%s: size %d in shape %v", e.Name, d, e.Shape)
		}
		if d != 0 && n > maxTensorBytes/d {
			return 0, fmt.Errorf("%s: shape %v is over %d elements", e.Name, e.Shape, maxTensorBytes)
		}
		n *= d
	}
	if n > maxTensorBytes/bits*8 || n*bits%8 != 0 {
		return 0, fmt.Errorf("%s: shape %v of %v is no whole number of bytes up to %d", e.Name, e.Shape, e.DType, maxTensorBytes)
	}
	return n * bits / 8, nil
}
