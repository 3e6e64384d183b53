package forward

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
)

// A rope is the frequencies of rotary embeddings (transformers' modeling_rope_utils.py), in float32 as they are there.
type rope struct {
	freqs []float32 // of pairs
	scale float64   // of both cosine and sine

	long     []float32 // of sequences longer than original tokens, where longrope has others
	original int
	dynamic  func(n int) []float32 // of sequences longer than original tokens
}

// ropeKeys are the members of rope_parameters that each type has.
var ropeKeys = map[string]map[string]bool{
	"default":  keySet("rope_theta partial_rotary_factor"),
	"linear":   keySet("rope_theta partial_rotary_factor factor"),
	"dynamic":  keySet("rope_theta partial_rotary_factor factor original_max_position_embeddings"),
	"yarn":     keySet("rope_theta partial_rotary_factor factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim truncate"),
	"longrope": keySet("rope_theta partial_rotary_factor factor original_max_position_embeddings attention_factor short_factor long_factor short_mscale long_mscale"),
	"llama3":   keySet("rope_theta partial_rotary_factor factor original_max_position_embeddings low_freq_factor high_freq_factor"),
}

// ropeOf reads rope_parameters, or what older files have in its place. label is the member of a nested one, "" of a flat one;
// theta and partial are what the class assumes; dim is the size of a head. It returns the rope and how many elements of a head
// are rotated.
func ropeOf(c *config, label string, theta, partial float64, dim int) (*rope, int) {
	p := ropeParameters(c, label)
	base, part := []string{"rope_theta"}, []string{"partial_rotary_factor"}
	if c.typ == "gpt_neox" { // whose own names these are
		base, part = append(base, "rotary_emb_base"), append(part, "rotary_pct")
	}
	if v := c.number(base...); v != 0 && label == "" {
		theta = v
	}
	if slices.ContainsFunc(part, c.has) {
		partial = c.number(part...)
	}
	p.fill("rope_theta", theta)
	p.fill("partial_rotary_factor", partial)
	if c.err != nil {
		return nil, 0
	}
	rotated := int(float64(dim) * p.number("partial_rotary_factor"))
	if rotated < 2 || rotated%2 != 0 || rotated > dim {
		c.refuse("partial_rotary_factor", "%d of %d elements of a head would be rotated; want an even number", rotated, dim)
		return nil, 0
	}
	return p.frequencies(c, rotated), rotated
}

// parameters are the members of one rope_parameters.
type parameters struct {
	c   *config
	typ string
	m   map[string]json.RawMessage
}

func ropeParameters(c *config, label string) *parameters {
	p := &parameters{c: c}
	scaling, rope := object(c, "rope_scaling", c.raw("rope_scaling")), object(c, "rope_parameters", c.raw("rope_parameters"))
	switch {
	case label == "" && len(scaling) > 0:
		p.m = scaling
	case label == "":
		p.m = rope
	default:
		// Gemma 3 nests them by the type of the layer; the older rope_scaling is of full attention alone.
		p.m = object(c, "rope_parameters."+label, rope[label])
		if label == "full_attention" {
			maps.Copy(p.m, scaling)
		}
		if len(rope) > 0 && rope[label] == nil && rope["rope_type"] != nil {
			c.refuse("rope_parameters", "expected members full_attention and sliding_attention, found others")
		}
	}
	p.typ = "default"
	for _, k := range []string{"type", "rope_type"} {
		if v := p.m[k]; v != nil && json.Unmarshal(v, &p.typ) != nil {
			c.refuse("rope_parameters."+k, "expected a string, found %s", clip(v))
		}
		delete(p.m, k)
	}
	maps.DeleteFunc(p.m, func(_ string, v json.RawMessage) bool { return string(v) == "null" })
	return p
}

// object decodes an object, an empty one of nothing.
func object(c *config, key string, raw json.RawMessage) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	if raw != nil && string(raw) != "null" && json.Unmarshal(raw, &m) != nil {
		c.refuse(key, "expected an object, found %s", clip(raw))
	}
	return m
}

// fill gives a member that is not there a value.
func (p *parameters) fill(key string, v float64) {
	if _, ok := p.m[key]; !ok {
		p.m[key], _ = json.Marshal(v)
	}
}

func (p *parameters) number(key string) float64 {
	var f float64
	if v := p.m[key]; v != nil && json.Unmarshal(v, &f) != nil {
		p.c.refuse("rope_parameters."+key, "expected a number, found %s", clip(v))
	}
	return f
}

// need is a positive number.
func (p *parameters) need(key string) float64 {
	f := p.number(key)
	if !(f > 0) {
		p.c.refuse("rope_parameters."+key, "expected a number above 0, found %v", f)
		return 1
	}
	return f
}

func (p *parameters) or(key string, otherwise float64) float64 {
	if f := p.number(key); f != 0 {
		return f
	}
	return otherwise
}

func (p *parameters) factors(key string, n int) []float64 {
	var out []float64
	if json.Unmarshal(p.m[key], &out) != nil || len(out) != n {
		p.c.refuse("rope_parameters."+key, "expected %d numbers, found %s", n, clip(p.m[key]))
		return make([]float64, n)
	}
	return out
}

