"""Ask the installed transformers which tensors each class has, and in which shapes, as functions of config.json.

Runs under transformers 5.x and 4.57; prints one JSON object a model type. Every class is built on the meta device in many
variants of its config: each number changed alone, each boolean flipped, settings of probe.py, and random combinations.
Every dimension, every number of layers and every condition under which a tensor exists is then a vector over the variants,
and the simplest expression in the config's values that equals it everywhere is recorded; see facts_fit.py. What no expression
fits is recorded as unknown ("?").

Usage: facts.py TYPE... | - | --list
"""

import copy
import inspect
import itertools
import json
import random
import re
import signal
import sys
import time

import configs
import facts_fit as fit
import probe
import torch
import torch.nn as nn
from probe import V5, transformers

LAYERS = 4
SECONDS_PER_CLASS = 40
SECONDS_PER_TYPE = 150
RANDOM = 14
SMALL = 4
# With --main, of the classes only those that most checkpoints have.
MAIN = re.compile(r"(For(CausalLM|ConditionalGeneration|MaskedLM|PreTraining|SequenceClassification|ImageClassification|CTC|"
                  r"TokenClassification|ObjectDetection)|LMHeadModel|MTModel|Model)$")
ONLY_MAIN = False
# Values that no tensor depends on.
IGNORED = re.compile(
    r"(^|\.)(id2label|label2id|architectures|transformers_version|_name_or_path|dtype|torch_dtype|task_specific_params|"
    r"rope_\w+|per_layer_config|\w*_token_ids?|\w*_token_index|\w*_prob|\w*dropout\w*|\w*_eps|\w*epsilon|initializer_\w+|\w*_std|\w*temperature|"
    r"vocabulary_map|suppress_tokens|begin_suppress_tokens|use_cache|return_dict|output_\w*attentions|output_hidden_states|"
    r"problem_type|chunk_size_feed_forward|is_encoder_decoder|_attn_implementation\w*|gradient_checkpointing|model_type|"
    r"pretraining_tp|max_length|min_length|num_beams|router_aux_loss_coef|bos_token|eos_token)(\.|$)")


def flatten(d, prefix=""):
    """Leaves of a config's dict by dotted path; lists of numbers also by element."""
    out = {}
    for k, v in d.items():
        path = prefix + str(k)
        if IGNORED.search(path):
            continue
        if isinstance(v, dict):
            if len(v) <= 120:
                out.update(flatten(v, path + "."))
        elif isinstance(v, (list, tuple)):
            v = list(v)
            out[path] = v
            if v and all(isinstance(x, (str, int)) for x in v):
                out[path + ".len"] = len(v)
            if len(v) <= 8:
                for i, x in enumerate(v):
                    if isinstance(x, int) and not isinstance(x, bool):
                        out[f"{path}.{i}"] = x
        elif v is None or isinstance(v, (bool, int, float, str)):
            out[path] = v
    return out


def taken_of(config):
    """{path of a value that a config class, or that of a nested config, takes and does not keep: its name in per_layer_config}"""
    nested = {k: v for k, v in vars(config).items() if isinstance(v, transformers.PretrainedConfig)}
    out = dict(configs.FACTS_TAKEN.get(config.model_type, {}))
    return out | {f"{k}.{n}": of for k, v in nested.items() for n, of in configs.FACTS_TAKEN.get(v.model_type, {}).items()}


# The sides of an image, which patches divide.
IMAGE = re.compile(r"((?:\w+\.)*)image_size((?:\.\d)?)")


