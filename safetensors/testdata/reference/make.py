"""Makes the files beside it with the reference implementation of safetensors.

    python make.py

*.safetensors are written by safetensors.torch.save_file, cases.json holds small
files, good and bad, each with the verdict of safetensors.deserialize. README.md
gets the versions that were used. The output depends on nothing but those.
"""

import base64
import json
import pathlib
import platform
import random
import struct

import safetensors
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent
SEED = 20250714

TORCH_DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32,
    torch.uint32, torch.int64, torch.uint64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float4_e2m1fn_x2,
]


def tensor(rng, dtype, shape):
    """A tensor of random bytes (0 and 1 for bool)."""
    n = 1
    for d in shape:
        n *= d
    size = safetensors.torch._SIZE[dtype]
    raw = bytes(rng.getrandbits(8) & (1 if dtype == torch.bool else 255) for _ in range(n * size))
    if n == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)


def dtypes(rng):
    out = {}
    for dt in TORCH_DTYPES:
        name = str(dt).split(".")[-1]
        out[f"x.{name}"] = tensor(rng, dt, (2, 3))
        out[f"a.{name}.scalar"] = tensor(rng, dt, ()) if dt != torch.float4_e2m1fn_x2 else tensor(rng, dt, (1,))
        out[f"m.{name}.empty"] = tensor(rng, dt, (0, 4))
        out[f"m.{name}.empty2"] = tensor(rng, dt, (3, 0))
    return out


def names(rng):
    """Names that need escapes or sort differently by code point and by UTF-16 unit."""
    odd = [
        "", " ", "a", "A", "a.b", "a/b", "..", "\u00e9", "e\u0301", "\U0001f600", "\ufb00", "\uffff",
        'q"uote', "back\\slash", "tab\t", "new\nline", "cr\r", "nul\0", "bell\a", "bs\b", "ff\f", "esc\x1b",
        "del\x7f", "c1\x85", "ls\u2028", "ps\u2029", "<html>&'", "\u65e5\u672c\u8a9e", "__metadata", "dtype", "x" * 300,
    ]
    return {n: tensor(rng, rng.choice([torch.uint8, torch.float16]), (rng.randrange(1, 4),)) for n in odd}


def model(rng):
    """What save_pretrained of a quantized model looks like, in miniature."""
    out = {}
    for i in range(12):
        for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"):
            w = f"model.layers.{i}.{m}.weight"
            out[w] = tensor(rng, torch.uint8, (32, 1))
            out[w + ".absmax"] = tensor(rng, torch.uint8, (1,))
            out[w + ".quant_map"] = tensor(rng, torch.float32, (16,))
            out[w + ".nested_absmax"] = tensor(rng, torch.float32, (1,))
            out[w + ".quant_state.bitsandbytes__nf4"] = tensor(rng, torch.uint8, (5,))
        out[f"model.layers.{i}.input_layernorm.weight"] = tensor(rng, torch.bfloat16, (3,))
    return out


class Raw(str):
    """JSON text to be placed as it is."""


def entry(dtype="F32", shape="[1]", offsets="[0,4]"):
    return Raw('{"dtype":"%s","shape":%s,"data_offsets":%s}' % (dtype, shape, offsets))


def obj(*members):
    return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in members) + "}"


