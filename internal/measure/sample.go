package measure

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// minSample is how many chunks of a tensor are measured at least: a variance needs two, and few tell little.
const minSample = 4

// sampleChunks draws a share of n chunks, ascending. The draw depends on the tensor's name alone.
func sampleChunks(name string, n int64, share float64) []int64 {
	m := n
	if share > 0 && share < 1 {
		m = min(n, max(minSample, int64(math.Ceil(share*float64(n)))))
	}
	out := make([]int64, 0, m)
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash never fails
	rng := rand.New(rand.NewPCG(h.Sum64(), uint64(n)))
	// Selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S).
	for c := int64(0); c < n; c++ {
		if rng.Int64N(n-c) < m-int64(len(out)) {
			out = append(out, c)
		}
	}
	return out
}
