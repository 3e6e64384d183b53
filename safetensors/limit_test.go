package safetensors

import (
	"errors"
	"strconv"
	"strings"
	"testing"
)

// A file of more tensors than any model has is refused while its header is read, and not written either.
func TestMaxTensors(t *testing.T) {
	header := []byte{'{'}
	for i := range MaxTensors {
		header = strconv.AppendInt(append(header, '"'), int64(i), 16)
		header = append(header, `":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},`...)
	}
	if _, err := decodeHeader(append(header[:len(header)-1:len(header)-1], '}'), 0); err != nil {
		t.Errorf("%d tensors: %v", MaxTensors, err)
	}
	var fe *FormatError
	if _, err := decodeHeader(append(header, `"x":{"dtype":"I8"}}`...), 0); !errors.As(err, &fe) || !strings.Contains(fe.Msg, "more than 524288 tensors") {
		t.Errorf("%d tensors: error %v", MaxTensors+1, err)
	}
	if _, err := NewLayout(make([]Entry, MaxTensors+1), nil); err == nil || !strings.Contains(err.Error(), "at most 524288") {
		t.Errorf("NewLayout of %d tensors: error %v", MaxTensors+1, err)
	}
}
