package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"github.com/nf4kit/nf4kit/internal/checkpoint"
)

const maxRecipe = 1 << 20 // bytes

// applyRecipe sets the flags that neither the command line nor the environment
// has set from a YAML file whose keys are flag names.
func applyRecipe(fs *pflag.FlagSet, name string) error {
	raw, err := checkpoint.ReadRegular(name, maxRecipe)
	if err != nil {
		return usagef("--recipe: %w", err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return usagef("--recipe %s: %w", name, err)
	}
	for key, v := range doc {
		f := fs.Lookup(key)
		if f == nil || key == "recipe" || key == "help" {
			if meant := nearFlags(fs, key); len(meant) > 0 {
				return usagef("--recipe %s: %q is no flag of this command; did you mean %s?", name, key, strings.Join(meant, " or "))
			}
			return usagef("--recipe %s: %q is no flag of this command", name, key)
		}
		if f.Changed {
			continue
		}
		values, err := recipeValues(v)
		if err == nil {
			err = setFlag(fs, f, values)
		}
		if err != nil {
			return usagef("--recipe %s: %s: %w", name, key, err)
		}
	}
	return nil
}

func recipeValues(v any) ([]string, error) {
	switch v := v.(type) {
	case []any:
		var out []string
		for _, e := range v {
			switch e.(type) {
			case []any, map[string]any, nil:
				return nil, fmt.Errorf("want a list of plain values, found %v", e)
			}
			out = append(out, fmt.Sprint(e))
		}
		return out, nil
	case map[string]any, nil:
		return nil, fmt.Errorf("want a value or a list of values, found %v", v)
	}
	return []string{fmt.Sprint(v)}, nil
}
