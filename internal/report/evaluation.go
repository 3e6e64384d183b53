package report

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nf4kit/nf4kit/internal/escape"
	"github.com/nf4kit/nf4kit/internal/evaluate"
)

// An Evaluation is what quantization did to a model's predictions.
type Evaluation struct {
	evaluate.Result
}

// A Table is a part of an evaluation as rows of text, the first column to the left.
type Table struct {
	ID, Title, Note string
	Head            []string
	Rows            [][]string
}

// checkpointColumns are the figures of a checkpoint in tables and CSV.
var checkpointColumns = []struct {
	key, label string
	of         func(*evaluate.Checkpoint) *float64
	text       func(float64) string
}{
	{"perplexity", "perplexity", func(c *evaluate.Checkpoint) *float64 { return &c.Perplexity }, fixed(4)},
	{"perplexity_se", "+-", func(c *evaluate.Checkpoint) *float64 { return &c.PerplexitySE }, fixed(4)},
	{"perplexity_ratio", "to source", func(c *evaluate.Checkpoint) *float64 { return c.Ratio }, change},
	{"perplexity_ratio_se", "+-", func(c *evaluate.Checkpoint) *float64 { return c.RatioSE }, func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }},
	{"kl_mean", "KL mean", func(c *evaluate.Checkpoint) *float64 { return c.KLMean }, fixed(5)},
	{"kl_mean_se", "+-", func(c *evaluate.Checkpoint) *float64 { return c.KLMeanSE }, fixed(5)},
	{"kl_median", "", func(c *evaluate.Checkpoint) *float64 { return c.KLMedian }, nil},
	{"kl_p99", "KL p99", func(c *evaluate.Checkpoint) *float64 { return c.KLP99 }, fixed(4)},
	{"kl_max", "", func(c *evaluate.Checkpoint) *float64 { return c.KLMax }, nil},
	{"same_top1", "same top-1", func(c *evaluate.Checkpoint) *float64 { return c.SameTop1 }, func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }},
}

func fixed(digits int) func(float64) string {
	return func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
}

// change is a ratio as a difference.
func change(v float64) string { return fmt.Sprintf("%+.2f %%", 100*(v-1)) }

