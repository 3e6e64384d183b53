//go:build browser

package page

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
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

// eval runs a script and decodes its result.
func eval[T any](ctx context.Context, t *testing.T, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return v
}

// testData is the page of a model with the four usual ways to train it.
func testData(t *testing.T, model string) (Data, []*memplan.Plan) {
	t.Helper()
	m, err := modelshape.Builtin(model)
	if err != nil {
		t.Fatal(err)
	}
	d := Data{Title: model + " </script><b>: memory of a training run", Subtitle: "8.03 billion parameters", Chosen: 3, Batch: 2, Seq: 2048, Rank: 16,
		GPU: "RTX 4090", Facts: []string{"one GPU"}, Advice: []memplan.Advice{{Text: "Adapt all layers.", Source: "a paper"}}}
	var plans []*memplan.Plan
	var ways []Way
	for _, v := range []struct {
		name string
		run  memplan.Run
	}{{"full", memplan.Run{Method: memplan.Full}}, {"LoRA", memplan.Run{Method: memplan.LoRA}}, {"QLoRA NF4", memplan.Run{NoDoubleQuant: true}}, {"QLoRA NF4+DQ", memplan.Run{}}} {
		v.run.MicroBatch = 2
		p, err := memplan.New(m, v.run)
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
		ways = append(ways, Way{v.name, p})
	}
	d.Ways, d.Variants = len(ways), Variants(m, ways, d.Chosen, func(p *memplan.Plan) string { return p.Snippet("<b>") })
	return d, plans
}

// testChanges makes each first change in turn, by the keyboard: the run shrinks by what the row promised, the script changes with
// it, and the focus is on the next.
func testChanges(ctx context.Context, t *testing.T, d Data) {
	t.Helper()
	process := func() string { return eval[string](ctx, t, `document.body.dataset.process`) }
	made := 0
	for ; made < 12; made++ {
		if eval[int](ctx, t, `document.querySelectorAll("#changes button").length`) == 0 {
			break
		}
		promised := eval[string](ctx, t, `document.querySelector("#changes tbody tr").cells[2].textContent`)
		before, script := process(), eval[string](ctx, t, `document.getElementById("snippet").textContent`)
		eval[bool](ctx, t, `(() => { document.querySelector("#changes button").focus(); return true; })()`)
		if err := chromedp.Do(ctx, chromedp.KeyEvent("\r")); err != nil {
			t.Fatal(err)
		}
		after, _ := strconv.ParseInt(process(), 10, 64)
		was, _ := strconv.ParseInt(before, 10, 64)
		if after >= was {
			t.Fatalf("change %d: %d bytes, before it %d", made, after, was)
		}
		if shown := eval[string](ctx, t, `[...document.querySelectorAll("#figures div")].find((e) => e.textContent.startsWith("needs")).querySelector("b").textContent`); shown != promised {
			t.Errorf("change %d: needs %s, promised %s", made, shown, promised)
		}
		if now := eval[string](ctx, t, `document.getElementById("snippet").textContent`); now == script {
			t.Errorf("change %d is not in the script", made)
		}
		if on := eval[string](ctx, t, `document.activeElement.tagName`); on != "BUTTON" && on != "SELECT" {
			t.Errorf("after change %d the focus is on %s", made, on)
		}
	}
	if made < 3 {
		t.Errorf("%d changes could be made", made)
	}
}

