package forward

import (
	"math"
)

// Elementary functions are written out with every product rounded, so that no compiler's choice and no processor's changes
// what calibration writes.

// exp is e^x with a relative error below 2^-40.
func exp(x float64) float64 {
	switch {
	case x < -700:
		return 0
	case x > 700:
		return math.Inf(1)
	case x != x:
		return x
	}
	k := math.Floor(float64(x*math.Log2E) + 0.5)
	r := float64(x-float64(k*(math.Ln2-1.90821492927058770002e-10))) - float64(k*1.90821492927058770002e-10)
	p := 1.0
	for n := 12; n > 0; n-- { // Taylor's series by Horner's rule: |r| is at most ln(2)/2
		p = 1 + float64(float64(p*r)*inverse[n])
	}
	return p * math.Float64frombits(uint64(1023+int64(k))<<52)
}

var inverse = [...]float64{1: 1, 2: 1. / 2, 3: 1. / 3, 4: 1. / 4, 5: 1. / 5, 6: 1. / 6, 7: 1. / 7, 8: 1. / 8, 9: 1. / 9, 10: 1. / 10, 11: 1. / 11, 12: 1. / 12}

func sigmoid(x float64) float64 { return 1 / (1 + exp(-x)) }

func tanh(x float64) float64 { return 1 - 2/(exp(float64(2*x))+1) }

// activations are those of transformers' activations.py that the models here name.
var activations = map[string]func(x float64) float64{
	"silu":              func(x float64) float64 { return x * sigmoid(x) },
	"swish":             func(x float64) float64 { return x * sigmoid(x) },
	"relu":              func(x float64) float64 { return max(x, 0) },
	"relu2":             func(x float64) float64 { x = max(x, 0); return x * x },
	"gelu":              func(x float64) float64 { return float64(0.5*x) * (1 + math.Erf(x/math.Sqrt2)) },
	"gelu_python":       func(x float64) float64 { return float64(0.5*x) * (1 + math.Erf(x/math.Sqrt2)) },
	"gelu_new":          geluTanh,
	"gelu_fast":         geluTanh,
	"gelu_pytorch_tanh": geluTanh,
	"gelu_python_tanh":  geluTanh,
	"quick_gelu":        func(x float64) float64 { return x * sigmoid(float64(1.702*x)) },
}

func geluTanh(x float64) float64 {
	cube := float64(float64(x*x) * x)
	return float64(0.5*x) * (1 + tanh(float64(0.7978845608028654*(x+float64(0.044715*cube)))))
}
