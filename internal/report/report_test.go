package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nf4kit/nf4kit/internal/kernel"
	"github.com/nf4kit/nf4kit/internal/measure"
	"github.com/nf4kit/nf4kit/internal/quantize"
	"github.com/nf4kit/nf4kit/nf4/bnb"
)

// model is n tensors measured in six formats, with figures drawn at random.
func model(t testing.TB, n int) []measure.Tensor {
	t.Helper()
	formats, err := measure.Grid([]measure.Kind{measure.NF4, measure.FP4, measure.Int4, measure.AF4, measure.MXFP4, measure.NVFP4}, []int{64}, []bool{true})
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
	rng := rand.New(rand.NewPCG(3, 4))
	out := make([]measure.Tensor, n)
	for i := range out {
		m := &out[i]
		layer, kind := i/len(kinds), kinds[i%len(kinds)]
		m.Name = fmt.Sprintf("model.layers.%d.self_attn.%s.weight", layer, kind)
		m.Kind, m.Layer, m.Shape, m.Elements, m.Measured = kind, layer, []int64{1024, 1024}, 1<<20, 1<<20
		for b := range m.Weights {
			x := float64(b-measure.HistogramBins/2) / 15
			m.Weights[b] = int64(1e6 * math.Exp(-x*x) * (0.9 + 0.2*rng.Float64()))
		}
		for k, f := range formats {
			x2 := 1e3 * (1 + rng.Float64())
			e2 := x2 * (0.008 + 0.002*float64(k) + 0.001*rng.Float64())
			r := measure.Result{Format: f, Sums: kernel.Sums{N: 1 << 20, X2: x2, W2: x2 - e2, XW: x2 - e2, E2: e2, AbsE: 3e3, Max: 0.01 + 0.01*rng.Float64()},
				Counts: make([]int64, 16), Zeros: 1 << 16, Blocks: 1 << 14, Outliers: 5}
			for c := range r.Counts {
				r.Counts[c] = int64(1e4 + 5e4*rng.Float64())
			}
			r.Errors = measure.ErrorsOf(map[float32]int32{math.Float32frombits(uint32(1800+rng.IntN(50)) << 19): 1000})
			r.Codes, r.Bytes = f.Bytes(m.Shape)
			m.Results = append(m.Results, r)
		}
	}
	return out
}

func sample(t testing.TB) *Report {
	r := New(model(t, 21))
	r.Tool, r.Source, r.RunDType = "nf4kit test", "a/model", "bf16"
	return r
}

func TestFolding(t *testing.T) {
	tensors := model(t, 21)
	r := New(tensors)
	if len(r.Kinds) != 7 || len(r.Layers) != 3 || len(r.Tensors) != 21 || r.Total.Tensors != 21 || r.Total.Elements != 21<<20 {
		t.Fatalf("%d kinds, %d layers, %d tensors, total %+v", len(r.Kinds), len(r.Layers), len(r.Tensors), r.Total)
	}
	var e, x float64
	for i := range tensors {
		e += tensors[i].Results[0].Sums.E2
		x += tensors[i].Results[0].Sums.X2
	}
	if got := *r.Total.Formats[0].RelRMSE; got != math.Sqrt(e/x) {
		t.Errorf("relative RMSE %v, want %v", got, math.Sqrt(e/x))
	}
	if got := r.Total.Formats[0].CodeBits; math.Abs(got-4.126953125) > 1e-9 {
		t.Errorf("%v bits per parameter, want 4.126953125", got)
	}
	if got := *r.Total.Formats[0].Zeros; got != 1./16 {
		t.Errorf("zero share %v, want 1/16", got)
	}
	worst := r.Worst(0, 3)
	if len(worst) != 3 || *worst[0].Formats[0].RelRMSE < *worst[1].Formats[0].RelRMSE {
		t.Errorf("worst tensors are not in order")
	}
	if empty := New(nil); len(empty.Formats) != 0 || empty.Tensors == nil {
		t.Errorf("report of nothing: %+v", empty)
	}
}

