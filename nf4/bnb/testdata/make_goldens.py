"""Make the golden files of nf4/bnb and internal/checkpoint with the real libraries.

    python make_goldens.py

Run in the directory of this script, with bitsandbytes 0.50.2, transformers 5.23.0, torch 2.15.0 (CPU) and
safetensors 0.8.0; versions.json records what was used. Seed 0. No network is needed.

states.json    quant_state records written by QuantState.as_dict(packed=True), with what went in
rejects.json   records that QuantState.from_dict was given, and whether and how it refused them
nf4-dq/        a two-layer Llama quantized by BitsAndBytesConfig (NF4, double quantization), save_pretrained
fp4-shards/    the same as FP4 without double quantization, max_shard_size small enough to part weights and sidecars
"""

import importlib.metadata
import json
import os
import platform
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes.functional as F
import torch
import transformers
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)

OFFSETS = [
    0.0, -0.0, 1.0, 0.1, 0.05186526104807854, 1e-4, 9.999e-5, 1e-5, 1.5e-7, 123456.0, 9.999999e15, 1e16, 1.23e22,
    3.4028234663852886e38, 1.1754943508222875e-38, 1e-45, -0.75, 33554432.0, 2.0**-24, 65504.0,
]


def state(quant_type, blocksize, dtype, shape, offset=None):
    n = shape[0] * shape[1]
    nb = -(-n // blocksize)
    state2 = None
    absmax = torch.ones(min(nb, 4))
    if offset is not None:
        state2 = F.QuantState(absmax=torch.ones(1), code=torch.zeros(256), blocksize=256, dtype=torch.float32)
        absmax = absmax.to(torch.uint8)
        offset = torch.tensor(offset, dtype=torch.float32)
    return F.QuantState(absmax=absmax, shape=torch.Size(shape), code=torch.zeros(16), blocksize=blocksize,
                        quant_type=quant_type, dtype=dtype, offset=offset, state2=state2)


def record(quant_type, blocksize, dtype, shape, offset=None):
    s = state(quant_type, blocksize, dtype, shape, offset)
    packed = s.as_dict(packed=True)
    key = f"quant_state.bitsandbytes__{quant_type}"
    out = {"quant_type": quant_type, "blocksize": blocksize, "dtype": str(dtype).removeprefix("torch."),
           "shape": list(shape), "blob": bytes(packed[key].tolist()).decode(), "key": key}
    if offset is not None:
        out["offset_bits"] = torch.tensor(offset, dtype=torch.float32).view(torch.int32).item() & 0xFFFFFFFF
    return out


def states():
    out = []
    for quant_type in ("nf4", "fp4"):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for blocksize in (32, 64, 128, 256, 512, 1024, 2048, 4096):
                out.append(record(quant_type, blocksize, dtype, (128, 192)))
                out.append(record(quant_type, blocksize, dtype, (128, 192), 0.05186526104807854))
    for offset in OFFSETS:
        out.append(record("nf4", 64, torch.bfloat16, (3, 5), offset))
    for shape in ((1, 1), (3, 5), (8192, 28672), (1, 2**31), (2**31, 2**31)):
        out.append(record("nf4", 64, torch.bfloat16, shape, -1.1754943508222875e-38))
    return out


GOOD = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}
NESTED = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}


def rejects():
    full = json.dumps(GOOD | NESTED)
    cases = {
        "as written": full,
        "compact": json.dumps(GOOD | NESTED, separators=(",", ":")),
        "space padding": full + " " * 50,
        "newline padding": full + "\n\t\r ",
        "leading space": "  " + full,
        "NUL padding": full + "\0" * 8,
        "text after": full + " x",
        "second object": full + "{}",
        "cut short": full[:-1],
        "empty": "",
        "only spaces": "    ",
        "an array": "[]",
        "null": "null",
        "not UTF-8": None,
        "BOM": "\ufeff" + full,
        "unknown field": json.dumps(GOOD | NESTED | {"tool": "x"}),
        "torch. prefix": json.dumps(GOOD | NESTED | {"dtype": "torch.bfloat16"}),
        "no such dtype": json.dumps(GOOD | NESTED | {"dtype": "bf16"}),
        "dtype null": json.dumps(GOOD | NESTED | {"dtype": None}),
        "nested torch. prefix": json.dumps(GOOD | NESTED | {"nested_dtype": "torch.float32"}),
        "offset as string": json.dumps(GOOD | NESTED | {"nested_offset": "0.25"}),
        "offset as integer": json.dumps(GOOD | NESTED | {"nested_offset": 1}),
        "offset with exponent": json.dumps(GOOD | NESTED).replace("0.25", "2.5E-1"),
        "offset no number": json.dumps(GOOD | NESTED | {"nested_offset": "x"}),
        "offset null": json.dumps(GOOD | NESTED | {"nested_offset": None}),
        "offset list": json.dumps(GOOD | NESTED | {"nested_offset": [1]}),
        "shape number": json.dumps(GOOD | NESTED | {"shape": 128}),
        "shape string": json.dumps(GOOD | NESTED | {"shape": "8x16"}),
        "shape of floats": json.dumps(GOOD | NESTED | {"shape": [8.0, 16.0]}),
        "shape of strings": json.dumps(GOOD | NESTED | {"shape": ["8", "16"]}),
    }
    for name in GOOD | NESTED:
        cases["without " + name] = json.dumps({k: v for k, v in (GOOD | NESTED).items() if k != name})
    out = []
    for name, text in cases.items():
        blob = text.encode() if text is not None else full.encode()[:-3] + b"\xff\xfe}"
        tensors = {
            "weight.absmax": torch.zeros(2, dtype=torch.uint8), "weight.quant_map": torch.zeros(16),
            "weight.nested_absmax": torch.zeros(1), "weight.nested_quant_map": torch.zeros(256),
            "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(blob), dtype=torch.uint8),
        }
        row = {"name": name, "blob_hex": blob.hex(), "raises": ""}
        try:
            F.QuantState.from_dict(tensors, torch.device("cpu"))
        except Exception as e:
            row["raises"] = type(e).__name__
        out.append(row)
    return out


def model(path, config, **save):
    torch.manual_seed(0)
    source = "source.tmp"
    cfg = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                      num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False)
    LlamaForCausalLM(cfg).to(torch.bfloat16).save_pretrained(source)
    quantized = LlamaForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.bfloat16, device_map="cpu")
    shutil.rmtree(path, ignore_errors=True)
    quantized.save_pretrained(path, **save)
    shutil.rmtree(source)


def main():
    def write(name, value):
        with open(name, "w") as f:
            if isinstance(value, list):
                f.write("[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]\n")
            else:
                f.write(json.dumps(value, indent=1) + "\n")

    write("states.json", states())
    write("rejects.json", rejects())
    model("nf4-dq", BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                       bnb_4bit_compute_dtype=torch.bfloat16))
    model("fp4-shards", BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.bfloat16),
          max_shard_size="6KB")
    versions = {p: importlib.metadata.version(p) for p in ("bitsandbytes", "torch", "transformers", "safetensors")}
    write("versions.json", versions | {"python": platform.python_version(), "seed": 0})
    assert transformers.__version__ == versions["transformers"]


main()
