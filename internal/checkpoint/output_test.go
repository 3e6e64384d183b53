package checkpoint

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestOutputCommit(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "out")
	o, err := Create(dst, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Abort()
	if err := o.WriteFile("config.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := o.WriteFile("1_Pooling/config.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dst, "1_Pooling", "config.json")); err != nil {
		t.Fatal(err)
	}
}
