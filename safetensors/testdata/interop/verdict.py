"""Says of every *.safetensors in a directory what the reference makes of it.

    python verdict.py DIR

Prints one JSON object a line: the file's name and either the error or the
tensors (dtype, shape, SHA-256 of the bytes). A file whose dtypes the Python
interface can write is also written again, to NAME.again.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
import safetensors

TORCH_NAME = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
    "U64": "uint64",
}


def again(path, found):
    with safetensors.safe_open(path, "np") as f:
        metadata = f.metadata()
    specs, keep = {}, []
    for name, t in found:
        shape = list(t["shape"])
        if t["dtype"] == "F4":
            # TensorSpec takes the shape in bytes and doubles the last dimension.
            if not shape or shape[-1] % 2:
                return
            shape[-1] //= 2
        if t["dtype"] not in TORCH_NAME:
            return
        data = np.frombuffer(bytes(t["data"]) or b"\0", dtype=np.uint8)
        keep.append(data)
        specs[name] = safetensors.TensorSpec(
            dtype=TORCH_NAME[t["dtype"]], shape=shape, data_ptr=data.ctypes.data, data_len=len(t["data"]))
    pathlib.Path(str(path) + ".again").write_bytes(safetensors.serialize(specs, metadata))


for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    row = {"file": path.name}
    try:
        found = safetensors.deserialize(path.read_bytes())
        row["tensors"] = {
            n: [t["dtype"], list(t["shape"]), hashlib.sha256(bytes(t["data"])).hexdigest()] for n, t in found}
    except safetensors.SafetensorError as e:
        row["error"] = str(e)[:200]
    else:
        if path.name.startswith("good"):
            again(path, found)
    print(json.dumps(row))
