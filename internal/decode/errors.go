package decode

import "fmt"

// An UnsupportedError reports a quantization method that this package does not decode.
type UnsupportedError struct {
	Method string // as quant_method spells it, such as "gptq"
	Label  string // for people, such as "GPTQ 4-bit"
	Tensor string // the tensor that shows it; "" if the config does
	Reason string
}

func (e *UnsupportedError) Error() string {
	s := "quantized by " + e.Label + ": " + e.Reason
	if e.Tensor != "" {
		s = fmt.Sprintf("tensor %q: %s", e.Tensor, s)
	}
	return s
}

// A TensorError reports a tensor that does not fit the method it is quantized by.
type TensorError struct {
	File     string // as in Tensor; may be ""
	Tensor   string
	Expected string
	Found    string
}

func (e *TensorError) Error() string {
	s := fmt.Sprintf("tensor %q: expected %s, found %s", e.Tensor, e.Expected, e.Found)
	if e.File != "" {
		s = e.File + ": " + s
	}
	return s
}

// A ConfigError reports a quantization_config that contradicts its method.
type ConfigError struct {
	Key      string // such as "weight_block_size"
	Expected string
	Found    string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("quantization_config: %s: expected %s, found %s", e.Key, e.Expected, e.Found)
}