// TestPage moves the sliders and compares what the page shows with Go.
func TestPage(t *testing.T) {
	d, plans := testData(t, "llama-3.1-8b")
	var page bytes.Buffer
	if err := Write(&page, d); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "plan.html")
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
	_, err1 := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	_, err2 := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	_, err3 := chromedp.Call(ctx, runtime.Enable, cdp.Empty{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	complaints, requests = nil, nil
	mu.Unlock()
	if err := chromedp.Do(ctx, chromedp.Navigate("file://"+file), chromedp.WaitReady("#gpus tbody tr")); err != nil {
		t.Fatal(err)
	}

	text := func(script string) string { return eval[string](ctx, t, script) }
	number := func(script string) int { return eval[int](ctx, t, script) }
	// set gives an input a value the way a hand on it would.
	set := func(id, value, event string) {
		eval[bool](ctx, t, fmt.Sprintf(`(() => { const e = document.getElementById(%q); e.value = %q; return e.dispatchEvent(new Event(%q)); })()`, id, value, event))
	}
	check := func(variant int, batch, seq, rank int64) {
		t.Helper()
		got := text(`document.body.dataset.process`)
		want := plans[variant].Coefficients.At(batch, seq, rank).Process
		if got != strconv.FormatInt(want, 10) {
			t.Errorf("variant %d, batch %d, sequence %d, rank %d: the page says %s, Go %d", variant, batch, seq, rank, got, want)
		}
	}
	check(3, 2, 2048, 16)
	set("batch", "5", "input")
	check(3, 5, 2048, 16)
	set("seq-slider", "0", "input") // the shortest
	check(3, 5, 128, 16)
	set("rank", "200", "input")
	check(3, 5, 128, 200)
	set("method", "0", "change")
	check(0, 5, 128, 200)
	if !eval[bool](ctx, t, `document.getElementById("rank").disabled`) {
		t.Error("the rank can be set for full fine-tuning")
	}
	set("method", "1", "change")
	for _, bad := range []string{"", "-5", "0", "1.5", "9999999"} { // refused: the figures stay, and leaving the field restores it
		set("seq", bad, "input")
		check(1, 5, 128, 200)
		if said := text(`document.getElementById("seq-wrong").textContent`); said == "" {
			t.Errorf("nothing is said of %q tokens", bad)
		}
	}
	set("seq", "-5", "change")
	if now := text(`document.getElementById("seq").value + document.getElementById("seq-wrong").textContent`); now != "128" {
		t.Errorf("after -5 the field shows %q", now)
	}
	set("seq", "2048", "input")
	if said := text(`document.getElementById("seq-slider").getAttribute("aria-valuetext")`); said != "2,048 tokens" {
		t.Errorf("the slider says %q", said)
	}
	for _, line := range []string{"BATCH = 5", "SEQ = 2048", "RANK = 200"} {
		if script := text(`document.getElementById("snippet").textContent`); !strings.Contains(script, "\n"+line+"\n") {
			t.Errorf("the script has no line %q:\n%s", line, script)
		}
	}
	set("gpu", "0", "change")
	verdict, rows := number(`document.querySelectorAll("#gpus tbody td.no").length`), number(`document.querySelectorAll("#gpus tbody tr").length`)
	if verdict == 0 || rows != len(memplan.GPUs()) {
		t.Errorf("%d GPUs, %d too small", rows, verdict)
	}
	if title := text(`document.querySelector("h1").textContent`); title != d.Title {
		t.Errorf("title %q, want %q", title, d.Title)
	}

	// The largest batch that the page finds is Go's.
	set("method", "3", "change")
	set("batch", "2", "input")
	set("rank", "16", "input")
	cell := text(`[...document.querySelectorAll("#gpus tbody tr")].find((r) => r.cells[0].textContent === "RTX 4090").cells[4].textContent`)
	gpu, _ := memplan.FindGPU("RTX 4090")
	if want := strconv.FormatInt(plans[3].MaxBatch(gpu.Usable()), 10); cell != want {
		t.Errorf("most sequences on a 4090: the page says %s, Go %s", cell, want)
	}

	testChanges(ctx, t, d)

	shots := os.Getenv("NF4KIT_SCREENSHOTS")
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
				t.Fatal(err)
			}
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 1500)); err != nil {
				t.Fatal(err)
			}
			wide := eval[bool](ctx, t, `document.documentElement.scrollWidth > innerWidth`)
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if wide {
				t.Errorf("the page is wider than %d pixels", width)
			}
			if shots != "" {
				if err := os.WriteFile(filepath.Join(shots, fmt.Sprintf("plan-%s-%d.png", scheme, width)), png, 0o666); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(complaints) > 0 {
		t.Errorf("the browser complains: %v", complaints)
	}
	if len(requests) != 1 {
		t.Errorf("requests %v, want the page alone", requests)
	}
}
