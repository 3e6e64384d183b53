"""Bytes that autograd saves for the backward pass of tiny Llamas.

For each case: a random LlamaForCausalLM as the case says (full fine-tuning, LoRA of
peft, or LoRA on bitsandbytes 4-bit weights), one forward pass with labels under
torch.autograd.graph.saved_tensors_hooks, and the sum of the sizes of the distinct
storages that were saved and are neither parameters nor buffers. With "dispatch" also
the most bytes that were alive at once in a whole training step (forward, backward,
AdamW), from a TorchDispatchMode that follows every storage; that is what a CUDA
caching allocator would count as allocated, up to temporaries inside one kernel.

    python plan_activations.py OUT.json      (torch 2.15.0, transformers 5.23.0, peft 0.21.2, bitsandbytes 0.50.2; CPU)
"""

import gc
import json
import os
import sys
import warnings
import weakref

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import bitsandbytes as bnb
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
# On CUDA dropout is one kernel that saves a byte mask; on the CPU it would save a
# float one. native_dropout is that kernel's operator.
torch.nn.Dropout.forward = lambda self, x: torch.native_dropout(x, self.p, self.training)[0]
transformers.logging.set_verbosity_error()

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTN = ALL[:4]
MLP = ALL[4:]
QV = ["q_proj", "v_proj"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

BASE = dict(h=64, i=176, layers=3, heads=4, kv=2, hd=16, vocab=320, dtype="bf16", batch=2, seq=24, rank=8)


def case(name, method, **kw):
    return dict(BASE, name=name, method=method, **kw)


CASES = [
    case("full bf16", "full"),
    case("full bf16 mha", "full", kv=4),
    case("full bf16 padded gqa", "full", padded=True),
    case("full bf16 padded mha", "full", kv=4, padded=True),
    case("full fp32", "full", dtype="fp32"),
    case("full bf16 tied", "full", tied=True),
    case("full bf16 wide heads", "full", hd=24, layers=2),
    case("full autocast", "full", dtype="fp32", autocast=True),
    case("full autocast mha padded", "full", dtype="fp32", autocast=True, kv=4, padded=True, layers=2),
    case("lora q,v", "lora", targets=QV),
    case("lora q,v rank 3", "lora", targets=QV, rank=3),
    case("lora q,v padded", "lora", targets=QV, padded=True),
    case("lora q,v dropout", "lora", targets=QV, dropout=0.05),
    case("lora attention", "lora", targets=ATTN),
    case("lora mlp", "lora", targets=MLP),
    case("lora all", "lora", targets=ALL),
    case("lora all padded mha", "lora", targets=ALL, kv=4, padded=True),
    case("lora all dropout", "lora", targets=ALL, dropout=0.1),
    case("lora o", "lora", targets=["o_proj"]),
    case("lora gate", "lora", targets=["gate_proj"]),
    case("lora up", "lora", targets=["up_proj"]),
    case("lora down", "lora", targets=["down_proj"]),
    case("lora gate,up", "lora", targets=["gate_proj", "up_proj"]),
    case("lora fp32 base", "lora", targets=ALL, dtype="fp32"),
    case("lora q,v bf16 adapters", "lora", targets=QV, adapter="bf16"),
    case("lora all bf16 adapters", "lora", targets=ALL, adapter="bf16"),
    case("lora o bf16 adapters", "lora", targets=["o_proj"], adapter="bf16"),
    case("lora down bf16 adapters", "lora", targets=["down_proj"], adapter="bf16"),
    case("lora all bf16 adapters dropout", "lora", targets=ALL, adapter="bf16", dropout=0.1),
    case("qlora q,v", "qlora", targets=QV, kbit=True),
    case("qlora attention", "qlora", targets=ATTN, kbit=True),
    case("qlora all", "qlora", targets=ALL, kbit=True),
    case("qlora all padded", "qlora", targets=ALL, kbit=True, padded=True),
    case("qlora all dropout", "qlora", targets=ALL, kbit=True, dropout=0.1),
    case("qlora all bf16 adapters", "qlora", targets=ALL, kbit=True, adapter="bf16"),
    case("qlora q,v no kbit", "qlora", targets=QV),
    case("qlora all no kbit", "qlora", targets=ALL),
    case("qlora all no kbit bf16 adapters", "qlora", targets=ALL, adapter="bf16"),
    case("lora q,v autocast", "lora", targets=QV, autocast=True),
    case("lora all autocast", "lora", targets=ALL, autocast=True),
    case("lora mlp autocast dropout", "lora", targets=MLP, autocast=True, dropout=0.1),
    case("qlora q,v autocast", "qlora", targets=QV, kbit=True, autocast=True),
    case("qlora all autocast", "qlora", targets=ALL, kbit=True, autocast=True),
    case("qlora all autocast padded dropout", "qlora", targets=ALL, kbit=True, autocast=True, padded=True, dropout=0.1),
    case("qlora all no kbit autocast", "qlora", targets=ALL, autocast=True),
    case("full eager", "full", attn="eager"),
    case("lora q,v eager", "lora", targets=QV, attn="eager"),
    case("lora k eager", "lora", targets=["k_proj"], attn="eager"),
    case("lora v eager", "lora", targets=["v_proj"], attn="eager"),
    case("lora o,down dropout", "lora", targets=["o_proj", "down_proj"], dropout=0.1),
    case("qlora q,k eager", "qlora", targets=["q_proj", "k_proj"], kbit=True, attn="eager"),
    case("qlora all eager", "qlora", targets=ALL, kbit=True, attn="eager"),
]

# The same with what decides a peak: a small vocabulary (a layer's backward pass is it),
# a large one (the loss is), long sequences under eager attention.
WIDE = dict(h=64, i=176, layers=4, heads=4, kv=2, hd=16, batch=4, seq=128, rank=4)
PEAKS = [
    dict(case(n, m, **dict(WIDE, vocab=v, **kw)), dispatch=True)
    for v, tag in ((48, "layer"), (2000, "loss"))
    for n, m, kw in (
        (f"peak {tag} full", "full", {}),
        (f"peak {tag} full checkpointed", "full", dict(checkpointed=True)),
        (f"peak {tag} lora q,v checkpointed", "lora", dict(targets=QV, checkpointed=True)),
        (f"peak {tag} lora mlp checkpointed", "lora", dict(targets=MLP, checkpointed=True)),
        (f"peak {tag} lora all checkpointed", "lora", dict(targets=ALL, checkpointed=True)),
        (f"peak {tag} lora all bf16 adapters checkpointed", "lora", dict(targets=ALL, adapter="bf16", checkpointed=True)),
        (f"peak {tag} lora all", "lora", dict(targets=ALL)),
        (f"peak {tag} qlora attention checkpointed", "qlora", dict(targets=ATTN, kbit=True, checkpointed=True)),
        (f"peak {tag} qlora all checkpointed", "qlora", dict(targets=ALL, kbit=True, checkpointed=True)),
        (f"peak {tag} qlora all no kbit checkpointed", "qlora", dict(targets=ALL, checkpointed=True)),
        (f"peak {tag} qlora all", "qlora", dict(targets=ALL, kbit=True)),
    )
] + [
    dict(case(f"peak eager {n}", m, **dict(WIDE, vocab=48, seq=256, attn="eager", **kw)), dispatch=True)
    for n, m, kw in (
        ("full checkpointed", "full", dict(checkpointed=True)),
        ("lora q,v checkpointed", "lora", dict(targets=QV, checkpointed=True)),
        ("qlora attention checkpointed", "qlora", dict(targets=ATTN, kbit=True, checkpointed=True)),
        ("lora q,v", "lora", dict(targets=QV)),
    )
]


def quantize(model):
    """Replace every Linear but the head by bitsandbytes' Linear4bit, as transformers does."""
    for _, mod in list(model.named_modules()):
        for name, child in list(mod.named_children()):
            if type(child) is torch.nn.Linear and name != "lm_head":
                q = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=child.bias is not None,
                                      compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")
                q.load_state_dict(child.state_dict())
                setattr(mod, name, q)
    for mod in model.modules():
        if isinstance(mod, bnb.nn.Linear4bit):
            mod.weight = mod.weight._quantize("cpu")
    model.is_loaded_in_4bit = model.is_quantized = True
    model.quantization_method = "bitsandbytes"


def build(c):
    cfg = LlamaConfig(hidden_size=c["h"], intermediate_size=c["i"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
                      num_key_value_heads=c["kv"], head_dim=c["hd"], vocab_size=c["vocab"], tie_word_embeddings=c.get("tied", False),
                      attn_implementation=c.get("attn", "sdpa"), use_cache=False)
    torch.manual_seed(0)
    m = LlamaForCausalLM(cfg).to(DTYPES[c["dtype"]])
    if c["method"] == "qlora":
        quantize(m)
    if c.get("kbit"):
        m = prepare_model_for_kbit_training(m, use_gradient_checkpointing=False)
    if c["method"] != "full":
        adapter = c.get("adapter", "fp32")
        m = get_peft_model(m, LoraConfig(r=c["rank"], lora_alpha=16, lora_dropout=c.get("dropout", 0.0), target_modules=c["targets"],
                                         task_type="CAUSAL_LM"), autocast_adapter_dtype=adapter == "fp32")
        for n, p in m.named_parameters():
            if "lora_" in n:
                p.data = p.data.to(DTYPES[adapter])
    if c.get("checkpointed"):
        m.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        m.enable_input_require_grads()
    m.train()
    return m


def inputs(c):
    ids = torch.randint(0, c["vocab"], (c["batch"], c["seq"]))
    mask = None
    if c.get("padded"):
        mask = torch.ones(c["batch"], c["seq"], dtype=torch.long)
        mask[0, c["seq"] // 2:] = 0
    return dict(input_ids=ids, attention_mask=mask, labels=ids)


def saved_bytes(c):
    m = build(c)
    fixed = {p.untyped_storage().data_ptr() for p in [*m.parameters(), *m.buffers()]}
    kept = {}

    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() not in fixed:
            kept[s.data_ptr()] = s  # holding it keeps its address from being given again
        return t

    autocast = c.get("autocast", False)
    torch.set_autocast_enabled("cuda", autocast)  # peft asks for the GPU's
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = m(**inputs(c))
    torch.set_autocast_enabled("cuda", False)
    assert out.loss is not None
    return sum(s.nbytes() for s in kept.values())


class Live(TorchDispatchMode):
    """Counts the bytes of the storages alive, and the most there were in each phase."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.phase, self.most = set(), 0, "", {}

    def add(self, t):
        s = t.untyped_storage()
        key, n = s._cdata, s.nbytes()
        if key in self.live:
            return
        self.live.add(key)
        self.now += n

        def gone():
            self.live.discard(key)
            self.now -= n

        weakref.finalize(s, gone)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_flatten((args, kwargs, out))[0]:
            if isinstance(t, torch.Tensor):
                self.add(t)
        self.most[self.phase] = max(self.most.get(self.phase, 0), self.now)
        return out


def phases(c):
    m = build(c)
    params = [p for p in m.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-4, foreach=True)
    batch = inputs(c)
    m(**batch).loss.backward()
    opt.step()
    opt.zero_grad(set_to_none=True)
    gc.collect()
    live = Live()
    with live:
        for t in [*m.parameters(), *m.buffers(), *batch.values()]:
            if t is not None:
                live.add(t)
        for mod in m.modules():
            state = getattr(getattr(mod, "weight", None), "quant_state", None)
            if state is not None:
                parts = [state.absmax, state.code, state.offset]
                if state.state2 is not None:
                    parts += [state.state2.absmax, state.state2.code]
                for t in parts:
                    if t is not None:
                        live.add(t)
        for s in opt.state.values():
            for k, t in s.items():
                if k != "step":  # on the CPU in a CUDA run
                    live.add(t)
        static = live.now
        live.phase = "forward"
        out = m(**batch)
        live.phase = "backward"
        out.loss.backward()
        live.phase = "step"
        opt.step()
    return dict(static=static, **live.most)


def main():
    rows = []
    for c in CASES + PEAKS:
        row = dict(c)
        if c.get("dispatch"):
            row["peak"] = phases(c)
        else:
            row["saved"] = saved_bytes(c)
        rows.append(row)
        print(c["name"], row.get("saved") or row["peak"], file=sys.stderr, flush=True)
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__, bitsandbytes=bnb.__version__)
    with open(sys.argv[1], "w") as f:
        json.dump(dict(made_by="internal/interop/py/plan_activations.py", versions=versions, cases=rows), f, indent=1)
        f.write("\n")


main()
