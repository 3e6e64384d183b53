package forward

import (
	_ "embed" // defaults.json
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
)

// defaults.json is the configuration classes of transformers 5.23: what a key has that config.json lacks, and which keys a
// class knows. internal/interop/py/forward_defaults.py makes it.
//
//go:embed defaults.json
var defaultsJSON []byte

var defaults = sync.OnceValue(func() map[string]map[string]json.RawMessage {
	var d map[string]map[string]json.RawMessage
	if err := json.Unmarshal(defaultsJSON, &d); err != nil {
		panic("forward: defaults.json: " + err.Error())
	}
	return d
})

// inert are the keys of any config.json that have no part in what a decoder computes of given tokens: what the file is about
// itself, how tokens are drawn, made and marked, training, and how the same is computed otherwise.
var inert = keySet(`
	model_type architectures auto_map name_or_path transformers_version torch_dtype dtype license trust_remote_code transformers.js_config
	is_llama_config cache_implementation model_max_length max_sequence_length bos_token eos_token pad_token padding_side
	add_bos_token add_eos_token generation_config use_return_dict neftune_noise_alpha
	bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id decoder_start_token_id
	forced_bos_token_id forced_eos_token_id image_token_id boi_token_index eoi_token_index image_token_index tokenizer_class prefix
	num_labels id2label label2id problem_type finetuning_task task_specific_params
	use_cache return_dict return_dict_in_generate output_attentions output_hidden_states output_scores torchscript use_bfloat16
	temperature top_k top_p typical_p max_length min_length do_sample num_beams num_beam_groups num_return_sequences
	repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size diversity_penalty early_stopping
	bad_words_ids suppress_tokens begin_suppress_tokens exponential_decay_length_penalty remove_invalid_values tf_legacy_loss
	initializer_range initializer_factor init_std gradient_checkpointing use_gradient_checkpointing
	attention_dropout hidden_dropout dropout resid_pdrop embd_pdrop attn_pdrop resid_dropout residual_dropout embedding_dropout
	embed_pdrop embed_dropout attn_dropout activation_dropout classifier_dropout layerdrop hidden_dropout_prob attention_probs_dropout_prob
	output_router_logits router_aux_loss_coef router_jitter_noise router_z_loss_coef router_z_loss_coeff
	summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
	attn_implementation use_sdpa use_flash_attn use_flash_attention use_flash_attention_2 flash_attn
	use_cache_quantization use_cache_kernel fp16 bf16 fp32 pretraining_tp tensor_parallel ep_size use_parallel_embedding
	quantization_config compression_config unsloth_version unsloth_fixed unsloth_training_args tie_encoder_decoder is_decoder
	cross_attention_hidden_size chat_template gradient_checkpointing_kwargs
`)

// mustBe are keys that any configuration has, with the one value that leaves the forward pass as it is.
var mustBe = map[string]string{"is_encoder_decoder": "false", "add_cross_attention": "false", "chunk_size_feed_forward": "0", "pruned_heads": "{}"}

func keySet(names string) map[string]bool {
	set := map[string]bool{}
	for _, n := range strings.Fields(names) {
		set[n] = true
	}
	return set
}

// A config is one level of a config.json over the defaults of its class. Every key that a description asks for is known; the
// others are refused at the end, see rest. The first thing wrong is kept, so that a description can be written as what it is
// and checked once.
type config struct {
	typ   string
	keys  map[string]json.RawMessage
	def   map[string]json.RawMessage
	asked map[string]bool
	err   error
}

func newConfig(typ string, raw []byte) (*config, error) {
	c := &config{typ: typ, asked: map[string]bool{}, def: defaults()[typ]}
	if err := json.Unmarshal(raw, &c.keys); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *config) refuse(key, format string, args ...any) {
	if c.err == nil {
		c.err = &Unsupported{ModelType: c.typ, Key: key, Missing: fmt.Sprintf(format, args...)}
	}
}

