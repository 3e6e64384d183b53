"""Turn what probe.py found into the embedded table (data/table.txt).

Usage: build.py --v5 A.jsonl[,...] [--v4 B.jsonl[,...]] --out table.txt [--report report.txt] [--into OLD.txt]

With --into the types of the files take the place of those in an older table, and the others stay.

Grammar of the table: see table.go.
"""

import argparse
import collections
import json
import re
import sys

import splice

LINEARS = "LSCK"


def load(paths):
    """{type: what probe.py found}; later files replace types of earlier ones."""
    out = {}
    for path in paths.split(","):
        with open(path) as f:
            for line in f:
                r = json.loads(line)
                out[r["type"]] = r
    return out


def norm(name):
    return ".".join("#" if p.isdigit() else p for p in name.split("."))


def digits(name):
    return [p for p in name.split(".") if p.isdigit()]


def strip_weight(name):
    return name[: -len(".weight")] if name.endswith(".weight") else name + "!"


class Rec:
    """One checkpoint tensor pattern of one class: what it is in each version."""

    __slots__ = ("name", "k5", "k4", "p5", "p4", "roles")

    def __init__(self, name, k5, k4, p5, p4, roles):
        self.name, self.k5, self.k4, self.p5, self.p4, self.roles = name, k5, k4, p5, p4, roles

    def key(self):
        return (self.name, self.k5, self.k4, self.p5, self.p4, self.roles)

    def sub(self, prefix):
        """The record without a path prefix, or None if it does not have it everywhere."""
        cut = lambda s: None if s is None else (s[len(prefix):] if s.startswith(prefix) else "\0")
        r = Rec(cut(self.name), self.k5, self.k4, cut(self.p5), cut(self.p4), self.roles)
        return None if "\0" in (r.name, r.p5, r.p4) else r


def report(*a):
    print(*a, file=REPORT)


REPORT = sys.stderr
VARIES = set()  # classes whose null skip list depends on settings other than tied embeddings


def interesting(name, kind, ndim):
    # The weight of a norm matters beside that of a Linear in one Sequential.
    return kind != "P" or ndim >= 2 or name.endswith(".weight")


def collect(variants, where):
    """{literal ckpt name: {(path, kind)}} and {path: {tie: quant}} over all variants of one class and version."""
    names = collections.defaultdict(set)
    quant = collections.defaultdict(dict)
    for vname, v in variants.items():
        flipped = vname == "tie"
        for p, row in v["rows"].items():
            kind, ndim, mod, q = row
            if v.get("patched") and kind == "P" and ndim >= 3 and "experts" in p:
                names[p].add((strip_weight(p), "X", mod))  # has to be split in a quantized checkpoint
            if kind in "LSC":
                old = quant[p].get(flipped)
                if old is not None and old != q:
                    report(where, "quantization of", p, "depends on", vname)
                    VARIES.add(where.rpartition("/")[0])
                if old is None or vname == "default":
                    quant[p][flipped] = q
        for n, (p, status) in v["map"].items():
            if p == "":
                names[n].add((strip_weight(n), "F", "F?"))
                continue
            row = v["rows"].get(p)
            if row is None:
                # thinned, or exists only after patching for pre-quantized loading
                if any(norm(p) == x for x in v.get("patched", ())):
                    kind = "L" if p.endswith(".weight") else "P"
                    if p.endswith(".weight"):
                        quant[p][flipped] = 1
                    names[n].add((strip_weight(p), kind, "patched"))
                continue
            kind, ndim, mod, q = row
            if not interesting(p, kind, ndim):
                continue
            if status.startswith("fused"):
                # Into an embedding or a convolution, it is no Linear in 5.x.
                kind = "F" if kind in "LSC" or re.search("expert", n) else "P"
                p = join_targets([p, *status.split()[1:]], f"{where} {n}")
            elif status == "sidecars" and kind in "LSC":
                kind = "F"
            names[n].add((strip_weight(p), kind, mod))
    # A converter's target that one variant of the config lacks says nothing
    # where another has it.
    told = {norm(n) for n, vs in names.items() if any(m != "F?" for _, _, m in vs)}
    names = {n: {v for v in vs if v[2] != "F?" or norm(n) not in told} for n, vs in names.items()}
    return {n: vs for n, vs in names.items() if vs}, quant


