"""FP8 beside NVFP4: scales and values against ModelOpt's own quantiser, logits against Transformers with compressed-tensors."""
import copy, json, shutil

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export.quant_utils import get_activation_scaling_factor, get_weight_scaling_factor
from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from conftest import TEXT, deployed, qad
from test_formats import CALIB, logits_of, same_bits, tensors_of, transformers_logits

TEXTS = TEXT.read_text()[:4000].split(". ")[:20]
ATTENTION = "quantize.rules=[{pattern: '*.self_attn.*', quantize: true, format: fp8}]"
ALL = "quantize.rules=[{pattern: '*_proj', quantize: true, format: fp8}]"


@pytest.fixture
def dense(tiny):
    if tiny[1].config.model_type == "nemotron_h":
        pytest.skip("names of Llama's kin")
    return tiny


@torch.no_grad()
@pytest.mark.parametrize("tiny", ["llama", "qwen3"], indirect=True)
def test_scales_and_values_are_modelopts(tiny, tmp_path):
    """FP8_DEFAULT_CFG, calibrated by ModelOpt on the same texts: the scales of its export, and the values that its
    quantiser makes of each part under the scale that fused parts share (the largest of them, as its export's)."""
    folder, model = tiny
    calib, out = tmp_path / "calib.jsonl", tmp_path / "fp8"
    calib.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    qad("quantize", folder, "-o", out, "--global-scale", "amax", "--calib", calib, "--set", ALL)
    qad("verify", out)
    tensors, tokenizer = load_file(out / "model.safetensors"), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    model = copy.deepcopy(model)  # which other tests read
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, lambda m: [m(torch.tensor([one])) for one in ids])
    modules, checked = dict(model.named_modules()), 0
    for prefix, group in [(f"model.layers.{i}.{a}.", parts) for i in range(2) for a, parts in
                          (("self_attn", ("q_proj", "k_proj", "v_proj")), ("self_attn", ("o_proj",)),
                           ("mlp", ("gate_proj", "up_proj")), ("mlp", ("down_proj",)))]:
        scale = max(get_weight_scaling_factor(modules[prefix + part]) for part in group)
        for name in (prefix + part for part in group):
            module = modules[name]
            ours = tensors[name + ".weight_scale"]
            assert ours.shape == () and ours.dtype == torch.float32 and ours == scale, name
            theirs = get_activation_scaling_factor(module)
            assert abs(tensors[name + ".input_scale"] - theirs) <= 1e-5 * theirs, name  # sums of another order
            codes, _ = FP8QTensor.quantize(module.weight.float(), scales=ours)
            assert same_bits(tensors[name + ".weight"], codes._quantized_data), name
            checked += 1
    assert checked == 14
    q = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    assert q["quant_algo"] == "FP8"


def assert_logits(ours, theirs):
    # As with NVFP4 in test_models: sums in another order decide ties, a code that falls the other way moves a logit.
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.99


@pytest.mark.parametrize("rules, scale", [(ATTENTION, "pow2"), (ALL, "pow2"), (ALL, "amax")],
                         ids=["mixed", "all", "all-amax"])
def test_transformers_with_compressed_tensors_gives_our_logits(dense, rules, scale, ids_file, tmp_path):
    """Its own code reads two groups of modules, decodes the weights and quantises the inputs by the scales in the file."""
    folder, _ = dense
    out = tmp_path / "ct"
    qad("quantize", folder, "-o", out, "--format", "compressed-tensors", "--global-scale", scale, *CALIB, "--set", rules)
    qad("verify", out)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    targets = [t for group in config["config_groups"].values() for t in group["targets"]]
    assert len(targets) == len(set(targets))
    assert config["format"] == ("mixed-precision" if rules == ATTENTION else "float-quantized")
    for engine in ("vllm", "sglang", "transformers"):
        qad("verify", out, "--for", engine)
    # Powers of two survive its BF16, other scales do not (and NVFP4 it decodes to nothing else).
    dtype = torch.bfloat16 if scale == "pow2" else torch.float32
    ours, theirs = logits_of(out, ids_file, tmp_path), transformers_logits(out, ids_file[1], dtype)
    assert_logits(ours, theirs)
    # Inputs are quantised too: the same weights alone do something else.
    qad("convert", out, tmp_path / "bf16", "--format", "hf-bf16")
    plain = logits_of(tmp_path / "bf16", ids_file, tmp_path)
    assert (plain - ours).abs().max() > 1e-3 * ours.abs().max()


