package internal

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/THIRD_PARTY.txt anew")

// licences are those that a file of a module's root may hold, by words of their text. GPL is not among them.
var licences = []struct {
	name  string
	words *regexp.Regexp
}{
	{"Apache-2.0", regexp.MustCompile(`Apache License\s+Version 2\.0`)},
	{"MIT", regexp.MustCompile(`(?s)Permission is hereby granted, free of charge.*without restriction`)},
	{"ISC", regexp.MustCompile(`Permission to use, copy, modify, and(/or)? distribute this software`)},
	{"BSD-3-Clause", regexp.MustCompile(`(?s)Redistribution and use in source and binary forms.*[Nn]either the name`)},
	{"BSD-2-Clause", regexp.MustCompile(`Redistribution and use in source and\s+binary forms`)},
	{"CC0-1.0", regexp.MustCompile(`CC0 1\.0 Universal`)},
	{"FreeType", regexp.MustCompile(`(?i)FreeType\s+(Project\s+)?License`)}, // of two to choose from, the other being GPL
	{"OFL-1.1", regexp.MustCompile(`SIL OPEN FONT LICENSE`)},
	{"CC-BY-4.0", regexp.MustCompile(`Creative Commons Attribution 4\.0`)},
	{"Unlicense", regexp.MustCompile(`released into the public domain`)},
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|ftl)([.-].*)?$`)

// TestThirdParty holds docs/THIRD_PARTY.txt, the licences of everything that is linked into the binary on any of the systems
// that it is built for, to go.mod. go test ./internal -run ThirdParty -update writes it.
func TestThirdParty(t *testing.T) {
	type module struct{ Path, Version, Dir string }
	modules := map[string]module{}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		cmd := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/nf4kit")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				Module *struct {
					module
					Main bool
				}
			}
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if p.Module != nil && !p.Module.Main {
				modules[p.Module.Path] = p.Module.module
			}
		}
	}
	var paths []string
	for p := range modules {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	var b strings.Builder
	b.WriteString("nf4kit contains the software below, under the licences that follow each. It is made by\n" +
		"go test ./internal -run ThirdParty -update. The Go standard library is under Go's BSD licence, https://go.dev/LICENSE.\n")
	for _, p := range paths {
		m := modules[p]
		entries, err := os.ReadDir(m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		var text strings.Builder
		var files []string
		for _, e := range entries {
			if !e.IsDir() && licenceFile.MatchString(e.Name()) && !strings.HasSuffix(e.Name(), ".go") {
				files = append(files, e.Name())
			}
		}
		if p == "github.com/golang/freetype" { // its LICENSE names two to choose from, in files of their own
			files = append(files, "licenses/ftl.txt")
		}
		for _, name := range files {
			raw, err := os.ReadFile(filepath.Join(m.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range licences {
				if l.words.Match(raw) {
					if !slices.Contains(names, l.name) {
						names = append(names, l.name)
					}
					break
				}
			}
			fmt.Fprintf(&text, "\n%s\n", strings.TrimSpace(strings.ReplaceAll(string(raw), "\r\n", "\n")))
		}
		if len(names) == 0 {
			t.Errorf("%s %s: found no licence that is known here: read it", m.Path, m.Version)
		}
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n%s", strings.Repeat("=", 80), m.Path, m.Version, strings.Join(names, ", "), text.String())
	}
	const name = "../docs/THIRD_PARTY.txt"
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what go.mod asks for: go test ./internal -run ThirdParty -update", name)
	}
}
