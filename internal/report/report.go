// Package report turns figures of error and size into what people and programs read: tables for the terminal, JSON and
// CSV, Markdown, a model card, and one HTML page without any outside resource.
//
// All of them are renderings of one [Report], whatever command made it, and name its figures alike (docs/json.md).
package report

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/nf4kit/nf4kit/internal/measure"
)

// Schema names the JSON. Members may be added under the same name, and none removed or changed.
const Schema = "nf4kit.report/2"

// A Report is what a command found out about one source.
type Report struct {
	Schema       string        `json:"schema"`
	Command      string        `json:"command"` // "convert", "measure", "verify", "lora merge" or "eval"
	Tool         string        `json:"tool"`
	Source       string        `json:"source"`
	Destination  string        `json:"destination,omitempty"` // what a conversion wrote
	Against      string        `json:"quantized,omitempty"`   // a written checkpoint that was measured or verified
	RunDType     string        `json:"run_dtype,omitempty"`
	Sample       float64       `json:"sample,omitempty"` // share of the chunks; 0: all
	Imatrix      string        `json:"imatrix,omitempty"`
	Sizes        *Sizes        `json:"sizes,omitempty"`   // of a conversion, and of what was verified
	Gain         *Gain         `json:"gain,omitempty"`    // of a conversion whose scales are not by absmax
	Storage      *Storage      `json:"storage,omitempty"` // of a conversion whose codes are labelled as floats
	Verification *Verification `json:"verification,omitempty"`
	Merge        *Merge        `json:"merge,omitempty"`
	Evaluation   *Evaluation   `json:"evaluation,omitempty"`
	Formats      []Format      `json:"formats"`
	Total        Row           `json:"total"`
	Kinds        []Row         `json:"kinds"`
	Layers       []Row         `json:"layers"`
	Tensors      []Row         `json:"tensors"` // in the order of the source
}

// Sizes are those of a checkpoint made from another.
type Sizes struct {
	Parameters       int64   `json:"parameters"`
	QuantParameters  int64   `json:"quantized_parameters"`
	QuantTensors     int     `json:"quantized_tensors"`
	KeptTensors      int     `json:"kept_tensors"`
	SourceBytes      int64   `json:"source_bytes,omitempty"`
	OutputBytes      int64   `json:"output_bytes"`
	QuantBits        float64 `json:"bits_per_parameter_quantized"`
	QuantCodeBits    float64 `json:"bits_per_parameter_codes_and_constants"` // of the quantized part
	BitsPerParameter float64 `json:"bits_per_parameter"`                     // of all of it
}

// Saved is the share of the source's bytes that the output does without, in percent.
func (s *Sizes) Saved() float64 {
	if s.SourceBytes == 0 {
		return 0
	}
	return 100 - 100*float64(s.OutputBytes)/float64(s.SourceBytes)
}

// Storage is what it took that no word of packed codes is a NaN in the dtype that they are labelled with.
type Storage struct {
	DType   string   `json:"dtype"`
	Changed int64    `json:"changed_codes"`
	Added   *float64 `json:"added_relative_rmse"` // the share by which it grew; null where no error was measured
}

// Gain is by which share a conversion's errors are lower than those of absmax in the same type and blocks, whose scales are
// not quantized again: 0.28 is 28 % less, and what is below 0 is more.
type Gain struct {
	Weights *float64 `json:"squared_error"`                               // of the weights
	Outputs *float64 `json:"activation_weighted_squared_error,omitempty"` // where inputs are known
}

// Format is a column of figures.
type Format struct {
	Name        string    `json:"name"` // "nf4,block=64,dq"
	Kind        string    `json:"kind"` // "nf4"
	BlockSize   int       `json:"block_size,omitempty"`
	DoubleQuant bool      `json:"double_quant"`
	Points      []float64 `json:"-"` // of a 4-bit code, over the block's largest magnitude
}

// A Row is a tensor, or a sum over tensors.
type Row struct {
	Name       string    `json:"name"`
	Kind       string    `json:"kind,omitempty"`
	Layer      *int      `json:"layer,omitempty"`
	Shape      []int64   `json:"shape,omitempty"`
	Tensors    int       `json:"tensors"`
	Elements   int64     `json:"elements"`
	Measured   int64     `json:"elements_measured"`
	SumSquares float64   `json:"sum_squares"`          // of the source's weights
	ReadTwice  bool      `json:"read_twice,omitempty"` // a tensor beyond the memory budget of a conversion
	Formats    []Figures `json:"formats"`              // in the order of Report.Formats

	Histogram []int64 `json:"-"`
}

// Figures are one row in one format. null stands for what does not exist or was not measured. [columns] says how each
// is shown.
type Figures struct {
	Format     string   `json:"format,omitempty"`   // of a tensor, where tensors differ in it
	Bits       float64  `json:"bits_per_parameter"` // tables and records included
	CodeBits   float64  `json:"bits_per_parameter_codes_and_constants"`
	RelRMSE    *float64 `json:"relative_rmse"`
	Interval   *float64 `json:"relative_rmse_ci95,omitempty"` // half-width; only in a sample
	SQNR       *float64 `json:"sqnr_db"`
	RMSE       float64  `json:"rmse"`
	MeanAbs    float64  `json:"mean_abs_error"`
	MaxAbs     float64  `json:"max_abs_error"`
	Cosine     *float64 `json:"cosine"`
	P50        *float64 `json:"error_p50"`
	P90        *float64 `json:"error_p90"`
	P99        *float64 `json:"error_p99"`
	P999       *float64 `json:"error_p999"`
	Zeros      *float64 `json:"zero_share"`
	Entropy    *float64 `json:"code_entropy_bits"`
	Outliers   *float64 `json:"outlier_block_share"`
	WeightedRR *float64 `json:"activation_weighted_relative_rmse,omitempty"`
}

