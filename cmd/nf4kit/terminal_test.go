//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sys/unix"
)

// onTerminal runs the program on a terminal of the given width and returns what it wrote there.
func onTerminal(t *testing.T, columns int, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(&out, master) // it ends with EIO when the other side is closed
		close(done)
	}()
	if code := run(t.Context(), args, nil, strings.NewReader(""), slave, slave); code != 0 && code != 2 {
		t.Errorf("%v at %d columns: exit code %d", args, columns, code)
	}
	slave.Close()
	<-done
	return out.String()
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")

// TestTerminalWidths runs the commands at several widths: no line is wider than the terminal, unless it is one word.
func TestTerminalWidths(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("COLUMNS", "")
	src, err := filepath.Abs("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.CopyFS("llama", os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	for _, columns := range []int{60, 80, 120, 160} {
		dst := fmt.Sprintf("out%d", columns)
		for _, args := range [][]string{
			{"convert", "llama", dst, "--dry-run", "-v"}, {"convert", "llama", dst}, {"verify", dst}, {"verify", dst, "--against", "llama"}, {"inspect", dst, "-v"},
			{"inspect", "llama"}, {"measure", "llama"}, {"dequantize", dst, dst + "-bf16"}, {"plan", "llama-2-7b", "--gpu", "RTX 4090"},
			{"plan", "llama-3.1-70b", "--gpu", "RTX 4090", "--generate", "1k"}, {"plan", "mixtral-8x7b", "-v"}, {"plan", "--list"},
			{"plan", "llama-3.1-8b", "--sweep", "rank=8,64 targets=attention,all-linear"}, {"--help"}, {"convert", "--help"}, {"nothing"}, {"convert", "llama", dst, "--double-quant", "false"},
			{"convert", "llama", dst + "x", "--rule", "down_proj=blok=3"}, {"lora", "merge", "--help"}, {"version"},
		} {
			out := onTerminal(t, columns, args...)
			for line := range strings.SplitSeq(strings.ReplaceAll(out, "\r\n", "\n"), "\n") {
				line = escapes.ReplaceAllString(line, "")
				for part := range strings.SplitSeq(line, "\r") { // a bar is written over itself
					width, word := text.StringWidthWithoutEscSequences(part), 0
					for _, f := range strings.Fields(part) {
						word = max(word, text.StringWidthWithoutEscSequences(f))
					}
					python := args[0] == "plan" && width <= 80
					if width > columns && word < columns-8 && !python {
						t.Errorf("%v at %d columns: a line of %d: %q", args, columns, width, part)
					}
				}
			}
		}
	}
}

// Columns that did not fit are there with --wide.
func TestTerminalWide(t *testing.T) {
	t.Setenv("TERM", "xterm")
	narrow := onTerminal(t, 60, "plan", "llama-2-7b", "--no-advice")
	wide := onTerminal(t, 60, "plan", "llama-2-7b", "--no-advice", "--wide")
	if strings.Contains(narrow, "adapter file") || !strings.Contains(wide, "adapter file") {
		t.Errorf("adapter file at 60 columns: %t, with --wide %t", strings.Contains(narrow, "adapter file"), strings.Contains(wide, "adapter file"))
	}
}

// Colour is on terminals alone, and NO_COLOR does without.
func TestTerminalColour(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if out := onTerminal(t, 100, "plan", "llama-3.1-8b", "--no-advice"); !strings.Contains(out, text.FgGreen.EscapeSeq()+"fits") {
		t.Error("no verdict is green")
	}
	if out := onTerminal(t, 100, "nothing"); !strings.Contains(out, text.FgRed.EscapeSeq()+"error") {
		t.Errorf("no error is red: %q", out)
	}
	t.Setenv("NO_COLOR", "1")
	for _, args := range [][]string{{"plan", "llama-3.1-8b", "--no-advice"}, {"nothing"}} {
		if out := onTerminal(t, 100, args...); strings.Contains(out, "\x1b[") {
			t.Errorf("%v: colour in spite of NO_COLOR", args)
		}
	}
}

// The bar takes one line, and so does its text.
func TestTerminalProgress(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for _, columns := range []int{40, 60, 80, 200} {
		master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
		if err != nil {
			t.Skip(err)
		}
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: uint16(columns)}); err != nil {
			t.Fatal(err)
		}
		p := &progress{w: master, verb: "converting"}
		got := p.describe("model.layers.31.mlp.experts.127.down_proj.weight")
		if room := max(columns-barRoom, 0) + len("converting "); len(got) > max(room, len("converting")) {
			t.Errorf("%d columns: %q", columns, got)
		}
		master.Close()
	}
}

func TestWrapLine(t *testing.T) {
	for _, c := range []struct {
		line    string
		columns int
		want    string
	}{
		{"short", 40, "short"},
		{"", 40, ""},
		{"  one two three four five six", 20, "  one two three four\n    five six"},
		{"  size         1.0 MB, was 2.3 MB: 55.6 % saved", 40, "  size         1.0 MB, was 2.3 MB: 55.6\n               % saved"},
		{"      --rank int                LoRA rank of all", 40, "      --rank int                LoRA\n        rank of all"},
		{"a/path/that/is/wider/than/the/terminal is whole", 20, "a/path/that/is/wider/than/the/terminal\n  is whole"},
		{"\x1b[31mred lines are left alone, whatever their width\x1b[0m", 20, "\x1b[31mred lines are left alone, whatever their width\x1b[0m"},
		{"narrower than anybody can read", 10, "narrower than anybody can read"},
	} {
		if got := wrapLine(c.line, c.columns); got != c.want {
			t.Errorf("%q at %d:\n%q, want\n%q", c.line, c.columns, got, c.want)
		}
	}
}