def leaves(config, extras=()):
    d = config.to_dict()
    out = flatten(d)
    for path in extras:
        at = config
        for part in path.split("."):
            try:
                at = getattr(at, part, None)
            except Exception:  # Gemma 4's head_dim is one of each layer
                at = None
        out.setdefault(path, at if isinstance(at, (bool, int, float, str)) else None)
    out["num_labels"] = getattr(config, "num_labels", 2) or 2
    for derived in configs.FACTS_DERIVED.get(config.model_type, ()):
        out = {p: v for p, v in out.items() if p != derived and not p.startswith(derived + ".")}
    for path, taken in taken_of(config).items():
        parent = path.rpartition(".")[0]
        at = config
        for part in parent.split(".") if parent else ():
            at = getattr(at, part)
        out[path] = next((layer.get(taken) for layer in (at.to_dict().get("per_layer_config") or {}).values()), None)
    for path, v in list(out.items()):
        if m := IMAGE.fullmatch(path):
            patch = f"{m[1]}patch_size{m[2]}"
            if fit.whole(v) and fit.whole(out.get(patch)) and out[patch] > 0:
                out[f"{path}.div.{patch}"] = v // out[patch]
    kind = configs.FACTS_SHARED.get(config.model_type)
    if kind:
        out.update({f"{p}.of.{kind}": v.count(kind) for p, v in list(out.items()) if isinstance(v, list) and kind in v})
    return out


# Names of numbers that are null by default.
SIZES = re.compile(r"(dim|size|rank|inner|width|hidden|channels|_heads|num_\w+|n_\w+|intermediate|ffn|layers|experts)$")


def asked(config_class):
    """Names that modeling code asks a config for with a default of its own: config.json may have them, the class need not."""
    out = set()
    try:
        for module in probe.modeling_modules(probe.package_of(config_class)):
            out |= set(re.findall(r'getattr\(\s*(?:self\.)?(?:text_|vision_)?config,\s*"(\w+)"', inspect.getsource(module)))
    except Exception:
        pass
    return {n for n in out if SIZES.search(n) and not IGNORED.search(n)}


class Maker:
    """Configs of one type: overrides by dotted path on top of what it needs to be built."""

    def __init__(self, model_type, config_class):
        self.model_type, self.cls = model_type, config_class
        self.fixed = {**configs.settings(model_type, V5), **configs.FACTS_SETTINGS.get(model_type, {})}
        self.base = {}
        default = self(())
        self.nested = {k: v.model_type for k, v in vars(default).items() if isinstance(v, transformers.PretrainedConfig)}
        self.extras = sorted(asked(config_class)) + [
            f"{k}.{n}" for k, v in vars(default).items() if isinstance(v, transformers.PretrainedConfig) for n in sorted(asked(type(v)))]
        try:
            self.plain = leaves(config_class())
        except Exception:
            self.plain = {}
        values = leaves(default)
        shallow, small = {}, {}
        fixed = flatten(self.fixed)
        for path, v in values.items():
            leaf = path.rsplit(".", 1)[-1]
            if isinstance(v, bool) or not isinstance(v, int) or path in fixed:
                continue
            if leaf in probe.DEPTHS + ("depth", "num_blocks", "num_hidden_blocks") and v > LAYERS:
                shallow[path] = LAYERS
            if leaf in probe.SMALL:
                small[path] = probe.SMALL[leaf]
        for base in ({**shallow, **small}, shallow, small, {}):
            try:
                self(base)
            except Exception:
                continue
            self.base = {**base, **configs.FACTS_BASE.get(model_type, {})}
            break
        # What config.json stands for when it lacks a value that is small here only to save time.
        self.real = {path: values[path] for path in self.base}
        self.real |= {path: self.plain[path] for path in fixed if path.rsplit(".", 1)[-1] in probe.DEPTHS and path in self.plain}

    def __call__(self, overrides=()):
        overrides = {**self.base, **dict(overrides)}
        kw = copy.deepcopy(self.fixed)
        for path, v in overrides.items():
            at, parts = kw, path.split(".")
            for i, p in enumerate(parts[:-1]):
                if p not in at or not isinstance(at[p], dict):
                    rest = parts[i + 1:]
                    if len(rest) == 1 and rest[0].isdigit():
                        break
                    at[p] = {"model_type": self.nested[p]} if i == 0 and p in getattr(self, "nested", {}) else {}
                at = at[p]
            if parts[-1].isdigit():
                # an element of a list
                lst = self.listed(".".join(parts[:-1]))
                lst[int(parts[-1])] = v
                at[parts[-2]] = at.get(parts[-2], lst)
                at[parts[-2]][int(parts[-1])] = v
            else:
                at[parts[-1]] = v
        if self.model_type in probe.BUILDERS:
            c = probe.BUILDERS[self.model_type](self.cls)
            for path, v in overrides.items():
                at, parts = c, path.split(".")
                for p in parts[:-1]:
                    at = getattr(at, p)
                setattr(at, parts[-1], v)
            return c
        return self.cls(**kw)

    def listed(self, path):
        c = self.cls(**copy.deepcopy(self.fixed)).to_dict()
        for p in path.split("."):
            c = c[p]
        return list(c)


