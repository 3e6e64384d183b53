"""List the Linears whose weight transformers' modeling code reads itself, past their forward: packed, it is not what the code takes it for.

Usage: reads.py OUT.json [TYPE...]  for the installed version
       reads.py --join T5.json T4.json --out reads.txt    (either may be an older reads.txt, or NEW.json:reads.txt for some types)

The source of every modeling file is searched for self.NAME.weight where NAME is an nn.Linear of the class; every class of every
model type is built on the meta device, to tell where modules of these classes are and whether a null skip list quantizes them.
A line of reads.txt is TYPE VERSIONS KIND PATH...: VERSIONS of "5" and "4", KIND how the weight is read,

  use    taken for a matrix: by a product, a slice, a convolution, or nn.MultiheadAttention
  cast   activations are cast to its dtype, which is uint8
  train  as use, but in training alone
  kernel as use, but in CUDA kernels of another package alone

and PATH the end of a module path, with "#" for numbers; no other that is quantized has it.
"""

import ast
import collections
import glob
import json
import os
import re
import signal
import sys

import splice

# What the source does with a weight only when it is asked to.
RARE = {
    "BloomAttention", "BloomMLP",  # pretraining_tp above 1 with slow_but_exact
    "DisentangledSelfAttention",  # query_states, which no class here gives it
}

QUIET = re.compile(r"^(__init__|_?init_.*|_?tie_weights|[gs]et_(in|out)put_embeddings)$")


def parents_of(tree):
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def kind_of_read(node, parents):
    """use, cast or train, or None where the code looks before it reads."""
    cast = isinstance(parents[node], ast.Attribute) and parents[node].attr in ("dtype", "device", "shape")
    if cast and parents[node].attr != "dtype":
        return None
    test, kind = "", "cast" if cast else "use"
    statement = node
    while statement in parents and not isinstance(statement, ast.FunctionDef):
        above = parents[statement]
        if isinstance(above, ast.If):
            if statement is above.test:
                return None
            if "self.training" in ast.unparse(above.test) and statement in above.body:
                kind = "train"
            if re.search("_is_quantized|_pre_quantization_dtype", ast.unparse(above.test)):
                return None
            test += ast.unparse(above.test)
        statement = above
    if kind == "use" and statement.name == "cuda_kernels_forward":
        kind = "kernel"
    if cast and ("torch.uint8" in test or "is_floating_point" in test or "float32" in test):
        return None
    return kind


def reads_of(path):
    """{class: {attribute: kind}} of a modeling file."""
    with open(path) as f:
        tree = ast.parse(f.read())
    parents = parents_of(tree)
    out = collections.defaultdict(dict)
    for cls in [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name not in RARE]:
        linear = set()
        for n in ast.walk(cls):
            if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call) and isinstance(n.targets[0], ast.Attribute):
                if re.search(r"Linear$|Conv1D$", ast.unparse(n.value.func)):
                    linear.add(n.targets[0].attr)
        for fn in [n for n in cls.body if isinstance(n, ast.FunctionDef) and not QUIET.match(n.name)]:
            for n in ast.walk(fn):
                if not (isinstance(n, ast.Attribute) and n.attr == "weight" and isinstance(n.value, ast.Attribute) and n.value.attr in linear):
                    continue
                kind = kind_of_read(n, parents)
                order = ["use", "cast", "kernel", "train", None]
                old = out[cls.name].get(n.value.attr)
                if kind and order.index(kind) < order.index(old):
                    out[cls.name][n.value.attr] = kind
    return {c: a for c, a in out.items() if a}


def norm(name):
    return ".".join("#" if p.isdigit() else p for p in name.split("."))


