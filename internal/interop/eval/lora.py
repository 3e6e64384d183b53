#!/usr/bin/env python3
"""Fine-tunes LoRA adapters (PEFT) on checkpoints of one model, and compares the loss on held-out text.

    python lora.py train START [START ...] --text FILE [options]
    python lora.py merge SOURCE QUANTIZED --nf4kit BINARY --text FILE [options]

train asks which start trains better. A START is a base, a 4-bit checkpoint or the model itself, or BASE+ADAPTER with an adapter to
begin from, as nf4kit lora init writes it. Each is trained with the same batches and the same schedule for each seed.

merge asks what of a training is left. An adapter is trained on QUANTIZED for each seed, and nf4kit merges it into the 16-bit SOURCE
and into what QUANTIZED decodes to, in 16 bits and quantized again.

Training is in float32 on the CPU: 4-bit weights are decoded by bitsandbytes once and frozen, which is what a 4-bit base computes
with in float32. The last tenth of the text is held out. Printed are the loss there by seed, the mean with its standard error, and the
difference from the first line, paired by seed, with its standard error. Adapters are on every Linear but the head.
"""

import argparse
import os
import subprocess
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import evaluate
import peft
import torch
import transformers


@torch.no_grad()
def loss_on(model, rows):
    model.eval()
    value = sum(model(input_ids=r, labels=r).loss.item() for r in rows.split(8)) / len(rows.split(8))
    model.train()
    return value


def begin(start, args, seed):
    base, _, adapter = start.partition("+")
    model, _ = evaluate.decoded(base)
    torch.manual_seed(seed)
    if adapter:
        return peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    return peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules="all-linear", task_type="CAUSAL_LM"))


def train(start, rows, args, seed):
    model = begin(start, args, seed)
    batches = torch.Generator().manual_seed(seed)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0)
    model.train()
    for step in range(args.steps):
        for g in opt.param_groups:
            g["lr"] = args.lr * min(1, (step + 1) / 10) * (1 - step / args.steps)
        batch = rows[torch.randint(len(rows), (args.batch,), generator=batches)]
        loss = model(input_ids=batch, labels=batch).loss
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
    return model


class Table:
    """Lines of losses by seed, and their differences from those of the first."""

    def __init__(self):
        self.first = None

    def line(self, name, losses):
        x = torch.tensor(losses, dtype=torch.float64)
        self.first = x if self.first is None else self.first
        d, n = x - self.first, len(x) ** 0.5
        print(f"{name}: {' '.join(f'{v:.5f}' for v in losses)}: {x.mean():.5f} se {x.std() / n:.5f}; from the first {d.mean():+.5f} se {d.std() / n:.5f}", flush=True)


def starts(args, rows, held):
    table = Table()
    for start in args.starts:
        before, after = [], []
        for seed in range(1, args.seeds + 1):
            if not before:
                before.append(loss_on(begin(start, args, seed), held))
            after.append(loss_on(train(start, rows, args, seed), held))
        table.line(f"{start} (before {before[0]:.5f})", after)


# Ways to merge an adapter that was trained on QUANTIZED: a name, and the arguments of lora merge but for the destination.
WAYS = {
    "16-bit source": ["{source}", "{adapter}"],
    "decoded": ["{quantized}", "{adapter}"],
    "decoded, requantized": ["{quantized}", "{adapter}", "--quantize"],
    "decoded, requantized, mse-signed": ["{quantized}", "{adapter}", "--quantize", "--scale", "mse-signed"],
    "16-bit source, quantized": ["{source}", "{adapter}", "--quantize"],
    "16-bit source, quantized, mse-signed": ["{source}", "{adapter}", "--quantize", "--scale", "mse-signed"],
}


def merges(args, rows, held):
    source, quantized = args.starts
    losses = {"adapter on the quantized base": []} | {w: [] for w in WAYS}
    before = [loss_on(evaluate.decoded(p)[0], held) for p in args.starts]
    print(f"before training: source {before[0]:.5f}, quantized {before[1]:.5f}", flush=True)
    for seed in range(1, args.seeds + 1):
        model = train(quantized, rows, args, seed)
        losses["adapter on the quantized base"].append(loss_on(model, held))
        with tempfile.TemporaryDirectory() as tmp:
            adapter = os.path.join(tmp, "adapter")
            model.save_pretrained(adapter)
            for i, (way, command) in enumerate(WAYS.items()):
                dst = os.path.join(tmp, str(i))
                words = [w.format(source=source, quantized=quantized, adapter=adapter) for w in command]
                subprocess.run([args.nf4kit, "lora", "merge", *words[:2], dst, *words[2:], "-q"], check=True, stderr=subprocess.DEVNULL)
                losses[way].append(loss_on(evaluate.decoded(dst)[0], held))
    table = Table()
    for way, list_ in losses.items():
        table.line(way, list_)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("mode", choices=["train", "merge"])
    p.add_argument("starts", nargs="+")
    p.add_argument("--text", required=True)
    p.add_argument("--nf4kit", default="nf4kit")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--window", type=int, default=256)
    p.add_argument("--heldout", type=int, default=64, help="windows of the held-out text")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--alpha", type=float, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    args = p.parse_args()
    if args.mode == "merge" and len(args.starts) != 2:
        p.error("merge: want SOURCE QUANTIZED")
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.starts[0].partition("+")[0])
    with open(args.text, encoding="utf-8") as f:
        ids = torch.tensor(tokenizer(f.read(), add_special_tokens=False, verbose=False)["input_ids"])
    rows = ids[: len(ids) // args.window * args.window].view(-1, args.window)
    cut = len(rows) - len(rows) // 10
    held = rows[cut:][: args.heldout]
    print(f"{cut} windows to train on, {len(held)} held out, of {args.window} tokens", flush=True)
    (starts if args.mode == "train" else merges)(args, rows[:cut], held)


if __name__ == "__main__":
    main()
