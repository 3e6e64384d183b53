package complete

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// limited are facts with each of the ways to say how far they reach.
const limited = `class A in=5 prefix=m
default moe false
default n 3
default shared 0
default tower.size 8
held moe false
held extra null ?
optional tower
ignore layers.\d+.k
layout
count layers.# n
layers.#.q.weight - [4] 1 1
layers.#.k.weight - [4] rest:0:n:shared 1
scales.0.weight - [4] 1 1
scales.0.bias - [4] 1 1
scales.1.weight - [4] 1 1
scales.1.bias - [4] 1 1
scales.2.weight - [4] 1 1
scales.2.bias - [4] 1 1
tower.weight - [tower.size] nn:tower.size 1
`

// judge returns the problems of the tensors, and false where the facts do not reach.
func judge(t *testing.T, config string, names string) ([]string, bool) {
	t.Helper()
	all, err := parseFacts(limited)
	if err != nil {
		t.Fatal(err)
	}
	v, err := newValues([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	of := v.of(all[0])
	var tensors []Tensor
	for name := range strings.FieldsSeq(names) {
		module, leaf, _ := strings.Cut(name, ":")
		x := weight(module, 4)
		if leaf == "bias" {
			x.Name = module + ".bias"
		}
		if leaf == "8" {
			x.Shape[0] = 8
		}
		tensors = append(tensors, x)
	}
	r := all[0].layouts[0].check(all[0], of, tensors, false)
	r.order()
	return r.Lines(), !of.beyond()
}

// TestLimits: facts hold for the values of config.json that they were asked with; a nested config that is not there has no module; of
// layers that take keys from others nothing is called for; a list of a length that is not known is whole up to its last member.
func TestLimits(t *testing.T) {
	const layers = "layers.0.q layers.1.q layers.2.q "
	const keys = "layers.0.k layers.1.k layers.2.k "
	const none = `"extra": null`
	tests := []struct {
		name, config, tensors string
		want                  []string
		beyond                bool
	}{
		{name: "as asked", config: `{` + none + `}`, tensors: layers + keys},
		{name: "a switch as it was", config: `{"moe": false, ` + none + `}`, tensors: layers + keys},
		{name: "null as the default", config: `{"moe": null, ` + none + `}`, tensors: layers + keys},
		{name: "a switch as it was not", config: `{"moe": true, ` + none + `}`, tensors: layers + keys, beyond: true},
		{name: "no default", config: `{"extra": 3}`, tensors: layers + keys, beyond: true},
		{name: "a tower", config: `{"tower": {}, ` + none + `}`, tensors: layers + keys + "tower:8"},
		{name: "no tower's tensor", config: `{"tower": {"size": 4}, ` + none + `}`, tensors: layers + keys,
			want: []string{"tower.weight: expected it, of shape [4], found no such tensor"}},
		{name: "a tower that config.json lacks", config: `{"tower": null, ` + none + `}`, tensors: layers + keys + "tower:8",
			want: []string{"tower.weight: expected no such tensor by config.json (tower.size), found it"}},
		{name: "a layer shares its keys", config: `{"shared": 1, ` + none + `}`, tensors: layers + "layers.0.k layers.1.k"},
		{name: "and has them all the same", config: `{"shared": 1, ` + none + `}`, tensors: layers + keys},
		{name: "one that does not", config: `{"shared": 1, ` + none + `}`, tensors: layers + "layers.0.k",
			want: []string{"layers.1.k.weight: expected it, of shape [4], found no such tensor"}},
		{name: "a shorter list", config: `{` + none + `}`, tensors: layers + keys + "scales.0 scales.0:bias scales.1 scales.1:bias"},
		{name: "part of a member", config: `{` + none + `}`, tensors: layers + keys + "scales.0 scales.0:bias scales.1",
			want: []string{"scales.1.bias: expected it, of shape [4], found no such tensor"}},
		{name: "a member before the last", config: `{` + none + `}`, tensors: layers + keys + "scales.1 scales.1:bias",
			want: []string{"scales.0.bias: expected it, of shape [4], found no such tensor", "scales.0.weight: expected it, of shape [4], found no such tensor"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, within := judge(t, test.config, test.tensors)
			if within == test.beyond {
				t.Errorf("the facts reach that far: %v", within)
			}
			if diff := cmp.Diff(test.want, got); diff != "" && !test.beyond {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
