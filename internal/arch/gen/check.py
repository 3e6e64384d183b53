"""Compare package arch with the installed transformers, type by type.

For every class of every model type, in several variants of its config:
  1. the tensors that arch quantizes for this version alone are those whose
     module transformers replaces by a Linear4bit with a null skip list, as far
     as it can load them packed;
  2. with the skip list that arch writes for the default targets (towers and
     projectors kept), transformers replaces exactly the modules whose tensors
     arch quantizes;
  3. the tensors that arch says are held in float32 in a model of bfloat16 and in one of float16 are those that transformers'
     own loading puts into that dtype (not with --few and --modules).

Usage: check.py CLASSIFY [--few|--modules] [TYPE...]    CLASSIFY: the built gen/classify; --few: an eighth of the types (or those named),
                                              of each the base model and the class that its checkpoints
                                              are likely of, alone, with the default config and that
                                              class tied and untied
       check.py --record TYPE...      print facts for testdata/facts.json instead
Exit status 1 if anything differs that known.txt does not name.
"""

import copy
import gc
import json
import os
import re
import signal
import sys
import zlib

import probe
import torch
from ask import Arch
from probe import V5, nn

if V5:
    from transformers.core_model_loading import build_glob_alternation

HERE = os.path.dirname(os.path.abspath(__file__))
LAYERS = 3


def known_exceptions():
    """{(type, class, what)} of differences explained in known.txt. TYPE@5.23 is about that version alone."""
    out = set()
    with open(os.path.join(HERE, "known.txt")) as f:
        for line in f:
            fields = line.split("#")[0].split()
            if not fields:
                continue
            t, _, version = fields[0].partition("@")
            if (probe.transformers.__version__ + ".").startswith(version + "." if version else ""):
                out.add((t, *fields[1:3]))
    return out


def replaced(model, skip):
    import bitsandbytes as bnb
    import torch

    q = probe.Bnb4BitHfQuantizer(probe.BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip), pre_quantized=True)
    kw = {} if V5 else {"keep_in_fp32_modules": model._keep_in_fp32_modules, "config": model.config}
    q.preprocess_model(model=model, dtype=torch.bfloat16, device_map={"": "cpu"}, **kw)
    return q, {n for n, x in model.named_modules() if isinstance(x, bnb.nn.Linear4bit)}


def dropped(model):
    """Names that save_pretrained leaves out because they are tied."""
    if V5:
        return set(model.all_tied_weights_keys)
    return set(model._tied_weights_keys or []) if probe.tied_of(model.config) else set()


def finite(value):
    """JSON has no infinity; nothing here depends on it."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def facts(cls, config, model):
    """(config, names, {name: module} of what loads packed where its module is replaced, those replaced with a null list, {name: path in the model})."""
    saved, _, _ = probe.saved_names_v5(model) if V5 else probe.saved_names_v4(model)
    tied = dropped(model)
    state = set(model.state_dict())
    d = finite(config.to_dict())
    d["architectures"] = [cls.__name__]
    q, null = replaced(model, None)
    # Llama-4: experts that a quantized checkpoint holds one by one.
    saved += [n for n in model.state_dict() if n not in state and n.endswith(".weight") and "experts" in n]
    mapped = probe.map_names_v5(model, q, saved) if V5 else probe.map_names_v4(model, saved)
    names = [n for n in saved if mapped.get(n, [""])[0] not in tied]
    path = {n: m[0][: -len(".weight")] for n, m in mapped.items() if m[1] == "" and m[0].endswith(".weight")}
    return d, names, path, null, {n: m[0] for n, m in mapped.items()}


def record(types):
    """One line a class and state of tied embeddings; a "+" marks a quantized tensor."""
    rows = []
    for t in types:
        config_class = probe.configuration_auto.CONFIG_MAPPING[t]
        found, _ = probe.classes_of(t, config_class)
        keep = [c for c in sorted(found) if c.endswith(("Model", "ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration",
                                                        "ForSequenceClassification"))]
        for name in keep:
            for vname, make in list(probe.config_variants(t, config_class))[:2]:
                try:
                    config = make()
                    d, names, path, null, _ = facts(found[name], config, probe.build(found[name], copy.deepcopy(config)))
                except Exception as e:
                    print(t, name, vname, e, file=sys.stderr)
                    continue
                small = {k: d[k] for k in ("model_type", "architectures", "tie_word_embeddings") if k in d}
                for k, v in d.items():
                    if isinstance(v, dict) and "model_type" in v:
                        small[k] = {x: v[x] for x in ("model_type", "tie_word_embeddings") if x in v}
                marked, seen = [], set()
                for n in names:
                    mark = "+" if path.get(n) in null else ""
                    if n.endswith(".weight") and (mark, probe.norm(n)) not in seen:
                        seen.add((mark, probe.norm(n)))
                        marked.append(mark + n)
                rows.append({"config": small, "names": marked})
    print('{"transformers": ' + json.dumps(probe.transformers.__version__) + ', "facts": [')
    print(",\n".join(json.dumps(r) for r in rows))
    print("]}")


def held(model, state, quantized, places, dtype):
    """Names of what is in float32 in a model of the dtype that bitsandbytes quantizes; state has the dtypes of one built in bfloat16."""
    paths = {n: p for n, p in places.items() if p in state and p.removesuffix(".weight") not in quantized}
    if V5:
        plan = list(model._get_dtype_plan(getattr(torch, dtype)))
        search = build_glob_alternation(plan)[0].search if plan else lambda path: False
        return {n for n, p in paths.items() if search(p) or state[p] == torch.float32}
    listed = [rf"((^|\.){m}($|\.))" for m in [*(model._keep_in_fp32_modules or []), *(model._keep_in_fp32_modules_strict or [])]]
    return {n for n, p in paths.items() if listed and re.search("|".join(listed), p)}


def build(cls, config):
    """A model in bfloat16, as it is loaded."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return probe.build(cls, copy.deepcopy(config))
    finally:
        torch.set_default_dtype(torch.float32)


