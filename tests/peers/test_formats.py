"""What we write in each format, read by the programs it is for."""
import json, shutil, subprocess

import pytest
import torch
from compressed_tensors.entrypoints.convert.converters.modelopt_nvfp4 import ModelOptNvfp4Converter
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, get_tensor_name_map
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoTokenizer, NemotronHConfig, NemotronHForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

from conftest import HYBRID, ROOT, SMALL, qad

TEXT = ROOT / "data/tinystories/validation.txt"
CALIB = ("--calib", TEXT, "--calib-sequences", 8)


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


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


@pytest.fixture
def dense(tiny):
    if tiny[1].config.model_type == "nemotron_h":
        pytest.skip("GGUF and MLX are written of Llama's kin; for hybrids see below")
    return tiny


@torch.no_grad()
def transformers_logits(folder, ids, dtype=torch.bfloat16):
    """Of Transformers with compressed-tensors: decompressed in `dtype` at the first pass, then computed in FP32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model(ids)
    torch.nn.Module.float(model)
    model.model.rotary_emb.__init__(model.config)  # its frequencies were rounded to BF16
    return model(ids).logits


@pytest.mark.parametrize("policy", ["nvfp4", "nvfp4-weight-only", "nvfp4-mlp-only"])
def test_transformers_loads_compressed_tensors_and_gives_our_logits(dense, policy, ids_file, tmp_path):
    """Its own code decodes the weights and quantises the inputs by the scales in the file."""
    folder, _ = dense
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


def test_compressed_tensors_are_those_of_its_own_converter(dense, tmp_path):
    """compressed-tensors' ModelOpt converter makes of our ModelOpt folder the tensors that we write; and back."""
    folder, _ = dense
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


def gguf_values(path):
    """Every weight of a GGUF in FP32 as gguf-py decodes it, times its .scale, and the file's fields."""
    reader = GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    values = {}
    for name, t in tensors.items():
        if name.endswith((".weight", ".bias")):
            value = torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).reshape(tuple(int(n) for n in t.shape[::-1]))
            scale = tensors.get(name.removesuffix(".weight") + ".scale")
            values[name] = value if scale is None else value * float(scale.data[0])
    return values, tensors, {k: f.contents() for k, f in reader.fields.items()}


def as_gguf(folder):
    """A folder's values under the names and in the order that gguf-py's own tables and llama.cpp's converter give."""
    config = json.loads((folder / "config.json").read_text())
    arch = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}[config["model_type"]]
    names, values = get_tensor_name_map(arch, 2), {}
    for name, tensor in tensors_of(folder).items():
        tensor = tensor.float()
        if arch == MODEL_ARCH.LLAMA and ("q_proj" in name or "k_proj" in name):  # each head's halves interleaved
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            tensor = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        stem, _, suffix = name.rpartition(".")
        values[f"{names.get_name(stem)}.{suffix}"] = tensor
    return values


