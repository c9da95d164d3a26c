"""Writes nvfp4_modelopt.json: adversarial weights quantised by ModelOpt's own code, on the CPU.

  pip install torch==2.11.0 nvidia-modelopt==0.47.0 && python tests/golden/nvfp4_modelopt.py

max: NVFP4QTensor.quantize. mse, four_over_six: ModelOpt's calibrators choose the block amax, its exporter turns that
into scales, NVFP4QTensor.quantize into codes. The calibrators' fake quantiser needs CUDA; here it is ModelOpt's own
quantise and dequantise with the exported scales. Also nvfp4_e4m3.json: torch's cast of clamped floats to E4M3.
"""

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import torch
from modelopt.torch.quantization.calib.mse import MseCalibrator, NVFP4MSECalibrator
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

ROWS, COLS = 4, 64
HERE = pathlib.Path(__file__).parent


def hexadecimal(t):
    return t.contiguous().view(torch.uint8).numpy().tobytes().hex()


def weights():
    """name -> [ROWS, COLS]; finite, not all zero; as FP32 or BF16."""
    g = torch.Generator().manual_seed(11)
    shape = (ROWS, COLS)
    normal = torch.randn(shape, generator=g)
    uniform = torch.rand(shape, generator=g) * 2 - 1
    octave = torch.randint(-30, 0, shape, generator=g).float()
    cases = {
        "normal": normal * 0.02,
        "bf16": (normal * 0.02).bfloat16(),
        "octaves": (uniform * 2**octave).bfloat16(),
        "deep": uniform * 2 ** (octave * 4),  # far below the smallest block scale, into FP32's subnormals
        "ties": torch.randint(-28, 29, shape, generator=g).bfloat16() * 0.25,
        "scale_ties": (normal * 0.1).bfloat16(),
        "outliers": (normal * torch.where(uniform > 0.97, 100.0, 0.01)).bfloat16(),
        "zeros": torch.where(uniform > 0.9, normal, torch.where(normal > 0, 0.0, -0.0)),
        "tiny": normal * 1e-28,
        "huge": uniform * 1e38,
        "heavy": torch.tan(uniform * 1.5) * 0.01,
    }
    # A largest value of 2688 makes the global scale 1, so block amaxes of 6 * midpoint are exact E4M3 ties.
    ties = cases["scale_ties"].float()
    ties[0, 0] = 2688
    e4m3 = torch.arange(1, 0x7E, dtype=torch.uint8)
    midpoint = 3 * (e4m3.view(torch.float8_e4m3fn).float() + (e4m3 + 1).view(torch.float8_e4m3fn).float())
    ties.view(-1, 16)[1:, 5] = midpoint[torch.randperm(len(midpoint), generator=g)[: ROWS * COLS // 16 - 1]]
    cases["scale_ties"] = ties.bfloat16()
    zeros = cases["zeros"]
    zeros[1, 16:48] = 0.0  # whole blocks
    return cases


def quantizer(x, four_over_six, amax=None):
    blocks = {-1: 16, "four_over_six": four_over_six}
    return SimpleNamespace(block_sizes=blocks, global_amax=x.float().abs().max(), _amax=amax)


def export(x, q):
    scales, second = NVFP4QTensor.get_weights_scaling_factor_from_quantizer(q, x)
    packed, _, _ = NVFP4QTensor.quantize(x.clone(), 16, scales, second)
    return packed, scales, second


def static(x, calibrator_of, four_over_six):
    """Codes and scales with the block amax that a calibrator chooses."""

    def fake(flat, amax):
        packed, scales, second = export(flat.view(x.shape), quantizer(x, four_over_six, amax.reshape(-1, 1)))
        out = packed.dequantize(dtype=torch.float32, scale=scales, double_scale=second, block_sizes={-1: 16})
        return out.view(flat.shape)

    flat = x.float().reshape(-1, 16)
    amax = flat.abs().amax(dim=1, keepdim=True)
    calibrator = calibrator_of(amax, quantizer(x, four_over_six).global_amax, fake)
    calibrator.collect(flat)
    return export(x, quantizer(x, four_over_six, calibrator.compute_amax()))


def record(packed, scales, second):
    return {
        "codes": hexadecimal(packed._quantized_data),
        "scales": hexadecimal(scales),
        "global": hexadecimal(second.reshape(1)),
    }


def main():
    cases = []
    for name, x in weights().items():
        case = {"name": name, "x": hexadecimal(x.float())}
        case["max"] = record(*NVFP4QTensor.quantize(x.clone(), 16))
        cases.append(case)
        if name in ("tiny", "huge"):  # the squares of its errors leave FP32, and the first candidate wins
            continue
        case["mse"] = record(
            *static(x, lambda a, g, f: NVFP4MSECalibrator(a, g, axis=0, quant_func=f), False)
        )
        case["four_over_six"] = record(
            *static(
                x,
                lambda a, g, f: MseCalibrator(
                    a, axis=0, step_size=0.5, start_multiplier=1.0, stop_multiplier=1.5, quant_func=f
                ),
                True,
            )
        )
    golden = {"rows": ROWS, "cols": COLS, "cases": cases}
    (HERE / "nvfp4_modelopt.json").write_text(json.dumps(golden, indent=0) + "\n")

    codes = torch.arange(0, 0x7F, dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn).float().numpy()
    midpoints = (values[1:] + values[:-1]) / 2
    interesting = np.concatenate([values, midpoints, [2.0**-10, 2.0**-11, 1e-45, 1e-38, 449, 463, 464, 465, 1e30]])
    interesting = interesting.astype(np.float32)
    around = [np.nextafter(interesting, np.float32(t)) for t in (-np.inf, np.inf)]
    x = torch.from_numpy(np.concatenate([interesting, *around]))
    x = torch.cat([x, -x])
    bytes_ = x.clamp(-448, 448).to(torch.float8_e4m3fn)
    (HERE / "nvfp4_e4m3.json").write_text(
        json.dumps({"x": hexadecimal(x), "codes": hexadecimal(bytes_)}, indent=0) + "\n"
    )


main()
