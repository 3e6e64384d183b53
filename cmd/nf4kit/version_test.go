package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What version says it was checked against is what the interop tests install.
func TestCheckedAgainst(t *testing.T) {
	files, err := filepath.Glob("../../internal/interop/py/requirements-t[45].txt")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, error %v", files, err)
	}
	var all string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all += string(raw)
	}
	for name, versions := range checkedAgainst {
		for _, v := range versions {
			if !strings.Contains(all, name+"=="+v+"\n") {
				t.Errorf("no requirement is %s==%s", name, v)
			}
		}
	}
}
