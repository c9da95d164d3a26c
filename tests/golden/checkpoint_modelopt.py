"""Makes checkpoint/modelopt_*: a tiny Llama exported by ModelOpt itself, W4A4 and weight-only: its two JSON files and
its weights. Needs nvidia-modelopt 0.47, transformers, no GPU. Run: python checkpoint_modelopt.py"""

import json
import pathlib
import shutil
import tempfile

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

import modelopt.torch.quantization as mtq
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.nn import TensorQuantizer

OUT = pathlib.Path(__file__).parent / "checkpoint"


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=24, max_position_embeddings=64,
                         tie_word_embeddings=False, architectures=["LlamaForCausalLM"])
    return LlamaForCausalLM(config).to(torch.bfloat16)


def export(name, recipe):
    model = mtq.quantize(tiny_llama(), recipe, forward_loop=None)
    # The fake quantiser wants CUDA, so calibration is done by hand, and the export's dummy forward skips it.
    for path, module in model.named_modules():
        if not isinstance(module, TensorQuantizer) or not module.is_enabled:
            continue
        linear = model.get_submodule(path.rsplit(".", 1)[0])
        if path.endswith("input_quantizer"):
            module.amax = torch.tensor(3.0)
        elif path.endswith("weight_quantizer"):
            module.amax = linear.weight.abs().amax().float()
    TensorQuantizer.forward = lambda self, x: x
    with tempfile.TemporaryDirectory() as folder:
        export_hf_checkpoint(model, torch.bfloat16, folder)
        out = OUT / name
        out.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "hf_quant_config.json", "model.safetensors"):
            shutil.copyfile(pathlib.Path(folder) / file, out / file)
    write_expected(out)


def write_expected(folder):
    """What a reader must find in each linear, as the safetensors library reads it."""
    expected = {}
    with safe_open(folder / "model.safetensors", "pt") as f:
        for key in f.keys():
            if not key.endswith(".weight_scale_2"):
                continue
            name = key.removesuffix(".weight_scale_2")
            codes, scales = f.get_tensor(name + ".weight"), f.get_tensor(name + ".weight_scale").view(torch.uint8)
            expected[name] = {
                "rows": codes.shape[0], "cols": codes.shape[1] * 2,
                "global_bits": f.get_tensor(key).view(torch.int32).item(),
                "input_bits": f.get_tensor(name + ".input_scale").view(torch.int32).item()
                if name + ".input_scale" in f.keys() else None,
                "codes_sum": codes.long().sum().item(), "scales_sum": scales.long().sum().item(),
                "codes_row1": codes[1].tolist(), "scales_row1": scales[1].tolist(),
            }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


OUT.mkdir(exist_ok=True)
forward = TensorQuantizer.forward
export("modelopt_nvfp4", mtq.NVFP4_DEFAULT_CFG)
TensorQuantizer.forward = forward
export("modelopt_w4a16_nvfp4", mtq.W4A16_NVFP4_CFG)
