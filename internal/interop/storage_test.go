//go:build interop

package interop

import (
	"testing"
)

// storageCase asks storage.py what is left of a checkpoint after a copy that makes all NaNs alike.
type storageCase struct {
	Dir string `json:"dir"`
}

type storageAnswer struct {
	status
	DType   string `json:"dtype"`
	NaNs    int    `json:"nans"`
	Weights int    `json:"weights"`
	Same    int    `json:"same"` // of them, those that decode to the same after the copy
}

// TestStorage: codes that are labelled as floats survive a copy that knows one NaN only, as transformers and bitsandbytes load
// and decode them; those of --exact-storage, which are bitsandbytes' own, do not.
func TestStorage(t *testing.T) {
	t.Parallel()
	dtypes := []string{"bfloat16", "float16", "float32"}
	var cases []storageCase
	for _, dtype := range dtypes {
		flags := []string{"--quant-storage", dtype, "--target", "transformers5", "--no-error"}
		cases = append(cases, storageCase{convert(t, llama(), flags...)}, storageCase{convert(t, llama(), append(flags, "--exact-storage")...)})
	}
	got := python[storageCase, storageAnswer](t, t5, "storage.py", cases)
	for i, a := range got {
		dtype, exact := dtypes[i/2], i%2 == 1
		if a.Error != "" || a.DType != dtype || a.Weights != 28 {
			t.Errorf("%s: %d weights, stored in %q: %s", dtype, a.Weights, a.DType, a.Error)
		}
		if exact != (a.NaNs > 0) || exact == (a.Same == a.Weights) {
			t.Errorf("%s, exact %t: %d NaNs; %d of %d weights are the same after the copy", dtype, exact, a.NaNs, a.Same, a.Weights)
		}
	}
}