def join_targets(paths, where):
    """"a.q.weight", "a.k.weight" -> "a.q,k.weight"."""
    if len(paths) == 1 or not all(p.endswith(".weight") for p in paths):
        return paths[0]
    split = [p[: -len(".weight")].rpartition(".") for p in paths]
    if len({s[0] for s in split}) > 1:
        report(where, "is split over", paths)
        return paths[0]
    return split[0][0] + split[0][1] + ",".join(s[2] for s in split) + ".weight"


def patternize(names, where):
    """{ckpt pattern: (path pattern, kind, module class)}; digits are kept where two indexes differ."""
    groups = collections.defaultdict(list)
    for n, vals in names.items():
        groups[norm(strip_weight(n))].append((strip_weight(n), vals))
    out = {}
    for pattern, items in groups.items():
        for name_pattern, members in refine(pattern, items):
            # Several readings of one name come from variants of the config.
            by_shape = collections.defaultdict(list)
            for n, vs in members:
                for p, k, m in vs:
                    by_shape[norm(p), k].append((n, p, m))
            if len(by_shape) > 1:
                report(where, "ambiguous", name_pattern, sorted(by_shape))
            # Prefer the reading that is quantized wrongly nowhere.
            shape = sorted(by_shape, key=lambda x: ("PFXESCL".index(x[1]), x[0]))[0]
            found = by_shape[shape]
            path, name_pattern = path_pattern([(n, p) for n, p, _ in found], name_pattern, where)
            out[name_pattern] = (path, shape[1], sorted(m for _, _, m in found)[0])
    return out


def path_pattern(pairs, pattern, where):
    """The members' path with a "#" for every number that follows one of the name's holes, and the name's pattern with
    those numbers filled in that are constant and lost."""
    holes = [i for i, c in enumerate(pattern.split(".")) if c == "#"]
    first = pairs[0][1].split(".")
    result = list(first)
    used = []
    for i, part in enumerate(first):
        if not part.isdigit():
            continue
        follows = [h for h in holes if all(p.split(".")[i] == n.split(".")[h] for n, p in pairs)]
        after = [h for h in follows if not used or h > used[-1]]
        if after:
            used.append(after[0])
            result[i] = "#"
        elif not all(p.split(".")[i] == part for _, p in pairs):
            report(where, "indexes differ", pattern, pairs[:2])
    got = ".".join(result)
    parts = pattern.split(".")
    if "!" not in got:
        for h in holes:
            values = {n.split(".")[h] for n, _ in pairs}
            if h not in used and len(values) == 1 and any(u > h for u in used):
                parts[h] = values.pop()
        if used != [i for i, c in enumerate(parts) if c == "#"][: len(used)]:
            # The holes are filled in order, so numbers that are lost must come last.
            report(where, "numbers lost", pattern, got)
    return got, ".".join(parts)


def refine(pattern, items):
    def value(n, vs):
        return frozenset((norm(p), k) for p, k, _ in vs)

    if len({value(n, vs) for n, vs in items}) <= 1:
        return [(pattern, items)]
    parts = pattern.split(".")
    holes = [i for i, p in enumerate(parts) if p == "#"]
    for mask in [(h,) for h in reversed(holes)] + [tuple(holes)]:
        groups = collections.defaultdict(list)
        for n, vs in items:
            lit = n.split(".")
            groups[".".join(lit[i] if i in mask else p for i, p in enumerate(parts))].append((n, vs))
        if all(len({value(n, vs) for n, vs in g}) <= 1 for g in groups.values()) or len(mask) == len(holes):
            return sorted(groups.items())
    return [(pattern, items)]