def tied_names(model):
    """{name: the name whose tensor it is}."""
    out = {}
    if V5:
        out.update(getattr(model, "all_tied_weights_keys", None) or model.get_expanded_tied_weights_keys(all_submodels=True))
    first = {}
    for n, p in model.named_parameters(remove_duplicate=False):
        if id(p) in first:
            out.setdefault(n, first[id(p)])
        else:
            first[id(p)] = n
    return out


OPTIONAL = re.compile(r"(^|\.)(num_batches_tracked|position_ids|inv_freq|token_type_ids)$")


def capture(cls, config):
    """{layout: {name: (shape, required)}}, {tied: source} for one variant."""
    model = probe.build(cls, config)
    state = model.state_dict()
    tied = tied_names(model)
    buffers = {n for n, _ in model.named_buffers()}
    optional = {n for n in state if n in tied or OPTIONAL.search(n)}
    for pattern in list(model._keys_to_ignore_on_load_missing or []) + [re.escape(k) for k in model._keys_to_ignore_on_save or []]:
        optional |= {n for n in state if re.search(pattern, n)}
    shapes = {n: list(t.shape) for n, t in state.items() if torch.is_tensor(t)}
    floats = {n for n, t in state.items() if torch.is_tensor(t) and t.is_floating_point()}
    layouts = {"params": {n: (s, n not in optional, n in floats, n in buffers) for n, s in shapes.items()}}

    def saved(convert):
        everything, required = convert(dict(state)), convert({n: t for n, t in state.items() if n not in optional})
        return {n: (list(t.shape), n in required, t.is_floating_point(), n in buffers) for n, t in everything.items() if torch.is_tensor(t)}

    if V5:
        full = probe.get_model_conversion_mapping(model, add_legacy=False)
        try:
            layouts["saved"] = layouts["params"] if not full and not model._keys_to_ignore_on_save else saved(lambda s: probe.revert_weight_conversion(model, s))
            if any(isinstance(c, probe.PrefixChange) for c in full):
                model._weight_conversions = full
                layouts["also"] = saved(lambda s: probe.revert_weight_conversion(model, s))
                del model._weight_conversions
        except Exception as e:
            layouts["error"] = f"{type(e).__name__}: {e}"[:200]
    else:
        back = {}
        names, _, _ = probe.saved_names_v4(model)
        for key in model._keys_to_ignore_on_save or []:
            state.pop(key, None)
        if len(names) == len(state):
            back = dict(zip(state, names))
            layouts["saved"] = {back[n]: layouts["params"][n] for n in back if n in layouts["params"]}
    subs = {}
    for path, module in model.named_modules():
        if path and isinstance(module, transformers.PreTrainedModel) and type(module.config) is not type(model.config):
            subs[path] = type(module).__name__
    info = {"tied": tied, "ignore": sorted(model._keys_to_ignore_on_load_unexpected or []),
            "prefix": model.base_model_prefix if hasattr(model, model.base_model_prefix or "-") else "",
            "base_prefix": model.base_model_prefix or ""}
    return layouts, info


