package checkpoint

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/safetensors"
)

// bytesGroup is a group of U8 tensors of the given sizes.
func bytesGroup(name string, sizes ...int64) Group {
	g := Group{Name: name}
	for i, n := range sizes {
		g.Entries = append(g.Entries, safetensors.Entry{Name: fmt.Sprint(name, i), DType: safetensors.U8, Shape: []int64{n}})
	}
	return g
}

func TestSplitShards(t *testing.T) {
	for _, c := range []struct {
		name   string
		groups []Group
		limit  int64
		want   []string // "file: tensors, bytes"
	}{
		{"none", nil, 10, nil},
		{"one file", []Group{bytesGroup("a", 5), bytesGroup("b", 5)}, 10, []string{"model.safetensors: a0 b0, 10"}},
		{"default size", []Group{bytesGroup("a", 4_999_999_999), bytesGroup("b", 1)}, 0, []string{"model.safetensors: a0 b0, 5000000000"}},
		{"over the default size", []Group{bytesGroup("a", 4_999_999_999), bytesGroup("b", 2)}, 0,
			[]string{"model-00001-of-00002.safetensors: a0, 4999999999", "model-00002-of-00002.safetensors: b0, 2"}},
		{"one byte over", []Group{bytesGroup("a", 5), bytesGroup("b", 6), bytesGroup("c", 4)}, 10,
			[]string{"model-00001-of-00002.safetensors: a0, 5", "model-00002-of-00002.safetensors: b0 c0, 10"}},
		{"groups stay whole", []Group{bytesGroup("a", 4), bytesGroup("b", 4, 4, 4), bytesGroup("c", 4)}, 10,
			[]string{"model-00001-of-00003.safetensors: a0, 4", "model-00002-of-00003.safetensors: b0 b1 b2, 12", "model-00003-of-00003.safetensors: c0, 4"}},
		{"larger than a file", []Group{bytesGroup("a", 11), bytesGroup("b", 11)}, 10,
			[]string{"model-00001-of-00002.safetensors: a0, 11", "model-00002-of-00002.safetensors: b0, 11"}},
		{"empty tensors", []Group{bytesGroup("a", 0), bytesGroup("b", 11), bytesGroup("c", 0)}, 10, []string{"model.safetensors: a0 b0 c0, 11"}},
	} {
		plans, err := SplitShards(c.groups, c.limit, "model")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		for _, p := range plans {
			var names []string
			for _, e := range p.Entries {
				names = append(names, e.Name)
			}
			got = append(got, fmt.Sprintf("%s: %s, %d", p.Name, strings.Join(names, " "), p.Size))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestSplitShardsErrors(t *testing.T) {
	entry := func(d safetensors.DType, shape ...int64) []Group {
		return []Group{{Name: "g", Entries: []safetensors.Entry{{Name: "t", DType: d, Shape: shape}}}}
	}
	for _, c := range []struct {
		groups []Group
		limit  int64
		want   string
	}{
		{nil, -1, "split shards: maximum size -1 is negative"},
		{entry(safetensors.U8, -1), 0, "split shards: t: size -1 in shape [-1]"},
		{entry(safetensors.U8, math.MaxInt64), 0, "split shards: t: size 9223372036854775807 in shape"},
		{entry(safetensors.U8, 1<<40, 1<<40), 0, "split shards: t: shape [1099511627776 1099511627776] is over"},
		{entry(safetensors.F64, 1<<51), 0, "split shards: t: shape [2251799813685248] of F64 is no whole number of bytes up to"},
		{entry(safetensors.F4, 3), 0, "split shards: t: shape [3] of F4 is no whole number of bytes"},
		{entry(safetensors.DType(200), 3), 0, "split shards: t: unknown dtype"},
		{[]Group{bytesGroup("g", 1<<53, 1)}, 0, "split shards: g: over 9007199254740992 bytes"},
	} {
		if _, err := SplitShards(c.groups, c.limit, "model"); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestShardName(t *testing.T) {
	for _, c := range []struct {
		base string
		i, n int
		want string
	}{
		{"model", 1, 1, "model.safetensors"},
		{"model", 2, 12, "model-00002-of-00012.safetensors"},
		{"diffusion_pytorch_model", 1, 2, "diffusion_pytorch_model-00001-of-00002.safetensors"},
		{"model", 100000, 100000, "model-100000-of-100000.safetensors"},
	} {
		if got := ShardName(c.base, c.i, c.n); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if got := IndexName("model"); got != "model.safetensors.index.json" {
		t.Error(got)
	}
}