// A bin of the histogram is wider than what lies in it; no quantile may pass the largest error.
func TestQuantilesEndAtTheLargest(t *testing.T) {
	for _, largest := range []float64{0, 1e-6} {
		tensors := model(t, 2)
		for i := range tensors {
			r := &tensors[i].Results[0]
			r.Sums.Max = largest
			r.Errors = measure.ErrorsOf(map[float32]int32{float32(largest): 1 << 20})
		}
		f := New(tensors).Total.Formats[0]
		for name, q := range map[string]*float64{"p50": f.P50, "p90": f.P90, "p99": f.P99, "p999": f.P999} {
			if q == nil || *q > largest {
				t.Errorf("largest error %v: %s is %v", largest, name, *q)
			}
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	r := sample(t)
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		t.Fatal(err)
	}
	for i := range r.Formats {
		r.Formats[i].Points = nil
	}
	for i := range r.Tensors {
		r.Tensors[i].Histogram = nil
	}
	if diff := cmp.Diff(r, &back); diff != "" {
		t.Errorf("JSON (-written +read):\n%s", diff)
	}
	if back.Schema != "nf4kit.report/2" {
		t.Errorf("schema %q", back.Schema)
	}
}

func TestCSV(t *testing.T) {
	r := sample(t)
	var b bytes.Buffer
	if err := r.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1+21*6 || rows[0][8] != "relative_rmse" || rows[1][8] != fmt.Sprint(*r.Tensors[0].Formats[0].RelRMSE) {
		t.Errorf("%d rows, the first %v", len(rows), rows[:2])
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := sample(t).WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| nf4,block=64,dq | 21 | 22,020,096 | 4.1372 |", "| down_proj | 3 |", "| **total** |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

// TestHTML: 1,000 tensors in six formats stay below 2 MB, nothing is fetched, and no name ends the script element.
func TestHTML(t *testing.T) {
	tensors := model(t, 1000)
	tensors[0].Name = "</script><img src=x onerror=alert(1)>"
	tensors[1].Kind = "<b>"
	r := New(tensors)
	r.Source = "<i>source</i>"
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", b.Len())
	if b.Len() > 2_000_000 {
		t.Errorf("%d bytes, want at most 2,000,000", b.Len())
	}
	s := b.String()
	if !utf8.ValidString(s) {
		t.Error("not UTF-8")
	}
	for _, bad := range []string{"<img", "<b>", "<i>", "https://", "@import", "url("} {
		if strings.Contains(s, bad) {
			t.Errorf("%q in the page", bad)
		}
	}
	if strings.Count(s, "</script>") != 2 || !strings.Contains(s, "<svg") {
		t.Errorf("%d script ends, plot %v", strings.Count(s, "</script>"), strings.Contains(s, "<svg"))
	}
	if err := New(nil).WriteHTML(&b); err != nil {
		t.Errorf("page of nothing: %v", err)
	}
}

func TestFromConversion(t *testing.T) {
	sums := kernel.Sums{N: 4096, X2: 4, W2: 3.9, XW: 3.9, E2: 0.04, AbsE: 1, Max: 0.1}
	one := Converted{Name: "model.layers.1.mlp.up_proj.weight", Kind: "up_proj", Shape: []int64{64, 64}, Written: sums, Other: sums}
	other := one
	other.Name, other.Format = "model.layers.2.mlp.up_proj.weight", bnb.Format{BlockSize: 128, NoDoubleQuant: true}
	r := conversion(t, one)
	if len(r.Formats) != 2 || r.Formats[0].Kind != "nf4" || len(r.Formats[0].Points) != 16 || *r.Total.Formats[0].RelRMSE != 0.1 || *r.Tensors[0].Layer != 1 {
		t.Errorf("report %+v", r)
	}
	if bits := r.Total.Formats[0]; bits.CodeBits != 8*(2048+64+4)/4096. || bits.Bits != 8*(2048+64+4+64+1024+256)/4096. {
		t.Errorf("%v and %v bits per parameter", bits.CodeBits, bits.Bits)
	}
	var page, card bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	// What a conversion does not measure has neither a column nor a section.
	for _, bad := range []string{"p99", "outliers", "entropy", `id="histogram"`} {
		if _, body, _ := strings.Cut(page.String(), "<body>"); strings.Contains(strings.SplitN(body, "<script>", 2)[0], bad) {
			t.Errorf("%q in the page of a conversion", bad)
		}
	}
	if !strings.Contains(page.String(), "a/model -&gt; a/nf4") || !strings.Contains(page.String(), "4.500 in the quantized part") {
		t.Errorf("destination or sizes are not in the page")
	}
	if err := r.WriteMarkdown(&card); err != nil || !strings.Contains(card.String(), "| nf4,block=64,dq | 1 | 4,096 | 6.7578 | 0.1000 | 20.00 |") {
		t.Errorf("%v:\n%s", err, card.String())
	}

	// Where tensors differ each names its own formats.
	r = conversion(t, one, other)
	if got := []string{r.Formats[0].Name, r.Formats[1].Name, r.Tensors[1].Formats[0].Format, r.Tensors[1].Formats[1].Format}; !slices.Equal(got,
		[]string{"as written", "other type", "nf4,block=128,nodq", "fp4,block=128,nodq"}) {
		t.Errorf("formats %q", got)
	}
	if r.Gain != nil {
		t.Errorf("a gain of absmax: %+v", r.Gain)
	}
	// Of a better method, by how much: of the weights, and of outputs where inputs are known.
	better := one
	better.Format.Scale, better.Other.E2 = bnb.MSE, 2*sums.E2
	if g := conversion(t, better).Gain; g == nil || math.Abs(*g.Weights-0.5) > 1e-9 || g.Outputs != nil {
		t.Errorf("gain %+v, expected half of the error of the weights", g)
	}
	better.Weighted = quantize.WeightedSums{Weights: 9, Written: 1, Other: 4}
	if g := conversion(t, better).Gain; g == nil || g.Outputs == nil || math.Abs(*g.Outputs-0.75) > 1e-9 {
		t.Errorf("gain %+v, expected three quarters of that of the outputs", g)
	}
	if r := conversion(t, better, other); r.Gain != nil {
		t.Errorf("gain %+v of a mixture with absmax", r.Gain)
	}
	var table bytes.Buffer
	if err := r.WriteCSV(&table); err != nil || !strings.Contains(table.String(), `,"nf4,block=128,nodq",`) {
		t.Errorf("%v:\n%s", err, table.String())
	}
	if err := conversion(t).WriteHTML(&page); err != nil {
		t.Error(err)
	}
	if _, err := FromConversion([]Converted{{Shape: []int64{0}}}); err == nil {
		t.Error("a tensor of no elements is taken")
	}
}

func conversion(t *testing.T, tensors ...Converted) *Report {
	t.Helper()
	r, err := FromConversion(tensors)
	if err != nil {
		t.Fatal(err)
	}
	r.Source, r.Destination = "a/model", "a/nf4"
	r.Sizes = &Sizes{Parameters: 5000, QuantParameters: 4096, QuantTensors: 1, SourceBytes: 10000, OutputBytes: 4000, QuantBits: 4.5, QuantCodeBits: 4.2, BitsPerParameter: 6.4}
	return r
}

// Every figure that is in JSON is a column, under the same name, and has a value of its own.
func TestColumns(t *testing.T) {
	typ := reflect.TypeFor[Figures]()
	keys := map[string]bool{"format": true}
	for i, c := range columns {
		if keys[c.Key] {
			t.Errorf("%s is there twice", c.Key)
		}
		keys[c.Key] = true
		f := Figures{}
		if v := c.of(&f); v != nil {
			*v = 1
			if f == (Figures{}) {
				t.Errorf("column %d, %s, is no member", i, c.Key)
			}
		}
	}
	for i := range typ.NumField() {
		key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if !keys[key] {
			t.Errorf("%s has no column", key)
		}
	}
	one, zero := 1., 0.
	for _, c := range []struct {
		f    Figures
		want string
	}{
		{Figures{RelRMSE: &one, SQNR: &zero, Cosine: &one}, "1.0000 0.00 1.00000"},
		{Figures{RelRMSE: &one, SQNR: &one, Cosine: &one, Interval: &one}, "1.0000 +- 1.0000 1.00 1.00000"},
		{Figures{RelRMSE: &zero, Cosine: &one}, "0.0000 exact 1.00000"},
		{Figures{}, "- - -"},
	} {
		var cols []Column
		for _, col := range columns {
			if col.Key == keyRelRMSE || col.Key == keySQNR || col.Key == "cosine" {
				cols = append(cols, col)
			}
		}
		if got := strings.Join(Texts(cols, &c.f), " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// A verification's renderings have the same verdict, lines and findings, and no table of errors.
func TestVerification(t *testing.T) {
	r := New(nil)
	r.Command, r.Against = "verify", "some/dir"
	r.Sizes = &Sizes{QuantParameters: 4096, QuantTensors: 1, KeptTensors: 2, OutputBytes: 2500, QuantBits: 4.5, QuantCodeBits: 4.25}
	r.Verification = &Verification{Formula: 4.126953125, Plain16: 10000, Manifest: true, ManifestBy: "nf4kit test", Recorded: 5, Digests: 4,
		Findings:  []Finding{{Severity: "warning", File: "a|b", Tensor: "=cmd()", Text: "expected <i>x</i>", Breaks: []string{"vLLM", "SGLang"}}},
		Proof:     &Proof{Weights: 1, Codes: 4096, Constants: 65, WrongCodes: 2},
		Tolerated: &Tolerated{NearCodes: 1, Offsets: 2, MaxOffset: 1e-7}}
	want := [][2]string{
		{"bits/param", "4.2500 measured, 4.1270 by the formula, for codes and constants; 4.5000 with tables and records"},
		{"size", "2.5 kB; 10 kB in 16 bits: 75.0 % saved"},
		{"digests", "4 of 5 tensors compared with those that nf4kit test recorded"},
		{"source", "4,096 codes and 65 constants of 1 weights derived again, 0 plain tensors compared"},
		{"", "2 codes, 0 constants and 0 plain tensors differ; 0 tensors without a counterpart"},
		{"tolerated", "3 differences: 1 codes near a threshold, 0 zeros of FP4, 0 nested codes, 2 offsets (at most 1.0e-07 off), 0 paddings"},
	}
	if diff := cmp.Diff(want, r.Lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if got := r.Verification.Findings[0].String(); got != "warning: a|b: =cmd(): expected <i>x</i>; breaks vLLM, SGLang" {
		t.Error(got)
	}
	for name, c := range map[string]struct {
		write     func(io.Writer) error
		has, lack []string
	}{
		"HTML": {r.WriteHTML, []string{"some/dir", "FAILED: 1 quantized weights, 2 plain tensors", "4.1270 by the formula", "expected &lt;i&gt;x", "vLLM, SGLang"},
			[]string{"<i>", `id="totals"`, `id="tensors"`}},
		"Markdown": {r.WriteMarkdown, []string{"some/dir: FAILED: 1 quantized", "- bits/param: 4.2500", `| warning | a\|b | =cmd() |`}, []string{"rel RMSE", "<i>"}},
		"CSV":      {r.WriteCSV, []string{"severity,file,tensor,text,breaks\n", `warning,a|b,'=cmd(),expected <i>x</i>,"vLLM, SGLang"`}, []string{"rmse"}},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			t.Fatal(err)
		}
		for _, s := range c.has {
			if !strings.Contains(b.String(), s) {
				t.Errorf("%s: no %q in\n%.1500s", name, s, b.String())
			}
		}
		for _, s := range c.lack {
			if strings.Contains(b.String(), s) && name != "HTML" || name == "HTML" && strings.Contains(strings.SplitN(b.String(), "<script>", 2)[0], s) {
				t.Errorf("%s: %q in it", name, s)
			}
		}
	}
}

func TestSparkline(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want string
	}{
		{nil, ""}, {[]float64{1, 1}, "\u2584\u2584"}, {[]float64{0, 7, math.NaN(), 8, 4}, "\u2581\u2588 \u2588\u2585"},
	} {
		if got := Sparkline(c.in); got != c.want {
			t.Errorf("Sparkline(%v) = %q, want %q", c.in, got, c.want)
		}
	}
}
