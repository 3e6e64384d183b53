//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// TestTerminalWidths runs the commands at several widths: nothing that is drawn is wider than the terminal, unless it is one
// word. Pictures of what is shown are in docs/terminal.
func TestTerminalWidths(t *testing.T) {
	const pictures = "../../docs/terminal"
	dir, err := filepath.Abs(pictures)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("COLUMNS", "")
	src, err := filepath.Abs("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	for _, columns := range []int{60, 80, 120, 160} {
		t.Chdir(t.TempDir())
		if err := os.CopyFS("llama", os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
		const dst = "llama-nf4"
		for _, args := range [][]string{
			{"convert", "llama", dst, "--dry-run", "-v"}, {"convert", "llama", dst}, {"verify", dst, "--source", "llama"}, {"verify", dst, "--against", "llama"}, {"inspect", dst, "-v"},
			{"inspect", "llama"}, {"measure", "llama"}, {"dequantize", dst, dst + "-bf16"}, {"plan", "llama-2-7b", "--gpu", "RTX 4090", "--no-advice"},
			{"plan", "llama-2-7b", "--gpu", "RTX 4090"}, {"convert", "llama", dst, "-v", "--force"},
			{"plan", "llama-3.1-70b", "--gpu", "RTX 4090", "--generate", "1k"}, {"plan", "mixtral-8x7b", "-v"}, {"plan", "--list"},
			{"plan", "llama-3.1-8b", "--sweep", "rank=8,64 targets=attention,all-linear"}, {"--help"}, {"convert", "--help"}, {"nothing"}, {"convert", "llama", dst, "--double-quant", "false"},
			{"convert", "llama", dst + "x", "--rule", "down_proj=blok=3"}, {"lora", "merge", "--help"}, {"version"},
		} {
			lines := draw(onTerminal(t, columns, args...))
			picture := shownOnTerminals[strings.Join(args, " ")]
			for _, l := range lines {
				word := 0
				for f := range strings.FieldsSeq(l.String()) {
					word = max(word, text.StringWidthWithoutEscSequences(f))
				}
				if l.reached > columns && (word < columns-8 || picture != "") {
					t.Errorf("%v at %d columns: a line of %d: %q", args, columns, l.reached, l)
				}
			}
			if picture != "" {
				comparePicture(t, filepath.Join(dir, fmt.Sprintf("%s-%d.svg", picture, columns)), svg("nf4kit "+strings.Join(args, " "), columns, lines))
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
	// Nor is a line broken, whatever it is on.
	for _, args := range [][]string{{"convert", "a", "b", "--rule", "down_proj=blok=3"}, {"convert", "a", "b", "--no-such"}, {"convert", "a"}, {"convert", "--help"}} {
		narrow, wide := onTerminal(t, 40, args...), onTerminal(t, 40, append([]string{"--wide"}, args...)...)
		if n, w := strings.Count(narrow, "\n"), strings.Count(wide, "\n"); w >= n {
			t.Errorf("%v at 40 columns: %d lines, with --wide %d:\n%s", args, n, w, wide)
		}
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
