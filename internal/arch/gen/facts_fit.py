"""Fit what facts.py saw: dimensions, counts and conditions as expressions in config values.

A leaf "LIST.len" is the length of a list, "LIST.of.VALUE" how many of its elements are VALUE, "LEAF.div.LEAF" how often the second value goes into the first. An expression is a sum of terms "COEFFICIENT*LEAF*LEAF/LEAF" or one such term in "ceil(...)" or "floor(...)". A condition is
"1", "0", or atoms joined by "&" or by "|", "!" negating one:

  t:LEAF            true, or a number above 0, or a list or text that is not empty
  nn:LEAF           not null
  eq:LEAF:VALUE     that text or number
  gt:LEAF:N         above N
  same:LEAF:LEAF    two numbers are equal
  i:H:N             the number in the H-th hole of the name (from 0) is N
  last:H            it is the last
  lt:H:LEAF         it is below the value
  rest:H:LEAF:LEAF  it is below the first value less the second
  mod:H:ADD:LEAF    it, plus ADD, is a multiple of the value, which is not 0
  off:H:LEAF:LEAF   modulo the first value it is the second
  at:H:LEAF:VALUE   the list has VALUE there
  cyc:H:LEAF:VALUE  the list, which begins again where it ends, has VALUE there
  in:H:LEAF         the list contains it
  nth:H:LEAF:VALUE:N  fewer than N elements of the list before it are VALUE; N is a number or a leaf
  turn:H:LEAF:VALUE:N:G  the number of those before it equals the number in hole G, modulo N
"""

import itertools
import re
from fractions import Fraction

import numpy as np

MAX_LITERAL = 5
ROUNDED = [Fraction(1), *[x for k in (2, 3, 4, 6, 8, 16, 32, 64, 128) for x in (Fraction(1, k), Fraction(k))]]
DEPTHS = ("num_hidden_layers", "num_layers")
DERIVED = re.compile(r"\.(of|div)\.")
HOLE = re.compile(r"^(\d+|expert_\d+)$")


def number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def whole(x):
    return isinstance(x, int) and not isinstance(x, bool)


def split_name(name):
    """The name with "#" for each number, and the numbers. "expert_7" is "expert_#"."""
    parts, idx = [], []
    for p in name.split("."):
        if HOLE.match(p):
            head, _, digits = p.rpartition("_")
            parts.append(head + "_#" if head else "#")
            idx.append(int(digits))
        else:
            parts.append(p)
    return tuple(parts), tuple(idx)


