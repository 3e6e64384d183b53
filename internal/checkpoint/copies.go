package checkpoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nf4kit/nf4kit/internal/stream"
)

// What an index says and what its shards hold may differ: published checkpoints list tensors that no shard has, lack
// others, and name the wrong shard. transformers 5.23 takes the names of the files from an index and every tensor from
// the files; 4.57 the names of the tensors too. So the tensors that count are those of the files.

// compareIndex warns of what the index says otherwise than the shards.
func (s *Source) compareIndex(path string) {
	var unlisted, elsewhere, absent []string
	for _, t := range s.Tensors {
		switch shard, ok := s.Index.WeightMap[t.Name]; {
		case !ok:
			unlisted = append(unlisted, t.Name)
		case shard != t.Shard.Name:
			elsewhere = append(elsewhere, t.Name)
		}
	}
	if len(s.Tensors)-len(unlisted) < len(s.Index.WeightMap) {
		for name := range s.Index.WeightMap {
			if _, ok := s.Lookup(name); !ok {
				absent = append(absent, name)
			}
		}
		slices.Sort(absent)
	}
	warn := func(names []string, format string) {
		if len(names) > 0 {
			s.Warnings = append(s.Warnings, path+": "+fmt.Sprintf(format, someNames(names)))
		}
	}
	warn(s.Index.Repeated, "weight_map names %s more than once; the last line counts")
	warn(absent, "weight_map names %s, which no shard has: left out")
	warn(unlisted, "weight_map lacks %s, which transformers 4.57 would not load from it: taken from the shards")
	warn(elsewhere, "weight_map has %s in another shard than the one that holds it: taken from where it is")
}

// someNames lists the first few of names.
func someNames(names []string) string {
	const most = 3
	shown := make([]string, 0, most)
	for _, name := range names[:min(most, len(names))] {
		shown = append(shown, clip(name))
	}
	list := strings.Join(shown, ", ")
	if more := len(names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// finish sorts the tensors and, where several shards hold one of the same name, keeps the copy that is meant.
//
// transformers reads the copy in the last file by name. If the index names that one too, as with an overlay that is to
// replace a tensor of the base, nothing is in doubt. Otherwise the copies that could be meant must be equal.
func (s *Source) finish() error {
	order := make(map[*Shard]int, len(s.Shards))
	for i, sh := range s.Shards {
		order[sh] = i
	}
	slices.SortFunc(s.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(order[a.Shard], order[b.Shard]))
	})
	kept, budget := s.Tensors[:0], maxCompared
	var doubled []string
	for rest := s.Tensors; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Name == rest[0].Name {
			n++
		}
		copies := rest[:n]
		rest = rest[n:]
		if n > 1 {
			if err := s.checkCopies(copies, &budget); err != nil {
				return err
			}
			doubled = append(doubled, copies[0].Name)
		}
		kept = append(kept, copies[n-1])
	}
	clear(s.Tensors[len(kept):])
	s.Tensors = kept
	if len(doubled) > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s: two shards hold %s: taken from the last by name, as transformers does",
			s.Dir, someNames(doubled)))
	}
	return nil
}

// maxCompared bounds the bytes that are read to find copies equal. Whole checkpoints that lie in a directory twice are
// not what this is for.
const maxCompared int64 = 1 << 30

// checkCopies requires of the copies of a tensor, in the order of reading, that it is clear which of them is meant. What
// it reads is taken from budget.
func (s *Source) checkCopies(copies []Tensor, budget *int64) error {
	last := copies[len(copies)-1]
	rivals := copies[:len(copies)-1]
	hint := "point its line in the index to the copy that is meant, or fetch the directory again into an empty one"
	if s.Index != nil {
		named := s.Index.WeightMap[last.Name]
		if named == last.Shard.Name {
			return nil
		}
		if i := slices.IndexFunc(rivals, func(t Tensor) bool { return t.Shard.Name == named }); i >= 0 {
			rivals = rivals[i : i+1]
			hint = fmt.Sprintf("the index names %s and transformers reads %s: remove the copy that is stale", named, last.Shard.Name)
		}
	}
	for _, t := range rivals {
		same, err := equalTensors(t, last, budget)
		if err != nil {
			return err
		}
		if !same {
			return &InputError{File: s.at(last.Shard.Name), Tensor: last.Name, Expected: "each tensor in one shard",
				Found: "it in " + t.Shard.Name + " too, with another content", Hint: hint}
		}
	}
	return nil
}

// equalTensors compares two tensors as far as budget goes; what is larger passes for different.
func equalTensors(a, b Tensor, budget *int64) (bool, error) {
	if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || a.Size() > *budget {
		return false, nil
	}
	*budget -= a.Size()
	return stream.Same(a, b, a.Size())
}
