package convert

import (
	"fmt"
	"maps"
	"slices"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// A consumer removes files of the source as they are used up: when every weights file of the output that is made of one is on the disk and in the
// journal. It is only asked under the lock of the journal.
type consumer struct {
	src   *checkpoint.Source
	needs map[string][]int // the output's files that each of the source is read for
	first map[string]*checkpoint.Shard
	gone  map[string]bool
}

// consumable makes a consumer, or says why the source may not be used up: a weight that is made of several tensors may have them anywhere.
func (p *Plan) consumable() (*consumer, error) {
	if err := p.src.CheckConsumable(); err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) error {
		return &SourceError{Path: p.src.Path, Msg: fmt.Sprintf(format, args...), Hint: "leave --consume-source away"}
	}
	c := &consumer{src: p.src, needs: map[string][]int{}, first: map[string]*checkpoint.Shard{}, gone: map[string]bool{}}
	for _, sh := range p.src.Shards {
		c.first[sh.Name] = sh
		c.gone[sh.Name] = sh.Consumed()
	}
	names := make(map[string]bool, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		if it.Method != "" || it.Parts != nil {
			return nil, refuse("--consume-source is for plain weights, and %s is put together from several tensors", it.Name)
		}
		for _, t := range it.sources() {
			names[t.Name] = true
			c.needs[t.File] = append(c.needs[t.File], it.Shard)
		}
	}
	for _, t := range p.src.Tensors {
		if !names[t.Name] {
			return nil, refuse("--consume-source would lose the tensor %s, which is not in the output", t.Name)
		}
	}
	return c, nil
}

// consume removes the files of which everything is made, unless the whole output is: then they go when it has its name.
func (c *consumer) consume(made func(file int) bool) error {
	for name, sh := range c.first {
		if c.gone[name] || !all(c.needs[name], made) {
			continue
		}
		if err := c.src.Consume(sh); err != nil {
			return err
		}
		c.gone[name] = true
	}
	return nil
}

func all(list []int, f func(int) bool) bool {
	for _, i := range list {
		if !f(i) {
			return false
		}
	}
	return true
}

// checkUnread refuses to make a file of which the source is used up already.
func (p *Plan) checkUnread(todo []bool) error {
	for i := range p.items {
		it := &p.items[i]
		if todo != nil && !todo[it.Shard] {
			continue
		}
		for _, t := range it.sources() {
			for _, sh := range p.src.Shards {
				if sh.Name == t.File && sh.Unread() != nil {
					return sh.Unread()
				}
			}
		}
	}
	return nil
}

// consumed reports whether something of the source is used up, so that what was made of it must stay.
func (p *Plan) consumed() bool {
	for _, sh := range p.src.Shards {
		if sh.Consumed() {
			return true
		}
	}
	return false
}

// consumingBytes is the disk space that the files to be made take at most beyond what is there: two are under way at a time, and what they are made of
// is removed when they are finished.
func (p *Plan) consumingBytes(todo []bool, c *consumer) int64 {
	sizes := map[string]int64{}
	for _, f := range p.src.Shards {
		sizes[f.Name] = f.Size()
	}
	last := map[int]int64{} // what goes with each file of the output
	for name, needs := range c.needs {
		at := -1
		for _, i := range needs {
			if todo[i] {
				at = max(at, i)
			}
		}
		if at >= 0 && !c.gone[name] {
			last[at] += sizes[name]
		}
	}
	var peak, now, before int64
	for i := range todo {
		if !todo[i] {
			continue
		}
		now += p.shards[i].Layout.Size()
		peak = max(peak, now)
		now -= before
		before = last[i]
	}
	return peak
}

// consume removes what of the source is used up, as long as there is something to go on with. The caller holds mu, or is alone.
func (s *resumed) consume() error {
	if s.consumer == nil || s.files() == len(s.done) {
		return nil
	}
	return s.consumer.consume(func(i int) bool { return s.done[i] != nil })
}

// consumes reports whether what is finished cannot be made again.
func (s *resumed) consumes() bool { return s.consumer != nil || s.plan.consumed() }

// consumed reports whether something of the source is used up.
func (s *resumed) consumed() bool {
	return s.plan.consumed() || s.consumer != nil && slices.Contains(slices.Collect(maps.Values(s.consumer.gone)), true)
}
