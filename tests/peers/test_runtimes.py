"""The programs that our formats are for, each loading what we write: llama.cpp, MLX, torchao."""
import json, shutil, subprocess

import llama_cpp
import mlx.core as mlx
import mlx_lm
import numpy as np
import pytest
import torch
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors import safe_open
from safetensors.torch import load_file
from torchao.prototype.mx_formats.inference_workflow import NVFP4WeightOnlyConfig
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, NemotronHConfig, NemotronHForCausalLM, TorchAoConfig

from conftest import HYBRID, MODELS, QAD, ROOT, SMALL, file_name, qad, read_model

TEXT = ROOT / "data/tinystories/validation.txt"
CALIB = ("--calib", TEXT, "--calib-sequences", 8)
WEIGHT_ONLY = ("--recipe", "nvfp4-weight-only")


def logits_of(folder, ids_file, tmp_path):
    qad("logits", folder, "--tokens", ids_file[0], "-o", tmp_path / "l.safetensors")
    return load_file(tmp_path / "l.safetensors")["logits"]


def error_of(ours, theirs):
    """The largest difference, in units of the largest logit."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def decoded_by_modelopt(folder):
    """Values of the NVFP4 weights of a ModelOpt folder, in FP32, by ModelOpt's own code."""
    tensors, values = load_file(folder / "model.safetensors"), {}
    for name, codes in tensors.items():
        if codes.dtype == torch.uint8:
            stem = name.removesuffix(".weight")
            q = NVFP4QTensor((codes.shape[0], codes.shape[1] * 2), torch.float32, codes)
            values[stem] = q.dequantize(dtype=torch.float32, scale=tensors[f"{stem}.weight_scale"],
                                        double_scale=tensors[f"{stem}.weight_scale_2"], block_sizes={-1: 16})
    return values


# --- llama.cpp ---

def llama_cpp_logits(path, ids):
    """Of every position, with keys and values cached in FP32."""
    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, type_k=llama_cpp.GGML_TYPE_F32,
                            type_v=llama_cpp.GGML_TYPE_F32)
    out = []
    for row in ids.tolist():
        model.reset()
        model.eval(row)
        out.append(torch.from_numpy(np.array(model.scores[:len(row)])))
    return torch.stack(out)


def hybrid(moe, folder, tokenizer_files):
    """A nemotron_h whose every matrix fits blocks of 64."""
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
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)


@pytest.fixture(scope="module", params=["llama", "llama3", "qwen2", "qwen3", "nemotron_h", "nemotron_h-experts"])
def gguf_model(request, tmp_path_factory, tokenizer_files):
    """(folder, model_type)"""
    folder = tmp_path_factory.mktemp(request.param) / "hf"
    if request.param.startswith("nemotron_h"):
        hybrid(request.param.endswith("experts"), folder, tokenizer_files)
        return folder, "nemotron_h"
    torch.manual_seed(3)
    MODELS[request.param]().to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    return folder, request.param


def test_llama_cpp_computes_our_model(gguf_model, ids_file, tmp_path):
    """In FP32 nothing is rounded but sums."""
    folder, _ = gguf_model
    qad("convert", folder, tmp_path / "m.gguf", "--format", "gguf", "--dtype", "f32")
    assert error_of(logits_of(folder, ids_file, tmp_path), llama_cpp_logits(tmp_path / "m.gguf", ids_file[1])) < 1e-4


def eight_bits(x):
    """What ggml makes of the inputs of NVFP4 products: integers up to 127 for each 32 values, and an FP16 scale."""
    blocks = x.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    codes = torch.where(scale > 0, blocks / scale, 0).round()
    return (codes * scale.half().float()).reshape(x.shape)


def errors_of(ours, theirs):
    """Of each position, in units of the logits' standard deviation, sorted."""
    return ((ours - theirs).square().mean(-1).sqrt() / theirs.std()).flatten().sort().values