@pytest.mark.parametrize("policy", ["nvfp4", "nvfp4-weight-only"])
def test_gguf_has_our_values_for_gguf_py(dense, policy, ids_file, tmp_path):
    folder, _ = dense
    first, bf16, out, back = tmp_path / "modelopt", tmp_path / "bf16", tmp_path / "m.gguf", tmp_path / "back"
    qad("quantize", folder, "-o", first, "--recipe", policy, *CALIB)
    qad("convert", first, bf16, "--format", "hf-bf16")
    qad("convert", first, out, "--format", "gguf")
    qad("verify", out)
    values, tensors, fields = gguf_values(out)
    expected = as_gguf(bf16)
    assert set(values) - {"rope_freqs.weight"} == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(values[name], tensor), name
    types = {name: t.tensor_type.name for name, t in tensors.items()}
    # 112 columns are no multiple of 64: down_proj is BF16.
    assert sorted(n for n in types if types[n] == "NVFP4") == sorted(
        f"blk.{i}.{part}.weight" for i in range(2) for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"))
    assert types["token_embd.weight"] == types["blk.0.ffn_down.weight"] == "BF16"
    assert ("blk.0.attn_q.input_scale" in types) == (policy == "nvfp4")
    assert fields["general.file_type"] == 39 and fields["general.quantization_version"] == 2
    # And back: the same codes and scales, but for down_proj.
    qad("convert", out, back, "--format", "modelopt")
    original, returned = tensors_of(first), tensors_of(back)
    for name, tensor in original.items():
        if ".down_proj." not in name and not (name == "lm_head.weight" and name not in returned):
            assert same_bits(returned[name], tensor) or (tensor.ndim == 1 and torch.equal(returned[name], tensor.float())), name
    assert torch.equal(returned["model.layers.0.mlp.down_proj.weight"], tensors_of(bf16)["model.layers.0.mlp.down_proj.weight"])


def test_other_ggufs_have_our_values_and_tokens_and_are_rounded_like_ggml(dense, tmp_path):
    folder, _ = dense
    qad("convert", folder, tmp_path / "gguf/m.gguf", "--format", "gguf", ok=False)  # no such folder
    (tmp_path / "gguf").mkdir()
    qad("convert", folder, tmp_path / "gguf/bf16.gguf", "--format", "gguf")
    values, _, fields = gguf_values(tmp_path / "gguf/bf16.gguf")
    assert fields["general.file_type"] == 32
    for name, tensor in as_gguf(folder).items():
        assert torch.equal(values[name], tensor), name
    if fields["general.architecture"] == "llama":  # of the others it expects their own tokenizers
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gguf", gguf_file="bf16.gguf")
        text = TEXT.read_text()[:2000]
        assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    qad("convert", folder, tmp_path / "q8.gguf", "--format", "gguf-q8_0")
    _, tensors, fields = gguf_values(tmp_path / "q8.gguf")
    assert fields["general.file_type"] == 7
    checked = 0
    for name, tensor in as_gguf(folder).items():
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            theirs = quantize(tensor.numpy(), GGMLQuantizationType.Q8_0)
            assert (tensors[name].data == theirs).all(), name
            checked += 1
    assert checked >= 13


FORMATS = ["modelopt", "compressed-tensors", "gguf", "gguf-q8_0", "gguf-bf16", "mlx", "torchao", "hf-bf16"]


def test_quantize_and_distill_write_every_format_at_once(tiny, tmp_path):
    """And the same as converting what they write by default, weight for weight."""
    folder, model = tiny
    if model.config.model_type not in ("qwen3", "nemotron_h"):
        pytest.skip("one architecture with every format, and one without some")
    assert all(f in qad("convert", "--help") for f in FORMATS)
    first = tmp_path / "modelopt"
    qad("quantize", folder, "-o", first, *CALIB)
    for format in FORMATS[1:]:
        if format == "mlx" and model.config.model_type == "nemotron_h":
            continue  # refused: below
        for command in (["quantize", folder, "-o", tmp_path / "a", *CALIB],
                        ["distill", folder, "-o", tmp_path / "run", "--method", "ptq", "--data.train", TEXT, "--data.test", TEXT,
                         "--data.max_test_documents", 2, "--calibration.sequences", 8, "--calibration.seq_len", 512]):
            qad(*command, "--format", format)
            at_once = tmp_path / "a" if command[0] == "quantize" else tmp_path / "run" / "checkpoint"
            qad("convert", first, tmp_path / "b", "--format", format)
            if format.startswith("gguf"):
                a, b = (gguf_values(f / "model.gguf") for f in (at_once, tmp_path / "b"))
                assert a[0].keys() == b[0].keys() and all(torch.equal(t, b[0][n]) for n, t in a[0].items()), format
                assert {n: t.tensor_type for n, t in a[1].items()} == {n: t.tensor_type for n, t in b[1].items()}, format
            else:
                a, b = (tensors_of(f) for f in (at_once, tmp_path / "b"))
                assert a.keys() == b.keys() and all(same_bits(t, b[n]) for n, t in a.items()), format


def test_what_a_format_cannot_express_is_refused_before_the_work(tmp_path, tokenizer_files):
    torch.manual_seed(5)
    sizes = {**SMALL, "head_dim": 16, "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
    folder = tmp_path / "hf"
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    for format, text in [("gguf", "GGUF is written of llama"), ("gguf-bf16", "GGUF is written of llama"),
                         ("torchao", "torchao keeps a layer's experts stacked"), ("mlx", "MLX has no global scales")]:
        for command in (["quantize", folder, *CALIB, "-o", tmp_path / "out"],
                        ["distill", folder, "--data.train", TEXT, "--data.test", TEXT, "-o", tmp_path / "out"]):
            said = qad(*command, "--format", format, *(["--global-scale", "amax"] if command[0] == "quantize" else
                       ["--quantize.global_scale", "amax"]), ok=False)
            assert text in said and "calibrat" not in said and "BF16  " not in said, said
            assert not list((tmp_path / "out").glob("*safetensors")) if (tmp_path / "out").exists() else True
    assert "the name of a GGUF file" in qad("quantize", folder, "-o", tmp_path / "x.gguf", "--format", "torchao", ok=False)


def test_the_table_of_the_documentation_is_true():
    done = subprocess.run([ROOT / "scripts/formats-table", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def hybrid_as_gguf(tensors, moe):
    """Values of an HF folder under gguf-py's names for it, in the shapes that llama.cpp's converter gives them."""
    names, values, stacks = get_tensor_name_map(MODEL_ARCH.NEMOTRON_H_MOE if moe else MODEL_ARCH.NEMOTRON_H, 8), {}, {}
    for name, t in tensors.items():
        t = t.float()
        name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace("dt_bias", "dt.bias")
        if name.endswith((".A_log", ".D")):
            values[names.get_name(name)] = (-torch.exp(t) if name.endswith("A_log") else t).reshape(-1, 1)
            continue
        stem, _, suffix = name.rpartition(".")
        if ".experts." in name:
            head, _, tail = stem.partition(".mixer.experts.")
            expert, _, part = tail.partition(".")
            stacks.setdefault(f"{head.replace('backbone', 'model')}.mlp.experts.{part}", {})[int(expert)] = t
            continue
        if stem.endswith("conv1d") and suffix == "weight":
            t = t.squeeze(1)
        if stem.endswith("mixer.norm"):
            t = t.reshape(2, -1)  # groups
        key = names.get_name(stem) or stem.replace("backbone.layers.", "blk.").replace("mixer.dt", "ssm_dt")
        values[f"{key}.{suffix}"] = t
    for stem, experts in stacks.items():
        values[f"{names.get_name(stem)}.weight"] = torch.stack([experts[e] for e in range(len(experts))])
    return values


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize("format", ["gguf", "gguf-bf16", "gguf-q8_0"])
def test_hybrids_as_gguf_have_our_values_for_gguf_py(moe, format, tmp_path, tokenizer_files):
    torch.manual_seed(5)
    sizes = {**SMALL, **HYBRID, "hidden_size": 128, "intermediate_size": 192, "mamba_num_heads": 16}
    if moe:
        sizes |= {"hybrid_override_pattern": "MEM*E", "num_hidden_layers": 5, "n_routed_experts": 4, "num_experts_per_tok": 2,
                  "n_group": 1, "topk_group": 1, "moe_intermediate_size": 64, "n_shared_experts": 1,
                  "moe_shared_expert_intermediate_size": 128, "routed_scaling_factor": 2.5}
    model = NemotronHForCausalLM(NemotronHConfig(**sizes)).to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.data = 0.2 * torch.randn(buffer.shape)
    folder, nvfp4, bf16, out = (tmp_path / n for n in ("hf", "nvfp4", "bf16", "m.gguf"))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    qad("quantize", folder, "-o", nvfp4, *CALIB)
    qad("convert", nvfp4, bf16, "--format", "hf-bf16")
    qad("convert", nvfp4, out, "--format", format)
    reader = GGUFReader(out)
    tensors = {t.name: t for t in reader.tensors}
    expected = hybrid_as_gguf(tensors_of(bf16), moe)
    scales = {n for n in tensors if n.endswith((".scale", ".input_scale"))}
    assert set(tensors) - scales == set(expected)
    for name, value in expected.items():
        t = tensors[name]
        ours = torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).reshape(value.shape)
        assert tuple(int(n) for n in t.shape[::-1]) == tuple(value.shape), name
        if name.removesuffix(".weight") + ".scale" in tensors:
            scale = torch.tensor(tensors[name.removesuffix(".weight") + ".scale"].data)
            ours = ours * scale.reshape(-1, *[1] * (value.dim() - 1))
        if t.tensor_type == GGMLQuantizationType.Q8_0:
            assert (ours - value).abs().max() <= value.abs().max() / 250, name
        elif name.endswith("ssm_a"):
            torch.testing.assert_close(ours, value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(ours, value), name
    types = {name: t.tensor_type.name for name, t in tensors.items()}
    quantised = [n for n in types if types[n] == ("BF16" if format == "gguf-bf16" else "NVFP4")]
    assert {"blk.0.ssm_in.weight", "blk.1.ffn_down_exps.weight" if moe else "blk.1.ffn_down.weight"} <= set(quantised)
    assert types["token_embd.weight"] == ("Q8_0" if format == "gguf-q8_0" else "BF16")
    assert types["blk.0.ssm_conv1d.weight"] == types["blk.0.ssm_norm.weight"] == types["blk.0.ssm_a"] == "F32"
    fields = {k: f.contents() for k, f in reader.fields.items()}
    arch = "nemotron_h_moe" if moe else "nemotron_h"
    assert fields["general.architecture"] == arch
    assert fields[arch + ".attention.head_count_kv"] == ([0, 0, 0, 2, 0] if moe else [0, 0, 0, 2, 0, 0])
    assert fields[arch + ".feed_forward_length"] == ([0, 64, 0, 0, 64] if moe else [0, 192, 0, 0, 0, 192])
    assert fields[arch + ".ssm.inner_size"] == 256 and fields[arch + ".ssm.time_step_rank"] == 16
    if moe:
        assert types["blk.1.ffn_gate_inp.weight"] == types["blk.1.exp_probs_b.bias"] == "F32"
        assert fields[arch + ".expert_count"] == 4 and fields[arch + ".expert_weights_scale"] == 2.5
        assert tensors["blk.1.ffn_up_exps.weight"].shape.tolist() == [128, 64, 4]


def test_hybrids_keep_their_bits_in_hf_folders_and_are_refused_elsewhere(tiny, tmp_path):
    folder, model = tiny
    if model.config.model_type != "nemotron_h":
        pytest.skip("dense models: above")
    first, ct, back = tmp_path / "modelopt", tmp_path / "ct", tmp_path / "back"
    qad("quantize", folder, "-o", first, *CALIB)
    qad("convert", first, ct, "--format", "compressed-tensors")
    qad("verify", ct, "--for", "vllm")
    qad("convert", ct, back)
    original, returned = tensors_of(first), tensors_of(back)
    assert original.keys() == returned.keys() and all(same_bits(t, returned[n]) for n, t in original.items())
    assert any(n.endswith("mixer.in_proj.weight_scale") for n in original)
    qad("convert", first, tmp_path / "bf16", "--format", "hf-bf16")
    for name, tensor in tensors_of(tmp_path / "bf16").items():
        assert tensor.dtype == (original[name].dtype if original[name].dtype != torch.uint8 else torch.bfloat16), name
    assert "MLX has no global scales" in qad("convert", first, tmp_path / "x", "--format", "mlx", ok=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "bf16", "ct", "modelopt"]
