"""Mixtures of experts as a user meets them: Transformers' logits, quantised experts under scales of their own, routings
that leave experts out, distillation, and checkpoints that are larger than the memory they are quantised in."""
import json, shutil, subprocess, sys

import pytest
import torch
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import load_file, save_file
from transformers import NemotronHConfig, NemotronHForCausalLM

from conftest import HYBRID, QAD, ROOT, SMALL, TEXT, distil, fake_quantize, qad, read_model

EXPERTS = 8
CONFIG = {**SMALL, **HYBRID, "hybrid_override_pattern": "MEM*E-", "n_routed_experts": EXPERTS, "num_experts_per_tok": 3,
          "n_group": 2, "topk_group": 1, "moe_intermediate_size": 48, "n_shared_experts": 1,
          "moe_shared_expert_intermediate_size": 80, "routed_scaling_factor": 2.5}


def make(folder, tokenizer_files, correction):
    """A tiny hybrid with two layers of experts in two groups; correction() is each router's bias."""
    torch.manual_seed(13)
    model = NemotronHForCausalLM(NemotronHConfig(**CONFIG))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith((".A_log", ".dt_bias", ".D")):
                p.copy_(torch.randn_like(p) - (1 if "dt" in name else 0))
    model.to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # F32 in published files
            buffer.data = correction().clone()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, tokenizer_files):
    return make(tmp_path_factory.mktemp("mixture"), tokenizer_files, lambda: 0.2 * torch.randn(EXPERTS))


@pytest.fixture(scope="module")
def one_sided(tmp_path_factory, tokenizer_files):
    """Every token goes to experts 0, 1 and 2 of both layers."""
    bias = torch.tensor([9.0, 8.0, 7.0] + [0.0] * (EXPERTS - 3))
    return make(tmp_path_factory.mktemp("one_sided"), tokenizer_files, lambda: bias)


