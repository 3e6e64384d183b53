"""Writes checkpoints with save_pretrained after bitsandbytes quantized them, and says whether a version of transformers runs them.

A case with "source": {"family": a key of families_models.FAMILIES; "source", "out": directories; "dtype", "type", "double_quant"
as in compare.py; "shard": max_shard_size, "" for its default; "reference": a file}. The model is quantized in this process and
saved; then its output goes to the file. A case without: {"family", "out", "reference"}; the checkpoint is loaded and its output
compared with the file's. In both answers "fails" says what a forward pass raises, and "source_fails" that it raises on the
unquantized source too.
"""

import common
import families
import families_models as models
import torch


def run(family, model, out):
    try:
        return families.forward(family, model)
    except Exception as e:
        out["fails"] = families.failure(e)
        return None


def write(case):
    family, out = case["family"], {"error": ""}
    config = common.transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=case["type"], bnb_4bit_use_double_quant=case["double_quant"],
        bnb_4bit_compute_dtype=getattr(torch, case["dtype"]))
    model, _ = common.load(family, case["source"], dtype=getattr(torch, case["dtype"]), quantization_config=config)
    if not common.linear4bit(model):
        return {"error": "", "nothing": True}
    # Before anything is computed: on a processor with AVX512-BF16 the first forward pass rounds the scales to bfloat16 for good
    # (functional.py, _convert_weight_packed_for_cpu, 0.50.2), and what is saved after it is not what was quantized.
    model.save_pretrained(case["out"], **({"max_shard_size": case["shard"]} if case["shard"] else {}))
    y = run(family, model, out)
    if y is None:
        run_source = {}
        run(family, common.load(family, case["source"], dtype=getattr(torch, case["dtype"]))[0], run_source)
        out["source_fails"] = run_source.get("fails", "")
    torch.save(y, case["reference"])
    return out


def load(case):
    family, out = case["family"], {"error": ""}
    if models.class_of(family) is None:
        return {"error": "", "unloadable": "no class"}
    try:
        model, keys = common.load(family, case["out"], dtype="auto")
    except Exception as e:
        return {"error": "", "unloadable": families.failure(e)}
    out |= {"loading": keys, "stateless": families.stateless(model)}
    want, y = torch.load(case["reference"]), run(family, model, out)
    if y is not None and want is not None and y.shape == want.shape:
        out |= {"equal": torch.equal(y, want), "relative": common.relative(y.float(), want.float())}
    return out


def handle(case):
    torch.manual_seed(1)
    if models.class_of(case["family"]) is not None:
        common.AUTO[case["family"]] = models.class_of(case["family"])
    return write(case) if case.get("source") else load(case)


if __name__ == "__main__":
    common.serve(handle)
