"""Runs the Python that plan prints, on a real checkpoint, and counts what it made.

A case: {"snippet": the code, "train": whether to run it to its end}. The answer: trainable, the trained parameters;
resident, the bytes of parameters and of the constants that bitsandbytes keeps beside them; steps, how many times the
optimizer was asked to step. There is no GPU here: the script runs on the CPU, on eight sequences of eight tokens.
"""

import os
import tempfile

import common
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

SPLIT = "data = ..."


def resident(model):
    tensors = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    for m in model.modules():
        state = getattr(getattr(m, "weight", None), "quant_state", None)
        if state is None:
            continue
        kept = [state.absmax, state.code, state.offset]
        if state.state2 is not None:
            kept += [state.state2.absmax, state.state2.code]
        for t in kept:
            if t is not None:
                # the code tables are one object here and one per weight on a GPU, where from_prequantized and
                # quantize_4bit make each its own
                tensors[(id(state), id(t))] = t.numel() * t.element_size()
    return sum(tensors.values())


def handle(case):
    code = case["snippet"].replace('device_map="cuda"', 'device_map="cpu"').replace("TrainingArguments(", "TrainingArguments(use_cpu=True, max_steps=2, report_to=\"none\", save_strategy=\"no\", disable_tqdm=True, ")
    set_up, run = code.split(SPLIT)
    scope = {}
    steps = [0]
    with tempfile.TemporaryDirectory() as work:  # TrainingArguments may make its output directory
        here = os.getcwd()
        os.chdir(work)
        try:
            exec(compile(set_up, "snippet", "exec"), scope)
            model = scope["model"]
            answer = {"resident": resident(model)}
            ids = torch.arange(8)
            scope["data"] = [{"input_ids": ids + i, "labels": ids + i, "attention_mask": torch.ones_like(ids)} for i in range(8)]
            if not case["train"]:
                run = run.replace("trainer.train()", "pass")
            hook = register_optimizer_step_post_hook(lambda *a: steps.__setitem__(0, steps[0] + 1))
            exec(compile("_ = ..." + run, "snippet", "exec"), scope)
            hook.remove()
        finally:
            os.chdir(here)
    answer["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return answer | {"steps": steps[0]}


common.serve(handle)
