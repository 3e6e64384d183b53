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
	for _, dtype := range []string{"bfloat16", "float16", "float32"} {
		flags := []string{"--quant-storage", dtype, "--target", "transformers5", "--no-error"}
		free, exact := convert(t, llama(), flags...), convert(t, llama(), append(flags, "--exact-storage")...)
		got := python[storageCase, storageAnswer](t, t5, "storage.py", []storageCase{{free}, {exact}})
		for _, a := range got {
			if a.Error != "" {
				t.Fatal(a.Error)
			}
			if a.DType != dtype || a.Weights != 28 {
				t.Errorf("%s: %d weights, stored in %s", dtype, a.Weights, a.DType)
			}
		}
		if a := got[0]; a.NaNs != 0 || a.Same != a.Weights {
			t.Errorf("%s: %d NaNs; %d of %d weights are the same after the copy", dtype, a.NaNs, a.Same, a.Weights)
		}
		if a := got[1]; a.NaNs == 0 || a.Same == a.Weights {
			t.Errorf("%s, exact: %d NaNs; %d of %d weights are the same after the copy", dtype, a.NaNs, a.Same, a.Weights)
		}
	}
}
