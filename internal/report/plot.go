package report

import (
	"bytes"
	"html/template"
	"image/color"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// palette tells kinds apart in the light and the dark theme (Okabe and Ito, 2008, made for colour blindness).
var palette = []color.RGBA{
	{0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x72, 0xb2, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
	{0xe6, 0x9f, 0x00, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0x8c, 0x6b, 0xb1, 0xff}, {0x99, 0x99, 0x99, 0xff}, {0x7f, 0x6a, 0x3f, 0xff}, {0x3f, 0x9f, 0x9f, 0xff},
}

// rateDistortion is the plot of bits per parameter against relative RMSE.
type rateDistortion struct {
	SVG   template.HTML // "" with fewer than two points
	Rings bool          // some points are rings: formats without the double quantization that others have
	Wide  bool          // 8-bit formats were left out, for they would press the others together
}

// series are the points of one kind, filled and as rings.
type series struct {
	kind         string
	discs, rings plotter.XYs
}

// collect sorts the formats that can be drawn into series.
func (r *Report) collect(out *rateDistortion) (all []*series, n int) {
	four := 0
	for i := range r.Formats {
		if b := r.Total.Formats[i].Bits; b > 0 && b < 7 {
			four++
		}
	}
	for i, f := range r.Formats {
		t := &r.Total.Formats[i]
		if t.RelRMSE == nil || *t.RelRMSE <= 0 || t.Bits == 0 {
			continue
		}
		if t.Bits >= 7 && four > 1 {
			out.Wide = true
			continue
		}
		var s *series
		for _, old := range all {
			if old.kind == f.Kind {
				s = old
			}
		}
		if s == nil {
			s = &series{kind: f.Kind}
			all = append(all, s)
		}
		n++
		if strings.HasSuffix(f.Name, ",nodq") {
			out.Rings = true
			s.rings = append(s.rings, plotter.XY{X: t.Bits, Y: *t.RelRMSE})
			continue
		}
		s.discs = append(s.discs, plotter.XY{X: t.Bits, Y: *t.RelRMSE})
	}
	return all, n
}

// plot draws one colour a kind.
func (r *Report) plot() (rateDistortion, error) {
	var out rateDistortion
	all, n := r.collect(&out)
	if n < 2 {
		return out, nil
	}
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.X.Label.Text, p.Y.Label.Text = "bits per parameter", "rel RMSE"
	p.Y.Scale, p.Y.Tick.Marker, p.X.Tick.Marker = plot.LogScale{}, logTicks{}, shortTicks{}
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(3)
	p.Add(plotter.NewGrid())
	for i, x := range all {
		var first *plotter.Scatter
		for _, part := range []struct {
			points plotter.XYs
			shape  draw.GlyphDrawer
		}{{x.discs, draw.CircleGlyph{}}, {x.rings, draw.RingGlyph{}}} {
			if len(part.points) == 0 {
				continue
			}
			s, err := plotter.NewScatter(part.points)
			if err != nil {
				return out, err
			}
			s.GlyphStyle = draw.GlyphStyle{Color: palette[i%len(palette)], Radius: vg.Points(4), Shape: part.shape}
			p.Add(s)
			if first == nil {
				first = s
			}
		}
		p.Legend.Add(x.kind, first)
	}
	// Room for the legend, and for points at the edge.
	p.X.Min, p.X.Max = p.X.Min-0.1*(p.X.Max-p.X.Min)-0.02, p.X.Max+0.35*(p.X.Max-p.X.Min)+0.02
	p.Y.Min, p.Y.Max = p.Y.Min/1.1, p.Y.Max*1.1
	c := vgsvg.New(13*vg.Centimeter, 8*vg.Centimeter)
	p.Draw(draw.Crop(draw.New(c), 0, -vg.Points(8), 0, -vg.Points(4))) // a label at the end of an axis sticks out
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return out, err
	}
	s := b.String()
	if i := strings.Index(s, "<svg"); i > 0 {
		s = s[i:] // the XML prologue does not belong inside a page
	}
	// What gonum draws in black follows the theme.
	s = strings.ReplaceAll(s, "#000000", "currentColor")
	s = strings.ReplaceAll(s, "#808080", "var(--line)")
	out.SVG = template.HTML(s)
	return out, nil
}

// shortTicks are the default ones with labels that tell quarters apart.
type shortTicks struct{}

func (shortTicks) Ticks(lo, hi float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(lo, hi)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'g', 4, 64)
		}
	}
	return ticks
}

// logTicks labels a logarithmic axis at 1, 2 and 5 times powers of ten, and more closely if that gives too few.
type logTicks struct{}

func (logTicks) Ticks(lo, hi float64) []plot.Tick {
	for _, steps := range [][]float64{{1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}, {1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 9.5}} {
		var out []plot.Tick
		for decade := 1e-12; decade <= hi; decade *= 10 {
			for _, s := range steps {
				if v := s * decade; v >= lo && v <= hi {
					out = append(out, plot.Tick{Value: v, Label: label(v)})
				}
			}
		}
		if len(out) >= 3 {
			return out
		}
	}
	return plot.DefaultTicks{}.Ticks(lo, hi)
}
