package allocate

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/arch"
	"github.com/nf4kit/nf4kit/internal/checkpoint"
	"github.com/nf4kit/nf4kit/internal/convert"
	"github.com/nf4kit/nf4kit/internal/stream"
	model "github.com/nf4kit/nf4kit/internal/weights"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// random is groups whose errors fall as bits rise, more or less.
func random(r *rand.Rand, groups, settings int) (out []group, allowed []setting) {
	for s := range settings {
		allowed = append(allowed, setting{block: 32 << s})
	}
	for range groups {
		n := 1 + r.Int64N(100)
		var g group
		for s, set := range allowed {
			g.options = append(g.options, option{setting: set, bits: n * int64(20-2*s), estimate: r.ExpFloat64() * math.Exp(0.3*float64(s))})
		}
		out = append(out, g)
	}
	return out, allowed
}

// best is the least estimate of all assignments within the bits.
func best(groups []group, bits int64) float64 {
	if len(groups) == 0 {
		return 0
	}
	least := math.Inf(1)
	for _, o := range groups[0].options {
		if o.bits <= bits {
			least = min(least, o.estimate+best(groups[1:], bits-o.bits))
		}
	}
	return least
}

// An assignment keeps to the bits, is no worse than any uniform one, and near the best that there is.
func TestAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var ours, least float64
	for range 300 {
		groups, allowed := random(r, 1+r.IntN(6), 1+r.IntN(4))
		var low, high int64
		for _, g := range groups {
			low += g.options[len(g.options)-1].bits
			high += g.options[0].bits
		}
		bits := low + r.Int64N(high-low+1)
		a, cheapest := allocate(groups, allowed, bits)
		if a == nil || int64(cheapest) != low {
			t.Fatalf("%d bits of %d to %d: no assignment, at least %v", bits, low, high, cheapest)
		}
		var sum int64
		var estimate float64
		for g, o := range a.chosen {
			sum += groups[g].options[o].bits
			estimate += groups[g].options[o].estimate
		}
		if sum != a.bits || sum > bits || estimate != a.estimate {
			t.Errorf("%d bits and %v, found %d and %v of %d", a.bits, a.estimate, sum, estimate, bits)
		}
		for _, s := range allowed {
			var u assignment
			for g := range groups {
				u.bits += groups[g].of(s).bits
				u.estimate += groups[g].of(s).estimate
			}
			if u.bits <= bits && u.estimate < a.estimate {
				t.Errorf("blocks of %d for all: %v in %d bits, chosen were %v in %d", s.block, u.estimate, u.bits, a.estimate, a.bits)
			}
		}
		optimum := best(groups, bits)
		ours += a.estimate
		least += optimum
		if a.estimate > 2*optimum {
			t.Errorf("estimate %v, the best is %v", a.estimate, optimum)
		}
	}
	t.Logf("%.2f %% above the best assignments together", 100*(ours/least-1))
	if ours > 1.05*least {
		t.Errorf("estimates sum up to %v, the best to %v", ours, least)
	}
	groups, allowed := random(r, 3, 2)
	if a, low := allocate(groups, allowed, 1); a != nil || low <= 1 {
		t.Errorf("one bit: %+v, at least %v", a, low)
	}
}

func plan(t *testing.T, opt convert.Options) (*checkpoint.Source, *convert.Plan) {
	t.Helper()
	src, err := checkpoint.Open("../../testdata/llama")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	p, err := convert.NewPlan(src, opt)
	if err != nil {
		t.Fatal(err)
	}
	return src, p
}

