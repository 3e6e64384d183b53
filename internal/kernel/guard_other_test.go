//go:build !unix

package kernel

import "testing"

// guarded returns plain memory where pages cannot be protected.
func guarded(t testing.TB, size int) []byte { return make([]byte, size) }
