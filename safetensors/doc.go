// Package safetensors reads and writes the safetensors file format as a stream.
package safetensors