def roles_of(name, k5, k4, m5, m4, ctx):
    roles = ""
    path = name.removesuffix("!")
    parts = path.split(".")
    leaf = parts[-1]
    parent = ".".join(parts[:-1])
    gated = any(norm(x).startswith(parent + ".experts") or norm(x).startswith(parent + ".expert") for x in ctx["all"]) if parent else False
    mods = f"{m5 or ''} {m4 or ''}"
    if (re.search(r"Router|TopK|MoEGate|MoeGate", mods) and not name.endswith("!")) or (
        leaf in ("gate", "router", "wg", "shared_expert_gate") and gated) or (
            len(parts) > 1 and parts[-2] in ("router", "gate") and re.search("expert|moe|router", path)):
        roles += "r"
    elif re.search(r"(^|\.)experts?(_#|_\d+)?(\.|$)", path) or re.search(r"Experts|ParallelExperts", mods):
        roles += "x"
    return roles


def classes(type5, type4):
    names = set()
    for t in (type5, type4):
        if t:
            names |= set(t["classes"])
    return sorted(names)


def build_class(t, cls, r5, r4):
    """(records, quant5, quant4, info) of a class."""
    v5 = r5["classes"].get(cls) if r5 else None
    v4 = r4["classes"].get(cls) if r4 else None
    where = f"{t}/{cls}"
    pats, quants = [], []
    for v, tag in ((v5, "5"), (v4, "4")):
        if v is None:
            pats.append({})
            quants.append({})
            continue
        names, quant = collect(v, f"{where}/{tag}")
        pats.append(patternize(names, f"{where}/{tag}"))
        quants.append(quant)
    # A pattern refined in one version only is refined in the other too.
    a, b = pats
    for x, y in ((a, b), (b, a)):
        for p in list(x):
            fine = [q for q in y if q != p and norm(q) == norm(p) and "#" in p]
            if fine and p not in y:
                for q in fine:
                    if q not in x:
                        lit = iter(zip(p.split("."), q.split(".")))
                        path, k, m = x[p]
                        x[q] = (fill(path, p, q), k, m)
                if all(norm(q) == norm(p) for q in fine) and any(d.isdigit() for q in fine for d in q.split(".")):
                    del x[p]
    ctx = {"all": set(a) | set(b)}
    written = {norm(strip_weight(n)) for x in (v5 or v4).values() for n in x["saved"]}
    recs = {}
    for name in sorted(set(a) | set(b)):
        p5, k5, m5 = a.get(name, (None, "-", None))
        p4, k4, m4 = b.get(name, (None, "-", None))
        if k5 in "-P" and k4 in "-P" and name.endswith("!") and not re.search("expert", name, re.I) and "Expert" not in f"{m5}{m4}":
            continue  # a bare parameter that no version takes for a module
        roles = roles_of(name, k5, k4, m5, m4, ctx)
        if k5 in "-P" and k4 in "-P" and not roles:
            continue  # convolutions and the like
        if written and norm(name) not in written:
            roles += "a"
        recs[name] = Rec(name, k5, k4, p5, p4, roles)
    return recs, quants


def fill(path, pattern, literal):
    """Put the literal's digits into the path's holes."""
    vals = [q for p, q in zip(pattern.split("."), literal.split(".")) if p == "#"]
    out = []
    for part in path.split("."):
        out.append(vals.pop(0) if part == "#" and vals else part)
    return ".".join(out)


