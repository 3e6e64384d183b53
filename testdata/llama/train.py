#!/usr/bin/env python3
"""Trains the small Llama of this directory, from the doc comments of the Go standard library.

    python train.py [--goroot DIR] [--out DIR] [--minutes M] [--steps N] [--threads T]

Needs torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3 and safetensors 0.8.0 (the versions that made the committed
files; README.md gives the run). The text is the Go source tree's own: BSD-3-Clause, see LICENSE. The packages in HELDOUT are
never trained on; heldout.txt is cut from them. A run is bounded by --steps; given --minutes, the learning-rate schedule
follows the clock instead.
"""

import argparse
import json
import math
import os
import re
import subprocess
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20260911
VOCAB = 1021  # a prime: the embedding's and head's rows are a multiple of nothing
CONTEXT = 256
BATCH = 8
HELDOUT = ("archive", "bufio", "regexp", "text", "unicode")
HELDOUT_BYTES = 40_000

# Every quantized Linear has rows of a multiple of 64 elements and a multiple of 32 rows: bitsandbytes 0.50's CPU inference
# path asserts so on a processor with AVX512-BF16, and this model should run wherever bitsandbytes does. The number of
# blocks of 64 is a multiple of 256 for q_proj and o_proj only, so the nested blocks end short in the others.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 448,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.6",
    "use_cache": True,
    "vocab_size": VOCAB,
}


def comments(path):
    """Yields the comment blocks of one Go file that read as prose: full lines only, no directives, no licence header."""
    block = []
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = f.read().split("\n")
    for line in lines + [""]:
        s = line.strip()
        if s.startswith("//") and not re.match(r"//(go:|line |export |\+build|lint:|sys|nolint)", s):
            block.append(s[2:].removeprefix(" ").replace("\t", "    ").rstrip())
            continue
        text = "\n".join(block).strip()
        block = []
        if len(text) < 60 or "Copyright" in text or "DO NOT EDIT" in text or not text.isascii():
            continue
        yield text


def corpus(goroot):
    """Returns (training text, held-out text), in path order, each block once."""
    src = os.path.join(goroot, "src")
    train, held, seen = [], [], set()
    for root, dirs, files in os.walk(src):
        dirs[:] = sorted(d for d in dirs if d not in ("vendor", "testdata"))
        package = os.path.relpath(root, src)
        for name in sorted(files):
            if not name.endswith(".go"):
                continue
            for text in comments(os.path.join(root, name)):
                if text in seen:
                    continue
                seen.add(text)
                if package.split(os.sep)[0] not in HELDOUT:
                    train.append(text)
                elif not name.endswith("_test.go"):
                    held.append(text)
    # every k-th block, so that each held-out package has its share
    step = math.ceil(sum(len(t) + 2 for t in held) / HELDOUT_BYTES)
    out = held[::step]
    return "\n\n".join(train) + "\n", "\n\n".join(out) + "\n"


def train_tokenizer(text):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(
        text.split("\n\n"),
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tok


def encode(tok, text):
    """Token ids of the blocks of text, each ended by </s>."""
    ids = []
    for e in tok.encode_batch(text.rstrip("\n").split("\n\n")):
        ids += e.ids + [1]
    return torch.tensor(ids)


def unigram_perplexity(train, held):
    counts = torch.bincount(train, minlength=VOCAB).double() + 1
    logp = (counts / counts.sum()).log()
    return math.exp(-logp[held].mean().item())


@torch.no_grad()
def perplexity(model, ids):
    model.eval()
    total, n = 0.0, 0
    for i in range(0, len(ids) - 1, CONTEXT):
        chunk = ids[i : i + CONTEXT + 1]
        logits = model(chunk[None, :-1]).logits[0].float()
        total += torch.nn.functional.cross_entropy(logits, chunk[1:], reduction="sum").item()
        n += len(chunk) - 1
    model.train()
    return math.exp(total / n)


def shards(state):
    """Splits by layer: embeddings and the first half, then the second half, final norm and head."""
    half = CONFIG["num_hidden_layers"] // 2
    first, second = {}, {}
    for name, w in state.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        early = int(layer[1]) < half if layer else name == "model.embed_tokens.weight"
        (first if early else second)[name] = w
    return [first, second]


def write(out, model, tok, held):
    def dump(name, value):
        with open(os.path.join(out, name), "w") as f:
            f.write(json.dumps(value, indent=2) + "\n")

    parts = shards({k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()})
    weight_map, size = {}, 0
    for i, part in enumerate(parts, 1):
        name = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, os.path.join(out, name), metadata={"format": "pt"})
        for k, v in part.items():
            weight_map[k] = name
            size += v.numel() * v.element_size()
    dump("model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))})
    dump("config.json", CONFIG)
    dump("generation_config.json", {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "transformers_version": "4.57.6"})
    tok.save(os.path.join(out, "tokenizer.json"), pretty=False)
    dump(
        "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "model_max_length": CONFIG["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    with open(os.path.join(out, "heldout.txt"), "w") as f:
        f.write(held)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--goroot", default="")
    p.add_argument("--out", default=here)
    p.add_argument("--minutes", type=float, default=0)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    goroot = args.goroot or subprocess.check_output(["go", "env", "GOROOT"], text=True).strip()
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)

    text, held_text = corpus(goroot)
    tok = train_tokenizer(text)
    train, held = encode(tok, text), encode(tok, held_text)
    print(f"training text {len(text)} bytes, {len(train)} tokens; held out {len(held_text)} bytes, {len(held)} tokens")
    print(f"unigram perplexity on the held-out text {unigram_perplexity(train, held):.1f}", flush=True)

    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k not in ("architectures", "torch_dtype", "transformers_version")}))
    print(f"{sum(x.numel() for x in model.parameters())} parameters")
    decay = [x for x in model.parameters() if x.ndim == 2]
    plain = [x for x in model.parameters() if x.ndim != 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=0, betas=(0.9, 0.95))
    start, step = time.monotonic(), 0
    while True:
        done = (time.monotonic() - start) / 60 / args.minutes if args.minutes else step / args.steps
        if done >= 1:
            break
        lr = 4e-3 * min(1, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for g in opt.param_groups:
            g["lr"] = lr
        at = torch.randint(0, len(train) - CONTEXT - 1, (BATCH,))
        batch = torch.stack([train[i : i + CONTEXT + 1] for i in at])
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} lr {lr:.2e} {time.monotonic() - start:.0f} s", flush=True)
    print(f"{step} steps of {BATCH} x {CONTEXT} tokens in {time.monotonic() - start:.0f} s")
    print(f"held-out perplexity, float32: {perplexity(model, held):.2f}")
    print(f"held-out perplexity, bfloat16: {perplexity(model.to(torch.bfloat16), held):.2f}")
    write(args.out, model, tok, held_text)


if __name__ == "__main__":
    main()
