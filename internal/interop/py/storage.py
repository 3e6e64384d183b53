"""Loads a checkpoint whose packed codes are labelled as floats, and copies them as a framework may that knows one NaN only.

A case: {"dir": the checkpoint}. The answer: the dtype of the codes, how many of their words are NaNs, how many packed weights there
are, and how many of them bitsandbytes decodes to the same values before and after the copy.
"""

import common
import torch

F = common.bnb.functional


def handle(case):
    model, keys = common.load("causal", case["dir"], dtype="auto")
    out = {"error": f"keys: {keys}" if any(keys.values()) else "", "nans": 0, "weights": 0, "same": 0}
    for linear in common.linear4bit(model).values():
        codes, state = linear.weight.data, linear.weight.quant_state
        copy = torch.where(torch.isnan(codes), torch.full_like(codes, torch.nan), codes)
        out["dtype"] = str(codes.dtype).removeprefix("torch.")
        out["nans"] += int(torch.isnan(codes).sum())
        out["weights"] += 1
        out["same"] += torch.equal(F.dequantize_4bit(codes, state), F.dequantize_4bit(copy, state))
    return out


if __name__ == "__main__":
    common.serve(handle)
