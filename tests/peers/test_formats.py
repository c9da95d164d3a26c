"""What we write in each format, read by the programs it is for."""
import json

import pytest
import torch
from compressed_tensors.entrypoints.convert.converters.modelopt_nvfp4 import ModelOptNvfp4Converter
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import ROOT, qad

TEXT = ROOT / "data/tinystories/validation.txt"
CALIB = ("--calib", TEXT, "--calib-sequences", 8)


def logits_of(folder, ids_file, tmp_path):
    qad("logits", folder, "--tokens", ids_file[0], "-o", tmp_path / "l.safetensors")
    return load_file(tmp_path / "l.safetensors")["logits"]


def add_cache_scales(folder):
    """An FP8 cache for a ModelOpt folder of ours."""
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        for which in "kv":
            name = f"model.layers.{layer}.self_attn.{which}_proj.{which}_scale"
            tensors[name] = torch.tensor(0.01 * (layer + 1))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    (folder / "config.json").write_text(json.dumps(config))
    nested = json.loads((folder / "hf_quant_config.json").read_text())
    nested["quantization"]["kv_cache_quant_algo"] = "FP8"
    (folder / "hf_quant_config.json").write_text(json.dumps(nested))


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8),
                                                                     b.reshape(-1).view(torch.uint8))


@torch.no_grad()
def transformers_logits(folder, ids):
    """Of Transformers with compressed-tensors: decompressed in BF16 at the first pass, then computed in FP32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model(ids)
    torch.nn.Module.float(model)
    model.model.rotary_emb.__init__(model.config)  # its frequencies were rounded to BF16
    return model(ids).logits


@pytest.mark.parametrize("policy", ["nvfp4", "nvfp4-weight-only", "nvfp4-mlp-only"])
def test_transformers_loads_compressed_tensors_and_gives_our_logits(tiny, policy, ids_file, tmp_path):
    """Its own code decodes the weights and quantises the inputs by the scales in the file."""
    folder, _ = tiny
    out = tmp_path / "ct"
    qad("quantize", folder, "-o", out, "--recipe", policy, "--format", "compressed-tensors", *CALIB)
    qad("verify", out)
    ours = logits_of(out, ids_file, tmp_path)
    theirs = transformers_logits(out, ids_file[1])
    # As in test_models: a code that falls the other way at a tie moves a logit.
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.99
    # The inputs are quantised, or not: the same weights without do something else.
    qad("convert", out, tmp_path / "bf16", "--format", "hf-bf16")
    plain = logits_of(tmp_path / "bf16", ids_file, tmp_path)
    assert ((plain - ours).abs().max() > 1e-3 * ours.abs().max()) == (policy != "nvfp4-weight-only")


def test_compressed_tensors_are_those_of_its_own_converter(tiny, tmp_path):
    """compressed-tensors' ModelOpt converter makes of our ModelOpt folder the tensors that we write; and back."""
    folder, _ = tiny
    for rule in ("pow2", "amax"):
        first, ct, back = (tmp_path / f"{rule}-{name}" for name in ("modelopt", "ct", "back"))
        qad("quantize", folder, "-o", first, "--global-scale", rule, *CALIB)
        add_cache_scales(first)
        qad("verify", first)
        said = qad("convert", first, ct, "--format", "compressed-tensors")
        assert "28 scales" in said and (rule == "amax" or "28 exactly, 0 within" in said), said
        qad("verify", ct)
        qad("convert", ct, back, "--format", "modelopt")
        qad("verify", back)
        kv = QuantizationArgs(num_bits=8, type="float", scale_dtype=torch.float32)
        theirs = ModelOptNvfp4Converter(targets=["re:.*proj$"], kv_cache_scheme=kv).process(tensors_of(first))
        ours = tensors_of(ct)
        renamed = {n.replace("k_proj.k_scale", "k_scale").replace("v_proj.v_scale", "v_scale"): t for n, t in theirs.items()}
        assert renamed.keys() == ours.keys()
        for name, tensor in renamed.items():
            assert same_bits(ours[name], tensor.reshape(ours[name].shape)), name
        config = QuantizationConfig.model_validate(json.loads((ct / "config.json").read_text())["quantization_config"])
        assert config.kv_cache_scheme.num_bits == 8 and config.kv_cache_scheme.strategy == "tensor"
        original, returned = tensors_of(first), tensors_of(back)
        assert original.keys() == returned.keys()
        for name, tensor in original.items():
            if rule == "pow2" or not name.endswith(("weight_scale_2", "input_scale")):
                assert same_bits(tensor, returned[name]), name
            else:
                torch.testing.assert_close(returned[name], tensor, rtol=2 ** -23, atol=0)
        for name in ("config.json", "hf_quant_config.json"):
            a, b = (json.loads((f / name).read_text()) for f in (first, back))
            assert (a == b) if name == "hf_quant_config.json" else (
                a["quantization_config"].keys() == b["quantization_config"].keys())
