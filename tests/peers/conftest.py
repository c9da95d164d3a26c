"""The program under test and tiny models of every supported architecture, made by Transformers itself."""
import json, pathlib, subprocess

import pytest
import torch
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import load_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, NemotronHConfig, NemotronHForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

ROOT = pathlib.Path(__file__).resolve().parents[2]
QAD = ROOT / "build" / "qad"
TEXT = ROOT / "data/tinystories/validation.txt"


def qad(*args, ok=True):
    """Runs the program; returns stdout, or with ok=False the error text of a run that must fail."""
    done = subprocess.run([str(QAD), *map(str, args)], cwd=ROOT, capture_output=True, text=True)
    if ok:
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert done.returncode not in (0, -6, -11), done.stdout + done.stderr
    return done.stderr


SMALL = dict(vocab_size=512, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
HYBRID = dict(hybrid_override_pattern="M-M*M-", num_hidden_layers=6, head_dim=32, mamba_num_heads=8, mamba_head_dim=16,
              n_groups=2, ssm_state_size=32, chunk_size=16)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama3": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, head_dim=32, rope_parameters=LLAMA3)),
    "nemotron_h": lambda: NemotronHForCausalLM(NemotronHConfig(**{**SMALL, **HYBRID})),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True)),
}


def distil(model, out):
    """A short QAD of `model`, which brings it nearer to its teacher than PTQ did."""
    qad("distill", model, "-o", out, "--data.train", TEXT, "--data.test", TEXT, "--data.max_test_documents", 4,
        "--train.steps", 12, "--train.seq_len", 96, "--train.batch_sequences", 4, "--train.warmup_steps", 1,
        "--train.learning_rate", 1e-3)
    result = json.loads((out / "result.json").read_text())
    assert result["teacher"]["kl"] == 0 < result["student"]["kl"] < result["ptq"]["kl"]
    qad("verify", out / "checkpoint")


def read_model(folder):
    """Transformers' model in FP32. Its Mamba limits time steps from below by time_step_min, which decoding and NVIDIA's
    own kernels do not."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    return model


def file_name(model, name):
    """What files call a tensor or module of the model."""
    is_hybrid = model.config.model_type == "nemotron_h"
    return "backbone." + name.removeprefix("model.") if is_hybrid and name.startswith("model.") else name


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory):
    """The demo model as an HF folder: its tokenizer serves the tiny models too (512 ids)."""
    out = tmp_path_factory.mktemp("demo") / "hf"
    qad("convert", ROOT / "data/stories260k/stories260K.bin", out)
    return out


@pytest.fixture(scope="session", params=sorted(MODELS))
def tiny(request, tmp_path_factory, tokenizer_files):
    """(folder, Transformers model in FP32 with the folder's BF16 values)"""
    torch.manual_seed(sum(map(ord, request.param)))
    model = MODELS[request.param]()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", ".bias", ".D")):
                p.add_(0.3 * torch.randn_like(p))
            elif name.endswith((".A_log", ".dt_bias")):
                p.copy_(torch.randn_like(p) - (1 if "dt" in name else 0))
    folder = tmp_path_factory.mktemp(request.param)
    model.to(torch.bfloat16).save_pretrained(folder)  # rounds the rotary buffers too: hence read again below
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer_files / name).read_bytes())
    return folder, read_model(folder)


def fake_quantize(x, scale):
    """NVFP4 activations as deployed kernels see them, by ModelOpt's own quantiser under our input scale."""
    flat = x.reshape(-1, x.shape[-1])
    q, block, two = NVFP4QTensor.quantize(flat, 16, weights_scaling_factor_2=scale)
    return q.dequantize(dtype=torch.float32, scale=block, double_scale=two, block_sizes={-1: 16}).reshape(x.shape)


@torch.no_grad()
def deployed(folder, quantised):
    """Transformers' model of `folder` in FP32 with the values of its NVFP4 checkpoint, which ModelOpt decodes, and, if
    that has input scales, with quantised activations."""
    tensors = load_file(quantised / "model.safetensors")
    model = read_model(folder)
    for name, parameter in model.named_parameters():
        name = file_name(model, name)
        if tensors[name].dtype != torch.uint8:
            parameter.copy_(tensors[name])
    for name, module in model.named_modules():
        name = file_name(model, name)
        if f"{name}.weight_scale" not in tensors:
            continue
        codes = tensors[f"{name}.weight"]
        q = NVFP4QTensor((codes.shape[0], codes.shape[1] * 2), torch.float32, codes)
        module.weight.copy_(q.dequantize(dtype=torch.float32, scale=tensors[f"{name}.weight_scale"],
                                         double_scale=tensors[f"{name}.weight_scale_2"], block_sizes={-1: 16}))
        scale = tensors.get(f"{name}.input_scale")
        if scale is not None:
            a, b = (tensors.get(f"{name}.svdquant_lora_{which}") for which in "ab")
            if a is not None:  # as ModelOpt's SVDQuantLinear: of the unquantised input
                module.register_forward_pre_hook(lambda m, args: setattr(m, "plain", args[0]))
                module.register_forward_hook(lambda m, args, y, a=a.float(), b=b.float(): y + m.plain @ a.T @ b.T)
            module.register_forward_pre_hook(lambda m, args, scale=scale: (fake_quantize(args[0], scale),))
    return model


@pytest.fixture(scope="session")
def ids_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ids") / "ids.json"
    ids = torch.randint(3, 512, (2, 33), generator=torch.Generator().manual_seed(7))
    path.write_text(json.dumps(ids.tolist()))
    return path, ids
