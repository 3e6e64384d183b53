// Command release makes the files of a release, from what .goreleaser.yaml says of them, with no other program than Go:
//
//	go run -C release . -out ../dist
//
// Two runs at one commit make the same bytes, in whatever folders they are: times are those of the commit, and no path is
// in a binary. docs/release.md has what is made, and how a user checks it. It is a module of its own, so that what it needs
// is not required of those who use nf4kit as a library.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	out := flag.String("out", "", "write the release into this directory, which must not exist")
	docs := flag.String("docs", "", "only write manual pages and completions into this directory")
	only := flag.String("only", "", "of the targets only this one, such as linux/amd64")
	flag.Parse()
	if err := run(*out, *docs, *only); err != nil {
		log.Fatal(err)
	}
}

// config is the part of .goreleaser.yaml that is used here.
type config struct {
	Builds []struct {
		Main    string   `yaml:"main"`
		Env     []string `yaml:"env"`
		Flags   []string `yaml:"flags"`
		LDFlags []string `yaml:"ldflags"`
		GOOS    []string `yaml:"goos"`
		GOARCH  []string `yaml:"goarch"`
	} `yaml:"builds"`
	Archives []struct {
		Files []file `yaml:"files"`
	} `yaml:"archives"`
	Packages []map[string]any `yaml:"nfpms"`
}

// A file is put into archives: what src matches, into the folder dst.
type file struct {
	Src string `yaml:"src"`
	Dst string `yaml:"dst"`
}

// A release is what is being made.
type release struct {
	config
	root, out string // folders: of the repository, of the files made
	version   string // without v
	commit    string
	date      time.Time
	made      []string // names of files in out
}

func run(out, docs, only string) error {
	r, err := begin()
	if err != nil {
		return err
	}
	if docs != "" {
		return r.docs(docs)
	}
	if out == "" {
		return errors.New("-out DIR is missing")
	}
	if r.out, err = filepath.Abs(out); err != nil {
		return err
	}
	if err := os.Mkdir(r.out, 0o777); err != nil {
		return err
	}
	if err := r.docs(filepath.Join(r.root, "build")); err != nil {
		return err
	}
	var images []binary
	for _, goos := range r.Builds[0].GOOS {
		for _, arch := range r.Builds[0].GOARCH {
			b := binary{goos, arch, ""}
			if only != "" && only != goos+"/"+arch {
				continue
			}
			if err := r.target(&b); err != nil {
				return fmt.Errorf("%s/%s: %w", goos, arch, err)
			}
			if goos == "linux" {
				images = append(images, b)
			}
		}
	}
	if err := r.images(images); err != nil {
		return err
	}
	return r.sums()
}

// A binary is the program for one target.
type binary struct{ os, arch, path string }

// target makes all files of one target.
func (r *release) target(b *binary) error {
	dir := filepath.Join(r.root, "build", b.os+"_"+b.arch)
	b.path = filepath.Join(dir, "nf4kit")
	if b.os == "windows" {
		b.path += ".exe"
	}
	if err := r.build(b.path, b.os, b.arch); err != nil {
		return err
	}
	if err := r.archive(*b); err != nil {
		return err
	}
	if err := r.sbom(*b); err != nil {
		return err
	}
	if b.os != "linux" {
		return nil
	}
	return r.packages(*b)
}

// begin reads the configuration and the commit.
func begin() (*release, error) {
	root, err := output("git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	r := &release{root: root}
	raw, err := os.ReadFile(filepath.Join(root, ".goreleaser.yaml"))
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(raw, &r.config); err != nil {
		return nil, fmt.Errorf(".goreleaser.yaml: %w", err)
	}
	if len(r.Builds) != 1 || len(r.Archives) != 1 || len(r.Packages) != 1 {
		return nil, errors.New(".goreleaser.yaml: want one of builds, archives and nfpms")
	}
	if r.commit, err = output("git", "rev-parse", "HEAD"); err != nil {
		return nil, err
	}
	seconds, err := output("git", "log", "-1", "--format=%ct")
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	r.date = time.Unix(n, 0).UTC()
	r.version = "0.0.0-snapshot." + r.commit[:7]
	if tag, err := output("git", "describe", "--tags", "--exact-match", "--match", "v*"); err == nil {
		r.version = strings.TrimPrefix(tag, "v")
	}
	return r, nil
}

// output is what a program prints.
func output(name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Stderr = os.Stderr
	if args[0] == "describe" { // that there is no tag is no error to be shown
		c.Stderr = nil
	}
	raw, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// command runs a program in the repository, its time that of the commit.
func (r *release) command(env []string, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = r.root
	c.Env = append(os.Environ(), env...)
	c.Env = append(c.Env, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
	c.Stderr = os.Stderr
	return c
}

// build builds the program.
func (r *release) build(path, goos, goarch string) error {
	b := r.Builds[0]
	ldflags := strings.ReplaceAll(strings.Join(b.LDFlags, " "), "{{ .Version }}", r.version)
	args := slices.Concat([]string{"build"}, b.Flags, []string{"-ldflags", ldflags, "-o", path, b.Main})
	env := slices.Concat(b.Env, []string{"GOOS=" + goos, "GOARCH=" + goarch, "GOAMD64=v1", "GOFLAGS="})
	return r.command(env, "go", args...).Run()
}

// docs writes manual pages and completions, which a program for this machine prints.
func (r *release) docs(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "host", "nf4kit")
	if err := r.build(program, runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	for _, sub := range []string{"man", "completions"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			return err
		}
	}
	if err := r.command(nil, program, "man", filepath.Join(dir, "man")).Run(); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		text, err := r.command(nil, program, "completion", shell).Output()
		if err != nil {
			return err
		}
		name := "nf4kit." + strings.Replace(shell, "powershell", "ps1", 1)
		if err := os.WriteFile(filepath.Join(dir, "completions", name), text, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// create makes a file of the release.
func (r *release) create(name string) (*os.File, error) {
	r.made = append(r.made, name)
	return os.OpenFile(filepath.Join(r.out, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
}

// sums writes checksums.txt, and its signature if there is a key.
func (r *release) sums() error {
	slices.Sort(r.made)
	var text strings.Builder
	for _, name := range r.made {
		raw, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(raw), name)
	}
	path := filepath.Join(r.out, "checksums.txt")
	if err := os.WriteFile(path, []byte(text.String()), 0o666); err != nil {
		return err
	}
	key := os.Getenv("MINISIGN_KEY")
	if key == "" {
		log.Print("MINISIGN_KEY names no key: checksums.txt is not signed")
		return nil
	}
	sign := r.command(nil, "minisign", "-S", "-s", key, "-m", path, "-x", path+".minisig")
	sign.Stdin = os.Stdin
	return sign.Run()
}
