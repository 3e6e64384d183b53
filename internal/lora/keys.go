package lora

import (
	"strings"
)

// role is what a tensor of an adapter is to its module.
type role uint8

const (
	roleSaved     role = iota // replaces the base's tensor of that name
	roleA                     // [r, in]
	roleB                     // [out, r]
	roleBias                  // lora_B.bias [out]
	roleMagnitude             // DoRA's [out]
	roleEmbA                  // [r, V]
	roleEmbB                  // [D, r]
	roleTokens                // rows [n, D] that replace those of trainable_token_indices
	roleAlpha                 // a scalar: lora_alpha of this module, in kohya's and older diffusers' files
)

// wrappers are path components that training frameworks leave behind.
var wrappers = []string{"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

// A key is the name of an adapter's tensor taken apart.
type key struct {
	module string // path of the module, or of the tensor for roleSaved
	role   role
	name   string // the adapter's name, where it was not taken out; "" otherwise
}

// suffixes are the endings that mark a role, the longest first where one ends in another. "*" stands for the name of an
// adapter, which may be missing together with its dot.
var suffixes = []struct {
	text string
	role role
}{
	{".lora_A.*.weight", roleA}, {".lora_B.*.weight", roleB}, {".lora_B.*.bias", roleBias},
	{".lora_embedding_A.*", roleEmbA}, {".lora_embedding_B.*", roleEmbB},
	{".lora_magnitude_vector.*.weight", roleMagnitude}, {".lora_magnitude_vector.*", roleMagnitude},
	{".token_adapter.trainable_tokens_delta.*", roleTokens},
	{".lora.down.weight", roleA}, {".lora.up.weight", roleB}, // diffusers
	{".lora_down.weight", roleA}, {".lora_up.weight", roleB}, {".dora_scale", roleMagnitude}, {".alpha", roleAlpha}, // kohya
	{"_lora.down.weight", roleA}, {"_lora.up.weight", roleB}, // diffusers before 0.20: processor.to_q_lora.down
}

// parseKey takes the name of an adapter's tensor apart. What has no known ending replaces a tensor of the base. Within a path
// base_layer stands for a module that has updates of its own parameters (target_parameters) around it.
func parseKey(name string) key {
	k := takeApart(name)
	if k.role != roleSaved {
		path := bare(k.module)
		nest := k.module[len(path):]
		for strings.Contains(path, ".base_layer.") {
			path = strings.ReplaceAll(path, ".base_layer.", ".")
		}
		k.module = path + nest
	}
	return k
}

func takeApart(name string) key {
	path := strings.TrimPrefix(name, "base_model.model.")
	if strings.Contains(path, "_") {
		for _, w := range wrappers {
			if strings.Contains(path, w) {
				path = strings.ReplaceAll("."+path, "."+w+".", ".")[1:]
			}
		}
	}
	for _, s := range suffixes {
		before, after, named := strings.Cut(s.text, ".*")
		if !named {
			if module, ok := strings.CutSuffix(path, s.text); ok && module != "" {
				return key{module: strings.Replace(module, ".processor.", ".", 1), role: s.role}
			}
			continue
		}
		at := strings.LastIndex(path, before)
		if at <= 0 {
			continue
		}
		rest, ok := strings.CutSuffix(path[at+len(before):], after)
		switch {
		case !ok:
		case rest == "":
			return key{module: path[:at], role: s.role}
		case rest[0] == '.' && !strings.Contains(rest[1:], ".") && len(rest) > 1 && rest != ".weight":
			return key{module: path[:at], role: s.role, name: rest[1:]}
		}
	}
	k := key{module: path}
	if at := strings.LastIndex(path, ".modules_to_save."); at > 0 {
		name, rest, ok := strings.Cut(path[at+len(".modules_to_save."):], ".")
		if ok {
			k.module, k.name = path[:at+1]+rest, name
		}
	}
	if at := strings.LastIndex(k.module, ".base_layer."); at > 0 {
		k.module = k.module[:at] + k.module[at+len(".base_layer"):]
	}
	return k
}
