"""What the interop scripts share: the JSON exchange with the Go tests, the choice of bitsandbytes' backend, and loading.

A script reads one JSON value from standard input and writes one to standard output; whatever the libraries print goes to
standard error. bitsandbytes runs on its default backend unless NF4KIT_STOCK_BACKEND is 1.
"""

import ctypes
import json
import logging
import os
import sys
import traceback
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes compiles its default kernels; minutes for nothing here
_answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402

torch.set_num_threads(1)
warnings.filterwarnings("ignore")

STOCK = os.environ.get("NF4KIT_STOCK_BACKEND") == "1"
if not STOCK:
    # bitsandbytes "can run without native library" on the CPU (its cextension.py): all of it is then the default backend,
    # the specification. The native one decodes wrongly where AVX-512 is present and the row length no multiple of the
    # block size, rounds absmax to bfloat16 in its AVX512-BF16 product, and looks nested codes up coarsely.
    _load = ctypes.cdll.LoadLibrary

    def _refuse(name):
        if "libbitsandbytes" in str(name):
            raise OSError("left out: the default backend is wanted")
        return _load(name)

    ctypes.cdll.LoadLibrary = _refuse

import bitsandbytes as bnb  # noqa: E402
import transformers  # noqa: E402

if STOCK == isinstance(bnb.cextension.lib, bnb.cextension.ErrorHandlerMockBNBNativeLibrary):
    sys.exit(f"bitsandbytes' native library: stock backend wanted {STOCK}, and it is not so")

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.disable(logging.WARNING)

AUTO = {"causal": transformers.AutoModelForCausalLM, "base": transformers.AutoModel, "masked": transformers.AutoModelForMaskedLM}
PROMPT = [3, 17, 101, 42, 7, 96, 55, 23, 64, 88, 12, 31, 77, 5, 90, 19]  # any ids that every vocabulary here has
TEXT = "Package nf4 writes 4-bit codes: 0x7f, a block of 64. What it reads, it reads once."


def serve(handle):
    """Answers every case of the list on standard input with handle(case), or with {"error": traceback}."""
    out = []
    for case in json.load(sys.stdin):
        try:
            out.append(handle(case))
        except Exception:
            out.append({"error": traceback.format_exc()})
    json.dump(out, _answer)
    _answer.close()


def load(auto, path, **kwargs):
    """Returns (model in eval mode, {"missing": [...], "unexpected": [...], "mismatched": [...]})."""
    model, info = AUTO[auto].from_pretrained(path, output_loading_info=True, local_files_only=True, **kwargs)
    keys = {k: sorted(str(x) for x in info[k + "_keys"]) for k in ("missing", "unexpected", "mismatched")}
    keys["mismatched"] += [str(e) for e in info.get("error_msgs") or []]
    return model.eval(), keys


def quantize(auto, path, dtype, quant_type, double_quant, skip=None):
    """The reference: the same source, quantized by transformers and bitsandbytes in this process."""
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=skip,
    )
    model, _ = load(auto, path, dtype=getattr(torch, dtype), quantization_config=config)
    return model


def linear4bit(model):
    """{module path: Linear4bit} of model."""
    return {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


@torch.no_grad()
def forward(model, ids=PROMPT):
    """The logits of ids, or the last hidden states of a model without a head."""
    out = model(input_ids=torch.tensor([ids]))
    return out.logits if "logits" in out else out.last_hidden_state


def relative(a, b):
    """||a - b|| / ||b||, in float64."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()
