"""What users run today: quantizes a checkpoint with transformers and bitsandbytes, and saves it.

    python quantize.py SRC DST
"""

import sys

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, quantization_config=config)
model.save_pretrained(sys.argv[2])