// New composes the report of what was measured. The formats are those of the first tensor's results.
func New(tensors []measure.Tensor) *Report {
	r := &Report{Schema: Schema, Formats: []Format{}, Kinds: []Row{}, Layers: []Row{}, Tensors: []Row{}}
	if len(tensors) == 0 {
		return r
	}
	for _, res := range tensors[0].Results {
		f := res.Format
		r.Formats = append(r.Formats, Format{f.String(), f.Kind.String(), f.BlockSize, f.DoubleQuant, measure.Points(f.Kind)})
	}
	kinds, layers := map[string][]*measure.Tensor{}, map[int][]*measure.Tensor{}
	var all []*measure.Tensor
	for i := range tensors {
		t := &tensors[i]
		all = append(all, t)
		kinds[t.Kind] = append(kinds[t.Kind], t)
		layers[t.Layer] = append(layers[t.Layer], t)
		row := fold(t.Name, []*measure.Tensor{t})
		row.Kind, row.Shape, row.Histogram = t.Kind, t.Shape, t.Weights[:]
		if t.Layer >= 0 {
			row.Layer = &t.Layer
		}
		r.Tensors = append(r.Tensors, row)
	}
	r.Total = fold("total", all)
	for name, group := range kinds {
		row := fold(name, group)
		row.Kind = name
		r.Kinds = append(r.Kinds, row)
	}
	slices.SortFunc(r.Kinds, func(a, b Row) int { return cmp.Or(cmp.Compare(b.Elements, a.Elements), cmp.Compare(a.Name, b.Name)) })
	for n, group := range layers {
		if n >= 0 {
			row := fold(strconv.Itoa(n), group)
			row.Layer = &group[0].Layer
			r.Layers = append(r.Layers, row)
		}
	}
	slices.SortFunc(r.Layers, func(a, b Row) int { return *a.Layer - *b.Layer })
	return r
}

// fold sums tensors in their order.
func fold(name string, tensors []*measure.Tensor) Row {
	row := Row{Name: name, Tensors: len(tensors)}
	for _, t := range tensors {
		row.Elements += t.Elements
		row.Measured += t.Measured
		if len(t.Results) > 0 {
			row.SumSquares += t.Results[0].Sums.X2
		}
	}
	for i := range tensors[0].Results {
		row.Formats = append(row.Formats, foldFormat(tensors, i, row))
	}
	return row
}

func foldFormat(tensors []*measure.Tensor, i int, row Row) Figures {
	first := &tensors[0].Results[i]
	total := measure.Result{Counts: make([]int64, len(first.Counts))}
	errors := make([]measure.ErrorHistogram, len(tensors))
	for k, t := range tensors {
		s := &t.Results[i]
		total.Sums.Add(&s.Sums)
		total.Codes += s.Codes
		total.Bytes += s.Bytes
		total.Zeros += s.Zeros
		total.Blocks += s.Blocks
		total.Outliers += s.Outliers
		total.WeightedE2 += s.WeightedE2
		total.WeightedX2 += s.WeightedX2
		errors[k] = s.Errors
		for c, n := range s.Counts {
			total.Counts[c] += n
		}
	}
	q := measure.FiguresOf(total.Sums)
	f := Figures{Bits: ratio(8*float64(total.Bytes), row.Elements), CodeBits: ratio(8*float64(total.Codes), row.Elements),
		RMSE: q.RMSE, MeanAbs: q.MeanAbs, MaxAbs: q.MaxAbs, WeightedRR: number(total.WeightedRelRMSE())}
	if !q.ZeroNorm {
		f.RelRMSE, f.SQNR, f.Cosine = number(q.RelRMSE), number(q.SQNR), number(q.Cosine)
	}
	quantiles := measure.Merged(errors...).Quantiles(0.5, 0.9, 0.99, 0.999)
	for k, p := range []**float64{&f.P50, &f.P90, &f.P99, &f.P999} {
		*p = number(min(quantiles[k], q.MaxAbs)) // a bin reaches past the largest
	}
	if row.Measured > 0 && len(total.Counts) > 0 {
		f.Zeros, f.Entropy = number(ratio(float64(total.Zeros), row.Measured)), number(measure.Entropy(total.Counts))
	}
	if total.Blocks > 0 {
		f.Outliers = number(ratio(float64(total.Outliers), total.Blocks))
	}
	if row.Measured < row.Elements {
		f.Interval = number(measure.Interval(tensors, i))
	}
	return f
}

func ratio(a float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return a / float64(n)
}

// number is nil for what is no number.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Worst lists the tensors with the largest relative RMSE in format i first, at most n.
func (r *Report) Worst(i, n int) []*Row {
	rows := make([]*Row, len(r.Tensors))
	for k := range r.Tensors {
		rows[k] = &r.Tensors[k]
	}
	slices.SortStableFunc(rows, func(a, b *Row) int { return cmp.Compare(value(b.Formats[i].RelRMSE), value(a.Formats[i].RelRMSE)) })
	return rows[:min(n, len(rows))]
}

func value(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}