def last_of(path, paths):
    """The path with a "$" for the number that is the highest among paths that differ in it alone."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if not part.isdigit():
            continue
        same = [int(x.split(".")[i]) for x in paths if all(a == b for j, (a, b) in enumerate(zip(x.split("."), parts)) if j != i)]
        if len(same) > 1 and int(part) == max(same):
            return ".".join(parts[:i] + ["$"] + parts[i + 1:])
    return path


def fp32_skips(variants, version, path):
    """Does a _keep_in_fp32_modules entry keep the module?"""
    for v in variants.values():
        for key in v["fp32"]:
            if version == 5:
                if re.match(rf"(?:{key})(?:(?<=\.)|(?=\.|$))", path) or path.endswith(key):
                    return True
            elif path.split(".")[-1] == key or path == key or key + "." in path:
                return True
    return False


def keeps(quant, variants, version, paths, where):
    """Split unquantized Linear paths into fp32 ones and null-list ones by tie state."""
    default_tied = None
    fp32, kept = set(), {False: set(), True: set()}
    patterns = collections.defaultdict(lambda: collections.defaultdict(set))
    for p, states in quant.items():
        path = p[: -len(".weight")]
        for flipped, q in states.items():
            patterns[norm(path)][flipped].add((path, q))
    for pattern, states in patterns.items():
        for flipped, items in states.items():
            off = sorted(p for p, q in items if not q)
            if not off:
                continue
            if all(fp32_skips(variants, version, p) for p in off) and len(off) == len(items):
                fp32.add(pattern)
                continue
            if len(off) == len(items):
                kept[flipped].add(pattern)
                continue
            for p in off:
                kept[flipped].add(last_of(p, [x for x, _ in items]))
            if len(off) > 8:
                report(where, "many literal keeps", off[:4])
    return fp32, kept


TOWERS = set("visual vision_tower vision_model vision_encoder vision audio_tower audio_model audio_encoder "
             "speech_encoder image_encoder vision_backbone image_tower sam_model high_res_vision_encoder".split())
PROJECTORS = set("multi_modal_projector mm_projector merger modality_projection connector vision_embedder embed_vision "
                 "embed_audio projector resampler aligner language_projection image_to_text_projection vision_projection "
                 "qformer visual_projection audio_projection vision_proj perceiver".split())


class Include:
    """A nested model: its records are those of another type under a prefix."""

    k5 = k4 = "@"

    def __init__(self, name, p5, p4, roles, key, type_, role):
        self.name, self.p5, self.p4, self.roles, self.target = name, p5, p4, roles, (key, type_, role)

    def key(self):
        return (self.name, "@", self.p5, self.p4, self.roles, self.target)

    def sub(self, prefix):
        def cut(s):
            if s is None:
                return None
            if s.startswith(prefix):
                return s[len(prefix):]
            return "" if s + "." == prefix else "\0"
        parts = [cut(x) for x in (self.name, self.p5, self.p4)]
        return None if "\0" in parts else Include(*parts, self.roles, *self.target)

    def line(self, indent):
        alt = alts(self.name, self.p5, self.p4)
        return f"{indent}@{self.roles} {self.name or '.'}{alt}: {' '.join(self.target)}"


def alts(name, p5, p4):
    """The two alternative paths of a line, or nothing if they are the name's."""
    if p5 in (None, name) and p4 in (None, name):
        return ""
    return " " + " ".join("=" if p in (None, name) else (p or ".") for p in (p5, p4))


def emit_rows(recs, indent=" "):
    """Group records by kind and parent; one line a group."""
    groups = collections.defaultdict(list)
    lines = []
    for r in recs:
        if isinstance(r, Include):
            lines.append((r.name, r.line(indent)))
            continue
        parent, _, leaf = r.name.rpartition(".")
        kk = r.k5 + r.k4 + r.roles
        split = [None if p is None else p.rpartition(".") for p in (r.p5, r.p4)]
        if all(x is None or x[2] == leaf for x in split):
            groups[(parent, kk, *(None if x is None else x[0] for x in split))].append(leaf)
        else:
            lines.append((r.name, f"{indent}{kk} {r.name}{alts(r.name, r.p5, r.p4)}"))
    for (parent, kk, p5, p4), leaves in groups.items():
        lines.append((parent + ".", f"{indent}{kk} {parent or '.'}{alts(parent, p5, p4)}: {' '.join(sorted(leaves))}"))
    return [line for _, line in sorted(lines)]


