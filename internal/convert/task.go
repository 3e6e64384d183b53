package convert

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"
)

// A Task is one of several runs that make the weights files of one plan between them. The zero value is the whole.
type Task struct {
	Index int `json:"index,omitempty"` // from 1
	Of    int `json:"of,omitempty"`
}

// MaxTasks bounds the tasks of a plan.
const MaxTasks = 100_000

// String is "3/8".
func (t Task) String() string { return fmt.Sprintf("%d/%d", t.Index, t.Of) }

// name is what the task is called in the staging directory.
func (t Task) name() string {
	if t == (Task{}) {
		return ""
	}
	return fmt.Sprintf("task-%d-of-%d", t.Index, t.Of)
}

// Tasks deals the weights files to n tasks, the same whoever asks: by the bytes that are read for them, the largest first,
// each to the task that has least. It returns the task of each file, counted from 0.
func (p *Plan) Tasks(n int) []int {
	bytes := p.shardBytes()
	order := make([]int, len(bytes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(bytes[b], bytes[a]) })
	loads := make(loads, min(max(n, 1), len(bytes)))
	for t := range loads {
		loads[t].task = t
	}
	of := make([]int, len(bytes))
	for _, sh := range order {
		of[sh] = loads[0].task
		loads[0].bytes += max(bytes[sh], 1)
		heap.Fix(&loads, 0)
	}
	return of
}

// loads is a heap of tasks, the one with least to do at its top.
type loads []struct {
	task  int
	bytes int64
}

func (l loads) Len() int { return len(l) }
func (l loads) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(l[i].bytes, l[j].bytes), cmp.Compare(l[i].task, l[j].task)) < 0
}
func (l loads) Swap(i, j int) { l[i], l[j] = l[j], l[i] }
func (l *loads) Push(any)     { panic("convert: internal error: the tasks are as many as they were") }
func (l *loads) Pop() any     { panic("convert: internal error: the tasks are as many as they were") }

// shardBytes are the bytes of the source that are read for each weights file.
func (p *Plan) shardBytes() []int64 {
	bytes := make([]int64, len(p.shards))
	for i := range p.items {
		bytes[p.items[i].Shard] += p.items[i].Bytes
	}
	return bytes
}

// mine are the weights files of a task.
func (p *Plan) mine(t Task) []bool {
	mine := make([]bool, len(p.shards))
	if t.Of == 0 {
		for i := range mine {
			mine[i] = true
		}
		return mine
	}
	for i, of := range p.Tasks(t.Of) {
		mine[i] = of == t.Index-1
	}
	return mine
}

// A MissingFilesError lists the weights files that tasks have not finished.
type MissingFilesError struct {
	Dst   string
	Of    int
	Files []string // with their tasks, where these are known
}

func (e *MissingFilesError) Error() string {
	list := e.Files
	more := ""
	if len(list) > 10 {
		list, more = list[:10], fmt.Sprintf(" and %d more", len(list)-10)
	}
	return fmt.Sprintf("finalize %s: %d of %d weights files are missing: %s%s", e.Dst, len(e.Files), e.Of, strings.Join(list, ", "), more)
}

// missing names the files that nobody has finished.
func (s *resumed) missing() error {
	e := &MissingFilesError{Dst: s.out.Dir(), Of: len(s.done)}
	var tasks []int
	of := 0
	_, err := s.out.Recorded(func(raw []byte) error {
		if r, err := parseRecord(raw); err == nil && r.Begun != nil && r.Begun.Task.Of > 0 && r.Begun.Task.Of <= MaxTasks {
			of = r.Begun.Task.Of
		}
		return nil
	})
	if err != nil {
		return err
	}
	if of > 0 {
		tasks = s.plan.Tasks(of)
	}
	for i, d := range s.done {
		switch {
		case d != nil:
		case tasks != nil:
			e.Files = append(e.Files, fmt.Sprintf("%s (task %v)", s.plan.shards[i].Name, Task{tasks[i] + 1, of}))
		default:
			e.Files = append(e.Files, s.plan.shards[i].Name)
		}
	}
	if len(e.Files) > 0 {
		return e
	}
	return nil
}
