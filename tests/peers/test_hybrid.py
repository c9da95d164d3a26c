"""nemotron_h as a user meets it: lengths around the chunks of both programs, a distilled checkpoint that Transformers
computes alike, and configurations that contradict themselves."""
import json, shutil

import pytest
import torch
from safetensors.torch import load_file

from conftest import MODELS, TEXT, deployed, distil, qad, read_model


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory, tokenizer_files):
    torch.manual_seed(11)
    model = MODELS["nemotron_h"]()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith((".A_log", ".dt_bias", ".D")):
                p.copy_(torch.randn_like(p) - (1 if "dt" in name else 0))
    folder = tmp_path_factory.mktemp("hybrid")
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_files / name, folder / name)
    return folder


def logits_of(folder, ids, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    qad("logits", folder, "--tokens", tmp_path / "ids.json", "-o", tmp_path / "l.safetensors")
    return load_file(tmp_path / "l.safetensors")["logits"]


@pytest.mark.parametrize("tokens", [1, 5, 16, 17, 63, 64, 65, 200])  # chunks are 64 here, 16 there
@torch.no_grad()
def test_logits_at_every_kind_of_length(hybrid, tokens, tmp_path):
    ids = torch.randint(3, 512, (2, tokens), generator=torch.Generator().manual_seed(tokens))
    ours, theirs = logits_of(hybrid, ids, tmp_path), read_model(hybrid)(ids).logits
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_text_is_the_same_alone_and_among_others(hybrid, tmp_path):
    prompts = ["Once upon a time", "The dog", "Lily and Tom went to the park. " * 8]
    (tmp_path / "p.txt").write_text("\n".join(prompts) + "\n")
    texts = []
    for size in (1, 3):
        out = tmp_path / f"{size}.jsonl"
        qad("generate", hybrid, "--prompts", tmp_path / "p.txt", "-o", out, "--max-tokens", 24, "--batch-size", size)
        texts.append([json.loads(line)["token_ids"] for line in out.read_text().splitlines()])
    assert texts[0] == texts[1] and [len(t) for t in texts[0]] == [24] * 3


@torch.no_grad()
def test_distill_ends_in_a_checkpoint_that_transformers_computes_alike(hybrid, ids_file, tmp_path):
    out = tmp_path / "run"
    distil(hybrid, out)
    before, after = (load_file(f / "model.safetensors") for f in (hybrid, out / "checkpoint"))
    quantised = [n.removesuffix(".weight_scale") for n in after if n.endswith(".weight_scale")]
    assert len(quantised) == 3 * 2 + 2 * 2 + 4
    for name, tensor in before.items():  # the same layout, all but the codes
        assert name in after
        if name.removesuffix(".weight") not in quantised:
            assert after[name].shape == tensor.shape and after[name].dtype == torch.bfloat16, name
    for vector in ("A_log", "D", "dt_bias", "conv1d.weight", "conv1d.bias", "norm.weight"):  # trained, too
        name = f"backbone.layers.2.mixer.{vector}"
        assert not torch.equal(after[name], before[name]), name
    config = json.loads((out / "checkpoint/config.json").read_text())["quantization_config"]
    assert "backbone.layers.0.mixer.conv1d" in config["ignore"] and "lm_head" in config["ignore"]
    # As in test_models.py: a code that falls the other way at a tie moves a logit.
    ours = logits_of(out / "checkpoint", ids_file[1], tmp_path)
    theirs = deployed(hybrid, out / "checkpoint")(ids_file[1]).logits
    error = (ours - theirs).abs() / theirs.abs().max()
    assert error.max() < 0.05
    assert (error < 1e-3).float().mean() > 0.99


def test_inspect_says_what_layers_there_are(hybrid):
    assert "6 layers (3 mamba, 2 mlp, 1 attention)" in qad("inspect", hybrid)


@pytest.mark.parametrize("change, said", [
    ({"layers_block_type": None, "hybrid_override_pattern": "M-M*M-M", "num_hidden_layers": 6}, "expected a layer for each of num_hidden_layers 6, found 7"),
    ({"layers_block_type": None, "hybrid_override_pattern": "M-M*Q-"}, "layer 4: expected M, *, - or E, found 'Q'"),
    ({"n_groups": 3}, "layer 0 (Mamba): expected a multiple of n_groups 3, found 8"),
    ({"num_key_value_heads": 3}, "layer 3 (attention): expected a multiple of num_key_value_heads 3, found 4"),
    ({"mlp_hidden_act": "silu"}, "mlp_hidden_act: only relu2 is supported, found silu"),
    ({"layers_block_type": None, "hybrid_override_pattern": "MMM*M-"},
     "backbone.layers.1.mixer.in_proj.weight: expected [392, 64] from config.json, found no such tensor"),
    ({"hybrid_override_pattern": "MMM*M-"}, "expected the same layers, found MMM*M- and M-M*M-"),
])
def test_contradictions_are_one_error(hybrid, change, said, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(hybrid, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    tokens = tmp_path / "ids.json"
    tokens.write_text("[[1, 2]]")
    error = qad("logits", folder, "--tokens", tokens, "-o", tmp_path / "l.safetensors", ok=False)
    assert said in error and error.count("\n") == 1, error
