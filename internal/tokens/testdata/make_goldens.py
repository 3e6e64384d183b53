"""Makes the goldens of package tokens: small tokenizers of each kind in use, and what Hugging Face's tokenizers make of texts.

    pip install tokenizers==0.23.3 && python make_goldens.py

Every tokenizer is trained here on ../../../testdata/llama/heldout.txt and the texts below, and has the normalizer,
pre-tokenizer, model settings, added tokens and post-processor of the model that it is named after: the patterns are
those of its tokenizer.json. NAME.json is the file, and goldens.json has for every text and tokenizer the ids without and
with special tokens.
"""

import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = os.path.dirname(os.path.abspath(__file__))
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join([
    rf"[^\r\n\p{{L}}\p{{N}}]?{UP}*{LOW}+{CONTRACTIONS}?", rf"[^\r\n\p{{L}}\p{{N}}]?{UP}+{LOW}*{CONTRACTIONS}?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [
    r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]

texts = [
    "",
    " ",
    "\n",
    "Hello, world!",
    " leading and trailing  ",
    "tabs\tand\r\nlines\n\n\n  indented\n\t\tdeeper\n   \n end",
    "func (d *Decoder) Layer(ctx context.Context, i int) error {\n\tfor j := range 10 {\n\t\treturn fmt.Errorf(\"x%d: %w\", j, err)\n\t}\n}\n",
    "1 22 333 4444 55555 3.14159 1,000,000 0x7fff ½ Ⅳ ٣٤٥ 12abc34",
    "I'm sure they'll say it's HE'S WE'RE I'D you've can't 'tis 'S o'clock ’s",
    "Zażółć gęślą jaźń. Straße, ﬁnance, naïve café, cafe\u0301, İstanbul, ǅ, ŉ",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم हिन्दी पाठ ไทยไม่มีช่องว่าง",
    "日本語のテキスト、漢字とカタカナ。中文没有空格。한국어 문장입니다.",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\u200d\ufeff\u00a0\u3000\u2028 \x00\x01\x7f \u0085",
    "<s>special</s> in <|eot|> text <s> <|eot|><|eot|>x<|eot|>  y",
    "mask [MASK] and [UNK] and <extra>, a<extra>b  <extra>  c, word wording swords wordword word",
    "▁already ▁marked▁ words <0x41> <0x0A>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa                                          x",
    "!!!???... --- === ///// $$$ a+b=c; x->y; http://example.com/a/b?c=d&e=f #tag @user user@example.com",
    "camelCaseWords HTTPServer XMLHttpRequest snake_case_words SCREAMING_SNAKE kebab-case ſharp 'ſ K\u212a",
    "mixed中英文text和numbers123数字４５６",
    "end with spaces   ",
    "\n\nstart with lines",
]


def corpus():
    with open(os.path.join(here, "../../../testdata/llama/heldout.txt"), encoding="utf-8") as f:
        return [*f.read().split("\n\n")[:60], *texts * 3]


def bpe(size=420, alphabet=True, **kwargs):
    train = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [])
    return Tokenizer(models.BPE(**kwargs)), train


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(pre, normalizer=None, post=None, added=(), **kwargs):
    t, train = bpe(**kwargs)
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(corpus(), train)
    t.add_special_tokens([AddedToken("<|eot|>", normalized=False, special=True)])
    t.add_tokens(list(added))
    t.post_processor = post or processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    return t


def template(t):
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])


def byte_fallback(pre, normalizer, added=(), size=420, template=True):
    """As SentencePiece's BPE converted: characters, and 256 bytes for all others."""
    t, _ = bpe()
    t.pre_tokenizer, t.normalizer = pre, normalizer
    train = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)], show_progress=False,
        limit_alphabet=60, max_token_length=16)
    if pre is None:  # else the whole text were one word
        t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    t.train_from_iterator(corpus(), train)
    model = json.loads(t.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    u = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    u.normalizer = normalizer
    if pre is not None:
        u.pre_tokenizer = pre
    u.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>", "<|eot|>")])
    u.add_tokens(list(added))
    if template:
        u.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return u


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=40))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False, limit_alphabet=120))
    t.post_processor = processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    return t


def unigram(byte_fallback=False):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] * byte_fallback
    t.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=300 + 260 * byte_fallback, special_tokens=special, unk_token="<unk>", show_progress=False))
    if byte_fallback:
        model = json.loads(t.to_str())["model"]
        t.model = models.Unigram([tuple(v) for v in model["vocab"]], unk_id=0, byte_fallback=True)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    return t


ByteLevel = pre_tokenizers.ByteLevel
spaces = [AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)]
kinds = {
    "gpt2": byte_level(ByteLevel(add_prefix_space=False)),
    "phi": byte_level(ByteLevel(add_prefix_space=False), added=spaces),
    "opt": byte_level(ByteLevel(add_prefix_space=True), post=processors.TemplateProcessing(single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 1)])),
    "gpt_neox": byte_level(ByteLevel(add_prefix_space=False), normalizers.NFC(), added=spaces),
    "llama3": byte_level(
        pre_tokenizers.Sequence([split(LLAMA3), ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True,
        post=processors.Sequence([processors.ByteLevel(trim_offsets=False), template(None)])),
    "qwen2": byte_level(pre_tokenizers.Sequence([split(QWEN2), ByteLevel(add_prefix_space=False, use_regex=False)]), normalizers.NFC()),
    "gpt_oss": byte_level(pre_tokenizers.Sequence([split(O200K), ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True),
    "deepseek": byte_level(pre_tokenizers.Sequence([
        *[split(p) for p in DEEPSEEK], pre_tokenizers.Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False)])),
    "starcoder2": byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])),
    "falcon": byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(individual_digits=False),
        split("[0-9][0-9][0-9]")])),
    "llama2": byte_fallback(None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
    "mistral": byte_fallback(
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None,
        [AddedToken("<extra>", lstrip=True, rstrip=True), AddedToken("word", single_word=True)]),
    "phi3": byte_fallback(
        None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        [AddedToken("<extra>", rstrip=True, normalized=False)]),
    "gemma": byte_fallback(
        pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"),
        [AddedToken("\n" * n, normalized=False) for n in range(2, 5)] + [AddedToken("▁" * n, normalized=False) for n in range(2, 9)]),
    "bert": wordpiece(),
    "t5": unigram(),
    "unigram_bytes": unigram(True),
}

if __name__ == "__main__":
    goldens = {"texts": texts, "ids": {}}
    for name, t in kinds.items():
        t.save(os.path.join(here, name + ".json"), pretty=False)
        t = Tokenizer.from_file(os.path.join(here, name + ".json"))
        goldens["ids"][name] = [
            {"plain": t.encode(x, add_special_tokens=False).ids, "special": t.encode(x).ids} for x in texts]
    with open(os.path.join(here, "goldens.json"), "w", encoding="utf-8") as f:
        json.dump(goldens, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
