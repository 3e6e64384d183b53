package forward

import "runtime"

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
