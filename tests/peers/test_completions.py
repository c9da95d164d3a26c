"""Files of prompts: texts as Transformers writes them, resumed after a kill, the same in batches of any size."""
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT, deployed, qad

TEXT = (ROOT / "data/tinystories/validation.txt").read_text().split("<|endoftext|>")


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    starts = [story.strip().replace("\n", " ")[:10 + 7 * i] for i, story in enumerate(TEXT[:12])]
    file.write_text("".join(start + "\n" for start in starts))
    return file


def complete(model, prompts, out, *more, ok=True):
    said = qad("generate", model, "--prompts", prompts, "-o", out, *more, ok=ok)
    if not ok:
        return said
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    found = {(line["index"], line["sample"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def assert_greedy(folder, model, prompts, tmp_path):
    """Texts of `folder`, together and alone, are `model`'s, token by token over 200 tokens."""
    ours = complete(folder, prompts, tmp_path / "a.jsonl", "--max-tokens", 200)
    alone = complete(folder, prompts, tmp_path / "b.jsonl", "--max-tokens", 200, "--batch-size", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for (index, sample), line in ours.items():
        assert sample == 0 and alone[index, 0]["token_ids"] == line["token_ids"]
        ids = tokenizer(line["prompt"], return_tensors="pt").input_ids
        theirs = model.generate(ids, max_new_tokens=200, do_sample=False, pad_token_id=0)[0, ids.shape[1]:].tolist()
        assert line["token_ids"] == theirs[:len(line["token_ids"])]
        ended = len(line["token_ids"]) < 200
        assert line["finish_reason"] == ("stop" if ended else "length")
        if ended:
            assert theirs[len(line["token_ids"])] == model.generation_config.eos_token_id


@torch.no_grad()
def test_greedy_texts_are_transformers_over_200_tokens(tokenizer_files, prompts, tmp_path):
    assert_greedy(tokenizer_files, AutoModelForCausalLM.from_pretrained(tokenizer_files, dtype=torch.float32), prompts, tmp_path)


def quantised(folder, out, recipe):
    qad("quantize", folder, "-o", out, "--recipe", recipe, "--calib", ROOT / "data/tinystories/validation.txt",
        "--calib-sequences", 8)
    return deployed(folder, out)


@torch.no_grad()
def test_greedy_texts_of_nvfp4_weights_are_those_of_its_bytes(tokenizer_files, prompts, tmp_path):
    out = tmp_path / "nvfp4"
    assert_greedy(out, quantised(tokenizer_files, out, "nvfp4-weight-only"), prompts, tmp_path)


def assert_likeliest(out, model, prompts, tmp_path):
    """Each token is the likeliest of the peer's whole forward pass over the text, and a batch changes none. The peer's
    generate() is no reference where activations or keys are rounded: with a cache its sums have another order, in which
    a value at a tie gets another code (one text of twelve)."""
    ours = complete(out, prompts, tmp_path / "a.jsonl", "--max-tokens", 200)
    alone = complete(out, prompts, tmp_path / "b.jsonl", "--max-tokens", 200, "--batch-size", 1)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokens = other = 0
    for place, line in ours.items():
        text = line["token_ids"]
        assert alone[place]["token_ids"] == text
        prompt = tokenizer(line["prompt"]).input_ids
        theirs = model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1:-1].argmax(-1)
        tokens += len(text)
        other += (theirs != torch.tensor(text)).sum().item()
    assert tokens > 1000 and other <= 2  # 0 of 2,400 when written; ties are decided by the order of FP32 sums
    return ours


@torch.no_grad()
def test_greedy_texts_with_quantised_activations_are_those_of_its_bytes(tokenizer_files, prompts, tmp_path):
    out = tmp_path / "nvfp4"
    model = quantised(tokenizer_files, out, "nvfp4")
    assert_likeliest(out, model, prompts, tmp_path)


def fp8(x, scale):
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


@torch.no_grad()
def test_greedy_texts_with_fp8_keys_and_values(tokenizer_files, prompts, tmp_path, monkeypatch):
    """As above, the peer's keys (after rotation) and values rounded by PyTorch's own E4M3."""
    from safetensors.torch import load_file, save_file
    from transformers.models.llama import modeling_llama
    out = tmp_path / "nvfp4"
    model = quantised(tokenizer_files, out, "nvfp4-weight-only")
    tensors, scales = load_file(out / "model.safetensors"), []
    for i in range(model.config.num_hidden_layers):
        k, v = torch.tensor(0.011 + 0.003 * i), torch.tensor(0.007 + 0.002 * i)  # some keys and values clip
        tensors[f"model.layers.{i}.self_attn.k_proj.k_scale"] = k
        if i > 0:
            tensors[f"model.layers.{i}.self_attn.v_proj.v_scale"] = v
        scales.append((k, v if i > 0 else 1.0))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    plain = complete(out, prompts, tmp_path / "plain.jsonl", "--max-tokens", 200)
    for file in ("hf_quant_config.json", "config.json"):
        config = json.loads((out / file).read_text())
        if file == "config.json":
            config["quantization_config"]["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
        else:
            config["quantization"]["kv_cache_quant_algo"] = "FP8"
        (out / file).write_text(json.dumps(config))

    layer = [0]
    rotate = modeling_llama.apply_rotary_pos_emb

    def rotated(q, k, *more, **kwargs):
        q, k = rotate(q, k, *more, **kwargs)
        layer[0] += 1
        return q, fp8(k, scales[(layer[0] - 1) % len(scales)][0])

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", rotated)
    for i, block in enumerate(model.model.layers):
        block.self_attn.v_proj.register_forward_hook(lambda m, args, y, i=i: fp8(y, scales[i][1]))
    ours = assert_likeliest(out, model, prompts, tmp_path)
    assert any(line["token_ids"] != plain[place]["token_ids"] for place, line in ours.items())


def test_a_cut_file_is_completed_and_others_are_refused(tokenizer_files, prompts, tmp_path):
    flags = ("--max-tokens", 40, "--temperature", 0.9, "--top-p", 0.95, "--samples", 3, "--seed", 5)
    whole = complete(tokenizer_files, prompts, tmp_path / "whole.jsonl", *flags)
    assert len(whole) == 36 and len({line["completion"] for line in whole.values()}) > 30
    text = (tmp_path / "whole.jsonl").read_bytes()
    for cut in (0, 1, len(text) // 3, len(text) - 1):
        (tmp_path / "cut.jsonl").write_bytes(text[:cut])
        assert complete(tokenizer_files, prompts, tmp_path / "cut.jsonl", *flags, "--batch-size", 7) == whole
    colder = ("--max-tokens", 40, "--temperature", 0.8)
    error = complete(tokenizer_files, prompts, tmp_path / "whole.jsonl", *colder, ok=False)
    assert "another sampling" in error and "whole.jsonl" in error
    (tmp_path / "other.txt").write_text("One\nTwo\n")
    error = complete(tokenizer_files, tmp_path / "other.txt", tmp_path / "whole.jsonl", *flags, ok=False)
    assert "other prompts" in error
    assert (tmp_path / "whole.jsonl").read_bytes() == text


def test_stop_strings_end_a_text_before_them(tokenizer_files, prompts, tmp_path):
    free = complete(tokenizer_files, prompts, tmp_path / "free.jsonl", "--max-tokens", 60)
    stopped = complete(tokenizer_files, prompts, tmp_path / "stop.jsonl", "--max-tokens", 60, "--stop", "the", "--stop", "She")
    for place, line in free.items():
        ends = [line["completion"].find(stop) for stop in ("the", "She") if stop in line["completion"]]
        expected = line["completion"][:min(ends)] if ends else line["completion"]
        assert stopped[place]["completion"] == expected
        assert stopped[place]["finish_reason"] == ("stop" if ends else line["finish_reason"])


def test_nothing_wanted_is_a_line_each_and_another_model_is_refused(tokenizer_files, tmp_path):
    (tmp_path / "many.txt").write_text("Once\n" * 100)
    flags = (tmp_path / "many.txt", tmp_path / "none.jsonl", "--max-tokens", 0)
    assert len(complete(tokenizer_files, *flags)) == 100
    assert "another model" in complete(ROOT / "data/stories260k/stories260K.bin", *flags, ok=False)
    error = qad("generate", tokenizer_files, "--prompt", "Once", "--samples", 3, ok=False)
    assert "--prompts" in error


def test_bad_prompts_are_refused(tokenizer_files, tmp_path):
    for name, content, word in (("a.txt", "", "no prompts"), ("a.jsonl", '{"text": "a"}\n', "a.jsonl:1"),
                                ("a.csv", "a", ".txt or .jsonl")):
        (tmp_path / name).write_text(content)
        assert word in complete(tokenizer_files, tmp_path / name, tmp_path / "out.jsonl", ok=False)
    assert not (tmp_path / "out.jsonl").exists()
