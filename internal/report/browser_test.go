//go:build browser

package report

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser starts Chromium (NF4KIT_CHROMIUM, /usr/bin/chromium) with an empty profile.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := os.Getenv("NF4KIT_CHROMIUM")
	if path == "" {
		path = "/usr/bin/chromium"
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1200, 1500), chromedp.Flag("hide-scrollbars", true)}
	for _, f := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"} {
		opts = append(opts, chromedp.Flag(f, true))
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	return ctx
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func eval[T any](t *testing.T, ctx context.Context, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		t.Fatalf("%s: %v", js, err)
	}
	return v
}

// TestPage opens the page of 1,000 tensors and uses it as a reader would.
func TestPage(t *testing.T) {
	r := New(model(t, 1000))
	r.Tool, r.Source, r.RunDType = "nf4kit", "example/model-7b", "bf16"
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, page.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	ctx := browser(t)
	var mu sync.Mutex
	var complaints, requests []string
	err := chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, fmt.Sprint(ev.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, fmt.Sprint(ev.Type, ev.Args))
		case *log.EventEntryAdded:
			complaints = append(complaints, ev.Entry.Text)
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(ev.Request.URL, "data:") {
				requests = append(requests, ev.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// Starting the browser does not count.
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	const countRows = `document.querySelectorAll("#tensors tbody tr").length`
	do(t, ctx, chromedp.Navigate("file://"+file))
	rows := eval[int](t, ctx, countRows)
	t.Logf("%d bytes opened in %v", page.Len(), time.Since(start).Round(time.Millisecond))
	if rows != 1000 {
		t.Errorf("%d rows, want 1000", rows)
	}

	column := func(n int) []string {
		return eval[[]string](t, ctx, fmt.Sprintf(`[...document.querySelectorAll("#tensors tbody tr")].map(r => r.children[%d].textContent)`, n))
	}
	ordered := func(v []string, down bool) bool {
		for i := 1; i < len(v); i++ {
			if v[i-1] != v[i] && (v[i-1] < v[i]) == down {
				return false
			}
		}
		return len(v) > 0
	}
	if !ordered(column(4), true) {
		t.Error("the table does not begin with the worst tensor")
	}
	click := func(sel string) { do(t, ctx, chromedp.Click(sel)) }
	click(`#tensors button[data-column="m1"]`)
	if !ordered(column(5), true) {
		t.Error("sorted by FP4: not in descending order")
	}
	click(`#tensors button[data-column="m1"]`)
	if !ordered(column(5), false) {
		t.Error("sorted by FP4 again: not in ascending order")
	}
	click(`#tensors button[data-column="kind"]`)
	if !ordered(column(1), false) {
		t.Error("sorted by kind: not in ascending order")
	}
	do(t, ctx, chromedp.KeyEvent("\r")) // the button that was clicked has the focus still, and its key sorts again
	if at := eval[string](t, ctx, `document.activeElement.dataset.column || ""`); at != "kind" || !ordered(column(1), true) {
		t.Errorf("sorted by a key: the focus is on %q, or the order is the old one", at)
	}
	enter := func(text string) int {
		return eval[int](t, ctx, fmt.Sprintf(`(() => { const f = document.getElementById("filter"); f.value = %q; f.dispatchEvent(new Event("input")); return %s; })()`, text, countRows))
	}
	for _, c := range []struct {
		text string
		want int
	}{{`layers\.7\.`, 7}, {"down_proj", 142}, {"nothing", 0}, {"(", 1000}, {"", 1000}} { // what follows wants the last
		if got := enter(c.text); got != c.want {
			t.Errorf("filtered by %q: %d rows, want %d", c.text, got, c.want)
		}
		said := eval[string](t, ctx, `document.getElementById("count").textContent`)
		if bad := c.text == "("; strings.Contains(said, "Invalid regular expression") != bad {
			t.Errorf("of the filter %q the page says %q", c.text, said)
		}
	}
	choose := func(id, value string) {
		eval[int](t, ctx, fmt.Sprintf(`(() => { const s = document.getElementById(%q); s.value = %q; s.dispatchEvent(new Event("input")); s.dispatchEvent(new Event("change")); return 0; })()`, id, value))
	}
	choose("kind", "2")
	if n := len(column(0)); n != 143 {
		t.Errorf("one kind: %d rows, want 143", n)
	}
	choose("kind", "0")
	choose("metric", "2")
	if v := column(4); !strings.Contains(v[0], ".") || v[0] < "1" {
		t.Errorf("figure SQNR: first cell %q", v[0])
	}
	choose("metric", "0")
	click(".heat .cell")
	cells := eval[int](t, ctx, `document.querySelectorAll(".heat .cell").length`)
	bars := eval[int](t, ctx, `document.querySelectorAll("#histogram rect").length`)
	lines := eval[int](t, ctx, `document.querySelectorAll("#histogram line").length`)
	if cells != 1000 || bars < 40 || lines != 17 {
		t.Errorf("%d heat map cells, %d bars, %d lines; want 1000, 40 or more, 17", cells, bars, lines)
	}
	choose("heatformat", "3")

	for _, theme := range []string{"light", "dark"} {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
			t.Fatal(err)
		}
		do(t, ctx, chromedp.Reload())
		ground := eval[string](t, ctx, `getComputedStyle(document.body).backgroundColor`)
		shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if (theme == "dark") != (ground == "rgb(20, 23, 28)") {
			t.Errorf("%s: background %s", theme, ground)
		}
		if dir := os.Getenv("NF4KIT_SCREENSHOTS"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "page-"+theme+".png"), shot, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	const theme = `document.documentElement.dataset.theme`
	before := eval[string](t, ctx, theme)
	click("#theme")
	if after := eval[string](t, ctx, theme); before == after {
		t.Errorf("theme button: %s to %s", before, after)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(complaints) > 0 {
		t.Errorf("the console says: %q", complaints)
	}
	if len(requests) == 0 {
		t.Error("the page itself was not seen among the requests: nothing was listened to")
	}
	for _, u := range requests {
		if !strings.HasPrefix(u, "file://") {
			t.Errorf("the page asked for %s", u)
		}
	}
}