class Table:
    def __init__(self, t5, t4, old=()):
        self.aliases = self.find_aliases(t5, t4, old)
        self.t5 = {t: r for t, r in t5.items() if t not in self.aliases}
        self.t4 = {self.aliases.get(t, t): r for t, r in t4.items() if self.aliases.get(t, t) == t or self.aliases[t] not in t4}
        self.types = sorted(set(self.t5) | set(self.t4))
        self.recs, self.keep = {}, {}
        for t in self.types:
            self.build_type(t)

    @staticmethod
    def find_aliases(t5, t4, old):
        """{model_type: the one whose block it shares}: keys of the auto mapping whose config class has another name."""
        out = {}
        for mine, other in ((t5, {}), (t4, t5)):
            for key, r in mine.items():
                name = r.get("model_type", key)
                if name == key:
                    continue
                if name not in t5 and name not in t4 and name not in old:
                    out[name] = key
                elif key not in other:
                    out[key] = name
        return out

    def build_type(self, t):
        r5, r4 = self.t5.get(t), self.t4.get(t)
        for cls in classes(r5, r4):
            recs, quants = build_class(t, cls, r5, r4)
            keep = {}
            for version, r, quant in ((5, r5, quants[0]), (4, r4, quants[1])):
                v = r["classes"].get(cls) if r else None
                if not v:
                    continue
                fp32, kept = keeps(quant, v, version, None, f"{t}/{cls}/{version}")
                for rec in recs.values():
                    path = rec.p5 if version == 5 else rec.p4
                    if path is None:
                        continue
                    if norm(path) in fp32 and (rec.k5 if version == 5 else rec.k4) in "LSC":
                        if version == 5:
                            rec.k5 = "K"
                        else:
                            rec.k4 = "K"
                if version == 5:
                    # never converted whatever the list says
                    subclass = {norm(r.p5) for r in recs.values() if r.k5 == "S"}
                    kept = {s: {p for p in ps if p not in subclass} for s, ps in kept.items()}
                fused = {norm(r.p5 if version == 5 else r.p4) for r in recs.values()
                         if (r.k5 if version == 5 else r.k4) in "LSC"}
                kept = {s: {p for p in ps if norm(p.replace("$", "0")) in fused} for s, ps in kept.items()}
                tied = bool(r.get("tied"))
                states = {tied: kept[False]}
                states[not tied] = kept[True] if "tie" in v else kept[False]
                keep[version] = states
            self.recs[t, cls] = recs
            self.keep[t, cls] = keep

    def variants(self, t, cls):
        for r in (self.t5.get(t), self.t4.get(t)):
            if r and cls in r["classes"]:
                yield from r["classes"][cls].values()

    def first(self, t, cls, field):
        for v in self.variants(t, cls):
            return v[field]
        return None

    def info(self, t, field):
        for r in (self.t5.get(t), self.t4.get(t)):
            if r and r.get(field) is not None:
                return r[field]
        return None

    def generates(self, t):
        return any(v.get("generates") for r in (self.t5.get(t), self.t4.get(t)) if r
                   for c in r["classes"].values() for v in c.values())

    def mark_roles(self, t, cls, recs):
        if not self.generates(t):
            return
        texts, towers = set(), set()
        for v in self.variants(t, cls):
            texts.update(v["texts"])
            towers.update(v["towers"])
        composite = any(k in (self.info(t, "sub_configs") or []) for k in ("text_config", "llm_config", "thinker_config"))
        kept = set()
        for states in self.keep[t, cls].values():
            for ps in states.values():
                kept |= ps
        for r in recs.values():
            path = r.p5 or r.p4 or r.name
            if any(path == x or path.startswith(x + ".") for x in texts):
                continue
            parts = set(path.split("."))
            if any(path == x or path.startswith(x + ".") for x in towers) or (composite and parts & TOWERS):
                r.roles += "v"
            elif composite and r.k5 + r.k4 != "EE" and path not in kept and (
                    (texts and towers) or parts & PROJECTORS) and (set("LSCKF") & set(r.k5 + r.k4)):
                r.roles += "j"

    def includes(self, t, cls, recs):
        """Replace the records of nested models by Includes where they say the same."""
        subs = []
        for v in self.variants(t, cls):
            for s in v["subs"]:
                if s not in subs:
                    subs.append(s)
        out = dict(recs)
        taken = []
        for path, key, st, scls in subs:
            inner = self.recs.get((st, scls))
            if not inner or (st, scls) == (t, cls):
                continue
            role = scls
            if scls == self.base(st):
                role = "base"
            elif scls == self.info(st, "causal"):
                role = "causal"
            by5, by4 = {}, {}
            for s in inner.values():
                if s.p5 is not None:
                    by5.setdefault(s.p5, []).append(s)
                if s.p4 is not None:
                    by4.setdefault(s.p4, []).append(s)
            found = collections.Counter()
            for r in out.values():
                if isinstance(r, Include):
                    continue
                if r.p5 is not None and r.p5.startswith(path + "."):
                    cands = by5.get(r.p5[len(path) + 1:], [])
                    p5 = path
                elif r.p5 is None and r.p4 is not None and r.p4.startswith(path + "."):
                    cands, p5 = by4.get(r.p4[len(path) + 1:], []), None
                else:
                    continue
                for s in cands:
                    if not (r.name == s.name or r.name.endswith("." + s.name)):
                        continue
                    pc = r.name[: -len(s.name)].rstrip(".")
                    if r.p4 is None or s.p4 is None:
                        p4 = None
                    elif r.p4 == s.p4 or r.p4.endswith("." + s.p4):
                        p4 = r.p4[: -len(s.p4)].rstrip(".")
                    else:
                        continue
                    found[pc, p5, p4] += 1
            for (pc, p5, p4), n in found.most_common():
                if n < 3:
                    continue
                join = lambda p, x: None if x is None or p is None else (p + "." + x if p else x)
                covered, wrong = [], 0
                for name, r in out.items():
                    if isinstance(r, Include) or (pc and not name.startswith(pc + ".")):
                        continue
                    s = inner.get(name[len(pc) + 1:] if pc else name)
                    want5 = None if s is None else join(p5, s.p5)
                    want4 = None if s is None else join(p4, s.p4)
                    if s is not None and (r.k5, r.k4, r.p5, r.p4) == (s.k5, s.k4, want5, want4):
                        covered.append(name)
                    elif pc:
                        wrong += 1
                if len(covered) < 3 or wrong > len(covered) / 3:
                    continue
                roles = out[covered[0]].roles.replace("a", "")
                plain = [c for c in covered if "a" not in inner[c[len(pc) + 1:] if pc else c].roles]
                if all("a" in out[c].roles for c in plain):
                    roles += "a"
                for c in covered:
                    del out[c]
                roles = "".join(x for x in roles if x in "vja")
                out[pc + ".@" + st + str(p5)] = Include(pc, p5 if p5 is not None else p4, p4 if p4 is not None else p5, roles, key, st, role)
        return out

    def base(self, t):
        b = self.info(t, "base")
        if isinstance(b, list):
            b = b[0]
        return b if b and (t, b) in self.recs else None

    def blocks(self):
        """{type: the lines of its block}"""
        final = {}
        for (t, cls), recs in self.recs.items():
            self.mark_roles(t, cls, recs)
        for (t, cls), recs in self.recs.items():
            final[t, cls] = {r.key(): r for r in self.includes(t, cls, recs).values()}
        blocks, rows_of = {}, {}
        for t in self.types:
            names = classes(self.t5.get(t), self.t4.get(t))
            if not names:
                continue
            flags = "".join(f for f, src in (("5", self.t5), ("4", self.t4)) if src.get(t) and src[t]["classes"])
            tied = "".join(f for f, src in (("5", self.t5), ("4", self.t4)) if src.get(t) and src[t].get("tied"))
            lines = [f"type {t} {flags}" + (f" tied={tied}" if tied else "")]
            base = self.base(t)
            order = ([base] if base else []) + [n for n in names if n != base]
            for cls in order:
                lines += self.class_lines(t, cls, base, final, rows_of, flags)
            blocks[t] = lines
        return blocks

    def class_lines(self, t, cls, base, final, rows_of, flags):
        recs = final[t, cls]
        head = [f"class {cls}"]
        if cls == base:
            head.append("base")
        if cls == self.info(t, "causal"):
            head.append("causal")
        present = "".join(f for f, src in (("5", self.t5), ("4", self.t4)) if src.get(t) and cls in src[t]["classes"])
        if present != flags:
            head.append("in=" + present)
        rows = list(recs.values())
        if base and cls != base:
            prefix = self.first(t, cls, "prefix")
            got = self.factor(recs, final[t, base], prefix + "." if prefix else "")
            if got is not None:
                rows, missing = got
                head.append("prefix=" + (prefix or "."))
                if missing:
                    head.append("no=" + ",".join(sorted(missing)))
        if f"{t}/{cls}" in VARIES:
            head.append("varies")
        body = emit_rows(rows)
        same = rows_of.setdefault("\n".join(body), f"{t}/{cls}") if len(body) > 3 else None
        if same not in (None, f"{t}/{cls}"):
            head.append("rows=" + same)
            body = []
        fields = {}
        for version in (5, 4):
            states = self.keep[t, cls].get(version)
            if not states:
                continue
            both = states[True] & states[False]
            for tag, ps in (("", both), ("t", states[True] - both), ("u", states[False] - both)):
                if ps:
                    fields[f"keep{version}{tag}"] = ",".join(sorted(ps))
        if "keep5" in fields and fields["keep5"] == fields.get("keep4"):
            fields = {"keep": fields["keep5"], **{k: v for k, v in fields.items() if k not in ("keep5", "keep4")}}
        head += [f"{k}={v}" for k, v in fields.items()]
        return [" ".join(head)] + body

    @staticmethod
    def factor(recs, base, prefix):
        """(rows of the class that are not the base's, base rows it lacks), or None if it is not built on the base."""
        own, hit = [], set()
        for r in recs.values():
            s = r.sub(prefix)
            if s is not None and s.key() in base:
                hit.add(s.key())
            else:
                own.append(r)
        if len(hit) * 2 < len(base) or not hit:
            return None
        shadow = {r.name for r in own}
        missing = {b.name for k, b in base.items() if k not in hit and prefix + b.name not in shadow
                   and not isinstance(b, Include) and set("LSCKF") & set(b.k5 + b.k4)}
        if len(missing) > 12:
            return None
        return own, missing


