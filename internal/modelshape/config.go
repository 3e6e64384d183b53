package modelshape

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
)

// ConfigError reports a config.json that a shape cannot be built from.
type ConfigError struct {
	Key string // "" if the config as a whole is at fault
	Msg string
}

func (e *ConfigError) Error() string {
	if e.Key == "" {
		return "config: " + e.Msg
	}
	return fmt.Sprintf("config: %s: %s", e.Key, e.Msg)
}

//go:embed defaults.json
var defaultsJSON []byte

var defaults = sync.OnceValue(func() map[string]map[string]json.RawMessage {
	var d map[string]map[string]json.RawMessage
	if err := json.Unmarshal(defaultsJSON, &d); err != nil {
		panic("modelshape: defaults.json: " + err.Error())
	}
	return d
})

// config is one level of a config.json with its model type's defaults below.
// The first value of a wrong type is remembered in err, so that a family can
// be written as a list of tensors and checked once.
type config struct {
	keys map[string]json.RawMessage
	def  map[string]json.RawMessage
	typ  string
	path string
	err  *error
}

func parseConfig(data []byte) (*config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, &ConfigError{Msg: err.Error()}
	}
	if keys == nil {
		return nil, &ConfigError{Msg: "is null, not an object"}
	}
	var err error
	c := &config{keys: keys, err: &err}
	c.typ = c.str("model_type")
	c.def = defaults()[c.typ]
	return c, *c.err
}

func (c *config) fail(key, format string, args ...any) {
	if *c.err == nil {
		*c.err = &ConfigError{Key: c.path + key, Msg: fmt.Sprintf(format, args...)}
	}
}

// sub is a nested config such as text_config. typ is its model type where
// the file does not name one. A nested config that the file lacks altogether is
// the one its outer class would make.
func (c *config) sub(key, typ string) *config {
	s := &config{path: c.path + key + ".", err: c.err, typ: typ}
	if raw := c.raw([]string{key}); raw != nil {
		if json.Unmarshal(raw, &s.keys) != nil {
			c.fail(key, "expected an object, found %s", clip(raw))
		}
	}
	if t := s.str("model_type"); t != "" && defaults()[t] != nil && t != c.typ {
		s.typ = t
	}
	s.def = defaults()[s.typ]
	return s
}

func clip(raw []byte) string {
	if len(raw) > 40 {
		return string(raw[:40]) + "..."
	}
	return string(raw)
}

// raw finds the first key that the file has, then the first that has a
// default. A null in the file is absence without default.
func (c *config) raw(keys []string) json.RawMessage {
	for _, k := range keys {
		if v, ok := c.keys[k]; ok {
			if string(v) == "null" {
				return nil
			}
			return v
		}
	}
	for _, k := range keys {
		if v, ok := c.def[k]; ok {
			return v
		}
	}
	return nil
}

// opt is an integer, or 0 where the file has none (or null).
func (c *config) opt(keys ...string) int64 {
	v := c.raw(keys)
	if v == nil {
		return 0
	}
	var f float64
	if err := json.Unmarshal(v, &f); err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		c.fail(keys[0], "expected an integer, found %s", clip(v))
		return 0
	}
	return int64(f)
}

// num is an integer that must be there and positive.
func (c *config) num(keys ...string) int64 {
	n := c.opt(keys...)
	if n <= 0 {
		if v := c.raw(keys); v != nil {
			c.fail(keys[0], "expected a positive integer, found %s", clip(v))
		} else {
			c.fail(keys[0], "missing")
		}
		return 1
	}
	return n
}

func (c *config) bool(key string) bool {
	v := c.raw([]string{key})
	if v == nil {
		return false
	}
	var b bool
	if json.Unmarshal(v, &b) != nil {
		c.fail(key, "expected true or false, found %s", clip(v))
	}
	return b
}

// str is a string; a value of another type counts as absent.
func (c *config) str(key string) string {
	var s string
	if json.Unmarshal(c.keys[key], &s) != nil {
		return ""
	}
	return s
}

// strs is a list of strings; anything else counts as absent.
func (c *config) strs(key string) []string {
	var s []string
	if json.Unmarshal(c.keys[key], &s) != nil {
		return nil
	}
	return s
}

// ints is an integer, or a list of them.
func (c *config) ints(key string) []int64 {
	var s []int64
	if json.Unmarshal(c.keys[key], &s) == nil {
		return s
	}
	if v := c.raw([]string{key}); v == nil || v[0] == '[' {
		return nil
	}
	return []int64{c.opt(key)}
}

// count is how many of layer_types have the suffix; ok is false where the
// file has no such list.
func (c *config) count(suffix string) (n int64, ok bool) {
	types := c.strs("layer_types")
	for _, t := range types {
		if strings.HasSuffix(t, suffix) {
			n++
		}
	}
	return n, len(types) > 0
}
