package convert

import (
	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4"
	"github.com/nf4kit/nf4kit/safetensors"
)

func kernelElem(d safetensors.DType) kernel.Elem {
	switch d {
	case safetensors.BF16:
		return kernel.BF16
	case safetensors.F16:
		return kernel.F16
	}
	return kernel.F32
}

func kernelType(t nf4.Type) kernel.Type {
	if t == nf4.FP4 {
		return kernel.FP4
	}
	return kernel.NF4
}
