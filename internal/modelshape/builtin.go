package modelshape

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

//go:embed builtin.json
var builtinJSON []byte

var builtin = sync.OnceValue(func() map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(builtinJSON, &m); err != nil {
		panic("modelshape: builtin.json: " + err.Error())
	}
	return m
})

// publishedJSON has the repository of each shape on the hub and the positions of its config.json there.
//
//go:embed published.json
var publishedJSON []byte

type published struct {
	Hub     string
	Context int64
}

var publications = sync.OnceValue(func() map[string]published {
	var m map[string]published
	if err := json.Unmarshal(publishedJSON, &m); err != nil {
		panic("modelshape: published.json: " + err.Error())
	}
	return m
})

// BuiltinNames lists the names that [Builtin] knows, sorted.
func BuiltinNames() []string {
	var out []string
	for n := range builtin() {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// IsBuiltin reports whether [Builtin] knows the name.
func IsBuiltin(name string) bool {
	_, ok := builtin()[strings.ToLower(name)]
	return ok
}

// Builtin is the shape of a published model by its name, in any case.
func Builtin(name string) (*Model, error) {
	raw, ok := builtin()[strings.ToLower(name)]
	if !ok {
		return nil, fmt.Errorf("no built-in shape %q", name)
	}
	m, err := FromConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("built-in shape %s: %w", name, err)
	}
	m.Name = strings.ToLower(name)
	if p, ok := publications()[m.Name]; ok {
		m.Hub, m.Context = p.Hub, p.Context
	}
	return m, nil
}
