package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nf4kit/nf4kit/internal/report"
)

// Gates are limits for CI, each "VALUE" for the total or "KIND=VALUE".
type Gates struct {
	MaxRelRMSE, MinSQNR, MaxBPP []string
}

func (o *Gates) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.MaxRelRMSE, "max-rel-rmse", nil, "fail if the relative RMSE is above `[KIND=]VALUE` (repeatable)")
	fs.StringArrayVar(&o.MinSQNR, "min-sqnr", nil, "fail if the SQNR in dB is below `[KIND=]VALUE` (repeatable)")
	fs.StringArrayVar(&o.MaxBPP, "max-bpp", nil, "fail if the bits per parameter are above `[KIND=]VALUE` (repeatable)")
}

// A gate is one limit.
type gate struct {
	flag, kind string // kind "" is the total
	limit      float64
}

type gateList []gate

func (o *Gates) parse() (gateList, error) {
	var out gateList
	for _, f := range []struct {
		flag string
		args []string
	}{{"max-rel-rmse", o.MaxRelRMSE}, {"min-sqnr", o.MinSQNR}, {"max-bpp", o.MaxBPP}} {
		for _, s := range f.args {
			g := gate{flag: f.flag}
			text := s
			if i := strings.LastIndexByte(s, '='); i >= 0 {
				g.kind, text = s[:i], s[i+1:]
			}
			var err error
			if g.limit, err = strconv.ParseFloat(text, 64); err != nil || g.limit != g.limit {
				return nil, usagef("--%s %q: want VALUE or KIND=VALUE, such as 0.1 or down_proj=0.1", f.flag, s)
			}
			out = append(out, g)
		}
	}
	return out, nil
}

// check holds the report against every gate; the error is a checkError that names each one that was not met.
func (l gateList) check(r *report.Report, all bool) error {
	var failed []string
	for _, g := range l {
		target := &r.Total
		if g.kind != "" {
			target = nil
			var kinds []string
			for i := range r.Kinds {
				kinds = append(kinds, r.Kinds[i].Name)
				if r.Kinds[i].Name == g.kind {
					target = &r.Kinds[i]
				}
			}
			if target == nil {
				return usagef("--%s %s=%v: no such kind; there are %s", g.flag, g.kind, g.limit, wrapNames(kinds, 12))
			}
		}
		for i := range target.Formats {
			if i > 0 && !all {
				break
			}
			if text := g.fails(&target.Formats[i]); text != "" {
				failed = append(failed, fmt.Sprintf("%s of %s in %s", text, target.Name, r.Formats[i].Name))
			}
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &checkError{"not met: " + strings.Join(failed, "; ")}
}

// fails says which figure misses the limit, "" if none does. What does not exist, such as the SQNR of an exact tensor,
// misses none.
func (g gate) fails(f *report.Figures) string {
	switch {
	case g.flag == "max-rel-rmse" && f.RelRMSE != nil && !(*f.RelRMSE <= g.limit):
		return fmt.Sprintf("relative RMSE %.5f (at most %g)", *f.RelRMSE, g.limit)
	case g.flag == "min-sqnr" && f.SQNR != nil && !(*f.SQNR >= g.limit):
		return fmt.Sprintf("SQNR %.3f dB (at least %g)", *f.SQNR, g.limit)
	case g.flag == "max-bpp" && !(f.Bits <= g.limit):
		return fmt.Sprintf("bits per parameter %.4f (at most %g)", f.Bits, g.limit)
	}
	return ""
}

// allowIncomplete adds the flag by which what a checkpoint lacks is told and not refused.
func allowIncomplete(fs *pflag.FlagSet, on *bool) {
	fs.BoolVar(on, "allow-incomplete", false, "go on if tensors are missing, misshapen or foreign to the model; they are listed")
}
