"""Runs the Python that plan prints, on a real checkpoint, and counts what it made.

A case: {"snippet": the code}. The answer: trainable, the trained parameters; resident, the bytes of parameters and of the
constants that bitsandbytes keeps beside them; optim, the optimizer that TrainingArguments took.
"""

import os
import tempfile

import common


def handle(case):
    scope = {}
    code = case["snippet"].replace("TrainingArguments(output_dir=", "TrainingArguments(use_cpu=True, output_dir=")  # there is no GPU here
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as work:  # TrainingArguments may make its output directory
        os.chdir(work)
        try:
            exec(compile(code, "snippet", "exec"), scope)
        finally:
            os.chdir(here)
    model, args = scope["model"], scope["args"]
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
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "resident": sum(tensors.values()),
        "optim": str(args.optim.value if hasattr(args.optim, "value") else args.optim),
        "checkpointing": bool(args.gradient_checkpointing),
    }


common.serve(handle)