def cases():
    """Yields name, the header (or the whole file, as bytes), the data."""
    ok = entry()
    zero4 = bytes(4)

    # Files that are good, some barely.
    yield "no tensors", "{}", b""
    yield "no tensors, spaces", "{}      ", b""
    yield "one", obj(("a", ok)), zero4
    yield "trailing spaces", obj(("a", ok)) + " " * 9, zero4
    yield "trailing newline and tab", obj(("a", ok)) + "\n\t\r ", zero4
    yield "unpadded header", obj(("a", ok)) + " " * 3, zero4
    yield "inner spaces", '{ "a" : { "dtype" : "F32" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 4 ] } }', zero4
    yield "key order", '{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}', zero4
    yield "escaped keys", '{"a":{"\\u0064type":"F\\u00332","shape":[1],"data_offsets":[0,4]}}', zero4
    yield "escaped name", '{"\\u0061\\ud83d\\ude00":%s}' % ok, zero4
    yield "empty name", obj(("", ok)), zero4
    yield "control characters in name", obj(("a\n\x00\x1b", ok)), zero4
    yield "scalar", obj(("a", entry(shape="[]"))), zero4
    yield "empty tensor", obj(("a", entry(shape="[0]", offsets="[0,0]"))), b""
    yield "empty tensor, other dimensions", obj(("a", entry(shape="[3,0,5]", offsets="[0,0]"))), b""
    yield "empty tensors at one place", obj(
        ("a", entry(shape="[0]", offsets="[4,4]")), ("b", ok), ("c", entry(shape="[0]", offsets="[0,0]")),
        ("d", entry(shape="[0]", offsets="[4,4]"))), zero4
    yield "header order against data order", obj(("b", entry(offsets="[4,8]")), ("a", ok)), bytes(8)
    yield "narrow before wide", obj(("a", entry("U8", "[1]", "[0,1]")), ("b", entry(offsets="[1,5]"))), bytes(5)
    yield "metadata", '{"__metadata__":{"format":"pt"},"a":%s}' % ok, zero4
    yield "metadata last", '{"a":%s,"__metadata__":{"format":"pt"}}' % ok, zero4
    yield "metadata empty", '{"__metadata__":{},"a":%s}' % ok, zero4
    yield "metadata null", '{"__metadata__":null,"a":%s}' % ok, zero4
    yield "metadata alone", '{"__metadata__":{"a":"b"}}', b""
    yield "rank 64", obj(("a", entry(shape="[" + ",".join(["1"] * 64) + "]"))), zero4
    for name, bits in [
        ("BOOL", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("U8", 8), ("I8", 8), ("F8_E5M2", 8), ("F8_E4M3", 8),
        ("F8_E8M0", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("I16", 16), ("U16", 16), ("F16", 16), ("BF16", 16),
        ("I32", 32), ("U32", 32), ("F32", 32), ("C64", 64), ("F64", 64), ("I64", 64), ("U64", 64),
    ]:
        n = 4 * bits // 8
        yield f"dtype {name}", obj(("a", entry(name, "[2,2]", f"[0,{n}]"))), bytes(n)
        yield f"dtype {name}, a byte more", obj(("a", entry(name, "[2,2]", f"[0,{n + 1}]"))), bytes(n + 1)
        if bits < 8:
            yield f"dtype {name}, no whole bytes", obj(("a", entry(name, "[1]", "[0,1]"))), bytes(1)

    # Length.
    yield "file empty", b"", None
    yield "file of 7 bytes", b"\x02" + bytes(6), None
    yield "file of 8 bytes", struct.pack("<Q", 0), None
    yield "file of 9 bytes", struct.pack("<Q", 1) + b"{", None
    yield "header length 0", struct.pack("<Q", 0) + b"{}", None
    yield "header length one short", struct.pack("<Q", 1) + b"{}", None
    yield "header length one long", struct.pack("<Q", 3) + b"{}", None
    yield "header length 100000000", struct.pack("<Q", 100_000_000) + b"{}", None
    yield "header length 100000001", struct.pack("<Q", 100_000_001) + b"{}", None
    yield "header length 2^63", struct.pack("<Q", 1 << 63) + b"{}", None
    yield "header length 2^64-1", struct.pack("<Q", (1 << 64) - 1) + b"{}", None
    yield "header length 2^64-8", struct.pack("<Q", (1 << 64) - 8) + b"{}", None
    yield "Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", None
    yield "zip archive", b"PK\x03\x04" + bytes(60), None

    # JSON.
    yield "spaces alone", " " * 8, b""
    yield "leading space", " " + obj(("a", ok)), zero4
    yield "byte order mark", "\ufeff" + obj(("a", ok)), zero4
    yield "header array", "[]", b""
    yield "header string", '"{}"', b""
    yield "header null", "null    ", b""
    yield "unclosed", '{"a":' + ok, zero4
    yield "second value", "{}{}", b""
    yield "trailing comma", '{"a":%s,}' % ok, zero4
    yield "trailing NUL", "{}\0", b""
    yield "comment", "{/**/}", b""
    yield "single quotes", "{'a':%s}" % ok, zero4
    yield "bare name", "{a:%s}" % ok, zero4
    for v in ("1", "null", "[]", "{}", "true"):
        yield f"name {v}", "{%s:%s}" % (v, ok), zero4
        yield f"name {v}, second", '{"a":%s,%s:1}' % (ok, v), zero4
        yield f"key {v} in entry", '{"a":{%s:1,%s}' % (v, ok[1:] + "}"), zero4
        yield f"key {v} in metadata", '{"__metadata__":{%s:"x"}}' % v, b""
    yield "comma first", '{,"a":%s}' % ok, zero4
    yield "two commas", '{"a":%s,,"b":1}' % ok, zero4
    yield "colon missing", '{"a" %s}' % ok, zero4
    yield "shape closed by brace", '{"a":{"dtype":"F32","shape":[1},"data_offsets":[0,4]}', zero4
    yield "shape without comma", obj(("a", entry(shape="[1 1]"))), zero4
    yield "shape, trailing comma", obj(("a", entry(shape="[1,]"))), zero4
    yield "raw newline in name", '{"a\n":%s}' % ok, zero4
    yield "bad escape", '{"\\x61":%s}' % ok, zero4
    yield "lone surrogate in name", '{"\\ud800":%s}' % ok, zero4
    yield "lone low surrogate in metadata", '{"__metadata__":{"a":"\\udc00"}}', b""
    yield "bad UTF-8 in name", b'{"a\xff":' + ok.encode() + b"}", zero4
    yield "overlong UTF-8 in name", b'{"\xc0\x80":' + ok.encode() + b"}", zero4
    yield "surrogate in UTF-8", b'{"\xed\xa0\x80":' + ok.encode() + b"}", zero4
    yield "bad UTF-8 after the object", b"{}\xff", b""
    for depth in (100, 127, 128, 200, 1000):
        yield f"shape nested {depth}", obj(("a", entry(shape="[" * depth + "]" * depth))), zero4
        yield f"objects nested {depth}", '{"a":' * depth + "{}" + "}" * depth, b""
        yield f"unknown key nested {depth}", obj(("a", ok[:-1] + ',"x":' + "[" * depth + "]" * depth + "}")), zero4
    yield "header all brackets", "[" * 1000, b""

    # Metadata.
    for v in ("1", "1.5", "true", "null", '["a"]', '{"a":"b"}'):
        yield f"metadata value {v}", '{"__metadata__":{"k":%s},"a":%s}' % (v, ok), zero4
    for v in ("1", '"pt"', "[]", "true"):
        yield f"metadata is {v}", '{"__metadata__":%s,"a":%s}' % (v, ok), zero4
    yield "metadata twice", '{"__metadata__":{"a":"b"},"__metadata__":{"a":"b"}}', b""
    yield "metadata key twice", '{"__metadata__":{"k":"a","k":"b"}}', b""
    yield "metadata escaped name", '{"__metadat\\u0061__":{"a":"b"}}', b""
    yield "tensor named __metadata__", '{"__metadata__":%s}' % ok, zero4

    # Entries.
    for v in ("1", "null", '"F32"', "[]", "{}", "true"):
        yield f"entry {v}", '{"a":%s}' % v, b""
    yield "entry as array", '{"a":["F32",[1],[0,4]]}', zero4
    for k in ("dtype", "shape", "data_offsets"):
        members = [("dtype", '"F32"'), ("shape", "[1]"), ("data_offsets", "[0,4]")]
        yield f"missing {k}", obj(("a", obj(*[m for m in members if m[0] != k]))), zero4
        yield f"{k} twice", obj(("a", obj(*members, *[m for m in members if m[0] == k]))), zero4
        yield f"{k} in capitals", obj(("a", obj(*[(n.upper() if n == k else n, v) for n, v in members]))), zero4
        for v in ("null", "1", "1.5", '"x"', "[]", "{}", "true", '["a"]', "[null]", "[[1]]"):
            if not (k == "shape" and v == "[]"):
                yield f"{k} is {v}", obj(("a", obj(*[(n, v if n == k else w) for n, w in members]))), zero4
    yield "unknown key", obj(("a", ok[:-1] + ',"x":1}')), zero4
    yield "duplicate name, same entry", '{"a":%s,"a":%s}' % (ok, ok), zero4
    yield "duplicate name, other place", '{"a":%s,"a":%s}' % (ok, entry(offsets="[4,8]")), bytes(8)
    yield "duplicate name, other dtype", '{"a":%s,"a":%s}' % (entry("I32"), ok), zero4
    yield "duplicate name, escaped", '{"a":%s,"\\u0061":%s}' % (ok, ok), zero4
    for v in ("f32", "F32 ", "F128", "", "FLOAT32", "C128", "float32", "F4_E2M1", "F8", "I4", "\\u0000"):
        yield f"dtype {v}", obj(("a", entry(v))), zero4

    # Numbers.
    for v in ("-1", "-0", "1.0", "1e0", "1E0", "0.5", "01", "+1", "1.", ".5", "1e400", "NaN", "Infinity", "0x1"):
        yield f"dimension {v}", obj(("a", entry(shape=f"[{v}]"))), zero4
        yield f"offset {v}", obj(("a", entry(offsets=f"[{v},4]"))), zero4
    for e in (31, 32, 53, 62, 63, 64, 100):
        for n in ((1 << e) - 1, 1 << e, (1 << e) + 1):
            yield f"dimension {n}", obj(("a", entry("U8", f"[{n}]", f"[0,{n}]"))), b""
            yield f"dimension {n} and 0", obj(("a", entry("U8", f"[{n},0]", "[0,0]"))), b""
            yield f"end {n}", obj(("a", entry(offsets=f"[0,{n}]"))), zero4
            yield f"begin {n}", obj(("a", entry(offsets=f"[{n},{n + 4}]"))), zero4
    yield "dimension of 1000 digits", obj(("a", entry(shape="[" + "1" * 1000 + "]"))), zero4
    yield "dimension 1 of many zeros", obj(("a", entry(shape="[1" + "0" * 1000 + "]"))), zero4

    # Sizes and places.
    for shape in ("[4294967296,4294967296]", "[4294967296,4294967296,0]", "[0,4294967296,4294967296]",
                  "[2147483648,4294967296,0]", "[2147483648,8589934592]", "[4503599627370496,4096]",
                  "[4611686018427387904,4]", "[3037000500,3037000500]", "[9007199254740992,9007199254740992]"):
        for dt in ("U8", "F32", "F64", "F4"):
            yield f"product {dt} {shape}", obj(("a", entry(dt, shape, "[0,0]"))), b""
    yield "product wraps to 4", obj(("a", entry("F32", "[4611686018427387905]", "[0,4]"))), zero4
    yield "rank 65", obj(("a", entry(shape="[" + ",".join(["1"] * 65) + "]"))), zero4
    yield "rank 1000", obj(("a", entry(shape="[" + ",".join(["1"] * 1000) + "]"))), zero4
    yield "shape too small", obj(("a", entry(shape="[1]", offsets="[0,8]"))), bytes(8)
    yield "shape too large", obj(("a", entry(shape="[3]", offsets="[0,8]"))), bytes(8)
    yield "empty shape with bytes", obj(("a", entry(shape="[0]", offsets="[0,4]"))), zero4
    yield "scalar without bytes", obj(("a", entry(shape="[]", offsets="[0,0]"))), b""
    yield "begin after end", obj(("a", entry(offsets="[4,0]"))), zero4
    yield "gap at the start", obj(("a", entry(offsets="[4,8]"))), bytes(8)
    yield "gap in the middle", obj(("a", ok), ("b", entry(offsets="[5,9]"))), bytes(9)
    yield "overlap by one", obj(("a", ok), ("b", entry(offsets="[3,7]"))), bytes(7)
    yield "overlap whole", obj(("a", ok), ("b", ok)), zero4
    yield "overlap inside", obj(("a", entry(shape="[4]", offsets="[0,16]")), ("b", entry(offsets="[4,8]"))), bytes(16)
    yield "empty tensor inside another", obj(("a", ok), ("b", entry(shape="[0]", offsets="[2,2]"))), zero4
    yield "empty tensor after the end", obj(("a", ok), ("b", entry(shape="[0]", offsets="[5,5]"))), zero4
    yield "truncated by one", obj(("a", ok)), bytes(3)
    yield "truncated to nothing", obj(("a", ok)), b""
    yield "one byte more", obj(("a", ok)), bytes(5)
    yield "no tensors but data", "{}", bytes(8)


def verdict(data):
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as e:
        return {"error": str(e)[:200]}
    return {"tensors": {n: [t["dtype"], list(t["shape"]), len(t["data"])] for n, t in found}}


def main():
    safetensors.torch.save_file(dtypes(random.Random(SEED)), HERE / "dtypes.safetensors", {"format": "pt"})
    safetensors.torch.save_file(names(random.Random(SEED + 1)), HERE / "names.safetensors")
    safetensors.torch.save_file(model(random.Random(SEED + 2)), HERE / "model.safetensors", {"format": "pt"})
    safetensors.torch.save_file({}, HERE / "none.safetensors")
    safetensors.torch.save_file({"a": torch.ones(3)}, HERE / "empty_metadata.safetensors", {})
    safetensors.torch.save_file(
        {"a": torch.ones(3)}, HERE / "metadata.safetensors", {"\u00e9\n\"\\\x1f\x7f\u2028": "<\0>&\U0001f600/"})

    out, seen = [], set()
    for name, header, data in cases():
        assert name not in seen, name
        seen.add(name)
        if data is None:
            whole = header
        else:
            raw = header if isinstance(header, bytes) else header.encode()
            whole = struct.pack("<Q", len(raw)) + raw + data
        out.append({"name": name, "file": base64.b64encode(whole).decode(), **verdict(whole)})
    with open(HERE / "cases.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in out) + "\n]\n")

    (HERE / "README.md").write_text(
        "Made by `python make.py` with the reference implementation; see the docstring there.\n\n"
        f"- safetensors {safetensors.__version__}\n- torch {torch.__version__}\n"
        f"- Python {platform.python_version()}\n- seed {SEED}\n")
    good = sum("tensors" in c for c in out)
    print(f"{len(out)} cases, the reference accepts {good}")


main()
