package page

import (
	"testing"

	"github.com/nf4kit/nf4kit/internal/memplan"
	"github.com/nf4kit/nf4kit/internal/modelshape"
)

// Wherever a change leads to, the page's figures there are those of the planner for the changed run, from every way and however
// many were made before.
func TestVariants(t *testing.T) {
	for _, name := range []string{"llama-3.1-8b", "mixtral-8x7b", "bert-base"} {
		m, err := modelshape.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range []memplan.Run{{}, {Method: memplan.LoRA, Accumulate: 3, Slack: -1}, {Method: memplan.Full, Sharding: memplan.FSDP, GPUs: 2}} {
			p, err := memplan.New(m, run)
			if err != nil {
				t.Fatal(err)
			}
			list := Variants(m, []Way{{"it", p}}, 0, func(*memplan.Plan) string { return "gradient_accumulation_steps=1" })
			if len(list) < 3 || len(list) > maxVariants {
				t.Errorf("%s: %d runs", name, len(list))
			}
			const batch, seq, rank = 8, 1024, 32
			sizes := p.Run
			sizes.MicroBatch, sizes.Seq, sizes.Rank = batch, seq, rank
			if sizes.Slack == 0 {
				sizes.Slack = -1
			}
			from, err := memplan.New(m, sizes)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]int64{}
			for _, c := range from.Alternatives(m) {
				want[c.What] = c.After
			}
			for _, c := range list[0].Changes {
				b, s, r := int64(batch), int64(seq), int64(rank)
				switch c.Halve {
				case "batch":
					b /= 2
				case "seq":
					s /= 2
				case "rank":
					r /= 2
				}
				if got := list[c.To].Coefficients.At(b, s, r).Process; got != want[c.What] {
					t.Errorf("%s, %s: %d bytes, want %d", name, c.What, got, want[c.What])
				}
				delete(want, c.What)
			}
			if len(want) > 0 {
				t.Errorf("%s %s: the page has no change %v", name, run.Method, want)
			}
		}
	}
}
