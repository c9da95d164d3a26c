"""Qwen3-MoE as a user meets it: Transformers' logits, experts with a gate under their own scales, distillation."""
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from conftest import SMALL, TEXT, distil, fake_quantize, qad, read_model
from test_experts import decoded, logits_of, some_ids

EXPERTS = 6


@pytest.fixture(scope="module", params=[False, True], ids=["as they are", "normed"])
def moe(request, tmp_path_factory, tokenizer_files):
    torch.manual_seed(17)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{
        **SMALL, "num_hidden_layers": 3, "head_dim": 32, "num_experts": EXPERTS, "num_experts_per_tok": 2,
        "moe_intermediate_size": 48, "norm_topk_prob": request.param, "mlp_only_layers": [1]}))
    folder = tmp_path_factory.mktemp("moe")
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    return folder


def assert_close(ours, theirs):
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05 and (error < 1e-3).float().mean() > 0.99


@torch.no_grad()
def test_logits_equal_transformers(moe, tmp_path):
    ids = some_ids(65)
    ours, theirs = logits_of(moe, ids, tmp_path), read_model(moe)(ids).logits
    assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    assert "3 layers (3 attention, 2 experts, 1 mlp)" in qad("inspect", moe)


@torch.no_grad()
def test_nvfp4_experts_give_the_logits_of_their_bytes(moe, tmp_path):
    out = tmp_path / "nvfp4"
    qad("quantize", moe, "-o", out, "--calib", TEXT, "--calib-sequences", 8)
    qad("verify", out)
    tensors, model = load_file(out / "model.safetensors"), read_model(moe)
    for name, parameter in model.named_parameters():
        if name in tensors and tensors[name].dtype != torch.uint8:
            parameter.copy_(tensors[name])
    for name, module in model.named_modules():
        if name + ".weight_scale" in tensors:
            module.weight.copy_(decoded(tensors, name))
            scale = tensors[name + ".input_scale"]
            module.register_forward_pre_hook(lambda m, args, scale=scale: (fake_quantize(args[0], scale),))
        if name.endswith(".experts"):
            def forward(x, chosen, weights, file=name):
                out = torch.zeros_like(x)
                for e in range(EXPERTS):
                    token, place = torch.where(chosen == e)
                    if token.numel() == 0:
                        continue
                    linear = lambda h, part: fake_quantize(h, tensors[f"{file}.{e}.{part}.input_scale"]) @ decoded(tensors, f"{file}.{e}.{part}").T
                    h = torch.nn.functional.silu(linear(x[token], "gate_proj")) * linear(x[token], "up_proj")
                    out.index_add_(0, token, linear(h, "down_proj") * weights[token, place, None])
                return out
            module.forward = forward
    ids = some_ids(33)
    assert_close(logits_of(out, ids, tmp_path), model(ids).logits)
    # gate and up are one matrix for engines: one scale
    for e in range(EXPERTS):
        gate, up = (f"model.layers.0.mlp.experts.{e}.{part}_proj" for part in ("gate", "up"))
        assert tensors[gate + ".weight_scale_2"] == tensors[up + ".weight_scale_2"]
        assert tensors[gate + ".input_scale"] == tensors[up + ".input_scale"]
    assert tensors["model.layers.0.mlp.gate.weight"].dtype == torch.bfloat16


def test_distill_trains_experts_and_their_router(moe, tmp_path):
    out = tmp_path / "run"
    distil(moe, out)
    before, after = (load_file(f / "model.safetensors") for f in (moe, out / "checkpoint"))
    assert set(before) <= set(after)
    assert not torch.equal(before["model.layers.2.mlp.gate.weight"], after["model.layers.2.mlp.gate.weight"])
