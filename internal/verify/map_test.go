package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/manifest"
)

// TestDamagedMap: an entry of the 8-bit map that another has not rounded but changed, in order or not, differs from the source.
func TestDamagedMap(t *testing.T) {
	dir := converted(t, llama, convert.Options{})
	if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil {
		t.Fatal(err)
	}
	src, source := open(t, dir), open(t, llama)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const name = "model.layers.0.mlp.up_proj.weight.nested_quant_map"
	for _, ten := range src.Tensors {
		if ten.Name != name {
			continue
		}
		for bit, wrong := range map[int64]bool{0: false, 4: false, 8: true, 16: true, 30: true} { // of entry 162
			undo := flip(t, f, ten.Offset()+4*162+bit/8, uint(bit%8))
			r := check(t, dir, Options{Source: source})
			undo()
			found := false
			for _, x := range severe(r) {
				found = found || x.Tensor == name && strings.Contains(x.Text, "differs from that derived from the source, first at code 162")
			}
			if found != wrong {
				t.Errorf("bit %d: found %v, want %v", bit, found, wrong)
			}
		}
		return
	}
	t.Fatalf("no %s", name)
}
