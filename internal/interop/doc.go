// Package interop checks nf4kit's files against the libraries that have to read them: transformers 5 and 4.57, bitsandbytes,
// PEFT and safetensors. It holds no code of its own: its tests, behind the build tag interop, build the binary, convert,
// load the result in Python and compare it with what bitsandbytes makes of the same source in that process.
//
// setup.sh makes the two Python environments, outside the checkout; then
//
//	go test -tags interop ./internal/interop
//
// An environment that is missing, or holds other versions, fails the tests: nothing here is skipped. NF4KIT_INTEROP_HOME is
// where the environments are (default ~/.cache/nf4kit) and NF4KIT_INTEROP_BINARY a binary to test in place of a fresh build.
//
// The folder bench compares speed and memory instead, with cp, transformers and the CPU kernels of bitsandbytes and ONNX
// Runtime.
package interop
