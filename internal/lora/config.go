package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

// ConfigName is the file that says how an adapter was made.
const ConfigName = "adapter_config.json"

// Config is what of adapter_config.json changes the arithmetic, or tells about it (peft/tuners/lora/config.py).
type Config struct {
	Rank       int64
	Alpha      float64
	RSLoRA     bool // scaling by alpha/sqrt(r)
	DoRA       bool
	LoraBias   bool
	FanInOut   bool // weights are [in, out]
	Tying      bool // ensure_weight_tying: a head that shares the embeddings goes on to
	Bias       string
	Ranks      Patterns // rank_pattern
	Alphas     Patterns // alpha_pattern
	Init       string   // init_lora_weights where it is a name, such as "pissa"; "" for a plain one
	Base       string   // base_model_name_or_path
	Targets    []string // target_modules; one regular expression if TargetRegex
	Parameters []string // target_parameters
	Saved      []string // modules_to_save
	Tokens     []Tokens // trainable_token_indices
	Unknown    []string // keys that no known version of PEFT writes, sorted

	TargetRegex bool
	selected    selection
	raw         []byte
}

// Tokens are the rows of an embedding that were trained.
type Tokens struct {
	Module string // the module's name or the end of its path; "" for the input embeddings
	IDs    []int64
}

// unsupported are keys whose value, unless null or false, changes what the tensors mean in a way that no merge undoes.
var unsupported = map[string]string{
	"layer_replication":       "its layers are copies of the base's, of which PEFT merges none",
	"alora_invocation_tokens": "it acts on a part of each text alone",
	"arrow_config":            "it chooses among adapters for each token",
	"use_qalora":              "its inputs are pooled by group",
	"kasa_config":             "it changes the base's singular values",
	"monteclora_config":       "its weights are drawn at random",
	"use_bdlora":              "its factors are block-diagonal",
	"megatron_config":         "its layers are split over processes",
}

// known are keys without effect on the arithmetic.
var known = []string{"alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
	"ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
	"layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
	"lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version",
	"qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters", "task_type",
	"trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config", "unsloth_fixed", "unsloth_version"}

// mutated are ways to begin that change the base's weights too: what they save belongs to the changed base.
var mutated = []string{"pissa", "olora", "corda", "lora_ga", "loftq", "lora-ga"}

// BaseMutated reports whether training began with a base that the method changed, so that the adapter does not belong to the
// one that it names.
func (c *Config) BaseMutated() bool {
	return slices.ContainsFunc(mutated, func(m string) bool { return strings.HasPrefix(strings.ToLower(c.Init), m) })
}

// ParseConfig reads the text of an adapter_config.json; file is for errors. Python's NaN and Infinity are taken where they are of
// no consequence.
func ParseConfig(file string, raw []byte) (*Config, error) {
	checked, err := checkpoint.ParseConfig(raw)
	var in *checkpoint.InputError
	if errors.As(err, &in) {
		return nil, &Error{Path: file, Key: in.Tensor, Expect: in.Expected, Found: in.Found}
	}
	if err != nil {
		return nil, err
	}
	text := checked.Strict()
	var top map[string]json.RawMessage
	if err := json.Unmarshal(text, &top); err != nil {
		return nil, &Error{Path: file, Expect: "a JSON object", Found: err.Error()}
	}
	d := decoder{file: file, top: top}
	c := &Config{raw: raw, Rank: 8, Alpha: 8, Bias: "none"} // PEFT's defaults
	var method string
	d.read("peft_type", &method, "a name")
	if d.err == nil && method != "LORA" {
		d.fail("peft_type", "LORA", fmt.Sprintf("%q", clip(method)), "only LoRA adapters, DoRA and rsLoRA among them, are matrices to add")
	}
	for _, key := range slices.Sorted(mapKeys(top)) {
		if why, bad := unsupported[key]; bad && !empty(top[key]) && d.err == nil {
			d.fail(key, "a LoRA that can be merged", clip(string(top[key]))+": "+why, "use the adapter unmerged, with PEFT")
		}
		if !slices.Contains(known, key) {
			c.Unknown = append(c.Unknown, key)
		}
	}
	for _, key := range []string{"r", "lora_alpha", "rank_pattern", "alpha_pattern"} {
		// The strict text has numbers in the place of Python's NaN and Infinity.
		if said, ok := checked.Get(key); ok && !bytes.Equal(bytes.TrimSpace(said), bytes.TrimSpace(top[key])) {
			d.fail(key, "finite numbers", clip(string(said)), "")
		}
	}
	for _, key := range []string{"r", "lora_alpha"} {
		if string(top[key]) == "null" {
			d.fail(key, "a number", "null", "")
		}
	}
	d.read("r", &c.Rank, "a whole number")
	d.read("lora_alpha", &c.Alpha, "a number")
	d.read("ensure_weight_tying", &c.Tying, "true or false")
	d.read("use_rslora", &c.RSLoRA, "true or false")
	d.read("use_dora", &c.DoRA, "true or false")
	d.read("lora_bias", &c.LoraBias, "true or false")
	d.read("fan_in_fan_out", &c.FanInOut, "true or false")
	d.read("bias", &c.Bias, "none, all or lora_only")
	d.read("base_model_name_or_path", &c.Base, "a name")
	d.read("modules_to_save", &c.Saved, "names")
	d.read("target_parameters", &c.Parameters, "names")
	d.targets(c)
	c.selected = d.selection()
	c.Tying = c.Tying && c.embeds()
	d.init(c)
	c.Ranks = d.patterns("rank_pattern", true)
	c.Alphas = d.patterns("alpha_pattern", false)
	c.Tokens = d.tokens()
	if d.err == nil {
		d.check(c)
	}
	return c, d.err
}

