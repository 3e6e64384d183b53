"""Trains a LoRA on a converted checkpoint with PEFT, as QLoRA does, then merges it.

A case: {"model": a 4-bit directory; "text": a file to train on; "steps": number of steps}. The answer has the loss of each
step on one fixed batch.
"""

import common  # first: it chooses bitsandbytes' backend, and peft imports bitsandbytes
import peft
import torch


def handle(case):
    torch.manual_seed(1)
    model, _ = common.load("causal", case["model"], dtype="auto")
    tokenizer = common.transformers.AutoTokenizer.from_pretrained(case["model"], local_files_only=True)
    with open(case["text"]) as f:
        ids = torch.tensor(tokenizer(f.read())["input_ids"][: 4 * 128]).view(4, 128)
    frozen = {n: m.weight.data.clone() for n, m in common.linear4bit(model).items()}
    model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(case["steps"]):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    adapted = sorted({n.split(".lora_A")[0].removeprefix("base_model.model.") for n, _ in model.named_parameters() if ".lora_A" in n})
    base = {n.removeprefix("base_model.model.").removesuffix(".base_layer"): m for n, m in common.linear4bit(model).items()}
    moved = sorted(n for n, w in frozen.items() if not torch.equal(base[n].weight.data, w))
    merged = model.merge_and_unload()
    left = [n for n, _ in merged.named_parameters() if "lora_" in n]
    return {"error": "", "losses": losses, "adapted": adapted, "quantized": sorted(frozen), "base_moved": moved, "lora_left": left}


if __name__ == "__main__":
    common.serve(handle)