class Fitter:
    def __init__(self, values, changed, unvaried):
        self.values, self.changed = values, changed
        self.n = len(values)
        base = values[0]
        self.leaves = sorted(set().union(*values))
        self.varied = {p for p in self.leaves if any(v.get(p) != base.get(p) for v in values)}
        self.unvaried = [base[p] for p in unvaried if isinstance(base.get(p), int) and not isinstance(base.get(p), bool) and base[p] > 1]
        self.x = {}
        for p in self.leaves:
            self.x[p] = np.array([v[p] if number(v.get(p)) else np.nan for v in values], float)
        self.cache = {}
        self.known = {}  # expressions of dimensions that all variants have
        self.used = set()
        self.symbols = {}

    # expressions

    def expression(self, y, prefer=()):
        """y: {variant: number}; the expression, or None. prefer are those of a sibling tensor."""
        for e in prefer or ():
            vector = self.known.get(e)
            if vector is not None and len(y) < self.n and len(set(y.values())) > 1 and all(vector[v] == k for v, k in y.items()):
                return e
        key = tuple(sorted(y.items()))
        if key not in self.cache:
            e = self.find(y) if len(y) == self.n else None
            # Of a tensor that few variants have, the dimensions are those of others.
            for known, vector in [] if e or len(y) < 3 or len(set(y.values())) < 2 else self.known.items():
                if all(vector[v] == k for v, k in y.items()):
                    e = known
                    break
            self.cache[key] = e or self.find(y)
            if e and len(y) == self.n:
                self.known[e] = y
        e = self.cache[key]
        if e is not None:
            self.used.update(re.findall(r"[A-Za-z_][\w.\-]*", re.sub(r"ceil|floor", "", e)))
        return e

    def find(self, y):
        vs = sorted(y)
        t = np.array([y[v] for v in vs], float)
        if len(set(t)) == 1:
            k = int(t[0])
            if k > 4 and any(u % k == 0 or k % u == 0 for u in self.unvaried):
                return None
            # It may be the value of one that never changed while the tensor was there.
            if k > 4 and any(len(set(x[vs])) == 1 and x[0] > 4 and (k % x[0] == 0 or x[0] % k == 0) for x in self.x.values()):
                return None
            if len(vs) < 4 and k > 1:
                return None
            return str(k)
        base = vs[0]
        relevant = []
        for i, v in enumerate(vs):
            if t[i] != t[0] and len(self.changed[v]) == 1:
                relevant += [p for p in self.leaves if self.values[v].get(p) != self.values[base].get(p)]
        relevant = self.usable(relevant, vs)
        got = self.search(relevant[:6], vs, t)
        if got:
            return got
        others = self.usable([p for p in self.varied], vs)
        # effects that cancel when one value changes alone
        if len(relevant) <= 4:
            for p in others:
                if p not in relevant:
                    got = self.search(relevant + [p], vs, t, depth=1)
                    if got:
                        return got
        return None

    def usable(self, paths, vs):
        out = []
        for p in dict.fromkeys(paths):
            x = self.x[p][vs]
            if np.isnan(x).any() or len(set(x)) < 2:
                continue
            out.append(p)
        return sorted(out, key=lambda p: (p.count("."), len(p), p))

    def search(self, paths, vs, t, depth=3):
        if not paths:
            return None
        xs = [self.x[p][vs] for p in paths]
        exps = []
        choices = (0, 1, -1, 2, -2) if len(paths) <= 4 else (0, 1, -1)
        for e in itertools.product(choices, repeat=len(paths)):
            if not any(e) or sum(abs(a) for a in e) > 4:
                continue
            exps.append(e)
        exps.sort(key=lambda e: (sum(abs(a) for a in e), sum(a < 0 for a in e)))
        with np.errstate(all="ignore"):
            ms = np.array([np.prod([x**a for x, a in zip(xs, e)], axis=0) for e in exps])
        ok = np.isfinite(ms).all(axis=1)
        exps, ms = [e for e, k in zip(exps, ok) if k], ms[ok]
        if not len(exps):
            return None
        # one term
        with np.errstate(all="ignore"):
            c = t[0] / ms[:, 0]
            fit = np.isfinite(c) & (np.abs(ms * c[:, None] - t) <= 1e-9 * np.abs(t)).all(axis=1)
        for i in np.flatnonzero(fit):
            f = self.simple(c[i])
            if f is not None:
                return self.term(f, exps[i], paths)
        # a term and a constant
        j = int(np.argmax(np.abs(t - t[0])))
        with np.errstate(all="ignore"):
            a = (t[j] - t[0]) / (ms[:, j] - ms[:, 0])
            b = t[0] - a * ms[:, 0]
            fit = np.isfinite(a) & (np.abs(a[:, None] * ms + b[:, None] - t) <= 1e-6 + 1e-9 * np.abs(t)).all(axis=1)
        for i in np.flatnonzero(fit):
            f, g = self.simple(a[i]), self.simple(b[i])
            if f is not None and g is not None and len(set(ms[i])) > 2 and (abs(g) <= 64 or abs(g) in (128, 256, 512, 1024)):
                return self.term(f, exps[i], paths) + self.signed(g)
        # floor and ceil of one term
        for f in ROUNDED:
            z = float(f) * ms
            for i in np.flatnonzero((np.abs(z - t) < 1).all(axis=1)):
                r = np.round(z[i], 9)
                if (np.ceil(r) == t).all():
                    return f"ceil({self.term(f, exps[i], paths)})"
                if (np.floor(r) == t).all():
                    return f"floor({self.term(f, exps[i], paths)})"
        if depth < 2 or len(t) < 8:
            return None
        # sums of two, three, four terms of low degree
        low = [i for i, e in enumerate(exps) if sum(abs(a) for a in e) <= 3 and max(e) == 1 and sum(a < 0 for a in e) <= 1 and min(e) >= -1][:60]
        got = self.sums(low, 2, exps, ms, paths, t)
        if got:
            return got
        low = [i for i in low if min(exps[i]) >= 0 and sum(exps[i]) <= 2][:22]
        for k in (3, 4):
            if len(t) > k + 4:
                got = self.sums(low, k, exps, ms, paths, t)
                if got:
                    return got
        return None

    def sums(self, low, k, exps, ms, paths, t):
        one = np.ones_like(t)
        n = 0
        for combo in itertools.combinations([-1] + low, k):
            n += 1
            if n > 2000:
                return None
            a = np.array([one if i < 0 else ms[i] for i in combo]).T
            scale = np.abs(a).max(axis=0)
            try:
                c, _, rank, _ = np.linalg.lstsq(a / scale, t, rcond=None)
            except np.linalg.LinAlgError:
                continue
            if rank < k:
                continue
            c = c / scale
            if not np.allclose(a @ c, t, rtol=1e-9, atol=1e-5):
                continue
            fs = [self.simple(x, 64) for x in c]
            if any(f is None or f == 0 for f in fs):
                continue
            if not np.allclose(a @ np.array([float(f) for f in fs]), t, rtol=1e-12, atol=1e-6):
                continue
            out, const = "", ""
            for f, i in zip(fs, combo):
                if i < 0:
                    const = self.signed(f)
                else:
                    s = self.term(f, exps[i], paths)
                    out += s if s[0] == "-" or not out else "+" + s
            return out + const
        return None

    @staticmethod
    def simple(c, most=4096):
        if not np.isfinite(c):
            return None
        f = Fraction(float(c)).limit_denominator(256)
        if abs(float(f) - c) > 1e-9 * max(1, abs(c)) or f.numerator > 1 << 40 or abs(f.numerator) > most * f.denominator and f.denominator > 1:
            return None
        return f

    @staticmethod
    def signed(f):
        if f == 0:
            return ""
        return ("+" if f > 0 else "") + str(f)

    @staticmethod
    def term(f, e, paths):
        s = "" if f == 1 else str(f)
        for a, p in zip(e, paths):
            for _ in range(max(a, 0)):
                s += ("*" if s else "") + p
        if not s:
            s = "1"
        for a, p in zip(e, paths):
            for _ in range(max(-a, 0)):
                s += "/" + p
        return s

    # conditions

    def scalar_atoms(self, pairs=False):
        key = "pairs" if pairs else "scalars"
        if key in self.cache:
            return self.cache[key]
        out = []
        base = self.values[0]
        for p in sorted(self.varied, key=lambda p: (p.count("."), len(p), p)):
            if DERIVED.search(p):
                continue
            vals = [v.get(p) for v in self.values]
            if any(isinstance(x, bool) for x in vals):
                out.append((f"t:{p}", [bool(x) for x in vals]))
                continue
            if any(x is None for x in vals):
                out.append((f"nn:{p}", [x is not None for x in vals]))
            if any(isinstance(x, str) for x in vals):
                for s in sorted({x for x in vals if isinstance(x, str)}):
                    out.append((f"eq:{p}:{s}", [x == s for x in vals]))
            if any(number(x) for x in vals):
                out.append((f"gt:{p}:0", [number(x) and x > 0 for x in vals]))
                out.append((f"gt:{p}:1", [number(x) and x > 1 for x in vals]))
                for s in sorted({x for x in vals if isinstance(x, int) and not isinstance(x, bool) and 0 < x <= 4}):
                    out.append((f"eq:{p}:{s}", [x == s for x in vals]))
            if any(isinstance(x, list) for x in vals):
                out.append((f"t:{p}", [bool(x) for x in vals]))
            if p.endswith(".len"):
                for k in range(2, min(13, max(x or 0 for x in vals))):
                    out.append((f"gt:{p}:{k}", [(x or 0) > k for x in vals]))
        if pairs:
            nums = [p for p in sorted(self.leaves) if number(base.get(p)) and isinstance(base[p], int) and base[p] > 4]
            for a, b in itertools.combinations(nums, 2):
                if a in self.varied or b in self.varied:
                    same = [v.get(a) == v.get(b) for v in self.values]
                    if any(same):
                        out.append((f"same:{a}:{b}", same))
        out = [(a, m) for a, m in out if any(m) and not all(m)]
        self.cache[key] = out
        return out

    def index_atoms(self, samples, counts):
        """Atoms about the numbers in the holes. samples: [(variant, idx)], counts: per hole {variant: n}."""
        out = []
        if not samples or not samples[0][1]:
            return out
        for h in range(len(samples[0][1])):
            idx = [s[1][h] for s in samples]
            for k in (0, 1):
                out.append((f"i:{h}:{k}", [i == k for i in idx]))
            out.append((f"last:{h}", [i == counts[h][s[0]] - 1 for i, s in zip(idx, samples)]))
            nums, lists = [], []
            for p in self.leaves:
                if ".div." in p:
                    continue
                if all(number(v.get(p)) and v[p] == int(v[p]) for v in self.values) and self.values[0][p] <= 64 and p in self.varied:
                    nums.append(p)
                elif any(isinstance(v.get(p), list) for v in self.values):
                    lists.append(p)
            for p in nums:
                x = [self.values[s[0]][p] for s in samples]
                out.append((f"lt:{h}:{p}", [i < a for i, a in zip(idx, x)]))
                if p.rsplit(".", 1)[-1] in DEPTHS:
                    out += [(f"rest:{h}:{p}:{q}", [i < a - self.values[s[0]][q] for i, a, s in zip(idx, x, samples)]) for q in nums if "shared" in q]
                if min(x) >= 0 and max(x) > 0:
                    for add in (0, 1, -1):
                        out.append((f"mod:{h}:{add}:{p}", [a > 0 and (i + add) % a == 0 for i, a in zip(idx, x)]))
                    for q in nums if min(x) > 0 else ():
                        if q != p and ("off" in q or "start" in q):
                            out.append((f"off:{h}:{p}:{q}", [i % a == self.values[s[0]][q] for i, a, s in zip(idx, x, samples)]))
            for p in lists:
                x = [self.values[s[0]].get(p) or [] for s in samples]
                if any(isinstance(e, str) for l in x for e in l) or any(isinstance(e, bool) for l in x for e in l):
                    for val in sorted({str(e) for l in x for e in l if isinstance(e, (str, bool))}):
                        out.append((f"at:{h}:{p}:{val}", [i < len(l) and str(l[i]) == val for i, l in zip(idx, x)]))
                        if f"{p}.of.{val}" in self.values[0]:
                            out += self.rank_atoms(samples, h, p, val)
                        if any(0 < len(l) < n for n, l in ((counts[h][s[0]], l) for s, l in zip(samples, x))):
                            out.append((f"cyc:{h}:{p}:{val}", [len(l) > 0 and str(l[i % len(l)]) == val for i, l in zip(idx, x)]))
                else:
                    out.append((f"in:{h}:{p}", [i in l for i, l in zip(idx, x)]))
                    for val in sorted({e for l in x for e in l if isinstance(e, int)} & set(range(3))):
                        out.append((f"at:{h}:{p}:{val}", [i < len(l) and l[i] == val for i, l in zip(idx, x)]))
        return out

    def rank_atoms(self, samples, h, p, val):
        """Atoms about the rank of the H-th number among those of its kind."""
        ranks = [(self.values[s[0]].get(p) or [])[: s[1][h]].count(val) for s in samples]
        out = [(f"nth:{h}:{p}:{val}:1", [r < 1 for r in ranks])]
        for q in (q for q in self.leaves if q in self.varied and q.endswith("_blocks")):
            x = [self.values[s[0]][q] for s in samples]
            out.append((f"nth:{h}:{p}:{val}:{q}", [r < a for r, a in zip(ranks, x)]))
            for g in range(h + 1, len(samples[0][1])):
                out.append((f"turn:{h}:{p}:{val}:{q}:{g}", [r % a == s[1][g] % a for r, a, s in zip(ranks, x, samples)]))
        return out

    def condition(self, samples, label, counts):
        """A condition true exactly for the samples with a true label, or None."""
        if all(label):
            return "1"
        if not any(label):
            return "0"
        for pairs in (False, True):
            atoms = [(a, [m[s[0]] for s in samples]) for a, m in self.scalar_atoms(pairs)] + self.index_atoms(samples, counts)
            masks = []
            for a, m in atoms:
                bits = sum(1 << i for i, b in enumerate(m) if b)
                masks += [(a, bits), ("!" + a, ~bits & ((1 << len(samples)) - 1))]
            want = sum(1 << i for i, b in enumerate(label) if b)
            rest = ~want & ((1 << len(samples)) - 1)
            for sep, pos, neg, flip in (("&", want, rest, False), ("|", rest, want, True)):
                got = self.cover(masks, pos, neg, flip, len(samples))
                if got:
                    names = [a for a in got]
                    for a in names:
                        self.used.update(self.atom_leaves(a))
                    return sep.join(names)
        return None

    @staticmethod
    def atom_leaves(a):
        f = a.lstrip("!").split(":")
        op = f[0]
        if op in ("nth", "turn"):
            return {f[2], *(x for x in f[4:5] if not x.isdigit())}
        return {"t": f[1:2], "nn": f[1:2], "eq": f[1:2], "gt": f[1:2], "same": f[1:3], "i": [], "last": [], "lt": f[2:3],
                "mod": f[3:4], "off": f[2:4], "at": f[2:3], "cyc": f[2:3], "in": f[2:3], "rest": f[2:4]}[op]

    @staticmethod
    def cover(masks, pos, neg, flip, n):
        """For "&": atoms true on all of pos, whose falsehoods cover neg. For "|" (flip): atoms false on all of pos, whose
        truths cover neg."""
        full = (1 << n) - 1
        usable = []
        for a, m in masks:
            hits = m if flip else ~m & full
            if hits & pos:
                continue
            if hits & neg:
                usable.append((a, hits & neg))
        out, left = [], neg
        while left:
            best = max(usable, key=lambda u: (u[1] & left).bit_count(), default=None)
            if best is None or not best[1] & left or len(out) == 4:
                return None
            out.append(best[0])
            left &= ~best[1]
        return out

    # layouts

    def layout(self, states, tied):
        self.by_weight = {}
        holes, literal = self.containers(states)
        table = {}  # pattern -> {(variant, idx): (shape, required, float, buffer)}
        names = {}
        counts = {}  # container pattern -> {variant: n}
        for v, state in enumerate(states):
            for name, got in state.items():
                pattern, idx = self.place(name, literal)
                table.setdefault(pattern, {})[v, idx] = got
                if v == 0 or pattern not in names:
                    names[pattern] = name
                parts = pattern.split(".")
                h = 0
                for i, p in enumerate(parts):
                    if p == "#" or p.endswith("_#"):
                        c = counts.setdefault(".".join(parts[:i + 1]), {})
                        c[v] = max(c.get(v, 0), idx[h] + 1)
                        h += 1
        out = {"counts": {}, "rows": []}
        for c, y in sorted(counts.items()):
            e = self.expression(y)
            out["counts"][c] = (e or "?") + self.whether(y, c)
        tied_to = {}
        for v, t in enumerate(tied):
            for a, b in t.items():
                if a in states[v] and b in states[v]:
                    pa, pb = self.place(a, literal)[0], self.place(b, literal)[0]
                    tied_to[pa] = pb
        for pattern, got in sorted(table.items(), key=lambda t: (-len({s[0] for s in t[1]}), t[0].endswith(".bias"))):
            out["rows"] += self.rows(pattern, got, counts, tied_to.get(pattern))
        return out

    def whether(self, count, container):
        """" COND" for a list that some variants do not have at all, "" for one that all have. A list inside another is only
        looked at where it is."""
        if len(count) == self.n or container.count("#") > 1:
            return ""
        return " " + (self.condition([(v, ()) for v in range(self.n)], [v in count for v in range(self.n)], []) or "?")

    def place(self, name, literal):
        parts, idx = split_name(name)
        out, kept, h = [], [], 0
        for i, p in enumerate(parts):
            if p == "#" or p.endswith("_#"):
                if parts[:i + 1] in literal:
                    out.append(p.replace("#", str(idx[h])))
                else:
                    out.append(p)
                    kept.append(idx[h])
                h += 1
            else:
                out.append(p)
        return ".".join(out), tuple(kept)

    def containers(self, states):
        """Container prefixes whose set of numbers is always the same and small are literal."""
        sets = {}
        content = {}
        for v, state in enumerate(states):
            seen = {}
            for name, got in state.items():
                parts, idx = split_name(name)
                h = 0
                for i, p in enumerate(parts):
                    if p == "#" or p.endswith("_#"):
                        key = parts[:i + 1]
                        seen.setdefault((key, idx[:h]), set()).add(idx[h])
                        content.setdefault((v, key, idx[h]), set()).add((parts[i + 1:], tuple(got[0])))
                        h += 1
            for (key, _), s in seen.items():
                sets.setdefault(key, set()).add(frozenset(s))
        literal = set()
        for key, kinds in sets.items():
            if len(kinds) == 1:
                only = next(iter(kinds))
                alike = all(content.get((0, key, i)) == content.get((0, key, j)) for i in only for j in only if i < j)
                if len(only) <= MAX_LITERAL or not alike and len(only) <= 40:
                    literal.add(key)
            elif self.lengths(key, content):
                literal.add(key)
        return set(sets) - literal, literal

    def lengths(self, key, content):
        """Whether a list of numbers in the config has as many elements as the container members, which differ among themselves. One
        of words is their kinds, and conditions speak of it."""
        have = {}
        for v, k, i in content:
            if k == key:
                have[v] = max(have.get(v, 0), i + 1)
        if len(have) < self.n or max(have.values()) > 12:
            return False
        alike = all(content.get((0, key, i)) == content.get((0, key, 0)) for i in range(have[0]))
        numbered = [p for p in self.varied if p.endswith(".len") and all(number(x) for x in self.values[0].get(p.removesuffix(".len")) or [None])]
        return not alike and any(all(self.values[v].get(p) == n for v, n in have.items()) for p in numbered)

    def rows(self, pattern, got, counts, tied):
        parts = pattern.split(".")
        cs = [counts[".".join(parts[:i + 1])] for i, p in enumerate(parts) if p == "#" or p.endswith("_#")]
        samples = []
        for v in range(self.n):
            if all(v in c for c in cs):
                samples += [(v, idx) for idx in itertools.product(*[range(c[v]) for c in cs])]
        if len(samples) > 4000:
            keep = [s for s in samples if s in got]
            step = len(samples) // 3000 + 1
            samples = samples[::step] + keep[:: len(keep) // 1000 + 1]
            samples = list(dict.fromkeys(samples))
        presents = self.either(samples, [s in got for s in samples], cs)
        have = [s for s in samples if s in got]
        required = self.condition(have, [got[s][1] for s in have], cs)
        flags = ("" if all(g[2] for g in got.values()) else "i") + ("b" if any(g[3] for g in got.values()) else "")
        if tied and all(got[s][1] for s in have):
            tied = None
        out = []
        self.prefer = self.by_weight.get(pattern.removesuffix(".bias")) if pattern.endswith(".bias") else ()
        for cond, dims in self.shapes(have, got, cs):
            if pattern.endswith(".weight") and dims:
                self.by_weight.setdefault(pattern.removesuffix(".weight"), dims)
            out += [[pattern, flags, dims, self.both(present, cond), required or "?", tied or ""] for present in presents]
        return out

    def either(self, samples, label, counts):
        """Conditions of which one is true exactly for the samples with a true label; [None] if none are found. Two are those with an
        atom and without it, where one of these sides is all true, or all false."""
        one = self.condition(samples, label, counts)
        if one is not None:
            return [one]
        for a, m in self.index_atoms(samples, counts) + [(a, [m[s[0]] for s in samples]) for a, m in self.scalar_atoms()]:
            for side, here, there in ((True, a, "!" + a), (False, "!" + a, a)):
                pure = {k for k, b in zip(label, m) if b == side}
                rest = [(s, k) for s, k, b in zip(samples, label, m) if b != side]
                if len(pure) != 1 or not rest:
                    continue
                other = self.condition([s for s, _ in rest], [k for _, k in rest], counts)
                if other is None:
                    continue
                self.used.update(self.atom_leaves(a))
                return [there + "&" + c for c in self.apart(other)] + ([here] if pure == {True} else [])
        return [None]

    @staticmethod
    def apart(condition):
        """Conditions without "|" of which one is true where the condition is."""
        out, before = [], ""
        for part in condition.split("|"):
            out.append(before + part)
            before += (part[1:] if part[0] == "!" else "!" + part) + "&"
        return out

    @staticmethod
    def both(a, b):
        if a is None:
            return "?"
        if b is None:
            return a
        return b if a == "1" else None if "|" in a else a + "&" + b

    def dims(self, have, got):
        """Expressions of the dimensions, or None if the shape depends on the index or an expression is not found. """
        by = {}
        for s in have:
            if by.setdefault(s[0], got[s][0]) != got[s][0]:
                return None, False
        ranks = {len(x) for x in by.values()}
        if len(ranks) != 1:
            return None, False
        out = []
        for d in range(ranks.pop()):
            out.append(self.expression({v: x[d] for v, x in by.items()}, self.prefer))
        return out, all(e is not None for e in out)

    def shapes(self, have, got, cs):
        dims, ok = self.dims(have, got)
        if ok:
            return [(None, dims)]
        found = self.split(have, got, cs, 2)
        if found:
            return found
        if dims is None:
            return [(None, self.uneven(have, got))]
        by = {s[0]: got[s][0] for s in have}
        return [(None, [e if e is not None else self.symbol({v: x[d] for v, x in by.items()}) for d, e in enumerate(dims)])]

    def uneven(self, have, got):
        """The dimensions that are the same for all indices; "?*" for the others. None if their number is not the same."""
        if len({len(got[s][0]) for s in have}) != 1:
            return None
        out = []
        for d in range(len(got[have[0]][0])):
            y = {}
            same = all(y.setdefault(s[0], got[s][0][d]) == got[s][0][d] for s in have)
            out.append(self.expression(y) or self.symbol(y) if same else "?*")
        return out

    def split(self, have, got, cs, depth):
        """[(condition, dimensions)] by one atom, or by one and another of those for which it does not hold or does; None if there are none."""
        atoms = self.index_atoms(have, cs) + [(a, [m[s[0]] for s in have]) for a, m in self.scalar_atoms()]
        halves = []
        for a, m in atoms:
            yes, no = [s for s, b in zip(have, m) if b], [s for s, b in zip(have, m) if not b]
            if len({s[0] for s in yes}) < 4 or len({s[0] for s in no}) < 4:
                continue
            d1, ok1 = self.dims(yes, got)
            d2, ok2 = self.dims(no, got)
            if ok1 and ok2:
                self.used.update(self.atom_leaves(a))
                return [(a, d1), ("!" + a, d2)]
            if ok1:
                halves.append((a, d1, "!" + a, no))
            elif ok2:
                halves.append(("!" + a, d2, a, yes))
        for a, d, other, rest in halves if depth > 1 else ():
            found = self.split(rest, got, cs, depth - 1)
            if found:
                self.used.update(self.atom_leaves(a))
                return [(a, d)] + [(other + "&" + b, e) for b, e in found]
        return None

    def symbol(self, y):
        key = tuple(sorted(y.items()))
        if len(set(y.values())) < 2:
            return "?"
        return self.symbols.setdefault(key, f"?{len(self.symbols)}")

    def defaults(self, real=()):
        """What a leaf that config.json does not have stands for: {leaf: ["v", value] or ["e", expression]}."""
        out, todo, done = {}, sorted(self.used), set()
        while todo:
            p = todo.pop()
            if p in done:
                continue
            done.add(p)
            if ".of." in p:
                continue
            if ".div." in p:
                todo += p.split(".div.")
                continue
            if p in real:
                out[p] = ["v", real[p]]
                continue
            y = {v: self.values[v][p] for v in range(self.n) if p not in self.changed[v] and p in self.values[v]}
            if not y:
                continue
            first = next(iter(y.values()))
            if all(x == first and type(x) is type(first) for x in y.values()):
                if not isinstance(first, list) or len(first) == 0:
                    out[p] = ["v", first]
                elif not any(isinstance(x, str) for x in first):
                    out[p] = ["v", first]
                continue
            if all(number(x) for x in y.values()):
                x, self.x[p] = self.x[p], np.full(self.n, np.nan)
                self.cache.pop(tuple(sorted(y.items())), None)
                before = set(self.used)
                e = self.expression(y)
                self.cache.pop(tuple(sorted(y.items())), None)
                self.x[p] = x
                if e is not None and not re.search(r"(^|[*+/(\-])" + re.escape(p) + r"($|[*+/)\-])", e):
                    out[p] = ["e", e]
                    todo += sorted(self.used - before - done)
        return out