@torch.no_grad()
def test_modelopts_layout_gives_the_logits_of_its_bytes(dense, ids_file, tmp_path):
    """Of the mixture: NVFP4 decoded by ModelOpt, FP8 by its FP8QTensor, inputs rounded by PyTorch's E4M3."""
    folder, _ = dense
    out, ct, back = tmp_path / "m", tmp_path / "ct", tmp_path / "back"
    qad("quantize", folder, "-o", out, *CALIB, "--set", ATTENTION)
    qad("verify", out)
    for engine in ("vllm", "sglang", "trtllm"):
        qad("verify", out, "--for", engine)
    q = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    assert q["quant_algo"] == "MIXED_PRECISION" and "exclude_modules" not in q
    assert q["quantized_layers"]["model.layers.1.self_attn.o_proj"] == {"quant_algo": "FP8"}
    assert q["quantized_layers"]["model.layers.1.mlp.up_proj"] == {"quant_algo": "NVFP4", "group_size": 16}
    tensors = tensors_of(out)

    # NVFP4's part by the helper, which knows no other; FP8 by hand.
    nvfp4 = tmp_path / "nvfp4"
    shutil.copytree(out, nvfp4)
    fp8 = {n.removesuffix(".weight") for n, t in tensors.items() if t.dtype == torch.float8_e4m3fn and n.endswith(".weight")}
    assert len(fp8) == 8
    save_file({n: t.to(torch.bfloat16) if n.removesuffix(".weight") in fp8 else t for n, t in tensors.items()
               if not any(n == f"{f}.{s}" for f in fp8 for s in ("weight_scale", "input_scale"))},
              nvfp4 / "model.safetensors", {"format": "pt"})
    model = deployed(folder, nvfp4)
    for name, module in model.named_modules():
        if name not in fp8:
            continue
        codes, scale, inputs = (tensors[f"{name}.{s}"] for s in ("weight", "weight_scale", "input_scale"))
        module.weight.copy_(FP8QTensor(codes.shape, torch.float32, codes).dequantize(dtype=torch.float32, scale=scale))
        module.register_forward_pre_hook(
            lambda m, args, s=inputs: ((args[0] / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s,))
    assert_logits(logits_of(out, ids_file, tmp_path), model(ids_file[1]).logits)

    qad("convert", out, ct, "--format", "compressed-tensors")
    qad("convert", ct, back, "--format", "modelopt")
    for name, tensor in tensors.items():
        assert same_bits(tensors_of(back)[name], tensor), name
    assert json.loads((back / "hf_quant_config.json").read_text())["quantization"] == q


def test_formats_without_fp8_are_refused_before_the_work(tokenizer_files, tmp_path):
    for format in ("gguf", "gguf-q8_0", "mlx", "torchao"):
        error = qad("quantize", tokenizer_files, "-o", tmp_path / "no", "--format", format, *CALIB, "--set", ALL, ok=False)
        assert "has no weights in FP8" in error and not (tmp_path / "no").exists()
    error = qad("quantize", tokenizer_files, "-o", tmp_path / "no", "--set",
                "quantize.rules=[{pattern: '*_proj', quantize: false, format: fp8}]", *CALIB, ok=False)
    assert "format: fp8 is for quantize: true" in error
    # A mixture becomes a GGUF all the same, and what becomes of it is said.
    qad("quantize", tokenizer_files, "-o", tmp_path / "m", *CALIB, "--set", ATTENTION)
    assert "FP8 weights are BF16" in qad("convert", tmp_path / "m", tmp_path / "m.gguf", "--format", "gguf")
    error = qad("quantize", tmp_path / "m", "-o", tmp_path / "no", *CALIB, ok=False)
    assert "is already quantised" in error and "hf-bf16" in error


def test_a_budget_for_a_format_without_fp8_is_of_two(tokenizer_files, tmp_path):
    run = tmp_path / "run"
    qad("distill", tokenizer_files, "-o", run, "--method", "ptq", "--format", "gguf", "--quantize.bits", 6, "--data.test",
        TEXT, "--data.max_test_documents", 2, "--train.seq_len", 96, "--calibration.data", TEXT, "--calibration.sequences", 2)
    groups = json.loads((run / "result.json").read_text())["mixed_precision"]["groups"]
    assert {(g["format"], g["kl_fp8"]) for g in groups} == {("NVFP4", None), ("BF16", None)}


def test_a_budget_of_bits_chooses_among_three(tokenizer_files, tmp_path):
    """And QAD of the mixture brings it nearer to the teacher; what was chosen stands in the result, as rules too."""
    (tmp_path / "train.txt").write_text(TEXT.read_text()[:60000])
    run = tmp_path / "run"
    qad("distill", tokenizer_files, "-o", run, "--quantize.bits", 6, "--data.train", tmp_path / "train.txt", "--data.test",
        tmp_path / "train.txt", "--data.max_test_documents", 8, "--train.steps", 12, "--train.seq_len", 96,
        "--train.batch_sequences", 4, "--train.warmup_steps", 1, "--train.learning_rate", 2e-4, "--calibration.sequences", 4)
    result = json.loads((run / "result.json").read_text())
    assert 0 < result["student"]["kl"] < result["ptq"]["kl"]
    mixed = result["mixed_precision"]
    bits = {"NVFP4": 4.5, "FP8": 8, "BF16": 16}
    assert {g["format"] for g in mixed["groups"]} >= {"NVFP4", "FP8"}
    assert all(0 < g["kl_fp8"] < g["kl"] for g in mixed["groups"])
    weights = sum(g["weights"] for g in mixed["groups"])
    assert abs(sum(g["weights"] * bits[g["format"]] for g in mixed["groups"]) / weights - mixed["bits"]) < 1e-9
    assert 5.5 < mixed["bits"] <= 6
    qad("verify", run / "checkpoint")
    tensors, tied = tensors_of(run / "checkpoint"), {r["pattern"]: r for r in mixed["rules"]}
    for name, rule in tied.items():
        wanted = torch.float8_e4m3fn if rule.get("format") == "fp8" else torch.bfloat16
        assert rule["quantize"] == (wanted == torch.float8_e4m3fn) and tensors[name + ".weight"].dtype == wanted
    assert "in FP8" in (run / "report.html").read_text()