@torch.no_grad()
def test_llama_cpp_computes_our_nvfp4(gguf_model, ids_file, tmp_path):
    """Against its weights times what it makes of their inputs, in Transformers. Now and then a sum's last bit sends a code the
    other way, and later positions attend to that: hence the errors of the best positions, which anything systematic would
    raise as well. Transformers stacks experts: of them the error that the rounding of inputs makes, by its size alone."""
    folder, name = gguf_model
    # Of qwen2 it multiplies the feed-forward layers without their global scales.
    policy = ("--set", "quantize.rules=[{pattern: '*.mlp.*', quantize: false}]") if name == "qwen2" else ()
    qad("quantize", folder, "-o", tmp_path / "q", *WEIGHT_ONLY, *policy)
    qad("convert", tmp_path / "q", tmp_path / "m.gguf", "--format", "gguf", "--dtype", "f32")
    ours, theirs = logits_of(tmp_path / "q", ids_file, tmp_path), llama_cpp_logits(tmp_path / "m.gguf", ids_file[1])
    error, change = errors_of(theirs, ours), errors_of(logits_of(folder, ids_file, tmp_path), ours)
    assert error[33] < 0.06 and change[33] > 0.2, (error, change)
    if "experts" in folder.parent.name:
        return
    qad("convert", tmp_path / "q", tmp_path / "bf16", "--format", "hf-bf16")
    quantised = decoded_by_modelopt(tmp_path / "q")
    model = read_model(tmp_path / "bf16")
    hooked = 0
    for module_name, module in model.named_modules():
        if file_name(model, module_name) in quantised:
            rounded = eight_bits if module.weight.shape[1] % 64 == 0 else lambda x: x.bfloat16().float()
            module.register_forward_pre_hook(lambda m, args, rounded=rounded: (rounded(args[0]),))
            hooked += 1
    assert hooked == len(quantised) > 5
    emulated = errors_of(theirs, model(ids_file[1]).logits)
    assert emulated[2] < 1e-5 < 1e-3 < error[2], (emulated, error)


def test_llama_cpp_has_no_scales_in_the_mlps_of_qwen2(ids_file, tmp_path, tokenizer_files):
    """Why `qad verify --for llama.cpp` refuses them."""
    torch.manual_seed(3)
    folder = tmp_path / "hf"
    MODELS["qwen2"]().to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    qad("quantize", folder, "-o", tmp_path / "q", "--recipe", "nvfp4-mlp-only", "--format", "modelopt", *CALIB)
    said = qad("convert", tmp_path / "q", tmp_path / "m.gguf", "--format", "gguf")
    assert "llama.cpp computes them without their global scales" in said
    done = subprocess.run([QAD, "verify", tmp_path / "m.gguf", "--for", "llama.cpp"], capture_output=True, text=True)
    assert done.returncode == 1 and "qwen2-scales" in done.stdout, done
    ours, theirs = logits_of(tmp_path / "q", ids_file, tmp_path), llama_cpp_logits(tmp_path / "m.gguf", ids_file[1])
    assert error_of(ours, theirs) > 0.2


def perplexity_of_llama_cpp(path, documents):
    model = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False)
    total = count = 0
    for ids in documents:
        model.reset()
        model.eval(ids)
        logits = torch.from_numpy(np.array(model.scores[:len(ids) - 1]))
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        count += len(ids) - 1
    return total / count, count


