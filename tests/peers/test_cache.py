"""Keys and values in FP8: scales and logits against ModelOpt's own k and v quantisers."""
import copy, json

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export.quant_utils import get_kv_cache_scaling_factor
from safetensors.torch import load_file
from transformers import AutoTokenizer

from conftest import ROOT, deployed, qad
from test_models import logits_of

TEXTS = (ROOT / "data/tinystories/validation.txt").read_text()[:4000].split(". ")[:20]


def rounding(model, ids):
    """The attentions of a model that ModelOpt has calibrated on these, and that rounds keys and values from here on."""
    config = {"quant_cfg": [{"quantizer_name": "*", "enable": False},
                            {"quantizer_name": "*[kv]_bmm_quantizer", "cfg": {"num_bits": (4, 3)}, "enable": True}],
              "algorithm": "max"}
    mtq.quantize(model, config, lambda m: [m(torch.tensor([one])) for one in ids])
    return [layer.self_attn for layer in model.model.layers]


@torch.no_grad()
@pytest.mark.parametrize("tiny", ["llama", "qwen3"], indirect=True)
def test_scales_and_logits_are_modelopts(tiny, ids_file, tmp_path):
    folder, model = tiny
    calib, out = tmp_path / "calib.jsonl", tmp_path / "fp8"
    calib.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    qad("quantize", folder, "-o", out, "--recipe", "nvfp4-weight-only", "--global-scale", "amax", "--calib", calib,
        "--set", "quantize.kv_cache=fp8")
    qad("verify", out)
    assert "keys and values FP8" in qad("inspect", out)
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"]["kv_cache_quant_algo"] == "FP8"

    tensors, tokenizer = load_file(out / "model.safetensors"), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    scales = []
    for i, attention in enumerate(rounding(copy.deepcopy(model), ids)):
        scales.append([tensors[f"model.layers.{i}.self_attn.{w}_proj.{w}_scale"] for w in "kv"])
        theirs = get_kv_cache_scaling_factor(attention, clamp_fp8_scales=False)
        for ours, other in zip(scales[-1], theirs):
            assert ours.shape == () and ours.dtype == torch.float32
            assert abs(ours - other) <= 1e-5 * other  # sums of another order

    model = deployed(folder, out)
    plain = model(ids_file[1]).logits
    for attention, (k, v) in zip(rounding(model, ids), scales):
        attention.k_bmm_quantizer.amax, attention.v_bmm_quantizer.amax = 448 * k, 448 * v
    # As with activations in test_models: a key at a tie may get the other code.
    ours, theirs = logits_of(out, ids_file, tmp_path), model(ids_file[1]).logits
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05 and (error < 1e-3).float().mean() > 0.99
    assert (plain - theirs).abs().max() > 0.02 * theirs.abs().max()  # it rounds


@torch.no_grad()
def test_a_distilled_model_keeps_its_cache(tokenizer_files, tmp_path):
    """qad distill trains with the rounding and writes the scales; both formats of folders hold the same."""
    (tmp_path / "train.txt").write_text((ROOT / "data/tinystories/validation.txt").read_text()[:60000])
    run = tmp_path / "run"
    qad("distill", tokenizer_files, "-o", run, "--quantize.kv_cache", "fp8", "--data.train", tmp_path / "train.txt",
        "--data.test", tmp_path / "train.txt", "--data.max_test_documents", 4, "--train.steps", 4, "--train.seq_len", 64,
        "--train.batch_sequences", 2, "--calibration.sequences", 4)
    qad("verify", run / "checkpoint")
    tensors = load_file(run / "checkpoint" / "model.safetensors")
    scales = {name: t for name, t in tensors.items() if name.endswith(("k_scale", "v_scale"))}
    assert len(scales) == 2 * 5
    assert all(torch.frexp(t)[0] == 0.5 for t in scales.values())  # powers of two, by default
    qad("convert", run / "checkpoint", tmp_path / "ct", "--format", "compressed-tensors")
    other = load_file(tmp_path / "ct" / "model.safetensors")
    for name, t in scales.items():
        assert other[name.replace("k_proj.", "").replace("v_proj.", "")].item() == t.item()
    assert "rounded to FP8" in (run / "report.html").read_text()
