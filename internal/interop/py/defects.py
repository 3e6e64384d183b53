"""Breaks checkpoints at random, and varies sound ones, and asks transformers what it sees.

A case: {"family": a key of families_models.FAMILIES; "source": a checkpoint of it; "out": directory; "seed", "count": numbers;
"variants": whether sound variants are asked for, too}. The answer lists "defects" and "variants": {"dir", "what", "seen"}, "what" being the kind and the names. Each is a
copy of the checkpoint. In a defect one tensor is dropped, renamed, cut, emptied or turned into integers, a layer is lost or is too
many, or a packed weight has lost its sidecars; otherwise they share its fate. In a variant, names, heads, buffers or config.json are
as people publish them. "seen" says that the report of loading has missing, unexpected or mismatched keys, or that loading fails;
"sound" is the same of the checkpoint as it is. With "only_sound" nothing else is asked.
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
KINDS = ("drop", "rename", "cut", "empty", "retype", "layer", "lose", "bare")
auto = common.transformers.models.auto.modeling_auto
HEADS = (auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
         auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
         auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES)


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


def relayered(tensors, kind, rng):
    """A list of layers is one too long or too short."""
    lists = layers(tensors)
    if not lists:
        return None
    path = rng.choice(sorted(lists))
    last, new = f"{path}{lists[path]}.", f"{path}{lists[path] + 1}."
    if kind == "layer":
        tensors |= {new + n.removeprefix(last): t.clone() for n, t in tensors.items() if n.startswith(last)}
        return f"{kind} {new}", tensors
    return f"{kind} {last}", {n: t for n, t in tensors.items() if not n.startswith(last)}


def broken(tensors, kind, rng):
    """(what was done, the tensors), or None if the kind cannot be done here."""
    tensors = dict(tensors)
    if kind in ("layer", "lose"):
        return relayered(tensors, kind, rng)
    # of each kind of tensor as often
    plain = sorted(n for n in tensors if not SIDECAR.search(n))
    kinds = sorted({re.sub(r"\d+", "#", n) for n in plain})
    pattern = rng.choice(kinds)
    name = rng.choice([n for n in plain if re.sub(r"\d+", "#", n) == pattern])
    parts = family_of(tensors, name)
    if kind == "bare":
        if len(parts) == 1:
            return None
        tensors = {n: t for n, t in tensors.items() if n == name or n not in parts}
    elif kind == "drop":
        tensors = {n: t for n, t in tensors.items() if n not in parts}
    elif kind == "rename":
        head, _, leaf = name.rpartition(".")
        to = f"{head}x.{leaf}" if head else name + "x"
        for n in parts:
            tensors[to + n[len(name):]] = tensors.pop(n)
        return f"{kind} {name} {to}", tensors
    elif len(parts) > 1 or not tensors[name].is_floating_point():
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


def variants(family, config, tensors):
    """(what, class, config, tensors) of checkpoints as people publish them."""
    cls = models.class_of(family)
    prefix = cls.base_model_prefix
    head = {n: t for n, t in tensors.items() if not n.startswith(prefix + ".")} if prefix else {}
    yield "no architectures", cls, {k: v for k, v in config.items() if k != "architectures"}, tensors
    if prefix and len(head) < len(tensors):
        yield "without the prefix", cls, config, {n.removeprefix(prefix + "."): t for n, t in tensors.items()}
    yield "old names", cls, config, {re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", n)): t
                                     for n, t in tensors.items()}
    more = {}
    for path in layers(tensors):
        for attention in sorted({m.group(0) for n in tensors if (m := re.match(re.escape(path) + r"\d+\.(self_)?att\w*\.", n))}):
            if path.endswith("h."):
                more |= {attention + "masked_bias": torch.tensor(-1e4), attention + "bias": torch.ones(1, 1, 8, 8)}
            else:
                more |= {attention + "rotary_emb.inv_freq": torch.ones(8)}
    yield "buffers", cls, config, tensors | more
    yield "position_ids", cls, config, tensors | {n.replace("position_embeddings.weight", "position_ids"): torch.arange(len(t))[None]
                                                  for n, t in tensors.items() if n.endswith("position_embeddings.weight")}
    built = models.config_of(family)
    with torch.device("meta"):
        model = cls(built)
    for tied, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        if source in tensors and tied not in tensors:
            yield f"tied {tied}", cls, config, tensors | {tied: tensors[source].clone()}
    base = getattr(model, prefix, None) if prefix else None
    if isinstance(base, common.transformers.PreTrainedModel) and type(base) is not cls and type(base.config) is type(built):
        yield "the base model", type(base), {**config, "architectures": [type(base).__name__]}, {
            n.removeprefix(prefix + "."): t for n, t in tensors.items() if n.startswith(prefix + ".")}
    yield from heads(cls, built, config, tensors)


def heads(cls, built, config, tensors):
    """Checkpoints of the type's classes for other tasks."""
    for mapping in HEADS:
        other = getattr(common.transformers, str(mapping.get(built.model_type)), None)
        if other is None or other is cls:
            continue
        try:
            with torch.device("meta"):
                outline = other(built).state_dict()
        except Exception:
            continue
        own = {n: torch.zeros(t.shape, dtype=torch.bfloat16 if t.is_floating_point() else t.dtype) for n, t in outline.items()}
        for n, t in tensors.items():
            if n in own and own[n].shape == t.shape:
                own[n] = t
        yield other.__name__, other, {**config, "architectures": [other.__name__]}, own
        yield other.__name__ + ", no architectures", other, {k: v for k, v in config.items() if k != "architectures"}, own


