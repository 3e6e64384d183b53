"""Join what facts.py found under one or more versions of transformers into the file that package complete reads.

Usage: facts_build.py --out FILE [--with OLD] VERSION=FILE.jsonl...     VERSION is "5" or "4"

Types of OLD that no FILE has stay as they are there.

Rows of a task model that its base model has under the prefix are shared, layouts that are equal to one before are left out.
"""

import argparse
import json
import re

KINDS = ("params", "saved", "also")


def cell(text):
    return text.replace(" ", "%20")


def row_fields(row):
    pattern, flags, dims, present, required, tied = row
    shape = "?" if dims is None else "[" + ",".join(dims) + "]"
    return [pattern, flags or "-", shape, cell(present or "?"), cell(required or "?")] + ([tied] if tied else [])


def layout_key(layout):
    return (tuple(sorted(layout["counts"].items())), tuple(sorted(tuple(row_fields(r)) for r in layout["rows"])))


def usable(facts):
    """The layouts of a class in order, without repetitions."""
    out, seen = [], set()
    for kind in KINDS:
        layout = facts["layouts"].get(kind)
        if layout is None or layout_key(layout) in seen:
            continue
        seen.add(layout_key(layout))
        out.append(layout)
    return out


def by_pattern(layout):
    out = {}
    for r in layout["rows"]:
        out.setdefault(r[0], []).append(r)
    return out


def shared(layout, base, prefix):
    """Rows of the layout beyond those of the base below the prefix, or None if that saves nothing. Where both have a tensor with
    the same conditions, the base's shape stands: more variants of it were asked."""
    have, inner = by_pattern(layout), {f"{prefix}.{p}": rows for p, rows in by_pattern(base).items()}
    if len(set(inner) & set(have)) < 0.6 * len(inner):
        return None
    rows = []
    for p, own in have.items():
        of_base = inner.get(p)
        if of_base is not None and [r[4] for r in own] == ["1"] * len(own) and all(r[4] == "1" for r in of_base):
            continue
        if of_base is not None and len(own) == len(of_base) and all(a[4] == b[4] and not a[5] and not b[5] for a, b in zip(own, of_base)):
            continue
        rows += own
    rows += [[p, "", "none", "0", "0", ""] for p in inner if p not in have]
    counts = {c: e for c, e in layout["counts"].items() if base["counts"].get(c.removeprefix(prefix + ".")) != e}
    return rows, counts


def write_layout(lines, layout, source=None):
    rows, counts = layout["rows"], layout["counts"]
    if source:
        name, (rows, counts) = source
        lines.append(f"layout from={name}")
    else:
        lines.append("layout")
    lines += [f"count {c} {e}" for c, e in sorted(counts.items())]
    for r in sorted(rows, key=lambda r: (r[0], r[3] or "")):
        lines.append(" ".join([r[0], "-", "none", "0", "0"] if r[2] == "none" else row_fields(r)))


def write_class(lines, version, name, facts, result, base):
    layouts = usable(facts)
    if not layouts:
        return
    head = f"class {name} in={version}"
    if facts["prefix"]:
        head += f" prefix={facts['prefix']}"
    if facts["base_prefix"] and facts["base_prefix"] != facts["prefix"]:
        head += f" base={facts['base_prefix']}"
    if name == (base or [None])[0]:
        head += " auto=base"
    elif name == result.get("causal"):
        head += " auto=causal"
    lines.append(head)
    if base and base[0] != name:  # fewer values are tried of the others
        facts["held"] = {**base[1].get("held", {}), **facts.get("held", {})}
        facts["optional"] = base[1].get("optional", [])
    text = json.dumps(layouts) + json.dumps(facts["defaults"])
    lines += [f"alias {a} {b}" for a, b in sorted(result.get("aliases", {}).items()) if b in text]
    lines += [f"nested {k} {t}" for k, t in sorted(result.get("nested", {}).items()) if t and k + "." in text]
    for leaf, (kind, value) in sorted(facts["defaults"].items()):
        lines.append(f"default {leaf} " + (f"={value}" if kind == "e" else cell(json.dumps(value, separators=(",", ":")))))
    lines += [f"held {p} {cell(json.dumps(v))}" + ("" if default else " ?") for p, (v, default) in sorted(facts.get("held", {}).items())]
    lines += [f"optional {k}" for k in facts.get("optional", [])]
    lines += [f"ignore {r}" for r in facts["ignore"] if " " not in r]
    for layout in layouts:
        source = None
        if base and facts["prefix"] and base[0] != name:
            for i, inner in enumerate(usable(base[1])):
                rest = shared(layout, inner, facts["prefix"])
                if rest is not None and (source is None or len(rest[0]) < len(source[1][0])):
                    source = (f"{base[0]}/{i}", rest)
        write_layout(lines, layout, source)


