"""Models of sentence-transformers: writes a small one, and compares converted ones with what bitsandbytes makes of the same sources.

A case {"out": directory, "module": path of the transformer in it} writes one: a transformer, pooling, a dense layer, normalization.
A case {"source", "converted", "plain": directories} encodes some sentences with the first two and, quantized by transformers while it
loads, with the source; "plain" is what nf4kit dequantize made of "converted", or "". "dense" says that there is a dense layer.
"""

import json
import os

import common
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

SENTENCES = ["a quick brown fox", "jumps over", "the lazy dog", "and sleeps then"]


def write(out, module):
    torch.manual_seed(5)
    tf = common.transformers
    first = os.path.join(out, "first")
    os.makedirs(first)
    with open(os.path.join(first, "vocab.txt"), "w") as f:
        f.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *("##" + c for c in "abcdefghijklmnopqrstuvwxyz")]))
    tf.BertTokenizer(vocab=os.path.join(first, "vocab.txt")).save_pretrained(first)
    tf.BertModel(tf.BertConfig(vocab_size=57, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)).save_pretrained(first)
    model = SentenceTransformer(modules=[Transformer(first), Pooling(64), Dense(64, 32), Normalize()], device="cpu")
    model.save(out)
    for dirpath, _, files in os.walk(first, topdown=False):
        for name in files:
            os.remove(os.path.join(dirpath, name))
        os.rmdir(dirpath)
    if not module:
        return
    # As sentence-transformers before 2.0 laid it out.
    os.mkdir(os.path.join(out, module))
    for name in os.listdir(out):
        if os.path.isfile(os.path.join(out, name)) and name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            os.rename(os.path.join(out, name), os.path.join(out, module, name))
    path = os.path.join(out, "modules.json")
    with open(path) as f:
        modules = json.load(f)
    modules[0]["path"] = module
    with open(path, "w") as f:
        json.dump(modules, f)


def load(path, **kwargs):
    model = SentenceTransformer(path, device="cpu", local_files_only=True, model_kwargs=kwargs)
    return model, model.encode(SENTENCES, convert_to_tensor=True).float()


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()


def handle(case):
    if case.get("out"):
        write(case["out"], case["module"])
        return {"error": ""}
    ours, x = load(case["converted"], dtype="auto")
    with open(os.path.join(case["converted"], case["module"], "config.json")) as f:
        skip = json.load(f)["quantization_config"]["llm_int8_skip_modules"]
    theirs, y = load(case["source"], dtype=torch.bfloat16, quantization_config=common.transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=skip))
    _, full = load(case["source"], dtype=torch.float32)
    la, lb = common.linear4bit(ours), common.linear4bit(theirs)
    out = {"error": "", "quantized": len(la), "same_set": la.keys() == lb.keys(), "equal": torch.equal(x, y), "cosine": cosine(x, full),
           "dense": any(isinstance(m, Dense) for m in ours)}
    if case["plain"]:
        plain, z = load(case["plain"], dtype=torch.bfloat16)
        out["plain_cosine"] = cosine(z, x)
        out["plain_quantized"] = len(common.linear4bit(plain))
    return out


if __name__ == "__main__":
    common.serve(handle)
