"""Writes checkpoints with save_pretrained after bitsandbytes quantized them: what nf4kit has to be able to read.

A case: {"source", "out": directories; "auto", "dtype", "type", "double_quant" as in compare.py}.
"""

import common


def handle(case):
    model = common.quantize(case["auto"], case["source"], case["dtype"], case["type"], case["double_quant"])
    model.save_pretrained(case["out"])
    return {"error": "", "quantized": sorted(common.linear4bit(model))}


if __name__ == "__main__":
    common.serve(handle)