// frequencies computes what the type says.
func (p *parameters) frequencies(c *config, dim int) *rope {
	known, ok := ropeKeys[p.typ]
	if !ok {
		c.refuse("rope_parameters", "no rotary embeddings of type %q", p.typ)
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(p.m)) {
		if !known[k] {
			c.refuse("rope_parameters."+k, "not a key that is known of type %q", p.typ)
			return nil
		}
	}
	theta := p.need("rope_theta")
	positions := float64(c.optional("max_position_embeddings", "n_positions"))
	r := &rope{freqs: make([]float32, dim/2), scale: 1}
	for i := range r.freqs {
		r.freqs[i] = 1 / power(theta, i, dim)
	}
	switch p.typ {
	case "linear":
		f := float32(p.need("factor"))
		for i := range r.freqs {
			r.freqs[i] /= f
		}
	case "dynamic":
		p.dynamic(r, theta, positions, dim)
	case "llama3":
		p.llama3(r, positions)
	case "yarn":
		p.yarn(r, theta, positions, dim)
	case "longrope":
		p.longrope(r, theta, positions, dim)
	}
	return r
}

// power is theta^(2i/dim), the exponent and the power rounded to float32.
func power(theta float64, i, dim int) float32 {
	return float32(math.Pow(theta, float64(float32(2*i)/float32(dim))))
}

func (p *parameters) dynamic(r *rope, theta, positions float64, dim int) {
	factor := p.need("factor")
	if positions == 0 || dim <= 2 {
		p.c.refuse("max_position_embeddings", "dynamic rotary embeddings need it")
		return
	}
	r.original = int(positions)
	r.dynamic = func(n int) []float32 {
		base := theta * math.Pow(factor*float64(n)/positions-(factor-1), float64(dim)/float64(dim-2))
		freqs := make([]float32, dim/2)
		for i := range freqs {
			freqs[i] = 1 / power(base, i, dim)
		}
		return freqs
	}
}

func (p *parameters) llama3(r *rope, positions float64) {
	factor, low, high := p.need("factor"), p.need("low_freq_factor"), p.need("high_freq_factor")
	original := p.or("original_max_position_embeddings", positions)
	if high == low {
		p.c.refuse("rope_parameters.high_freq_factor", "expected another number than low_freq_factor, found %v", high)
		return
	}
	for i, f := range r.freqs {
		wavelen := 2 * math.Pi / float64(f)
		switch {
		case wavelen > original/low:
			r.freqs[i] = float32(float64(f) / factor)
		case wavelen >= original/high:
			smooth := (original/wavelen - low) / (high - low)
			r.freqs[i] = float32((1-smooth)*float64(f)/factor + smooth*float64(f))
		}
	}
}

// originalPositions is what yarn and longrope stretch: a key of config.json of some classes, see standardize_rope_params.
func (p *parameters) originalPositions(positions float64) float64 {
	if _, ok := p.c.def["original_max_position_embeddings"]; ok || p.c.has("original_max_position_embeddings") {
		return p.c.number("original_max_position_embeddings")
	}
	return p.or("original_max_position_embeddings", positions)
}

func (p *parameters) yarn(r *rope, theta, positions float64, dim int) {
	original := p.originalPositions(positions)
	if !(original > 0) || theta == 1 {
		p.c.refuse("rope_parameters.original_max_position_embeddings", "expected a number above 0, found %v", original)
		return
	}
	factor := p.or("factor", positions/original)
	mscale := func(m float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(factor) + 1
	}
	r.scale = mscale(1)
	if a, b := p.number("mscale"), p.number("mscale_all_dim"); a != 0 && b != 0 {
		r.scale = mscale(a) / mscale(b)
	}
	r.scale = p.or("attention_factor", r.scale)
	truncate := true
	if v := p.m["truncate"]; v != nil && json.Unmarshal(v, &truncate) != nil {
		p.c.refuse("rope_parameters.truncate", "expected true or false, found %s", clip(v))
	}
	correction := func(rotations float64) float64 {
		return float64(dim) * math.Log(original/(rotations*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := correction(p.or("beta_fast", 32)), correction(p.or("beta_slow", 1))
	if truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(dim-1))
	if low == high {
		high += 0.001
	}
	for i := range r.freqs {
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		f := float64(power(theta, i, dim))
		r.freqs[i] = float32(ramp/(factor*f) + (1-ramp)/f)
	}
}

func (p *parameters) longrope(r *rope, theta, positions float64, dim int) {
	original := p.originalPositions(positions)
	if !(original > 1) || original != math.Trunc(original) || original > 1<<30 {
		p.c.refuse("rope_parameters.original_max_position_embeddings", "expected an integer above 1, found %v", original)
		return
	}
	factor := p.or("factor", positions/original)
	if factor > 1 {
		r.scale = math.Sqrt(1 + math.Log(factor)/math.Log(original))
	}
	r.scale = p.or("attention_factor", r.scale)
	short, long := p.factors("short_factor", dim/2), p.factors("long_factor", dim/2)
	r.long, r.original = make([]float32, dim/2), int(original)
	for i := range r.freqs {
		f := power(theta, i, dim)
		r.freqs[i] = 1 / (float32(short[i]) * f)
		r.long[i] = 1 / (float32(long[i]) * f)
	}
}

// table is cosines and sines of a sequence of n tokens: [n, pairs] each.
func (r *rope) table(n int) (cos, sin []float32) {
	freqs := r.freqs
	if n > r.original && r.long != nil {
		freqs = r.long
	}
	if n > r.original && r.dynamic != nil {
		freqs = r.dynamic(n)
	}
	cos, sin = make([]float32, n*len(freqs)), make([]float32, n*len(freqs))
	for t := range n {
		for i, f := range freqs {
			s, c := math.Sincos(float64(float32(t) * f))
			cos[t*len(freqs)+i], sin[t*len(freqs)+i] = float32(c*r.scale), float32(s*r.scale)
		}
	}
	return cos, sin
}
