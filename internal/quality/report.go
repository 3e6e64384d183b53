package quality

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/nf4kit/nf4kit/internal/escape"
)

// Schema names the JSON report. Fields may be added under the same name, and
// none removed or changed.
const Schema = "nf4kit.report/1"

// A Report is the machine-readable form of a conversion's error figures.
type Report struct {
	Schema   string       `json:"schema"`
	Tool     string       `json:"tool"`
	Source   string       `json:"source"`
	RunDType string       `json:"run_dtype"`
	Total    RowJSON      `json:"total"`
	Kinds    []RowJSON    `json:"kinds"`
	Tensors  []TensorJSON `json:"tensors"`
}

// RowJSON is a kind of module or the total.
type RowJSON struct {
	Name     string      `json:"name"`
	Tensors  int         `json:"tensors"`
	Elements int64       `json:"elements"`
	Written  FiguresJSON `json:"written"`
	Versus   FiguresJSON `json:"versus"`
}

// TensorJSON is one quantized tensor.
type TensorJSON struct {
	Name          string      `json:"name"`
	Kind          string      `json:"kind"`
	Elements      int64       `json:"elements"`
	Format        string      `json:"format"`
	VersusFormat  string      `json:"versus_format"`
	ReadTwice     bool        `json:"read_twice"`
	Written       FiguresJSON `json:"written"`
	Versus        FiguresJSON `json:"versus"`
	SumSquares    float64     `json:"sum_squares"`       // of the source weights
	SumSquaredErr float64     `json:"sum_squared_error"` // of the written format
}

// FiguresJSON are [Figures]; null stands for what does not exist: the SQNR of
// an exact tensor, the relative figures of an all-zero one.
type FiguresJSON struct {
	RelRMSE *float64 `json:"relative_rmse"`
	SQNR    *float64 `json:"sqnr_db"`
	RMSE    float64  `json:"rmse"`
	MeanAbs float64  `json:"mean_abs_error"`
	MaxAbs  float64  `json:"max_abs_error"`
	Cosine  *float64 `json:"cosine"`
}

// JSON converts figures.
func (f Figures) JSON() FiguresJSON {
	out := FiguresJSON{RMSE: f.RMSE, MeanAbs: f.MeanAbs, MaxAbs: f.MaxAbs}
	if !f.ZeroNorm {
		out.RelRMSE, out.Cosine = &f.RelRMSE, &f.Cosine
		if !math.IsInf(f.SQNR, 0) {
			out.SQNR = &f.SQNR
		}
	}
	return out
}

// JSON converts a row.
func (r Row) JSON() RowJSON {
	return RowJSON{r.Name, r.Tensors, r.Written.Elements, r.Written.JSON(), r.Other.JSON()}
}

// NewReport composes the report of tensors.
func NewReport(tool, source, runDType string, tensors []Tensor) *Report {
	s := Summarize(tensors)
	r := &Report{Schema: Schema, Tool: tool, Source: source, RunDType: runDType, Total: s.Total.JSON()}
	for _, k := range s.Kinds {
		r.Kinds = append(r.Kinds, k.JSON())
	}
	for i := range tensors {
		t := &tensors[i]
		r.Tensors = append(r.Tensors, TensorJSON{
			Name: t.Name, Kind: t.Kind, Elements: t.Written.N, Format: t.Format, VersusFormat: t.Versus, ReadTwice: t.ReadTwice,
			Written: Of(t.Written).JSON(), Versus: Of(t.Other).JSON(), SumSquares: t.Written.X2, SumSquaredErr: t.Written.E2,
		})
	}
	return r
}

// WriteJSON writes the report, indented.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteCSV writes one line for each tensor. A figure that does not exist is empty; a name that a spreadsheet would take for
// a formula begins with an apostrophe.
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	head := []string{"tensor", "kind", "elements", "format", "versus_format", "read_twice"}
	for _, who := range []string{"", "versus_"} {
		for _, f := range []string{"relative_rmse", "sqnr_db", "rmse", "mean_abs_error", "max_abs_error", "cosine"} {
			head = append(head, who+f)
		}
	}
	c.Write(head)
	for i := range r.Tensors {
		t := &r.Tensors[i]
		row := []string{escape.Cell(t.Name), escape.Cell(t.Kind), fmt.Sprint(t.Elements), t.Format, t.VersusFormat, fmt.Sprint(t.ReadTwice)}
		for _, f := range []FiguresJSON{t.Written, t.Versus} {
			row = append(row, number(f.RelRMSE), number(f.SQNR), number(&f.RMSE), number(&f.MeanAbs), number(&f.MaxAbs), number(f.Cosine))
		}
		c.Write(row)
	}
	c.Flush()
	return c.Error()
}

func number(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}
