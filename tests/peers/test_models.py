"""Logits against Transformers, plain and quantised; what we write against ModelOpt's own quantiser."""
import json

import torch
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT, deployed, file_name, qad, read_model

# Names of matrices that read one input, where there are several of them.
FUSED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("o_proj",), ("down_proj",), ("in_proj",), ("out_proj",)]


def logits_of(folder, ids_file, tmp_path):
    qad("logits", folder, "--tokens", ids_file[0], "-o", tmp_path / "l.safetensors")
    return load_file(tmp_path / "l.safetensors")["logits"]


def assert_close(ours, theirs, tolerance=1e-3):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@torch.no_grad()
def test_logits_equal_transformers(tiny, ids_file, tmp_path):
    folder, model = tiny
    assert_close(logits_of(folder, ids_file, tmp_path), model(ids_file[1]).logits)


@torch.no_grad()
def test_nvfp4_checkpoint_gives_the_logits_of_its_bytes(tiny, ids_file, tmp_path):
    """ModelOpt decodes our codes and quantises the activations; Transformers multiplies; the logits are ours."""
    folder, _ = tiny
    out = tmp_path / "nvfp4"
    qad("quantize", folder, "-o", out, "--calib", ROOT / "data/tinystories/validation.txt", "--calib-sequences", 8)
    qad("verify", out)
    model = deployed(folder, out)
    # One E2M1 code that falls the other way at a tie moves a logit; FP32 summation order decides such ties, so the
    # bound is on the bulk: all but 1 % of the logits within 1e-3, and everything within 5 %.
    ours, theirs = logits_of(out, ids_file, tmp_path), model(ids_file[1]).logits
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.99


@torch.no_grad()
def test_a_low_rank_correction_gives_the_logits_of_its_bytes(tiny, ids_file, tmp_path):
    """NVFP4_SVD: the weights as ModelOpt decodes them, plus two BF16 matrices that read the unquantised input."""
    folder, _ = tiny
    text = ROOT / "data/tinystories/validation.txt"
    qad("distill", folder, "-o", tmp_path / "run", "--method", "ptq", "--quantize.low_rank", 4, "--calibration.data", text,
        "--calibration.sequences", 8, "--data.test", text, "--data.max_test_documents", 2, "--train.seq_len", 64)
    out = tmp_path / "run/checkpoint"
    qad("verify", out)
    tensors = load_file(out / "model.safetensors")
    ranks = {t.shape[0] for name, t in tensors.items() if name.endswith(".svdquant_lora_a")}
    assert ranks == {4}
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    layers = config.get("quantized_layers", {"all": config}).values()
    assert {"NVFP4_SVD"} <= {layer["quant_algo"] for layer in layers} <= {"NVFP4_SVD", "NVFP4"}
    assert all(layer["lora_rank"] == 4 for layer in layers if layer["quant_algo"] == "NVFP4_SVD")
    model = deployed(folder, out)
    ours, theirs = logits_of(out, ids_file, tmp_path), model(ids_file[1]).logits
    error = (ours - theirs).abs() / theirs.abs().max()  # as above
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.99


@torch.no_grad()
def test_transformed_weights_are_a_model_that_others_read(tiny, ids_file, tmp_path):
    """Scaled and rotated, then quantised: to Transformers an ordinary model, no farther from the original than without."""
    folder, model = tiny
    text = ROOT / "data/tinystories/validation.txt"
    want = model(ids_file[1]).logits
    error = {}
    for words in ("[]", "[hadamard, smoothquant, awq]"):
        out = tmp_path / str(len(error))
        qad("distill", folder, "-o", out, "--method", "ptq", "--format", "hf-bf16", "--quantize.transform", words,
            "--quantize.policy", "nvfp4-weight-only", "--calibration.data", text, "--calibration.sequences", 8,
            "--data.test", text, "--data.max_test_documents", 2, "--train.seq_len", 64)
        if model.config.model_type == "nemotron_h":  # reads the infinity of its time_step_limit from its own file alone
            (out / "checkpoint/config.json").write_bytes((folder / "config.json").read_bytes())
        theirs = read_model(out / "checkpoint")(ids_file[1]).logits
        assert_close(logits_of(out / "checkpoint", ids_file, tmp_path), theirs)
        error[words] = (theirs - want).norm() / want.norm()
    assert error["[hadamard, smoothquant, awq]"] < 1.3 * error["[]"] < 1


@torch.no_grad()
def test_amax_export_equals_modelopt_byte_for_byte(tiny, tmp_path):
    folder, model = tiny
    out = tmp_path / "amax"
    qad("quantize", folder, "-o", out, "--global-scale", "amax", "--recipe", "nvfp4-weight-only")
    tensors = load_file(out / "model.safetensors")
    weights = {file_name(model, n).removesuffix(".weight"): p for n, p in model.named_parameters() if n.endswith("_proj.weight")}
    checked = 0
    for prefix in sorted({name.rpartition(".")[0] + "." for name in weights}):
        for group in FUSED:
            parts = [part for part in group if prefix + part in weights]
            if not parts:
                continue
            two = max(weights[prefix + part].abs().max() for part in parts) / (6.0 * 448.0)
            for name in [prefix + part for part in parts]:
                q, block, _ = NVFP4QTensor.quantize(weights[name], 16, weights_scaling_factor_2=two)
                assert torch.equal(tensors[name + ".weight"], q._quantized_data), name
                assert torch.equal(tensors[name + ".weight_scale"].view(torch.uint8), block.view(torch.uint8)), name
                assert tensors[name + ".weight_scale_2"].item() == two.item(), name
                assert name + ".input_scale" not in tensors
                checked += 1
    assert checked == len(weights) >= 14
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["quant_algo"] == "W4A16_NVFP4" and config["quant_method"] == "modelopt"


@torch.no_grad()
def test_converted_demo_model_is_read_by_transformers(tokenizer_files):
    """Cross-entropy of the converted stories260K under Transformers equals ours."""
    model = AutoModelForCausalLM.from_pretrained(tokenizer_files, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_files)
    text = ROOT / "data/tinystories/validation.txt"
    total = count = 0
    for story in [s.strip() for s in text.read_text().split("<|endoftext|>") if s.strip()]:
        ids = tokenizer(story)["input_ids"]
        for i in range(0, len(ids) - 1, 256):
            labels = torch.tensor(ids[i + 1:i + 257])
            logits = model(torch.tensor([ids[i:i + 256]])).logits[0, :len(labels)]
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
    ours = json.loads(qad("evaluate", tokenizer_files, "--data", text, "--seq-len", 256, "--json"))
    assert ours["tokens"] == count
    assert abs(ours["ce"] - total / count) < 1e-4
