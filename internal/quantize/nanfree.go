package quantize

import (
	"encoding/binary"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// Words are packed codes as the words of a floating-point dtype, for --quant-storage. Frameworks that copy tensors of that dtype
// may turn every NaN among them into one and the same (bitsandbytes issue 1945), which changes the codes.
type Words struct {
	size               int // bytes; words are little-endian, as in safetensors
	exponent, fraction uint32
}

// WordsOf are those of a storage dtype; nil for bytes.
func WordsOf(s bnb.Storage) *Words {
	switch s {
	case bnb.BFloat16:
		return &Words{2, 0x7f80, 0x007f}
	case bnb.Float16:
		return &Words{2, 0x7c00, 0x03ff}
	case bnb.Float32:
		return &Words{4, 0x7f800000, 0x007fffff}
	}
	return nil
}

// nan reports whether the first word of p is a NaN.
func (w *Words) nan(p []byte) bool {
	v := uint32(binary.LittleEndian.Uint16(p))
	if w.size == 4 {
		v = binary.LittleEndian.Uint32(p)
	}
	return v&w.exponent == w.exponent && v&w.fraction != 0
}

// Of is how many words so many bytes are.
func (w *Words) Of(bytes int64) int64 { return bytes / int64(w.size) }

// Count counts the NaNs.
func (w *Words) Count(codes []byte) (n int64) {
	for i := 0; i+w.size <= len(codes); i += w.size {
		if w.nan(codes[i:]) {
			n++
		}
	}
	return n
}

// Freed is what it took to leave no NaN.
type Freed struct {
	Codes int64   // that were changed, one of a word
	Added float64 // to the sum of squared errors, with the scales that the codes were chosen for
}

func (f *Freed) add(o Freed) {
	f.Codes += o.Codes
	f.Added += o.Added
}

// Free changes one code of every word that is a NaN, the one whose change adds least to the squared error, of equals the first.
// A word that is a NaN in like, too, is left: like is nil, or the codes of a file that may have been written without this.
func (w *Words) Free(p *Panel, scale []float32, codes, like []byte) (f Freed) {
	for i := 0; i+w.size <= len(codes); i += w.size {
		if w.nan(codes[i:]) && (like == nil || !w.nan(like[i:])) {
			f.add(w.free(p, scale, codes[i:i+w.size], 2*i))
		}
	}
	return f
}

// free is Free for one word, whose first code is that of element first of the panel.
func (w *Words) free(p *Panel, scale []float32, word []byte, first int) Freed {
	var x [8]float32
	n := min(2*w.size, p.N-first) // the missing code of an odd count is no code
	kernel.Widen(x[:n], p.Values[first*p.Elem.Size():], p.Elem)
	table, a := kernel.Values(p.Type), scale[first/p.BlockSize]
	squared := func(code byte, x float32) float64 {
		e := float64(float32(table[code]*a)) - float64(x)
		return float64(e * e)
	}
	at, with, least := -1, byte(0), 0.0
	for k := range n {
		old := word[k/2]
		shift := 4 * (1 - k%2)
		was := squared(old>>shift&15, x[k])
		for c := range byte(16) {
			word[k/2] = old&^(15<<shift) | c<<shift
			if w.nan(word) {
				continue
			}
			if more := squared(c, x[k]) - was; at < 0 || more < least {
				at, with, least = k/2, word[k/2], more
			}
		}
		word[k/2] = old
	}
	if at < 0 {
		return Freed{}
	}
	word[at] = with
	return Freed{1, least}
}