# A layer beyond the second that is written out in a name.
LAYERS = re.compile(r"^[^#]*?(?:^|\.)(?:layers?|h|blocks?)\.([2-9]|\d\d)\.")
# A condition on the length of a list.
LENGTH = re.compile(r"\.len:|nn:[\w.]+\.\d|:num_layers:")
SMALL = 4


def proven(facts):
    """Whether the number of layers was varied: names do not write it out, or a list in the config says how many there are."""
    for layout in facts["layouts"].values():
        bounded = [c for c, n in layout["counts"].items() if LENGTH.search(n)]
        for r in layout["rows"]:
            if LAYERS.match(r[0]) and not LENGTH.search(r[3] or "") and not any(r[0].startswith(c + ".") for c in bounded):
                return False
    return True


def careful(facts):
    """A constant may stand for a value that the variants did not vary, above all the length of a list in the config (mllama's nine
    aspect ratios, vipllava's five layers of features): one above SMALL is not known."""

    def fits(e):
        return all(int(n) <= SMALL for n in re.findall(r"(?<![\w.])\d+(?![\w.])", e))

    for layout in facts["layouts"].values():
        layout["counts"] = {c: e if fits(e) else "?" for c, e in layout["counts"].items()}
        for r in layout["rows"]:
            r[2] = r[2] and [d if d.startswith("?") or fits(d) else "?" for d in r[2]]
        unnumbered(layout)
    return facts


def numbers(dims):
    return {n for d in dims or [] if not d.startswith("?") for n in re.findall(r"(?<![\w.])\d+(?![\w.])", d) if n != "1"}


def unnumbered(layout):
    """A bias that only a few variants had may have a number for a value that these did not vary: its weight, which all had, says
    whether the number belongs there."""
    weights = {}
    for r in layout["rows"]:
        if r[0].endswith(".weight"):
            weights.setdefault(r[0].removesuffix("weight"), set()).update(numbers(r[2]))
    for r in layout["rows"]:
        of = weights.get(r[0].removesuffix("bias"))
        if of is not None and r[0].endswith(".bias") and r[3] != "1" and numbers(r[2]) - of:
            r[2] = ["?"] * len(r[2])


def bad_class(facts):
    """Whether a leaf's name cannot be told from an operator of expressions."""
    for layout in facts["layouts"].values():
        for r in layout["rows"]:
            if any("-" in re.sub(r"(^|[*/+\w.])-\d", "", d) and re.search(r"[a-z]-[a-z]", d) for d in r[2] or []) or " " in r[0]:
                return True
    return False


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    p.add_argument("--with", dest="old")
    p.add_argument("files", nargs="+")
    a = p.parse_args()
    old, blocks = {}, {}
    if a.old:
        with open(a.old) as f:
            for block in f.read().split("\ntype ")[1:]:
                name, _, rest = block.partition("\n")
                old[name] = rest.rstrip("\n").split("\n")
    for arg in a.files:
        version, path = arg.split("=")
        with open(path) as f:
            results = {}
            for line in f:
                r = json.loads(line)
                for name, facts in r["classes"].items():
                    results.setdefault(r["type"], (r, {}))[1][name] = facts
                results.setdefault(r["type"], (r, {}))
        for t, (result, classes) in results.items():
            base = result.get("base")
            base = base if isinstance(base, str) else (base or [None])[0]
            lines = blocks.setdefault(t, [])
            order = sorted(classes, key=lambda n: (n != base, n))
            for name in order:
                if not bad_class(classes[name]) and proven(classes[name]):
                    careful(classes[name])
                    write_class(lines, version, name, classes[name], result, (base, classes[base]) if base in classes else None)
    blocks = {**old, **{t: lines for t, lines in blocks.items() if lines}}
    with open(a.out, "w") as out:
        out.write("# Generated by gen/facts_build.py of package arch from what transformers says of its classes; do not edit.\n")
        for t in sorted(blocks):
            if blocks[t]:
                out.write(f"type {t}\n" + "\n".join(blocks[t]) + "\n")


if __name__ == "__main__":
    main()