// The rules of a choice give the formats that were chosen, at the bits that were asked for, and the choice is the same for any
// number of workers. What is fixed stays.
func TestChoose(t *testing.T) {
	yes := true
	for _, c := range []struct {
		name string
		opt  convert.Options
		o    Options
	}{
		{name: "default", o: Options{Target: 4.5}},
		{name: "signed", opt: convert.Options{Spec: bnb.Format{Scale: bnb.MSESigned, BlockSize: 128}}, o: Options{Target: 5, Double: &yes}},
		{name: "feedback", opt: convert.Options{Spec: bnb.Format{Scale: bnb.Feedback}}, o: Options{Target: 4.2, Blocks: []int{64, 32}}},
		{name: "nodq", opt: convert.Options{Spec: bnb.Format{NoDoubleQuant: true}}, o: Options{Target: 4.6, Double: new(bool)}},
		{name: "5.x", opt: convert.Options{Targets: arch.Transformers5}, o: Options{Target: 4.4, Targets: arch.Transformers5, NoKeep: true}},
		{name: "fixed", opt: convert.Options{Spec: bnb.Format{NoDoubleQuant: true}, Rules: []convert.Rule{{Pattern: regexp.MustCompile("down_proj")}}},
			o: Options{Target: 4.5, Fixed: regexp.MustCompile("down_proj").MatchString}},
		{name: "sensitive", o: Options{Target: 4.5, Sensitivity: func(w string) (float64, bool) {
			return map[bool]float64{true: 1000, false: 1}[regexp.MustCompile(`1\.mlp`).MatchString(w)], w[0] == 'm'
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if underRace && c.name != "default" {
				t.Skip("takes minutes under the race detector, and has no other goroutines than the first")
			}
			src, p := plan(t, c.opt)
			out, err := Choose(t.Context(), p, c.o)
			if err != nil {
				t.Fatal(err)
			}
			again := c.o
			again.Stream = stream.Options{Jobs: 5}
			if more, err := Choose(t.Context(), p, again); err != nil || cmp.Diff(out.Rules(c.opt.Spec), more.Rules(c.opt.Spec)) != "" || more.Estimate != out.Estimate {
				t.Errorf("other choices with five workers: %v", err)
			}
			for _, text := range out.Rules(c.opt.Spec) {
				r, err := convert.ParseRule(text)
				if err != nil {
					t.Fatal(err)
				}
				c.opt.Rules = append(c.opt.Rules, r)
			}
			p, err = convert.NewPlan(src, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			items := map[string]convert.Item{}
			for _, it := range p.Items() {
				items[it.Name] = it
			}
			var bits float64
			var params int64
			double := map[bool]bool{}
			for _, choice := range out.Choices {
				it := items[choice.Item.Name]
				if it.Quantize == choice.Keep || it.Quantize && it.Spec.String() != choice.Format.String() {
					t.Errorf("%s: %+v chosen, planned is %v %v", it.Name, choice, it.Quantize, it.Spec)
				}
				params += it.Elems()
				if choice.Keep {
					bits += 16 * float64(it.Elems())
					continue
				}
				double[!it.Spec.NoDoubleQuant] = true
				size, err := it.Spec.Size(it.Shape...)
				if err != nil {
					t.Fatal(err)
				}
				bits += 8 * float64(size.Data)
			}
			if bits /= float64(params); math.Abs(bits-out.Bits) > 1e-9 || bits > c.o.Target || bits < 0.97*c.o.Target {
				t.Errorf("%v bits per parameter, said to be %v of %v", bits, out.Bits, c.o.Target)
			}
			if len(double) > 1 && c.o.Targets != arch.Transformers5 || c.o.Double != nil && !double[*c.o.Double] || c.o.Fixed != nil && double[true] {
				t.Errorf("weights with double quantization and without: %v", double)
			}
			for _, u := range out.Uniform {
				if u.Bits <= c.o.Target && u.Estimate < out.Estimate {
					t.Errorf("%+v is better than what was chosen: %v", u, out.Estimate)
				}
			}
			if kept := slices.ContainsFunc(out.Choices, func(c Choice) bool { return c.Keep }); kept && c.o.NoKeep {
				t.Error("something is kept")
			}
		})
	}
}

func TestTargetError(t *testing.T) {
	_, p := plan(t, convert.Options{})
	for _, target := range []float64{4.03, 16} {
		var e *TargetError
		if out, err := Choose(t.Context(), p, Options{Target: target}); !errors.As(err, &e) {
			t.Errorf("target %v: %+v, error %v", target, out, err)
		}
	}
}

// Experts of a layer go together, and what engines fuse where they are to load it.
func TestGroupKey(t *testing.T) {
	expert := arch.Class{Expert: true}
	for _, c := range []struct {
		name  string
		class arch.Class
		t     arch.Target
		want  string
	}{
		{"model.layers.3.mlp.experts.17.down_proj.weight", expert, 0, "model.layers.3.mlp.experts"},
		{"model.layers.3.mlp.experts.down_proj.weight", expert, 0, "model.layers.3.mlp.experts.down_proj.weight"},
		{"model.layers.3.mlp.shared_expert.down_proj.weight", arch.Class{}, 0, "model.layers.3.mlp.shared_expert.down_proj.weight"},
		{"model.layers.3.self_attn.k_proj.weight", arch.Class{}, arch.Transformers5, "model.layers.3.self_attn.k_proj.weight"},
		{"model.layers.3.self_attn.k_proj.weight", arch.Class{}, arch.VLLM, "model.layers.3.self_attn.qkv.weight"},
		{"weight", arch.Class{}, arch.VLLM, "weight"},
	} {
		if got := groupKey(item(c.name, c.class), c.t); got != c.want {
			t.Errorf("%s for %v: %s, want %s", c.name, c.t, got, c.want)
		}
	}
}

func item(name string, class arch.Class) *convert.Item {
	return &convert.Item{Tensor: &model.Tensor{Name: name, Class: class}}
}

func TestRules(t *testing.T) {
	kept := func(name string, expert bool) Choice {
		return Choice{Item: item(name, arch.Class{Expert: expert}), Keep: true}
	}
	var choices []Choice
	for l := range 3 {
		choices = append(choices, kept(fmt.Sprintf("a+b.%d.q.weight", l), false))
		for e := range 4 {
			choices = append(choices, kept(fmt.Sprintf("m.layers.%d.mlp.experts.%d.up.weight", 10*l, e), true))
		}
	}
	smaller := Choice{Item: item("head.weight", arch.Class{}), Format: bnb.Format{BlockSize: 32, NoDoubleQuant: true}}
	choices = append(choices, kept("1.weight", false), kept("experts.0.weight", true), smaller, Choice{Item: item("same.weight", arch.Class{})})
	o := Outcome{Choices: choices}
	want := []string{`^a\+b\.(0|1|2)\.q\.weight$=keep`, `^m\.layers\.(0|10|20)\.mlp\.experts\.\d+\.up\.weight$=keep`, `^1\.weight$=keep`,
		`^experts\.\d+\.weight$=keep`, `^head\.weight$=block=32,nodq`}
	if diff := cmp.Diff(want, o.Rules(bnb.Format{})); diff != "" {
		t.Errorf("rules (-want +got)\n%s", diff)
	}
}