@pytest.mark.parametrize("format, tolerance", [("gguf", 0.01), ("gguf-bf16", 1e-3), ("gguf-q8_0", 0.01)])
def test_llama_cpp_has_our_cross_entropy(format, tolerance, tokenizer_files, tmp_path):
    """It rounds the inputs of NVFP4 and Q8_0 products to 8 bits: hence the tolerances, in nats of about 1.6."""
    out = tmp_path / "nvfp4"
    qad("quantize", tokenizer_files, "-o", out, *WEIGHT_ONLY)
    qad("convert", out, tmp_path / "m.gguf", "--format", format)
    text = "<|endoftext|>".join(TEXT.read_text().split("<|endoftext|>")[:12])
    (tmp_path / "t.txt").write_text(text)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_files)
    documents = [tokenizer(s.strip())["input_ids"][:257] for s in text.split("<|endoftext|>") if s.strip()]
    theirs, count = perplexity_of_llama_cpp(tmp_path / "m.gguf", documents)
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps({"input_ids": d}) + "\n" for d in documents))
    ours = json.loads(qad("evaluate", out, "--data", tmp_path / "ids.jsonl", "--seq-len", 256, "--json"))
    assert ours["tokens"] == count
    assert abs(ours["ce"] - theirs) < tolerance, (ours["ce"], theirs)
    # Its tokens are ours too.
    model = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    assert model.tokenize(text[:1000].encode(), add_bos=True) == tokenizer(text[:1000])["input_ids"]


# --- MLX ---

@pytest.fixture
def dense(tiny):
    if tiny[1].config.model_type == "nemotron_h":
        pytest.skip("no norm of a hybrid takes a global scale for MLX, and torchao's folder of it: see below")
    return tiny


@torch.no_grad()
def test_mlx_lm_has_our_logits(dense, ids_file, tmp_path):
    folder, _ = dense
    qad("quantize", folder, "-o", tmp_path / "q", *WEIGHT_ONLY)
    said = qad("convert", tmp_path / "q", tmp_path / "mlx", "--format", "mlx")
    assert "10 NVFP4 weights keep" in said and "4 norms" in said and "4 quantised weights are BF16" in said
    ours = logits_of(tmp_path / "q", ids_file, tmp_path)
    assert torch.equal(logits_of(tmp_path / "mlx", ids_file, tmp_path), ours)
    model, _ = mlx_lm.utils.load_model(tmp_path / "mlx")
    model.set_dtype(mlx.float32)
    theirs = torch.tensor(model(mlx.array(ids_file[1].tolist())).tolist())
    assert error_of(theirs, ours) < 5e-3
    # What quantising writes at once is what converting writes.
    qad("quantize", folder, "-o", tmp_path / "at-once", *WEIGHT_ONLY, "--format", "mlx")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("mlx", "at-once"))
    assert a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def test_mlx_decodes_our_values(dense, tmp_path):
    folder, _ = dense
    qad("quantize", folder, "-o", tmp_path / "q", *WEIGHT_ONLY)
    qad("convert", tmp_path / "q", tmp_path / "mlx", "--format", "mlx")
    expected, stored = decoded_by_modelopt(tmp_path / "q"), load_file(tmp_path / "q" / "model.safetensors")
    tensors = mlx.load(str(tmp_path / "mlx" / "model.safetensors"))
    stems = [n.removesuffix(".scales") for n in tensors if n.endswith(".scales")]
    assert len(stems) == 10
    for stem in stems:
        values = mlx.dequantize(tensors[f"{stem}.weight"], tensors[f"{stem}.scales"], group_size=16, bits=4, mode="nvfp4",
                                dtype=mlx.float32)
        scale = stored[f"{stem}.weight_scale_2"]  # now a factor of the norm before it
        assert torch.equal(torch.tensor(np.array(values)) * scale, expected[stem]), stem


# --- torchao ---

def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8),
                                                                     b.reshape(-1).view(torch.uint8))


def torchao_tensors(folder):
    with safe_open(folder / "model.safetensors", "pt") as f:
        tensors, left = unflatten_tensor_state_dict({k: f.get_tensor(k) for k in f.keys()}, f.metadata())
    assert not left
    return tensors


