"""ModelOpt's own NVFP4 export of tests/golden/models/llama, W4A4 and weight-only.

Makes tests/golden/quantize/{nvfp4,nvfp4-weight-only}/{model.safetensors,hf_quant_config.json} and
quantize/input_amax.json, the input maxima that were set by hand (one a linear, before fusion).
Needs nvidia-modelopt 0.47, transformers 5.23, no GPU. Run: python tests/golden/quantize_modelopt.py
"""

import json
import pathlib
import shutil
import tempfile

import modelopt.torch.quantization as mtq
import torch
import transformers
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.nn import TensorQuantizer

HERE = pathlib.Path(__file__).parent
OUT = HERE / "quantize"


def export(name, recipe):
    model = transformers.LlamaForCausalLM.from_pretrained(HERE / "models/llama", dtype=torch.bfloat16)
    model = mtq.quantize(model, recipe, forward_loop=None)
    # The fake quantiser asserts CUDA, so calibration is done by hand and the export's dummy forward skips it.
    amax = {}
    for path, module in model.named_modules():
        if not isinstance(module, TensorQuantizer) or not module.is_enabled:
            continue
        linear = path.rsplit(".", 1)[0]
        if path.endswith("input_quantizer"):
            amax[linear] = 1.0 + 0.37 * len(amax)
            module.amax = torch.tensor(amax[linear])
        elif path.endswith("weight_quantizer"):
            module.amax = model.get_submodule(linear).weight.abs().amax().float()
    forward, TensorQuantizer.forward = TensorQuantizer.forward, lambda self, x: x
    with tempfile.TemporaryDirectory() as folder:
        export_hf_checkpoint(model, torch.bfloat16, folder)
        out = OUT / name
        out.mkdir(parents=True, exist_ok=True)
        for file in ("model.safetensors", "hf_quant_config.json"):
            shutil.copyfile(pathlib.Path(folder) / file, out / file)
    TensorQuantizer.forward = forward
    return amax


if __name__ == "__main__":
    amax = export("nvfp4", mtq.NVFP4_DEFAULT_CFG)
    export("nvfp4-weight-only", mtq.W4A16_NVFP4_CFG)
    (OUT / "input_amax.json").write_text(json.dumps(amax, indent=1) + "\n")