// embeds reports whether modules_to_save or target_modules have what PEFT takes for embeddings: ensure_weight_tying is of no consequence
// otherwise (peft/tuners/tuners_utils.py, _check_tied_modules).
func (c *Config) embeds() bool {
	names := []string{"embed_tokens", "lm_head"}
	if c.TargetRegex && c.selected.re != nil && slices.ContainsFunc(names, c.selected.re.MatchString) {
		return true
	}
	return slices.ContainsFunc(slices.Concat(c.Saved, c.Targets), func(m string) bool { return slices.Contains(names, m[strings.LastIndexByte(m, '.')+1:]) })
}

func mapKeys(m map[string]json.RawMessage) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// empty reports whether a value means that a feature is off.
func empty(raw json.RawMessage) bool {
	switch string(bytes.TrimSpace(raw)) {
	case "null", "false", "{}", "[]", `""`:
		return true
	}
	return false
}

// decoder reads the members of a config and keeps the first error.
type decoder struct {
	file string
	top  map[string]json.RawMessage
	err  error
}

func (d *decoder) fail(key, expect, found, hint string) {
	if d.err == nil {
		d.err = &Error{Path: d.file, Key: key, Expect: expect, Found: found, Hint: hint}
	}
}

// read decodes a member unless it is not there or null.
func (d *decoder) read(key string, into any, want string) {
	raw, ok := d.top[key]
	if !ok || string(raw) == "null" {
		return
	}
	if json.Unmarshal(raw, into) != nil {
		d.fail(key, want, clip(string(raw)), "")
	}
}

func (d *decoder) targets(c *Config) {
	raw := d.top["target_modules"]
	if len(raw) > 0 && raw[0] == '"' {
		var one string
		d.read("target_modules", &one, "names or one expression")
		c.Targets, c.TargetRegex = []string{one}, true
		return
	}
	d.read("target_modules", &c.Targets, "names or one expression")
}

// init keeps the way to begin where it is a name: true, false and "gaussian" are plain.
func (d *decoder) init(c *Config) {
	if raw := d.top["init_lora_weights"]; len(raw) > 0 && raw[0] == '"' {
		d.read("init_lora_weights", &c.Init, "a name, true or false")
	}
}

func (d *decoder) check(c *Config) {
	switch {
	case c.Rank < 1 || c.Rank > MaxRank:
		d.fail("r", fmt.Sprintf("a rank from 1 to %d", MaxRank), fmt.Sprint(c.Rank), "")
	case !validAlpha(c.Alpha):
		d.fail("lora_alpha", "a number above 0", fmt.Sprint(c.Alpha), "")
	case !slices.Contains([]string{"none", "all", "lora_only"}, c.Bias):
		d.fail("bias", "none, all or lora_only", fmt.Sprintf("%q", clip(c.Bias)), "")
	}
}

func validAlpha(a float64) bool {
	return a > 0 && !math.IsInf(a, 0) && float32(a) > 0 && a < math.MaxFloat32
}

// patterns reads rank_pattern or alpha_pattern in the order of the file, which decides.
func (d *decoder) patterns(key string, whole bool) Patterns {
	raw := d.top[key]
	if len(raw) == 0 || string(raw) == "null" || d.err != nil {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		d.fail(key, "an object of numbers", clip(string(raw)), "")
		return nil
	}
	var out Patterns
	for dec.PeekKind() == '"' {
		tok, err := dec.ReadToken()
		if err != nil {
			break
		}
		name := tok.String()
		value, err := dec.ReadValue()
		var v float64
		if err != nil || json.Unmarshal(value, &v) != nil || !validAlpha(v) || whole && (v != math.Trunc(v) || v > MaxRank) {
			d.fail(key, "numbers above 0", fmt.Sprintf("%s for %q", clip(string(value)), clip(name)), "")
			return nil
		}
		p, err := newPattern(name, v)
		if err != nil {
			d.fail(key, "regular expressions in the common subset of Python's and RE2", fmt.Sprintf("%q: %v", clip(name), err),
				"write the names of the modules out")
			return nil
		}
		if out = append(out, p); len(out) > maxPatterns {
			d.fail(key, fmt.Sprintf("at most %d expressions", maxPatterns), "more", "")
			return nil
		}
	}
	return out
}

// tokens reads trainable_token_indices: a list for the input embeddings, or an object of lists by module.
func (d *decoder) tokens() []Tokens {
	const key = "trainable_token_indices"
	raw := d.top[key]
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	byModule := map[string][]int64{}
	if raw[0] == '[' {
		var ids []int64
		d.read(key, &ids, "token ids")
		byModule[""] = ids
	} else {
		d.read(key, &byModule, "token ids, or those of each module")
	}
	var out []Tokens
	for name, ids := range byModule {
		for _, id := range ids {
			if id < 0 {
				d.fail(key, "token ids from 0 on", fmt.Sprint(id), "")
			}
		}
		out = append(out, Tokens{name, ids})
	}
	slices.SortFunc(out, func(a, b Tokens) int { return strings.Compare(a.Module, b.Module) })
	return out
}