// Summary is the table of the checkpoints.
func (e *Evaluation) Summary() Table {
	t := Table{ID: "checkpoints", Title: "Checkpoints", Note: "KL is KL(source || checkpoint) of the next token's distribution, in nats; +- is one standard error, of a ratio that of paired tokens.",
		Head: []string{"checkpoint"}}
	for _, c := range checkpointColumns {
		if c.label != "" {
			t.Head = append(t.Head, c.label)
		}
	}
	for i := range e.Checkpoints {
		row := []string{e.Checkpoints[i].Path}
		for _, c := range checkpointColumns {
			switch v := c.of(&e.Checkpoints[i]); {
			case c.label == "":
			case v == nil:
				row = append(row, "")
			default:
				row = append(row, c.text(*v))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// ByPosition is the table of the figures by the place of a token in its window: perplexity of each checkpoint, and KL.
func (e *Evaluation) ByPosition() Table {
	t := Table{ID: "positions", Title: "By position in the window", Head: []string{"positions", "tokens"}}
	for i := range e.Checkpoints {
		name := "source"
		if i > 0 {
			name = e.Checkpoints[i].Path
			t.Head = append(t.Head, "KL of "+name)
		}
		t.Head = append(t.Head, "perplexity of "+name)
	}
	for k, p := range e.Checkpoints[0].Positions {
		row := []string{fmt.Sprintf("%d to %d", p.From, p.To-1), strconv.Itoa(p.Tokens)}
		for i := range e.Checkpoints {
			p := e.Checkpoints[i].Positions[k]
			if p.KLMean != nil {
				row = append(row, fixed(5)(*p.KLMean))
			}
			row = append(row, fixed(4)(p.Perplexity))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// ByLayer is the table of the relative errors of a checkpoint: of the hidden states after each layer, and of the outputs of its
// Linears by kind; of experts the root of the mean square.
func (e *Evaluation) ByLayer(c *evaluate.Checkpoint) Table {
	t := Table{ID: "layers", Title: "By layer: " + c.Path,
		Note: "Relative errors: of the hidden states after a layer, by all that lies before; of each Linear's outputs for the inputs that it has in the source, by its own weight alone.",
		Head: []string{"layer", "hidden states"}}
	kinds, sums := kindErrors(c)
	t.Head = append(t.Head, kinds...)
	for _, l := range c.Layers {
		row := []string{strconv.Itoa(l.Layer), fixed(4)(l.Relative)}
		for _, k := range kinds {
			text := ""
			if s := sums[kindAt{k, l.Layer}]; s.n > 0 {
				text = fixed(4)(math.Sqrt(s.squares / float64(s.n)))
			}
			row = append(row, text)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

type kindAt struct {
	kind  string
	layer int
}

type meanSquare struct {
	squares float64
	n       int
}

// kindErrors are the kinds of a checkpoint's Linears in the order of their first layer, and the errors of each in each layer.
func kindErrors(c *evaluate.Checkpoint) (kinds []string, sums map[kindAt]meanSquare) {
	sums = map[kindAt]meanSquare{}
	for i := range c.Linears {
		l := &c.Linears[i]
		at := kindAt{LinearKind(l.Name), l.Layer}
		if !slices.Contains(kinds, at.kind) {
			kinds = append(kinds, at.kind)
		}
		s := sums[at]
		sums[at] = meanSquare{s.squares + l.Relative*l.Relative, s.n + 1}
	}
	return kinds, sums
}

// LinearKind is the module's own name in that of its weight: q_proj.
func LinearKind(weight string) string {
	parts := strings.Split(strings.TrimSuffix(weight, ".weight"), ".")
	return parts[len(parts)-1]
}

// Kinds is the table of the errors of Linears by kind, a column for each checkpoint: over all layers, and the largest.
func (e *Evaluation) Kinds() Table {
	t := Table{ID: "kinds", Title: "Linears by kind", Head: []string{"relative error of outputs"}}
	var kinds []string
	for i := range e.Checkpoints[1:] {
		c := &e.Checkpoints[i+1]
		own, sums := kindErrors(c)
		if kinds == nil {
			kinds = own
			for _, k := range kinds {
				t.Rows = append(t.Rows, []string{k})
			}
		}
		t.Head = append(t.Head, c.Path, "worst layer")
		for k, kind := range kinds {
			var all meanSquare
			worst := kindAt{layer: -1}
			most := -1.0
			for _, l := range c.Layers {
				s := sums[kindAt{kind, l.Layer}]
				if s.n == 0 {
					continue
				}
				all = meanSquare{all.squares + s.squares, all.n + s.n}
				if m := s.squares / float64(s.n); m > most {
					most, worst = m, kindAt{kind, l.Layer}
				}
			}
			if all.n == 0 {
				t.Rows[k] = append(t.Rows[k], "", "")
				continue
			}
			t.Rows[k] = append(t.Rows[k], fixed(4)(math.Sqrt(all.squares/float64(all.n))), fmt.Sprintf("%s in %d", fixed(4)(math.Sqrt(most)), worst.layer))
		}
	}
	return t
}

// lines say in words what was evaluated.
func (e *Evaluation) lines() [][2]string {
	of := cmp.Or(e.Text, e.Tokens)
	how := fmt.Sprintf("%d of %d tokens, each %d after the last", e.Windows, e.Cutting.Context, e.Cutting.Stride)
	if e.Cutting.Llama {
		how = fmt.Sprintf("%d of %d tokens, of which the second half is scored, as in llama.cpp", e.Windows, e.Cutting.Context)
	}
	return [][2]string{{"text", of}, {"windows", how}, {"scored", comma(int64(e.Scored)) + " tokens"}}
}

// tables are all tables that the page has.
func (e *Evaluation) tables() []Table {
	if e == nil {
		return nil
	}
	out := []Table{e.Summary(), e.ByPosition()}
	for i := range e.Checkpoints[1:] {
		t := e.ByLayer(&e.Checkpoints[i+1])
		t.ID += strconv.Itoa(i)
		out = append(out, t)
	}
	for i := range out {
		out[i].Title = escape.Line(out[i].Title)
		for _, row := range append([][]string{out[i].Head}, out[i].Rows...) {
			for k := range row {
				row[k] = escape.Line(row[k])
			}
		}
	}
	return out
}

// csv writes one line for each checkpoint.
func (e *Evaluation) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	head := []string{"checkpoint", "scored_tokens"}
	for _, x := range checkpointColumns {
		head = append(head, x.key)
	}
	_ = c.Write(head) // the error is kept until Error
	for i := range e.Checkpoints {
		row := []string{escape.Cell(e.Checkpoints[i].Path), strconv.Itoa(e.Scored)}
		for _, x := range checkpointColumns {
			row = append(row, csvNumber(x.of(&e.Checkpoints[i])))
		}
		_ = c.Write(row)
	}
	c.Flush()
	return c.Error()
}

// markdown writes the lines, the checkpoints and what came of the kinds of Linears.
func (e *Evaluation) markdown(b *strings.Builder) {
	for _, l := range e.lines() {
		fmt.Fprintf(b, "- %s: %s\n", l[0], escape.Markdown(l[1]))
	}
	b.WriteString("\n")
	s := e.Summary()
	markdownTable(b, s.Head, s.Rows)
	if len(e.Checkpoints) > 1 {
		b.WriteString("\n")
		k := e.Kinds()
		markdownTable(b, k.Head, k.Rows)
	}
}

// markdownTable writes a table, the first column to the left.
func markdownTable(b *strings.Builder, head []string, rows [][]string) {
	for i, row := range append([][]string{head}, rows...) {
		for _, cell := range row {
			fmt.Fprintf(b, "| %s ", cmp.Or(escape.Markdown(cell), " "))
		}
		b.WriteString("|\n")
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|--:", len(head)-1) + "|\n")
		}
	}
}