def seen(cls, path):
    """What transformers reports of the checkpoint; "" if nothing."""
    try:
        _, info = cls.from_pretrained(path, output_loading_info=True, local_files_only=True)
    except Exception as e:
        return (f"{type(e).__name__}: {e}".splitlines() or ["failed"])[0][:200]
    bad = {k: sorted(map(str, v))[:2] for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return json.dumps(bad) if bad else ""


class Copies:
    """Numbered copies of a checkpoint with other tensors."""

    def __init__(self, case):
        self.case, self.n = case, 0

    def add(self, what, cls, tensors, config=None):
        path = os.path.join(self.case["out"], str(self.n))
        self.n += 1
        shutil.copytree(self.case["source"], path, ignore=shutil.ignore_patterns("*.safetensors*", "nf4kit.json"))
        if config is not None:
            with open(os.path.join(path, "config.json"), "w") as f:
                json.dump(config, f)
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
        return {"dir": path, "what": what, "seen": seen(cls, path)}


def handle(case):
    family, rng = case["family"], random.Random(f"{case['family']}{case['seed']}")
    cls = models.class_of(family)
    out = {"error": "", "sound": seen(cls, case["source"]), "defects": [], "variants": []}
    if case.get("only_sound"):
        return out
    sound, copies = {}, Copies(case)
    for name in sorted(os.listdir(case["source"])):
        if name.endswith(".safetensors"):
            sound |= load_file(os.path.join(case["source"], name))
    kinds = list(KINDS)
    tries = 0
    while len(out["defects"]) < case["count"] and tries < 10 * case["count"]:
        if tries % len(kinds) == 0:
            rng.shuffle(kinds)
        made = broken(sound, kinds[tries % len(kinds)], rng)
        tries += 1
        if made is not None:
            out["defects"].append(copies.add(made[0], cls, made[1]))
    if case.get("variants"):
        with open(os.path.join(case["source"], "config.json")) as f:
            config = json.load(f)
        for what, of, c, tensors in variants(family, config, sound):
            if c != config or tensors.keys() != sound.keys():
                out["variants"].append(copies.add(what, of, tensors, c))
    return out


if __name__ == "__main__":
    common.serve(handle)
