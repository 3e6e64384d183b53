package forward

import "runtime"

// Options of a Decoder. The zero value takes all processors and 2 GiB.
type Options struct {
	Jobs      int    // workers; 0: one for each processor
	MaxMemory int64  // bytes for hidden states and what a layer computes; 0: 2 GiB
	Scratch   string // directory of the file that takes hidden states beyond the budget; "": the system's
}

func (o Options) memory() int64 {
	if o.MaxMemory > 0 {
		return o.MaxMemory
	}
	return 2 << 30
}

func (o Options) jobs() int {
	if o.Jobs > 0 {
		return o.Jobs
	}
	return runtime.GOMAXPROCS(0)
}