def write(table, path, into):
    v5, v4 = ({r["version"] for r in found.values() if "version" in r} for found in (table.t5, table.t4))
    aliases, blocks = {f"alias {a} {t}" for a, t in table.aliases.items()}, table.blocks()
    if into:
        head, old = splice.read(into)
        aliases |= set(head[1:])
        blocks = splice.replace(old, blocks)
        # What stays is as older versions say it, and check.py finds that the newer one does too.
        before = splice.versions(into)
        v5 |= set(before[0].split())
        v4 |= set(before[1].split())
    with open(path, "w") as f:
        f.write(f"# Generated by gen/build.py from transformers {' '.join(sorted(v5))} and {' '.join(sorted(v4))}; do not edit.\n")
        f.writelines(line + "\n" for lines in (sorted(aliases), *blocks.values()) for line in lines)


def main():
    global REPORT
    ap = argparse.ArgumentParser()
    ap.add_argument("--v5", required=True)
    ap.add_argument("--v4")
    ap.add_argument("--out", required=True)
    ap.add_argument("--report")
    ap.add_argument("--into")
    a = ap.parse_args()
    if a.report:
        REPORT = open(a.report, "w")
    t5, t4 = load(a.v5), load(a.v4) if a.v4 else {}
    write(Table(t5, t4, splice.read(a.into)[1] if a.into else ()), a.out, a.into)


if __name__ == "__main__":
    main()
