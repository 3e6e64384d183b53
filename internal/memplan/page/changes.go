package page

import (
	"reflect"
	"strings"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// maxVariants is how many runs a page holds. A page with all combinations of all changes would be many megabytes.
const maxVariants = 96

// otherWay is what starting from another way than the chosen one counts, as a price.
const otherWay = 8

// Change is something to do about a run that is too large, and the run that it leads to.
type Change struct {
	What   string `json:"what"`
	Flag   string `json:"flag"`
	Price  string `json:"price"`
	Weight int64  `json:"weight"` // of the price
	To     int    `json:"to"`     // of the page's variants
	Halve  string `json:"halve"`  // the slider that goes to half, "" for none
}

// Way is one way to train the model, under the name that the page shows.
type Way struct {
	Name string
	Plan *memplan.Plan
}

// Sizes at which plans are changed: all of them can be halved, and coefficients do not depend on them.
const atBatch, atSeq, atRank = 2, 512, 2

// tree is the runs of a page, and how they follow from each other.
type tree struct {
	m       *modelshape.Model
	snippet func(*memplan.Plan) string
	list    []Variant
	plans   []*memplan.Plan // at the sizes at which they are changed; nil if there is none
	price   []int64         // of all changes on the way
	done    []bool
	place   map[memplan.Run]int
}

// Variants are the ways and what changes of them lead to, and changes of these, the cheapest first and those of the chosen way
// before others. snippet makes a plan's Python.
func Variants(m *modelshape.Model, ways []Way, chosen int, snippet func(*memplan.Plan) string) []Variant {
	t := &tree{m: m, snippet: snippet, place: map[memplan.Run]int{}}
	for i, w := range ways {
		price := int64(otherWay)
		if i == chosen {
			price = 0
		}
		t.add(w.Name, w.Plan, sized(m, w.Plan.Run), price)
	}
	for {
		next := -1
		for i, done := range t.done {
			if !done && (next < 0 || t.price[i] < t.price[next]) {
				next = i
			}
		}
		if next < 0 {
			return t.list
		}
		t.done[next] = true
		t.follow(next)
	}
}

// add appends a run, which shown and its script are of.
func (t *tree) add(name string, shown, p *memplan.Plan, price int64) int {
	at := len(t.list)
	v := Variant{Name: name, Bits: shown.Weights.Bits(), Params: shown.Weights.Params, Coefficients: shown.Coefficients, Snippet: t.snippet(shown)}
	if shown.AdapterParams == 0 {
		v.Trained = shown.Trained
	}
	t.list, t.plans, t.price, t.done = append(t.list, v), append(t.plans, p), append(t.price, price), append(t.done, p == nil)
	if p != nil {
		t.place[p.Run] = at
	}
	return at
}

// follow finds the changes of a run.
func (t *tree) follow(i int) {
	for _, c := range t.plans[i].Alternatives(t.m) {
		x := Change{What: c.What, Flag: c.Flag, Price: c.Price, Weight: c.Weight}
		switch run := c.Plan.Run; {
		case run.MicroBatch < atBatch:
			x.Halve = "batch"
		case run.Seq < atSeq:
			x.Halve = "seq"
		case run.Rank < atRank:
			x.Halve = "rank"
		}
		to := sized(t.m, c.Plan.Run)
		if to == nil {
			continue
		}
		at, known := t.place[to.Run]
		switch {
		case known:
		case strings.Contains(t.list[i].Snippet, "gradient_accumulation_steps=") && reflect.DeepEqual(to.Coefficients, t.plans[i].Coefficients):
			// More accumulation alone, which the page writes itself where it stands as a word.
			at = i
		case len(t.list) >= maxVariants:
			t.list[i].Cut = true
			continue
		default:
			at = t.add(t.list[i].Name+"; "+c.What, to, to, t.price[i]+c.Weight)
		}
		x.To = at
		t.list[i].Changes = append(t.list[i].Changes, x)
	}
}

// sized is the plan of a run at the sizes at which changes are made; nil if there is none.
func sized(m *modelshape.Model, r memplan.Run) *memplan.Plan {
	r.MicroBatch, r.Seq, r.Rank = atBatch, atSeq, atRank
	if r.Slack == 0 {
		r.Slack = -1 // defaults were set already
	}
	p, err := memplan.New(m, r)
	if err != nil {
		return nil
	}
	return p
}