def check_variant(arch, cls, config, model, dtypes):
    state = {n: t.dtype for n, t in model.state_dict().items()}
    d, names, path, null, places = facts(cls, config, model)
    places = {n: places[n] for n in names if n in places}
    problems = []

    got = arch.ask(d, names, ["transformers5" if V5 else "transformers4"], True, as_bitsandbytes=True)
    if got.get("error"):
        return [("error", got["error"])]
    if got["class"] != cls.__name__:
        problems.append(("class", got["class"]))
    want = {n for n in names if path.get(n) in null}
    diff = want ^ set(got["quantized"])
    if diff:
        problems.append(("set", sorted(diff)))
    for dtype in dtypes:
        diff = held(model, state, null, places, dtype) ^ set(got["float32"].get(dtype, [])) - want
        if diff:
            problems.append((dtype, sorted(diff)))

    got = arch.ask(d, names, ["transformers5", "transformers4"], False)
    if got["bad"]:
        problems.append(("list", got["bad"]))
    expect = {path[n] for n in got["quantized"] if n in path}
    lost = [n for n in got["quantized"] if n not in path]
    if lost:
        problems.append(("unloadable", lost))
    _, listed = replaced(build(cls, config), got["list"])
    if listed != expect:
        problems.append(("skip", {"list": got["list"], "differ": sorted(listed ^ expect)}))
    return problems


HEADS = ["ForConditionalGeneration", "ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForPreTraining", "ForCTC"]


def few_classes(found, bases):
    """The base models of a type with the class that its checkpoints are likely of, and that class."""
    names = [n for suffix in HEADS for n in sorted(found) if n.endswith(suffix)] + [n for n in sorted(found) if n not in bases]
    main = names[0] if names else None
    return {n: c for n, c in found.items() if n in bases or n == main}, main


def check_type(arch, t, few, dtypes):
    config_class = probe.configuration_auto.CONFIG_MAPPING[t]
    found, _ = probe.classes_of(t, config_class)
    variants = list(probe.config_variants(t, config_class))
    main = None
    if few:
        base = probe.modeling_auto.MODEL_MAPPING_NAMES.get(t)
        found, main = few_classes(found, [base] if isinstance(base, str) else base or [])
    count = 0
    for name, cls in sorted(found.items()):
        seen = set()
        for vname, make in variants:
            if few and vname != "default" and (vname != "tie" or name != main):
                continue
            try:
                config = make()
                model = build(cls, config)
            except Exception:
                continue  # build.py's report names what cannot be built
            if not any(True for _ in model.parameters()):
                continue
            sig = "\n".join(sorted({probe.norm(n) for n in model.state_dict()}))
            if vname != "tie" and sig in seen:
                continue
            seen.add(sig)
            count += 1
            try:
                problems = check_variant(arch, cls, config, model, dtypes)
            except AttributeError as e:
                if "all_tied_weights_keys" in str(e):
                    continue  # transformers' own quantizer cannot take such a class
                problems = [("exception", f"AttributeError: {e}")]
            except Exception as e:
                problems = [("exception", f"{type(e).__name__}: {str(e)[:300]}")]
            for what, detail in problems:
                yield count, name, vname, what, detail
    yield count, None, None, None, None


def main():
    signal.signal(signal.SIGPROF, probe.on_alarm)
    # transformers compiles the same hundreds of patterns for every model, more than re remembers; nothing imported is garbage.
    re._MAXCACHE = 1 << 16
    gc.freeze()
    nn.Linear.reset_parameters = lambda self: None
    probe.LAYERS = LAYERS
    if sys.argv[1] == "--record":
        probe.LAYERS = 4
        record(sys.argv[2:])
        return
    arch = Arch(sys.argv[1])
    known = known_exceptions()
    few, modules = sys.argv[2:3] == ["--few"], sys.argv[2:3] == ["--modules"]
    dtypes = () if few or modules else ("bfloat16", "float16")
    types = sys.argv[3 if few or modules else 2:] or [t for t in probe.model_types() if not few or zlib.crc32(t.encode()) % 8 == 0]
    failed = total = 0
    for t in types:
        if (t, "*", "all") in known:
            continue
        if sys.stderr.isatty():
            print(t, end="\033[K\r", file=sys.stderr, flush=True)
        try:
            for count, cls, variant, what, detail in check_type(arch, t, few, dtypes):
                if cls is None:
                    total += count
                    continue
                names = {(t, cls, what), (t, "*", what)} | ({(t, "*", "float32")} if what in ("bfloat16", "float16") else set())
                mark = "known" if names & known else "DIFFERS"
                failed += mark == "DIFFERS"
                print(mark, t, cls, variant, what, json.dumps(detail)[:600], flush=True)
        except Exception as e:
            print("skipped", t, f"{type(e).__name__}: {str(e)[:200]}", flush=True)
    gc.unfreeze()
    print(f"transformers {probe.transformers.__version__}: {len(types)} types, {total} variants, {failed} differences", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