// raw is the text of the first of several spellings of a key that the file has, or else of the default; nil for null and for
// what neither has.
func (c *config) raw(keys ...string) json.RawMessage {
	var found json.RawMessage
	for _, k := range keys {
		c.asked[k] = true
		if v, ok := c.keys[k]; ok && found == nil {
			found = v
		}
	}
	for _, k := range keys {
		if v, ok := c.def[k]; ok && found == nil {
			found = v
		}
	}
	if string(found) == "null" {
		return nil
	}
	return found
}

// has reports whether the file sets a key to something.
func (c *config) has(key string) bool {
	v, ok := c.keys[key]
	return ok && string(v) != "null"
}

// size is a positive integer.
func (c *config) size(keys ...string) int {
	n := c.optional(keys...)
	if n <= 0 && c.err == nil {
		c.refuse(keys[0], "expected a positive integer, found none")
	}
	return max(n, 1)
}

// optional is an integer, 0 where there is none.
func (c *config) optional(keys ...string) int {
	f := c.number(keys...)
	if f != math.Trunc(f) || f < 0 || f > 1<<30 {
		c.refuse(keys[0], "expected an integer from 0 to 2^30, found %v", f)
		return 0
	}
	return int(f)
}

// number is a number, 0 where there is none.
func (c *config) number(keys ...string) float64 {
	v := c.raw(keys...)
	if v == nil {
		return 0
	}
	var f float64
	if json.Unmarshal(v, &f) != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		c.refuse(keys[0], "expected a number, found %s", clip(v))
	}
	return f
}

// flag is a boolean. A key that the class does not know stays unknown.
func (c *config) flag(key string) bool {
	if _, known := c.def[key]; !known {
		return false
	}
	return c.truth(key)
}

// truth is a boolean, false where there is none.
func (c *config) truth(key string) bool {
	v := c.raw(key)
	var b bool
	if v != nil && json.Unmarshal(v, &b) != nil {
		c.refuse(key, "expected true or false, found %s", clip(v))
	}
	return b
}

func (c *config) text(keys ...string) string {
	v := c.raw(keys...)
	var s string
	if v != nil && json.Unmarshal(v, &s) != nil {
		c.refuse(keys[0], "expected a string, found %s", clip(v))
	}
	return s
}

// list decodes a list, nil where there is none.
func list[T any](c *config, key string) []T {
	v := c.raw(key)
	var out []T
	if v != nil && json.Unmarshal(v, &out) != nil {
		c.refuse(key, "expected a list, found %s", clip(v))
	}
	return out
}

// ignore says that the class does not read keys which are often there.
func (c *config) ignore(keys ...string) {
	for _, k := range keys {
		c.asked[k] = true
	}
}

// only refuses a key that is set to anything but null and the given text.
func (c *config) only(key, text, missing string) {
	if v := c.raw(key); v != nil && string(v) != text {
		c.refuse(key, "%s: there is %s", clip(v), missing)
	}
}

// rest refuses the first key of the file that nobody has asked for and that may mean something.
func (c *config) rest() {
	for _, k := range slices.Sorted(maps.Keys(c.keys)) {
		v := string(c.keys[k])
		_, known := c.def[k]
		switch {
		case c.asked[k], inert[k], v == "null":
			continue
		case strings.HasPrefix(k, "_"), v == "false" && !known:
			continue // what libraries note for themselves; a feature that the class lacks, and that is off
		}
		want, ok := mustBe[k]
		switch {
		case ok && v == want:
		case ok:
			c.refuse(k, "%s: there is %s alone", clip(c.keys[k]), want)
		default:
			c.refuse(k, "not a key that is known of this model type, and it may change what the model computes; if it does not, take it out of config.json")
		}
	}
}

func clip(raw []byte) string {
	if len(raw) > 40 {
		return string(raw[:40]) + "..."
	}
	return string(raw)
}
