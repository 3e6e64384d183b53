package arch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The head of a decoder has the name that its type gives it. transformers 5.23 and 4.57 keep it out of a 4-bit model, and fail in
// forward on a list that leaves out one that is tied, and so has no tensor.
func TestDecoderHeads(t *testing.T) {
	tests := []struct{ pair, decoder, weight, head string }{
		{"vision-encoder-decoder", "gpt2", "decoder.transformer.h.0.mlp.c_fc.weight", "decoder.lm_head"},
		{"vision-encoder-decoder", "trocr", "decoder.model.decoder.layers.0.fc1.weight", "decoder.output_projection"},
		{"vision-encoder-decoder", "bert", "decoder.bert.encoder.layer.0.output.dense.weight", "decoder.cls.predictions.decoder"},
		{"vision-encoder-decoder", "electra", "decoder.electra.encoder.layer.0.output.dense.weight", "decoder.generator_lm_head"},
		{"vision-encoder-decoder", "roberta", "decoder.roberta.encoder.layer.0.crossattention.self.query.weight", "decoder.lm_head.decoder"},
		{"encoder-decoder", "bert", "decoder.bert.encoder.layer.0.output.dense.weight", "decoder.cls.predictions.decoder"},
		{"encoder-decoder", "roberta", "decoder.roberta.encoder.layer.0.crossattention.output.dense.weight", "decoder.lm_head.decoder"},
		{"encoder-decoder", "bert-generation", "decoder.bert.encoder.layer.0.crossattention.self.key.weight", "decoder.lm_head.decoder"},
		{"encoder-decoder", "gpt2", "decoder.transformer.h.0.crossattention.q_attn.weight", "decoder.lm_head"},
		{"speech-encoder-decoder", "mbart", "decoder.model.decoder.layers.0.encoder_attn.q_proj.weight", "decoder.lm_head"},
	}
	for _, test := range tests {
		for _, tied := range []bool{true, false} {
			q, err := ParseConfig(fmt.Appendf(nil, `{"model_type": %q, "tie_word_embeddings": false,
				"decoder": {"model_type": %q, "tie_word_embeddings": %v}, "encoder": {"model_type": "vit"}}`, test.pair, test.decoder, tied))
			if err != nil {
				t.Fatal(err)
			}
			m, err := Resolve(q, []string{test.weight})
			if err != nil {
				t.Fatal(err)
			}
			head := m.Classify(test.head + ".weight")
			if head.Quantize(Transformers5) || head.Quantize(Transformers4) || !head.Head {
				t.Errorf("%s of %s: the head counts as one to quantize: %+v", test.decoder, test.pair, head)
			}
			c := m.Classify(test.weight)
			if path := strings.TrimSuffix(test.weight, ".weight"); !c.Quantize(0) || !slices.Equal(c.AllPaths, []string{path}) {
				t.Errorf("%s is not quantized (%s), or under other paths: %q", test.weight, c.Reason, c.AllPaths)
			}
			quantized := []Tensor{{test.weight, c}}
			list, bad := m.SkipList(0, nil, quantized)
			if !slices.Contains(list, test.head) || len(bad) > 0 {
				t.Errorf("%s of %s: skip list %q (%v) lacks %s", test.decoder, test.pair, list, bad, test.head)
			}
			if bad := m.CheckSkip([]string{"enc_to_dec_proj"}, 0, nil, quantized); (len(bad) > 0) != tied {
				t.Errorf("%s of %s, tied %v: a list without the head: %v", test.decoder, test.pair, tied, bad)
			}
		}
	}
}

// The last module of a class is kept by 4.57 alone, by default, and is packed as 5.x does it where the list, here an empty one,
// says so: only a tied module that has no tensor has to be in it. RegNet has no other Linear; in 5.23 and 4.57 both results load and run.
func TestLastModules(t *testing.T) {
	for _, c := range []struct{ typ, class, last string }{
		{"regnet", "RegNetForImageClassification", "classifier.1.weight"},
		{"sam", "SamModel", "mask_decoder.iou_prediction_head.layers.0.weight"},
	} {
		m, err := Resolve(Query{ModelType: c.typ, Architectures: []string{c.class}}, []string{c.last})
		if err != nil {
			t.Fatal(err)
		}
		last := m.Classify(c.last)
		if !last.Quantize(Transformers5) || last.Quantize(Transformers4) {
			t.Fatalf("%s: want it quantized by 5.x and not by 4.57: %+v", c.last, last)
		}
		list, bad := m.SkipList(Transformers5|Transformers4, nil, []Tensor{{c.last, last}})
		if list == nil || len(list) > 0 || len(bad) > 0 {
			t.Errorf("%s: list %q, %v; want an empty one", c.class, list, bad)
		}
	}
}
