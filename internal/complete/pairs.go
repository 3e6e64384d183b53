package complete

import "strings"

// pairTypes are the types whose config.json has the configs of any two other types, an encoder's and a decoder's.
var pairTypes = map[string]string{
	"encoder-decoder": "EncoderDecoderModel", "vision-encoder-decoder": "VisionEncoderDecoderModel", "speech-encoder-decoder": "SpeechEncoderDecoderModel",
}

// pair composes the facts of such a type: what AutoModel makes of the encoder's config below "encoder", what AutoModelForCausalLM makes
// of the decoder's below "decoder", and a Linear between them where their sizes differ. A side without facts, or a decoder whose
// facts do not know cross-attention, which every such decoder has, is held to itself. It is nil where config.json has no two sides.
func pair(modelType string, v *values) *facts {
	class, ok := pairTypes[modelType]
	encoder, _ := v.root["encoder"].(map[string]any)
	decoder, _ := v.root["decoder"].(map[string]any)
	if !ok || encoder == nil || decoder == nil {
		return nil
	}
	f := &facts{class: class, version: "5", aliases: map[string]string{}, defaults: map[string]preset{}, scopes: map[string]*facts{}}
	layouts := []*layout{{counts: map[string]*count{}, groups: map[string]*group{}}}
	for _, side := range []struct {
		key, role string
		config    map[string]any
	}{{"encoder", "base", encoder}, {"decoder", "causal", decoder}} {
		name, _ := side.config["model_type"].(string)
		inner := roleOf(name, side.role, true)
		if inner != nil {
			inner = inner.in(&values{root: side.config})
		}
		if inner == nil || side.role == "causal" && !inner.crosses() {
			for _, l := range layouts {
				l.opaque = append(l.opaque, side.key)
			}
			continue
		}
		f.scopes[side.key] = inner
		f.ignore = append(f.ignore, inner.ignore...) // buffers of old files, such as GPT-2's crossattention.bias
		var all []*layout
		for _, l := range layouts {
			for _, il := range inner.layouts {
				n := l.without(side.key)
				n.put(side.key, side.key, il)
				all = append(all, n)
			}
		}
		layouts = all
	}
	if len(f.scopes) == 0 {
		return nil
	}
	for _, l := range layouts {
		for _, leaf := range []string{"weight", "bias"} {
			if err := l.parseRow([]string{"enc_to_dec_proj." + leaf, "-", "?", "?", "0"}); err != nil {
				panic("complete: internal error: " + err.Error())
			}
		}
		l.index()
	}
	f.layouts = layouts
	return f
}

// crosses reports whether the facts have the attention of a decoder to its encoder.
func (f *facts) crosses() bool {
	for _, l := range f.layouts {
		for pattern := range l.groups {
			if crossAttention(pattern) {
				return true
			}
		}
	}
	return false
}

func crossAttention(name string) bool {
	return strings.Contains(name, "crossattention.") || strings.Contains(name, "encoder_attn.") || strings.Contains(name, "cross_attn.")
}

// asks reports whether config.json asks for cross-attention, which decoders of types that are mostly encoders have then.
func (v *values) asks() bool {
	on, _ := v.root["add_cross_attention"].(bool)
	return on
}
