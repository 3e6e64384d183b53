"""Makes golden.gguf and golden.dat: one importance matrix in both formats of llama.cpp's llama-imatrix.

    pip install gguf==0.19.0 && python make_goldens.py

The GGUF file is written by gguf, the writer of llama.cpp's own scripts, with the tensors and keys of save_imatrix
(tools/imatrix/imatrix.cpp); the other one field by field as save_imatrix_legacy there. The matrix, in float32:

    blk.0.attn_q.weight         sum of squares 3, 6, ..., 12 over 3 rows
    blk.0.ffn_down.weight       512 columns, column c with (c + 1) / 16 over 512 rows
    blk.1.ffn_up_exps.weight    three experts of 2 columns: 4, 8 over 4 rows; none; 10, 30 over 10
"""

import os
import struct

import gguf
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
CHUNK = 512
stats = {  # name: sums of squares [matrices, columns], counts [matrices]
    "blk.0.attn_q.weight": (np.array([[3, 6, 9, 12]], np.float32), np.array([3])),
    "blk.0.ffn_down.weight": (np.arange(1, 513, dtype=np.float32)[None] / 16, np.array([512])),
    "blk.1.ffn_up_exps.weight": (np.array([[4, 8], [0, 0], [10, 30]], np.float32), np.array([4, 0, 10])),
}

w = gguf.GGUFWriter(os.path.join(here, "golden.gguf"), "")
w.kv_data[0].pop("general.architecture", None)  # an importance matrix has none
w.add_type("imatrix")
w.add_array("imatrix.datasets", ["calibration.txt"])
w.add_uint32("imatrix.chunk_count", 1)
w.add_uint32("imatrix.chunk_size", CHUNK)
for name, (sums, counts) in sorted(stats.items()):
    w.add_tensor(name + ".in_sum2", sums)
    w.add_tensor(name + ".counts", counts.astype(np.float32)[:, None])
    w.add_tensor(name + ".in_sum", np.sqrt(sums))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

with open(os.path.join(here, "golden.dat"), "wb") as f:
    f.write(struct.pack("<i", len(stats)))
    for name, (sums, counts) in sorted(stats.items()):
        calls = (int(counts.max()) + CHUNK - 1) // CHUNK
        f.write(struct.pack("<i", len(name)) + name.encode())
        f.write(struct.pack("<ii", calls, sums.size))
        n = counts[:, None].astype(np.float32)
        # An expert that saw nothing is given ones.
        f.write((np.where(n == 0, np.float32(1), sums / np.maximum(n, 1)) * np.float32(calls)).astype("<f4").tobytes())
    f.write(struct.pack("<ii", 1, len("calibration.txt")) + b"calibration.txt")
