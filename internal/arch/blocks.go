package arch

import (
	"iter"
	"strings"
)

// Blocks is a text of blocks, each of which begins with a line "type NAME" or "type NAME REST". They are sorted by NAME. A line
// or more, a comment at least, stands before the first.
//
// A text of facts is part of the program, so what is not looked at is not loaded from the disk. That is why a block is looked
// for by halves, and there is no index.
type Blocks string

const blockHead = "\ntype "

// Find returns the block of name with its first line, or "" without one.
func (b Blocks) Find(name string) string {
	text := string(b)
	for lo, hi := nextBlock(text, 0), len(text); lo < hi; {
		at := lo + strings.LastIndex(text[lo:lo+(hi-lo)/2], blockHead) + 1
		end := nextBlock(text, at+1)
		switch found := blockName(text[at:end]); {
		case name == found:
			return text[at:end]
		case name < found:
			hi = at
		default:
			lo = end
		}
	}
	return ""
}

// Names yields the name of every block, in order.
func (b Blocks) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		text := string(b)
		for at := nextBlock(text, 0); at < len(text); at = nextBlock(text, at+1) {
			if !yield(blockName(text[at:])) {
				return
			}
		}
	}
}

// nextBlock is where the first block at or after from begins, or the end of the text.
func nextBlock(text string, from int) int {
	// The line break before the first block may be that of the byte before from.
	from = max(from-1, 0)
	if i := strings.Index(text[from:], blockHead); i >= 0 {
		return from + i + 1
	}
	return len(text)
}

func blockName(block string) string {
	head, _, _ := strings.Cut(block[len(blockHead)-1:], "\n")
	name, _, _ := strings.Cut(head, " ")
	return name
}