@pytest.mark.parametrize("rule", ["pow2", "amax"])
@pytest.mark.parametrize("policy", ["nvfp4", "nvfp4-weight-only"])
def test_torchao_decodes_our_values(dense, rule, policy, tmp_path):
    folder, _ = dense
    qad("quantize", folder, "-o", tmp_path / "q", "--recipe", policy, "--global-scale", rule, *CALIB)
    qad("quantize", folder, "-o", tmp_path / "ao", "--recipe", policy, "--global-scale", rule, "--format", "torchao", *CALIB)
    qad("verify", tmp_path / "ao")
    expected, stored = decoded_by_modelopt(tmp_path / "q"), load_file(tmp_path / "q" / "model.safetensors")
    tensors = torchao_tensors(tmp_path / "ao")
    assert {n.removesuffix(".weight") for n, t in tensors.items() if isinstance(t, NVFP4Tensor)} == set(expected)
    for stem, values in expected.items():
        t = tensors[f"{stem}.weight"]
        assert torch.equal(t.dequantize(torch.float32), values), stem
        if policy == "nvfp4":
            assert t.act_quant_kwargs is not None and torch.equal(t.act_per_tensor_scale, stored[f"{stem}.input_scale"])
    # And back, bit for bit.
    qad("convert", tmp_path / "ao", tmp_path / "back", "--format", "modelopt")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == stored.keys()
    for name, t in stored.items():
        assert same_bits(t, back[name]), name


@torch.no_grad()
def test_transformers_loads_our_torchao_and_gives_our_logits(tiny, ids_file, tmp_path):
    folder, _ = tiny
    qad("quantize", folder, "-o", tmp_path / "ao", *WEIGHT_ONLY, "--format", "torchao")
    qad("verify", tmp_path / "ao", "--for", "transformers")
    qad("convert", tmp_path / "ao", tmp_path / "fp32", "--format", "torchao", "--dtype", "f32")  # computed in it, too
    model = read_model(tmp_path / "fp32")
    quantised = [n for n, m in model.named_modules() if isinstance(getattr(m, "weight", None), NVFP4Tensor)]
    assert len(quantised) >= 12
    assert error_of(logits_of(tmp_path / "ao", ids_file, tmp_path), model(ids_file[1]).logits) < 1e-5


def test_transformers_loads_no_input_scales_of_torchao(tokenizer_files, tmp_path):
    """Which is why `qad verify --for transformers` refuses them."""
    qad("quantize", tokenizer_files, "-o", tmp_path / "ao", "--format", "torchao", *CALIB)
    done = subprocess.run([QAD, "verify", tmp_path / "ao", "--for", "transformers"], capture_output=True, text=True)
    assert done.returncode == 1 and "act_per_tensor_scale" in done.stdout, done
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        read_model(tmp_path / "ao")


@torch.no_grad()
def test_we_read_what_torchao_quantised_and_transformers_saved(dense, ids_file, tmp_path):
    folder, _ = dense
    config = TorchAoConfig(NVFP4WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config)
    model.save_pretrained(tmp_path / "theirs")
    theirs = torchao_tensors(tmp_path / "theirs")
    assert sum(isinstance(t, NVFP4Tensor) for t in theirs.values()) == 14
    qad("convert", tmp_path / "theirs", tmp_path / "q", "--format", "modelopt")
    for stem, values in decoded_by_modelopt(tmp_path / "q").items():
        assert torch.equal(theirs[f"{stem}.weight"].dequantize(torch.float32), values), stem
    # Our folder of it has their tensors, bit for bit, and says of each what they say.
    qad("convert", tmp_path / "q", tmp_path / "ours", "--format", "torchao")
    a, b = (safe_open(tmp_path / n / "model.safetensors", "pt") for n in ("theirs", "ours"))
    for name in a.keys():
        if "._weight_" in name:
            assert same_bits(a.get_tensor(name), b.get_tensor(name)), name
            stem = name.split("._weight_")[0] + ".weight"
            x, y = (json.loads(f.metadata()[stem]) for f in (a, b))
            assert x["_data"] == y["_data"] and sorted(x["_tensor_data_names"]) == sorted(y["_tensor_data_names"]), stem
    a, b = (json.loads((tmp_path / n / "config.json").read_text())["quantization_config"] for n in ("theirs", "ours"))
    assert a["quant_type"] == b["quant_type"] and a.keys() >= {"quant_method"}
    assert a["quant_method"] == b["quant_method"]
