"""Breaks checkpoints at random and asks transformers whether it sees it.

A case: {"family": a key of families_models.FAMILIES; "source": a checkpoint of it; "out": directory; "seed", "count": numbers}. The
answer lists "defects": {"dir", "what", "seen"}. Each is a copy of the checkpoint with one tensor dropped, renamed, cut, emptied or
turned into integers, or with a layer too many; "seen" says that the report of loading has missing, unexpected or mismatched keys,
or that loading fails. Sidecars of a packed weight share its fate.
"""

import json
import os
import random
import re
import shutil

import common
import families_models as models
import torch
from safetensors.torch import load_file, save_file

SIDECAR = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$")
KINDS = ("drop", "rename", "cut", "empty", "retype", "layer")


def family_of(tensors, name):
    """The tensors that stand for one weight."""
    return [n for n in tensors if n == name or SIDECAR.search(n) and n.startswith(name + ".")]


def layers(tensors):
    """{path: highest index} of numbered lists."""
    out = {}
    for name in tensors:
        for m in re.finditer(r"(?:^|\.)(layers?|h|blocks?)\.(\d+)\.", name):
            path = name[: m.start(2)]
            out[path] = max(out.get(path, 0), int(m.group(2)))
    return out


def broken(tensors, kind, rng):
    """(what was done, the tensors), or None if the kind cannot be done here."""
    tensors = dict(tensors)
    plain = sorted(n for n in tensors if not SIDECAR.search(n))
    if kind == "layer":
        lists = layers(tensors)
        if not lists:
            return None
        path = rng.choice(sorted(lists))
        last, new = f"{path}{lists[path]}.", f"{path}{lists[path] + 1}."
        tensors |= {n.replace(last, new, 1): t.clone() for n, t in tensors.items() if n.startswith(last)}
        return f"layer {new}", tensors
    # of each kind of tensor as often
    kinds = sorted({re.sub(r"\d+", "#", n) for n in plain})
    pattern = rng.choice(kinds)
    name = rng.choice([n for n in plain if re.sub(r"\d+", "#", n) == pattern])
    packed = len(family_of(tensors, name)) > 1
    if kind == "drop":
        for n in family_of(tensors, name):
            del tensors[n]
    elif kind == "rename":
        head, _, leaf = name.rpartition(".")
        for n in family_of(tensors, name):
            tensors[f"{head}x.{leaf}{n[len(name):]}" if head else name + "x"] = tensors.pop(n)
    elif packed or not tensors[name].is_floating_point():
        return None
    elif kind == "cut":
        if tensors[name].ndim == 0 or tensors[name].shape[0] < 2:
            return None
        tensors[name] = tensors[name][:-1].clone()
    elif kind == "empty":
        tensors[name] = tensors[name].new_empty(0)
    elif kind == "retype":
        tensors[name] = torch.randint(-100, 100, tensors[name].shape, dtype=torch.int8)
    return f"{kind} {name}", tensors


def seen(family, path):
    """What transformers reports of the checkpoint; "" if nothing."""
    try:
        _, info = models.class_of(family).from_pretrained(path, output_loading_info=True, local_files_only=True)
    except Exception as e:
        return f"{type(e).__name__}: {e}".splitlines()[0][:200]
    bad = {k: sorted(map(str, v))[:2] for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return json.dumps(bad) if bad else ""


def handle(case):
    family, rng = case["family"], random.Random(f"{case['family']}{case['seed']}")
    sound = {}
    for name in sorted(os.listdir(case["source"])):
        if name.endswith(".safetensors"):
            sound |= load_file(os.path.join(case["source"], name))
    out = {"error": "", "sound": seen(family, case["source"]), "defects": []}
    tries = 0
    while len(out["defects"]) < case["count"] and tries < 10 * case["count"]:
        kind = KINDS[tries % len(KINDS)]
        tries += 1
        made = broken(sound, kind, rng)
        if made is None:
            continue
        what, tensors = made
        path = os.path.join(case["out"], str(len(out["defects"])))
        shutil.copytree(case["source"], path, ignore=shutil.ignore_patterns("*.safetensors*", "nf4kit.json"))
        save_file({n: t.contiguous() for n, t in tensors.items()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
        out["defects"].append({"dir": path, "what": what, "seen": seen(family, path)})
    return out


if __name__ == "__main__":
    common.serve(handle)