def alternatives(path, v):
    """Other values of a leaf to try."""
    if isinstance(v, bool):
        return [[not v]]
    if isinstance(v, int):
        if v == 0:
            return [[1, 2], [2, 3]]
        if "head" in path and v % 2 == 0:  # that divides what it should
            return [[2 * v, v // 2], [v // 2, 4 * v]]
        return [[2 * v, v + 1, max(1, v // 2), v - 1], [3 * v, v + 2, 4 * v, max(1, v // 4)]]
    if v is None and SIZES.search(path):
        return [[96, 2, 64], [160, 4]]
    if isinstance(v, float) and re.search(r"ratio|factor|mult|expan", path):
        return [[2 * v, v + 1, v / 2], [3 * v, 4 * v]]
    return []


def list_alternatives(v, rng):
    """Other orders of a list of kinds, such as layer_types."""
    if not (isinstance(v, list) and v and all(isinstance(x, str) for x in v)):
        return []
    kinds = sorted(set(v))
    out = [list(reversed(v))]
    for _ in range(3):
        out.append([rng.choice(kinds) for _ in v])
    for k in kinds:
        out.append([k] * len(v))
    return [x for x in out if x != v]


class Variants:
    """The variants of one class that build."""

    def __init__(self, cls, make, seconds):
        self.cls, self.make, self.deadline = cls, make, time.process_time() + seconds
        self.rows = []  # (overrides, leaves, layouts, info)
        self.responded = {}
        self.silent = {}  # values that build and change nothing by themselves
        self.tried, self.taken = set(), set()  # leaves of which other values were tried, and built
        self.unvaried = []
        self.joint = []  # values that build together only

    def late(self):
        return time.process_time() > self.deadline

    def add(self, overrides):
        try:
            config = self.make(overrides)
            values = leaves(config, self.make.extras)
            layouts, info = capture(self.cls, config)
        except Exception as e:
            self.error = f"{type(e).__name__}: {e}"[:200]
            return None
        if "error" in layouts and self.rows and "error" not in self.rows[0][2]:
            return None
        if sum(len(x) for x in layouts.values() if isinstance(x, dict)) > 60000:
            return None
        self.rows.append((dict(overrides), values, layouts, info))
        return self.rows[-1]

    def differs(self, row):
        """Whether tensors differ, or values that were not asked for."""
        base = self.rows[0]
        return row[2] != base[2] or any(row[1].get(p) != v for p, v in base[1].items() if p not in row[0])

    def together(self, base):
        """Numbers of which no other value built, with those that equal them: SqueezeBERT's embeddings are as wide as its layers."""
        equal = {}
        for p in self.unvaried:
            if fit.whole(base[p]) and base[p] > 4:
                equal.setdefault(base[p], []).append(p)
        for v, paths in equal.items():
            for some in (paths, *itertools.combinations(paths, 2)) if len(paths) > 2 else (paths,) if len(paths) == 2 else ():
                if all(any(p in j for j in self.joint) for p in some):
                    continue
                for value in (2 * v, v // 2, 3 * v, 4 * v):
                    if self.late():
                        return
                    row = self.add(dict.fromkeys(some, value))
                    if row is None:
                        continue
                    if self.differs(row):
                        self.joint.append(row[0])
                    elif len(self.rows) > 1:
                        self.rows.pop()

    def deeper(self, rng):
        """Numbers of layers together with the lists of their kinds, and other lengths of lists that are as long as one another."""
        base = self.rows[0][1]
        for p, v in base.items():
            if not (isinstance(v, list) and len(v) > 1 and all(isinstance(x, str) for x in v)):
                continue
            depths = [d for d, n in base.items() if d.rsplit(".", 1)[-1] in probe.DEPTHS and n == len(v) and d not in self.responded]
            if not depths and any(d.rsplit(".", 1)[-1] in probe.DEPTHS and d in self.responded for d in base):
                continue
            kinds = sorted(set(v))
            for n in (len(v) + 1, len(v) + 3, 3, len(v) + 6):
                for together in ({d: n for d in depths}, {}):
                    if self.late() or self.add({**together, p: (v * n)[: n - 2] + [rng.choice(kinds) for _ in range(2)]}) is not None:
                        break
        groups = {}
        for p, v in base.items():
            if isinstance(v, list) and 1 < len(v) <= 8 and all(isinstance(x, int) for x in v):  # flags of stages too
                groups.setdefault((p.rpartition(".")[0], len(v)), []).append(p)
        for (_, n), paths in groups.items():
            for change in (lambda v: v[:-1], lambda v: v + v[-1:], lambda v: v[:2], lambda v: v[:-1] + v[-2:]):
                if self.late():
                    break
                row = self.add({p: change(base[p]) for p in paths})
                if row is not None and len(self.rows) > 1 and not self.differs(row):
                    self.rows.pop()

    def run(self, only=None):
        if self.add({}) is None:
            return False
        rng = random.Random(7)
        base = self.rows[0][1]
        singles = []
        for path, v in base.items():
            if only is not None and path not in only or path.endswith(".len") or fit.DERIVED.search(path):
                continue
            for i, tries in enumerate(alternatives(path, v)):
                singles.append((0 if i == 0 else 1, path, tries))
            leaf = path.rsplit(".", 1)[-1]
            for other in probe.SETTINGS.get(leaf, []):
                if other != v:
                    singles.append((0, path, [other]))
            for other in list_alternatives(v, rng):
                singles.append((0, path, [other]))
            if v is None and path.endswith("_config"):
                self.tried.add(path)
        self.tried |= {path for _, path, _ in singles}
        singles.sort(key=lambda s: s[0])
        done = set()
        for order, path, tries in singles:
            if self.late():
                self.unvaried.append(path)
                continue
            if order == 1 and path not in self.responded:
                continue
            built = False
            for value in tries:
                if value == base[path] or (path, str(value)) in done:
                    continue
                row = self.add({path: value})
                done.add((path, str(value)))
                if row is not None:
                    built = True
                    if row[1].get(path) != base[path]:
                        self.taken.add(path)
                    if self.differs(row):
                        self.responded.setdefault(path, []).append(value)
                    elif len(self.rows) > 1:
                        self.rows.pop()
                        if order == 0 and not isinstance(value, (bool, list)):
                            self.silent[path] = [value]
                        if row[1].get(path) == base[path]:
                            built = isinstance(value, bool)  # the config does not take the value
                    break
            if not built and order == 0 and not isinstance(base[path], (bool, list)):
                self.unvaried.append(path)
        self.together(base)
        # What changes nothing by itself has to be seen to change, or a condition is found in it.
        if only is None:
            paths = sorted(self.silent)
            for part in (paths, paths[::2], paths[1::2]):
                if self.add({p: self.silent[p][0] for p in part}) is not None and part is paths:
                    break
        for values in (*configs.VARIANTS.get(self.make.model_type, ()), *configs.FACTS_VARIANTS.get(self.make.model_type, ())):
            self.add(values)
        self.deeper(rng)
        self.unvaried = [p for p in self.unvaried if all(r[1].get(p) == base[p] for r in self.rows)]
        for path in self.responded:
            if path.rsplit(".", 1)[-1] in probe.DEPTHS and not self.late():
                self.add({path: 13})
        n, tries, most = 0, 0, RANDOM if only is None else RANDOM // 2
        while n < most and tries < 3 * most and (self.responded or self.joint) and not self.late():
            tries += 1
            share = 0.5 if tries <= most else 0.2
            overrides = {p: rng.choice(vs) for p, vs in self.responded.items() if rng.random() < share}
            if self.joint and rng.random() < share:
                overrides |= rng.choice(self.joint)
            if n % 2:
                overrides |= {p: rng.choice(vs) for p, vs in self.silent.items() if p not in self.responded and rng.random() < 0.4}
            if self.add(overrides) is not None:
                n += 1
        return True


    def held(self):
        """{leaf: (value, whether it is the config's default)} of switches and small numbers that no variant that builds had otherwise: of
        the class with another value nothing is known."""
        base = self.rows[0][1]
        never = {p for p in self.tried - self.taken if all(r[1].get(p) == base[p] for r in self.rows)}
        return {p: (base[p], self.make.plain.get(p, ()) == base[p]) for p in sorted(never)
                if base[p] is None or isinstance(base[p], int) and 0 <= base[p] <= SMALL}

    def optional(self):
        """Nested configs that may be null, in config.json too, and are not made by default."""
        base = self.rows[0][1]
        inner = {p.split(".")[0] for p in base if "." in p}
        return sorted(p for p in inner if self.make.plain.get(p, 0) is None and any(r[1].get(p, 0) is None for r in self.rows))


def facts_of(variants):
    out = {"unvaried": variants.unvaried, "variants": len(variants.rows)}
    info = variants.rows[0][3]
    # names of layers that depend on the config are ignored in all
    ignore = set().union(*(r[3]["ignore"] for r in variants.rows))
    if any(set(r[3]["ignore"]) != ignore for r in variants.rows):
        ignore = {re.sub(r"(?<=\.)\d+(?=\.)", r"\\d+", i) for i in ignore}
    out.update(ignore=sorted(ignore), prefix=info["prefix"], base_prefix=info["base_prefix"])
    values = [r[1] for r in variants.rows]
    changed = [set(r[0]) for r in variants.rows]
    f = fit.Fitter(values, changed, variants.unvaried)
    out["layouts"] = {}
    for kind in ("params", "saved", "also"):
        if not all(kind in r[2] for r in variants.rows):
            continue
        states = [r[2][kind] for r in variants.rows]
        if kind != "params" and states == [r[2]["params"] for r in variants.rows]:
            continue
        if kind == "also" and "saved" in variants.rows[0][2] and states == [r[2]["saved"] for r in variants.rows]:
            continue
        out["layouts"][kind] = f.layout(states, [r[3]["tied"] for r in variants.rows])
    out["defaults"] = f.defaults(variants.make.real)
    out["held"], out["optional"] = variants.held(), variants.optional()
    return out


def facts_type(model_type):
    result = {"type": model_type, "version": transformers.__version__, "classes": {}, "errors": {}}
    start = time.process_time()
    try:
        config_class = probe.configuration_auto.CONFIG_MAPPING[model_type]
        result["model_type"] = config_class.model_type
        result["aliases"] = {k: v for k, v in (getattr(config_class, "attribute_map", None) or {}).items() if v not in ("max_position_embeddings",)}
        for path, taken in taken_of(Maker(model_type, config_class)(())).items():
            result["aliases"][f"{path.rpartition('.')[0]}.per_layer_config.*.{taken}".removeprefix(".")] = path
        found, errors = probe.classes_of(model_type, config_class)
        base = probe.modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
        causal = probe.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
        result["base"], result["causal"] = base, causal
        make = Maker(model_type, config_class)
        result["nested"] = make.nested
    except Exception as e:
        result["errors"]["config"] = f"{type(e).__name__}: {e}"[:300]
        return result

    def rank(name):
        return (name not in (base if isinstance(base, (list, tuple)) else [base]), name != causal,
                not re.search("ForConditionalGeneration|ForMaskedLM|ForPreTraining|LMHead|MTModel", name), name)

    responded = {}
    for name in sorted(found, key=rank):
        if ONLY_MAIN and not MAIN.search(name) and rank(name)[:2] == (True, True):
            continue
        left = SECONDS_PER_TYPE - (time.process_time() - start)
        if left < 2:
            result["errors"][name] = "no time left"
            continue
        v = Variants(found[name], make, min(SECONDS_PER_CLASS, left))
        signal.signal(signal.SIGPROF, probe.on_alarm)
        only = None
        if responded:
            only = set(responded) | {"num_labels", "tie_word_embeddings"} | {p for p in own_leaves(make)}
        if not v.run(only):
            result["errors"][name] = v.error
            continue
        responded.update(v.responded)
        responded.update({p: [value] for j in v.joint for p, value in j.items()})
        try:
            result["classes"][name] = facts_of(v)
        except Exception as e:
            result["errors"][name] = f"fit: {type(e).__name__}: {e}"[:300]
    result["seconds"] = round(time.process_time() - start, 1)
    return result


def own_leaves(make):
    """Leaves that only the heads of task models use."""
    return [p for p in leaves(make(())) if re.search(r"head|class|label|proj|summary|score|final|output|vocab|cross|lm_|pool|decoder", p)]


def main():
    signal.signal(signal.SIGPROF, probe.on_alarm)
    out, sys.stdout = sys.stdout, sys.stderr
    nn.Linear.reset_parameters = lambda self: None
    args = sys.argv[1:]
    if args[:1] == ["--main"]:
        global ONLY_MAIN
        ONLY_MAIN, args = True, args[1:]
    if args == ["--list"]:
        print("\n".join(probe.model_types()), file=out)
        return
    if args == ["-"]:
        args = (line.strip() for line in sys.stdin)
    for t in args:
        probe.limit_type()
        print(json.dumps(facts_type(t)), file=out, flush=True)


if __name__ == "__main__":
    main()
