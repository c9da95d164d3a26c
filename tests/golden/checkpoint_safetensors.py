"""Makes checkpoint/: tiny files written by the Python safetensors library (0.5 or newer), with the values that a
reader must find in them. Run: python checkpoint_safetensors.py"""

import json
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "checkpoint"


def main():
    # Every type that we read as numbers, over bit patterns that are hard to convert: subnormals, the largest and
    # smallest finite values, both zeros, infinities.
    half_bits = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x3555, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x6400]
    bf16_bits = [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x3F80, 0x3EAB, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0xC2F7]
    as_int16 = lambda bits: torch.tensor([b - 65536 if b > 32767 else b for b in bits], dtype=torch.int16)
    tensors = {
        "f16": as_int16(half_bits).view(torch.float16).reshape(3, 4),
        "bf16": as_int16(bf16_bits).view(torch.bfloat16).reshape(2, 6),
        "f32": torch.tensor([[1.5, -0.0, 3e-45], [3.4028234663852886e38, -1e-20, 0.1]]),
        "f64": torch.tensor([0.1, -1e300, 1e-300], dtype=torch.float64),
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),  # leaves what follows unaligned, were the order by name
        "scales": torch.tensor([1.0, 448.0, 0.001953125]).to(torch.float8_e4m3fn),
        "ids": torch.tensor([-1, 2**40]),
        "mask": torch.tensor([True, False, True]),
    }
    save_file(tensors, OUT / "types.safetensors", metadata={"format": "pt"})
    values = {
        name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape),
               # The bits of the FP32 value, so that infinities and the sign of zero can be told.
               "f32_bits": [b & 0xFFFFFFFF for b in t.float().reshape(-1).view(torch.int32).tolist()]
               if t.is_floating_point() else None}
        for name, t in tensors.items()
    }
    (OUT / "types.json").write_text(json.dumps(values, indent=1) + "\n")


main()
