"""Measures the perplexity of checkpoints on a text: exp of the mean negative log-likelihood per token, windows of 256.

A case: {"model": a directory; "text": a file}. The answer has the unigram perplexity of the text under its own token
frequencies too, the best that a model without context could do; and "exact", what nf4kit eval is held to: perplexity and,
of all cases but the first, divergence from the first, in float32 on the same decoded weights, and the ids of the text.
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
    exact = divergence(model, ids)
    p = torch.bincount(ids).double() / len(ids)
    p = p[p > 0]
    return {"error": "", "perplexity": math.exp(total / n), "tokens": n, "unigram": math.exp(-(p * p.log()).sum().item()), "exact": exact}


reference = []  # log probabilities of the first case


@torch.no_grad()
def divergence(model, ids):
    """The figures of a model in float32, with 4-bit weights decoded to the dtype of their records."""
    for module in model.modules():
        if isinstance(module, common.bnb.nn.Linear4bit):
            module.compute_dtype = torch.float32
    for t in [*model.parameters(), *model.buffers()]:
        if t.is_floating_point():
            t.data = t.data.float()
    logs = []
    for i in range(0, len(ids) - 1, WINDOW):
        chunk = ids[i : min(i + WINDOW, len(ids) - 1)]
        logs.append(torch.log_softmax(model(input_ids=chunk[None]).logits[0], -1))
    q = torch.cat(logs)
    first = not reference
    if first:
        reference.append(q)
    p = reference[0]
    kl = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(p.split(1024), q.split(1024))])
    nll = -q.gather(1, ids[1:, None]).double()
    return {"ids": ids.tolist() if first else [], "perplexity": nll.mean().exp().item(), "kl_mean": kl.mean().item(), "kl_p99": kl.quantile(0.99).item(),
            "same_top1": (p.argmax(-1) == q.argmax(-1)).double().mean().item()}


if __name__ == "__main__":
    common.serve(handle)
