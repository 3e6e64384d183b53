"""Measures the perplexity of checkpoints on a text: exp of the mean negative log-likelihood per token, windows of 256.

A case: {"model": a directory; "text": a file}. The answer has the unigram perplexity of the text under its own token
frequencies too, the best that a model without context could do.
"""

import math

import common
import torch

WINDOW = 256


def tokens(tokenizer, text):
    """The text's blocks, each ended by the end-of-sequence token, as the model was trained."""
    ids = []
    for block in text.rstrip("\n").split("\n\n"):
        ids += tokenizer(block, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return torch.tensor(ids)


def handle(case):
    model, _ = common.load("causal", case["model"], dtype="auto")
    tokenizer = common.transformers.AutoTokenizer.from_pretrained(case["model"], local_files_only=True)
    with open(case["text"]) as f:
        ids = tokens(tokenizer, f.read())
    total, n = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(ids) - 1, WINDOW):
            chunk = ids[i : i + WINDOW + 1]
            logits = model(input_ids=chunk[None, :-1]).logits[0].float()
            total += torch.nn.functional.cross_entropy(logits, chunk[1:], reduction="sum").item()
            n += len(chunk) - 1
    p = torch.bincount(ids).double() / len(ids)
    p = p[p > 0]
    return {"error": "", "perplexity": math.exp(total / n), "tokens": n, "unigram": math.exp(-(p * p.log()).sum().item())}


if __name__ == "__main__":
    common.serve(handle)