def ends(found, others):
    """{end: kind}: of each path the last components, two or more, that are the end of no other path that is quantized."""
    out = {}
    for path, kind in found.items():
        parts = path.split(".")
        end = path
        for n in range(2, len(parts)):
            if re.search(r"_\d+$", parts[-n]):  # expert_0, one of a series
                n -= 1
            short = ".".join(parts[-n:])
            wrong = [p for p in (*others, *(q for q in found if found[q] != kind)) if ("." + p).endswith("." + short)]
            if parts[-n] != "#" and not wrong:
                end = short
                break
        out[end] = kind
    return out


def first_built(probe, cls, variants):
    """The class with the first of the configs that builds it."""
    for i, make in enumerate(variants):
        try:
            return probe.build(cls, make())
        except Exception:
            if i == len(variants) - 1:
                raise


def find(types):
    """{type: {path: kind}} of what a null skip list quantizes."""
    import probe
    import torch

    from check import replaced

    signal.signal(signal.SIGPROF, probe.on_alarm)
    probe.nn.Linear.reset_parameters = lambda self: None
    probe.LAYERS = 4
    root = os.path.dirname(probe.transformers.__file__)
    reads = {}
    for path in sorted(glob.glob(root + "/models/*/modeling_*.py")):
        for cls, attributes in reads_of(path).items():
            reads[os.path.basename(path), cls] = attributes
    out = {}
    for t in types or probe.model_types():
        found, others = {}, set()
        try:
            config_class = probe.configuration_auto.CONFIG_MAPPING[t]
            classes, _ = probe.classes_of(t, config_class)
            variants = [make for _, make in probe.config_variants(t, config_class)]
        except Exception:
            continue
        for _, cls in sorted(classes.items()):
            try:
                model = first_built(probe, cls, variants)
                places = {}
                for name, module in model.named_modules():
                    file = sys.modules[type(module).__module__].__file__ or ""
                    for attribute, kind in reads.get((os.path.basename(file), type(module).__name__), {}).items():
                        if hasattr(module, attribute):
                            places[f"{name}.{attribute}".lstrip(".")] = kind
                    if type(module) is torch.nn.MultiheadAttention:
                        places[name + ".out_proj"] = "use"
                if places:
                    _, quantized = replaced(model, None)
                    found |= {norm(p): k for p, k in places.items() if p in quantized}
                    others |= {norm(p) for p in quantized if p not in places}
            except Exception as e:
                print(t, cls.__name__, f"{type(e).__name__}: {str(e)[:100]}", file=sys.stderr)
        if found:
            out[t] = ends(found, others)
            print(t, out[t], file=sys.stderr, flush=True)
    return {"version": probe.transformers.__version__, "types": out}


def column(version, file):
    """What find() said under a version, or what a data file has of it."""
    if not file.endswith(".txt"):
        with open(file) as f:
            return json.load(f)
    types = {}
    for t, kind, *names in splice.rows(file, version):
        types.setdefault(t, {}).update(dict.fromkeys(names, kind))
    return {"version": splice.versions(file)["54".index(version)], "types": types}


def join(files, path):
    data = splice.columns(files, column)
    lines = []
    for t in sorted({t for d in data.values() for t in d["types"]}):
        by = collections.defaultdict(set)
        paths = {v: d["types"].get(t, {}) for v, d in data.items()}
        for p in sorted({p for d in paths.values() for p in d}):
            kinds = {v: d[p] for v, d in paths.items() if p in d}
            for kind in sorted(set(kinds.values())):
                by["".join(v for v in kinds if kinds[v] == kind), kind].add(p)
        lines += [f"{t} {versions} {kind} {' '.join(sorted(ps))}" for (versions, kind), ps in sorted(by.items())]
    with open(path, "w") as f:
        f.write(f"# Generated by gen/reads.py from transformers {data['5']['version']} and {data['4']['version']}; do not edit.\n")
        f.write("\n".join(lines) + "\n")


def main():
    if sys.argv[1] == "--join":
        join(sys.argv[2:4], sys.argv[5])
        return
    result = {**find(sys.argv[2:]), "asked": sys.argv[2:]}
    with open(sys.argv[1], "w") as f:
        json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