def logits_of(folder, ids, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    qad("logits", folder, "--tokens", tmp_path / "ids.json", "-o", tmp_path / "l.safetensors")
    return load_file(tmp_path / "l.safetensors")["logits"]


def some_ids(tokens):
    return torch.randint(3, 512, (2, tokens), generator=torch.Generator().manual_seed(tokens))


@pytest.mark.parametrize("tokens", [1, 7, 130])
@pytest.mark.parametrize("which", ["mixture", "one_sided"])
@torch.no_grad()
def test_logits_equal_transformers(which, tokens, request, tmp_path):
    folder, ids = request.getfixturevalue(which), some_ids(tokens)
    ours, theirs = logits_of(folder, ids, tmp_path), read_model(folder)(ids).logits
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_text_is_the_same_alone_and_among_others(mixture, tmp_path):
    (tmp_path / "p.txt").write_text("Once upon a time\nThe dog\n" + "Lily and Tom went to the park. " * 8 + "\n")
    texts = []
    for size in (1, 3):
        out = tmp_path / f"{size}.jsonl"
        qad("generate", mixture, "--prompts", tmp_path / "p.txt", "-o", out, "--max-tokens", 24, "--batch-size", size)
        texts.append([json.loads(line)["token_ids"] for line in out.read_text().splitlines()])
    assert texts[0] == texts[1] and [len(t) for t in texts[0]] == [24] * 3


def quantize(folder, out, *more):
    """stderr, on which it says whom calibration did not reach."""
    done = subprocess.run([str(QAD), "quantize", str(folder), "-o", str(out), "--calib", str(TEXT), "--calib-sequences",
                           "8", *more], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def decoded(tensors, name):
    codes = tensors[name + ".weight"]
    q = NVFP4QTensor((codes.shape[0], codes.shape[1] * 2), torch.float32, codes)
    return q.dequantize(dtype=torch.float32, scale=tensors[name + ".weight_scale"],
                        double_scale=tensors[name + ".weight_scale_2"], block_sizes={-1: 16})


def deployed(folder, quantised):
    """Transformers' model of `folder` with the values of its NVFP4 checkpoint, which ModelOpt decodes, and quantised
    inputs: of experts, which Transformers keeps in one tensor, by a loop over them."""
    tensors = load_file(quantised / "model.safetensors")
    model = read_model(folder)
    file_name = lambda name: "backbone." + name.removeprefix("model.") if name.startswith("model.") else name
    for name, parameter in model.named_parameters():
        if file_name(name) in tensors and tensors[file_name(name)].dtype != torch.uint8:
            parameter.copy_(tensors[file_name(name)])
    for name, module in model.named_modules():
        file = file_name(name)
        if file + ".weight_scale" in tensors:
            module.weight.copy_(decoded(tensors, file))
            scale = tensors[file + ".input_scale"]
            module.register_forward_pre_hook(lambda m, args, scale=scale: (fake_quantize(args[0], scale),))
        if name.endswith(".experts"):
            def forward(x, chosen, weights, file=file):
                out = torch.zeros_like(x)
                for e in range(EXPERTS):
                    token, place = torch.where(chosen == e)
                    if token.numel() == 0:
                        continue
                    h = x[token]
                    for part in ("up_proj", "down_proj"):
                        linear = f"{file}.{e}.{part}"
                        h = fake_quantize(h, tensors[linear + ".input_scale"]) @ decoded(tensors, linear).T
                        h = h.relu().square() if part == "up_proj" else h
                    out.index_add_(0, token, h * weights[token, place, None])
                return out
            module.forward = forward
    return model


@torch.no_grad()
def test_nvfp4_experts_give_the_logits_of_their_bytes(mixture, tmp_path):
    out = tmp_path / "nvfp4"
    quantize(mixture, out, "--global-scale", "amax")
    qad("verify", out)
    tensors = load_file(out / "model.safetensors")
    for scale in (".weight_scale_2", ".input_scale"):  # each matrix has its own
        experts = [n for n in tensors if ".experts." in n and n.endswith(scale)]
        assert len(experts) == 2 * EXPERTS * 2 and len({tensors[n].item() for n in experts}) > EXPERTS
    ids = some_ids(33)
    # As in test_models.py: a code that falls the other way at a tie moves a logit. Here it can also move a choice.
    ours, theirs = logits_of(out, ids, tmp_path), deployed(mixture, out)(ids).logits
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.97


def test_experts_that_calibration_did_not_reach_borrow_and_are_listed(one_sided, tmp_path):
    out = tmp_path / "nvfp4"
    said = quantize(one_sided, out)
    assert "5 of 8 experts in layer 1 (3, 4, 5, 6, 7); 5 of 8 experts in layer 4 (3, 4, 5, 6, 7)" in said
    tensors = load_file(out / "model.safetensors")
    for layer in (1, 4):
        for part in ("up_proj", "down_proj"):
            scale = [tensors[f"backbone.layers.{layer}.mixer.experts.{e}.{part}.input_scale"].item() for e in range(EXPERTS)]
            assert scale[3:] == [max(scale[:3])] * 5
    qad("verify", out)


def test_distill_trains_experts_and_leaves_the_correction(mixture, tmp_path):
    out = tmp_path / "run"
    distil(mixture, out)
    before, after = (load_file(f / "model.safetensors") for f in (mixture, out / "checkpoint"))
    assert set(before) <= set(after)
    for layer in (1, 4):
        gate = f"backbone.layers.{layer}.mixer.gate."
        assert after[gate + "e_score_correction_bias"].dtype == torch.float32
        assert torch.equal(after[gate + "e_score_correction_bias"], before[gate + "e_score_correction_bias"])
        assert after[gate + "weight"].dtype == torch.bfloat16
        assert not torch.equal(after[gate + "weight"], before[gate + "weight"])
    assert all((name + "_scale" in after) == (".experts." in name or "shared_experts" in name)
               for name in before if ".mixer." in name and name.split(".")[2] in "14" and name.endswith("proj.weight"))


def test_what_is_missing_is_named_with_its_layer(mixture, tmp_path):
    def error_of(folder):
        (tmp_path / "ids.json").write_text("[[1, 2]]")
        error = qad("logits", folder, "--tokens", tmp_path / "ids.json", "-o", tmp_path / "l.safetensors", ok=False)
        assert error.count("\n") == 1
        return error

    lost = "backbone.layers.4.mixer.experts.5.down_proj.weight"
    folder = tmp_path / "shards"
    shutil.copytree(mixture, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file({n: t for n, t in tensors.items() if n != lost}, folder / shard)
    weight_map = {n: shard for n in tensors}
    for listed in (True, False):
        if not listed:
            del weight_map[lost]
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert lost in error_of(folder)

    out = tmp_path / "nvfp4"
    quantize(mixture, out)
    quantised = load_file(out / "model.safetensors")
    for suffix in ("weight_scale", "weight_scale_2", "input_scale"):
        name = f"backbone.layers.1.mixer.experts.2.up_proj.{suffix}"
        save_file({n: t for n, t in quantised.items() if n != name}, out / "model.safetensors")
        assert f"{name} is missing" in error_of(out)
    plain = dict(quantised)
    for suffix in ("weight_scale", "weight_scale_2", "input_scale"):
        del plain[f"backbone.layers.1.mixer.experts.2.up_proj.{suffix}"]
    plain["backbone.layers.1.mixer.experts.2.up_proj.weight"] = torch.zeros(48, 64, dtype=torch.bfloat16)
    save_file(plain, out / "model.safetensors")
    assert "layer 1: expected all or none of its experts in NVFP4" in error_of(out)


def test_the_published_size_follows_from_the_config():
    """NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4 is 19.4 GB."""
    config = ROOT / "tests/golden/published/nemotron-3-nano-30b-a3b.json"
    plan = json.loads(qad("inspect", config, "--plan", "nvfp4-nano-30b-a3b", "--json"))
    assert abs(plan["bytes_after"] / 19.4e9 - 1) < 0.02
    assert sum(row["parameters"] for row in plan["rows"]) == pytest.approx(31.578e9, rel=1e-4)
    assert sum(row["tensors"] for row in plan["rows"] if row["quantized"]) == 17 * 2 + 23 * (128 * 2 + 2)
    table = qad("inspect", config, "--plan", "nvfp4-nano-30b-a3b")
    assert "expert down" in table and "quantised" in table


def test_a_checkpoint_larger_than_memory_is_quantised_layer_by_layer(tmp_path, tokenizer_files):
    """24 layers of experts, 484 MB; the program itself takes some 140 MB, with a text and its tokens 200, and a layer 20."""
    hidden, width, experts, layers = 256, 768, 25, 24
    sizes = {**CONFIG, "hybrid_override_pattern": "E" * layers, "num_hidden_layers": layers, "hidden_size": hidden,
             "moe_intermediate_size": width, "moe_shared_expert_intermediate_size": width, "n_routed_experts": experts,
             "n_group": 1}
    del sizes["intermediate_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["initializer_range"]
    big = tmp_path / "big"
    big.mkdir()
    (big / "config.json").write_text(json.dumps({**sizes, "architectures": ["NemotronHForCausalLM"],
                                                 "model_type": "nemotron_h", "intermediate_size": width}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, big / name)
    noise = torch.randn(width * hidden, generator=torch.Generator().manual_seed(1)).bfloat16() / 16
    up, down = noise.view(width, hidden), noise.view(hidden, width)
    tensors = {"backbone.embeddings.weight": noise[:512 * hidden].view(512, hidden),
               "lm_head.weight": noise[:512 * hidden].view(512, hidden), "backbone.norm_f.weight": torch.ones(hidden)}
    for layer in range(layers):
        mixer = f"backbone.layers.{layer}.mixer."
        tensors[f"backbone.layers.{layer}.norm.weight"] = torch.ones(hidden)
        tensors[mixer + "gate.weight"] = noise[:experts * hidden].view(experts, hidden)
        tensors[mixer + "gate.e_score_correction_bias"] = torch.zeros(experts)
        for name in ["shared_experts"] + [f"experts.{e}" for e in range(experts)]:
            tensors[f"{mixer}{name}.up_proj.weight"], tensors[f"{mixer}{name}.down_proj.weight"] = up, down
    save_file({n: t.clone() for n, t in tensors.items()}, big / "model.safetensors")
    size = (big / "model.safetensors").stat().st_size
    assert size > 480e6
    for policy in ("nvfp4-weight-only", "nvfp4"):
        out = tmp_path / policy
        command = [str(QAD), "quantize", str(big), "-o", str(out), "--recipe", policy, "--calib", str(TEXT),
                   "--calib-sequences", "4", "--seq-len", "64"]
        watched = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=2); " \
                  "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        code, peak = map(int, subprocess.check_output([sys.executable, "-c", watched, *command], text=True).split())
        assert code == 0
        assert peak * 1024 < 0.75 * size, policy  # whole, in FP32, it would be twice the size
        qad("verify", out)
        shutil.rmtree(out)
