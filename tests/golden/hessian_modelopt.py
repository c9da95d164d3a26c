"""Writes hessian_modelopt.json: block scales by local Hessians, and GPTQ's codes, from ModelOpt's own code on the CPU.

  pip install torch==2.11.0 nvidia-modelopt==0.47.0 && python tests/golden/hessian_modelopt.py

Inputs are small integers, of which X^T X is exact. local_hessian: ModelOpt's accumulator and its sweep over 126 scales
choose the block amax, its exporter turns that into scales. gptq: its block-wise update, under those scales and under those
of its MSE sweep. The calibrators' fake quantiser needs CUDA; here it is ModelOpt's own quantise and dequantise.
"""

import json
import pathlib
from types import SimpleNamespace

import torch
from modelopt.torch.quantization.calib.mse import NVFP4MSECalibrator
from modelopt.torch.quantization.model_calib import _LocalHessianAccumulator
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from modelopt.torch.quantization.utils.calib_utils import compute_hessian_inverse, gptq_blockwise_update

ROWS, COLS, TOKENS = 6, 144, 300  # more columns than a GPTQ block of 128
HERE = pathlib.Path(__file__).parent


def hexadecimal(t):
    return t.contiguous().view(torch.uint8).numpy().tobytes().hex()


def export(x, amax):
    q = SimpleNamespace(block_sizes={-1: 16, "four_over_six": False}, global_amax=GLOBAL, _amax=amax)
    scales, second = NVFP4QTensor.get_weights_scaling_factor_from_quantizer(q, x)
    packed, _, _ = NVFP4QTensor.quantize(x.clone(), 16, scales, second)
    return packed, scales, second


def rounded(x, amax):
    packed, scales, second = export(x, amax)
    return packed.dequantize(dtype=torch.float32, scale=scales, double_scale=second, block_sizes={-1: 16})


def sweep(w, error=None):
    flat = w.reshape(-1, 16)
    first = flat.abs().amax(dim=1, keepdim=True)
    fake = lambda x, amax: rounded(x.view(w.shape), amax.reshape(-1, 1)).view(x.shape)
    calibrator = NVFP4MSECalibrator(first, GLOBAL, axis=0, quant_func=fake, error_func=error)
    calibrator.collect(flat)
    return calibrator.compute_amax().reshape(-1, 1)


g = torch.Generator().manual_seed(7)
mix = torch.eye(COLS) + 0.7 * torch.eye(COLS).roll(1, 0) + 0.1 * torch.randn((COLS, COLS), generator=g)
size = torch.exp(2 * torch.rand(COLS, generator=g))
x = (torch.randn((TOKENS, COLS), generator=g) @ mix * size * 2).round().clamp(-127, 127)
w = (torch.randn((ROWS, COLS), generator=g) * 0.03).bfloat16().float()
GLOBAL = w.abs().max()
moments = _LocalHessianAccumulator(ROWS, COLS, 16)
moments.accumulate(x)
error = moments.build_error_func()
golden = {"rows": ROWS, "cols": COLS, "tokens": TOKENS, "w": hexadecimal(w), "x": hexadecimal(x.to(torch.int8)), "cases": []}
for name, amax in (("local_hessian", sweep(w, error)), ("mse", sweep(w))):
    _, scales, second = export(w, amax)
    updated = w.clone()
    hessian = 2 * x.T @ x / TOKENS
    gptq_blockwise_update(updated, compute_hessian_inverse(hessian, w, 0.01), 128, lambda v: rounded(v, amax))
    golden["cases"].append({"name": name, "global": hexadecimal(second.reshape(1)), "scales": hexadecimal(scales), "gptq": hexadecimal(updated)})
(HERE / "hessian_modelopt.json").write_text(json.dumps(golden, indent=0) + "\n")
