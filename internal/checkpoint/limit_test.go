package checkpoint

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/safetensors"
)

func TestBoundTokens(t *testing.T) {
	for _, k := range []struct {
		text  string
		limit int
		ok    bool
	}{
		{`{}`, 2, true}, {`{}`, 1, false},
		{`[1,2,3]`, 5, true}, {`[1,2,3]`, 4, false},
		{`{"a":1,"a":[]}`, 7, true},
		{`[1,2,`, 2, false}, {`[1,2,`, 3, true}, // no JSON, and within the limit as far as it is read
		{``, 0, true},
	} {
		err := BoundTokens("f", []byte(k.text), k.limit)
		if bad := new(InputError); (err == nil) != k.ok || err != nil && !errors.As(err, &bad) {
			t.Errorf("BoundTokens(%s, %d): %v", k.text, k.limit, err)
		}
	}
}

func TestParseConfigTokens(t *testing.T) {
	labels := func(n int) []byte {
		var b strings.Builder
		b.WriteString(`{"id2label":{"x":0`)
		for i := range n {
			fmt.Fprintf(&b, `,"%d":""`, i)
		}
		return []byte(b.String() + `}}`)
	}
	if _, err := ParseConfig(labels(2 * 21_843)); err != nil { // the largest known has two maps of these
		t.Error(err)
	}
	var in *InputError
	if _, err := ParseConfig(labels(maxConfigTokens / 2)); !errors.As(err, &in) {
		t.Errorf("error %v", err)
	}
}

func TestSplitShardsByCount(t *testing.T) {
	half := make([]safetensors.Entry, safetensors.MaxTensors/2)
	for i := range half {
		half[i] = safetensors.Entry{DType: safetensors.I8, Shape: []int64{1}}
	}
	plans, err := SplitShards([]Group{{"a", half}, {"b", half}, {"c", half[:1]}}, 1<<40, "model")
	if err != nil || len(plans) != 2 || len(plans[0].Entries) != safetensors.MaxTensors || len(plans[1].Entries) != 1 {
		t.Errorf("%d plans, error %v", len(plans), err)
	}
}
