// Package page draws a memory plan as one HTML page that needs nothing else:
// sliders for batch, sequence and rank recompute it in the browser by formula.js,
// which a test compares with package memplan to the byte.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"sync"

	"github.com/nf4kit/nf4kit/internal/memplan"
)

//go:embed formula.js
var formulaJS string

//go:embed page.js
var pageJS string

//go:embed page.html
var pageHTML string

// tmpl is parsed when it is asked for: most runs write no page.
var tmpl = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(pageHTML)) })

// Variant is one way to train the model.
type Variant struct {
	Name         string                `json:"name"`
	Bits         float64               `json:"bits"`    // per parameter of the weights file
	Trained      int64                 `json:"trained"` // of full fine-tuning; adapters are counted in the page
	Params       int64                 `json:"params"`
	Coefficients *memplan.Coefficients `json:"k"`
	Snippet      string                `json:"snippet"` // the page puts its own sizes into it
	Changes      []Change              `json:"changes"`
	Cut          bool                  `json:"cut"` // there are more than the page holds
}

// Data is what the page shows.
type Data struct {
	Title, Subtitle  string
	Variants         []Variant
	Ways             int // of Variants, that the page lists: the others are what changes lead to
	Chosen           int // of Variants
	Batch, Seq, Rank int64
	Context          int64  // positions of the model; 0 if they are not known
	GPU              string // "" is none in particular
	Usable           int64  // bytes of a GPU that is not in the list; 0 if it is
	Facts            []string
	Advice           []memplan.Advice
}

type card struct {
	Name   string `json:"name"`
	MiB    int64  `json:"mib"`
	Usable int64  `json:"usable"`
}

// Write draws the page.
func Write(w io.Writer, d Data) error {
	var cards []card
	if d.Usable > 0 {
		cards = append(cards, card{d.GPU, d.Usable >> 20, d.Usable})
	}
	for _, g := range memplan.GPUs() {
		cards = append(cards, card{g.Name, g.MiB, g.Usable()})
	}
	if err := tmpl().Execute(w, map[string]any{
		"Data": d, "Formula": template.JS(formulaJS), "Script": template.JS(pageJS),
		"JSON": map[string]any{"variants": d.Variants, "ways": d.Ways, "chosen": d.Chosen, "batch": d.Batch, "seq": d.Seq, "rank": d.Rank, "context": d.Context, "gpu": d.GPU, "gpus": cards},
	}); err != nil {
		return fmt.Errorf("draw page: %w", err)
	}
	return nil
}
