package stream

import "sync"

// Parts calls f for as many parts of 0 to n as there are jobs, at once, and waits. What f computes of an index must not depend
// on the part that it lies in.
func Parts(n, jobs int, f func(from, to int)) {
	part := max(1, (n+jobs-1)/max(jobs, 1))
	var wg sync.WaitGroup
	for at := part; at < n; at += part {
		wg.Go(func() { f(at, min(at+part, n)) })
	}
	f(0, min(part, n))
	wg.Wait()
}
