//go:build interop && families

package interop

const allFamilies = true
