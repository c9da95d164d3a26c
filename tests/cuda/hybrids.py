"""Hybrids of Mamba-2, attention, MLPs and experts through the program on a GPU: logits, PTQ, QAD, texts, each held to the
CPU's or to the same without CUDA graphs. Weights are random: no small hybrid is published."""

import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PATTERN, HIDDEN, VOCABULARY = "MEM*E-ME", 64, 512
HEADS, HEAD_DIM, GROUPS, STATE = 4, 16, 2, 32  # of Mamba
EXPERTS, CHOSEN, WIDTH, SHARED, MLP = 8, 2, 48, 64, 96


def write(folder, tokenizer):
    """A checkpoint in `folder` with the tokenizer of the folder `tokenizer`, of 512 tokens."""
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "*.index.json"))
    config = {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hybrid_override_pattern": PATTERN,
              "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": len(PATTERN), "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": HEADS, "mamba_head_dim": HEAD_DIM,
              "n_groups": GROUPS, "ssm_state_size": STATE, "conv_kernel": 4, "n_routed_experts": EXPERTS,
              "num_experts_per_tok": CHOSEN, "n_shared_experts": 1, "moe_intermediate_size": WIDTH,
              "moe_shared_expert_intermediate_size": SHARED, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
              "routed_scaling_factor": 2.5, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
              "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    inner = HEADS * HEAD_DIM
    channels = inner + 2 * GROUPS * STATE
    shapes = {"embeddings.weight": (VOCABULARY, HIDDEN)}
    tensors = {"norm_f.weight": torch.ones(HIDDEN)}
    for i, letter in enumerate(PATTERN):
        at = f"layers.{i}.mixer."
        tensors[f"layers.{i}.norm.weight"] = torch.ones(HIDDEN)
        if letter == "M":
            shapes |= {at + "in_proj.weight": (inner + channels + HEADS, HIDDEN), at + "out_proj.weight": (HIDDEN, inner)}
            tensors |= {at + "conv1d.weight": torch.randn(channels, 1, 4, generator=random) / 2,
                        at + "conv1d.bias": torch.zeros(channels), at + "norm.weight": torch.ones(inner),
                        at + "A_log": torch.rand(HEADS, generator=random) * 2, at + "D": torch.ones(HEADS),
                        at + "dt_bias": torch.rand(HEADS, generator=random) * 2 - 3}
        elif letter == "*":
            shapes |= {f"{at}{n}_proj.weight": s for n, s in (("q", (64, HIDDEN)), ("k", (32, HIDDEN)), ("v", (32, HIDDEN)),
                                                              ("o", (HIDDEN, 64)))}
        elif letter == "-":
            shapes |= {at + "up_proj.weight": (MLP, HIDDEN), at + "down_proj.weight": (HIDDEN, MLP)}
        else:
            shapes |= {at + "gate.weight": (EXPERTS, HIDDEN), at + "shared_experts.up_proj.weight": (SHARED, HIDDEN),
                       at + "shared_experts.down_proj.weight": (HIDDEN, SHARED)}
            tensors[at + "gate.e_score_correction_bias"] = torch.rand(EXPERTS, generator=random) / 10
            for e in range(EXPERTS):
                shapes |= {f"{at}experts.{e}.up_proj.weight": (WIDTH, HIDDEN),
                           f"{at}experts.{e}.down_proj.weight": (HIDDEN, WIDTH)}
    tensors |= {k: torch.randn(s, generator=random) / s[-1] ** 0.5 for k, s in shapes.items()}
    tensors = {f"backbone.{k}": t if k.endswith("correction_bias") else t.bfloat16() for k, t in tensors.items()}
    tensors["lm_head.weight"] = (torch.randn(VOCABULARY, HIDDEN, generator=random) / 4).bfloat16()
    save_file(tensors, folder / "model.safetensors")


def hybrids(qad, logits, close, work, tokenizer, data):
    """qad, logits and close as program.py has them; `data` a folder with train.txt and so on."""
    model = work / "hybrid"
    write(model, tokenizer)
    (work / "ids.json").write_text(json.dumps(np.random.default_rng(2).integers(3, VOCABULARY, (3, 150)).tolist()))
    # A router's near tie may go another way in BF16, and with it a token's expert: hence the median.
    cpu, gpu = logits(model, "cpu", work), logits(model, "cuda", work)
    error = np.median(np.abs(cpu - gpu).max(-1)) / np.abs(cpu).max()
    print(f"logits of a hybrid: median over tokens {error:.2e} of the largest (at most 3e-02)")
    assert error <= 3e-2

    for device in ("cpu", "cuda"):
        qad("quantize", model, "-o", work / f"hybrid-{device}", "--calib", data / "validation.txt", "--device", device)
    cpu, cuda = (load_file(work / f"hybrid-{d}" / "model.safetensors") for d in ("cpu", "cuda"))
    assert cpu.keys() == cuda.keys()
    for name in cpu:
        if not name.endswith("input_scale"):
            assert torch.equal(cpu[name], cuda[name]), name
    print("PTQ of a hybrid: weights and scales equal byte for byte")

    recipe = ["--model", model, "--data.train", data / "train.txt", "--data.validation", data / "validation.txt",
              "--data.test", data / "test.txt", "--data.max_test_documents", 20, "--train.learning_rate", 1e-3,
              "--train.steps", 30, "--train.batch_sequences", 8, "--train.seq_len", 128, "--device", "cuda"]

    def run(name, *extra):
        qad("distill", *recipe, *extra, "-o", work / name)
        result = json.loads((work / name / "result.json").read_text())
        kl = [result[k]["kl"] for k in ("ptq", "student")]
        lines = map(json.loads, (work / name / "metrics.jsonl").read_text().splitlines())
        print(f"distill a hybrid {' '.join(map(str, extra)) or 'as it is'}: KL {kl[0]:.4f} -> {kl[1]:.4f}")
        assert kl[1] < 0.8 * kl[0]
        return [line["loss"] for line in lines if "loss" in line]

    recorded = run("hybrid-recorded")
    for extra in (["--train.cuda_graphs", "false"], ["--train.recompute_layers", len(PATTERN)]):
        losses = run("hybrid-again", *extra)
        assert losses == recorded, (losses, recorded)
    print("losses of a hybrid recorded, plain and with layers that run again: equal")

    (work / "prompts.txt").write_text("".join(f"Once there was a {word}\n" for word in ("dog", "cat", "tree", "boy")))

    def texts(checkpoint, device, *flags):
        out = work / "texts.jsonl"
        out.unlink(missing_ok=True)
        qad("generate", checkpoint, "--prompts", work / "prompts.txt", "-o", out, "--max-tokens", 40, "--device", device, *flags)
        lines = map(json.loads, out.read_text().splitlines())
        return {line["index"]: line["token_ids"] for line in lines}

    # Random weights take another turn early; what a state or a slot does wrong shows with the second token.
    cpu, gpu = (texts(model, device) for device in ("cpu", "cuda"))
    same = [next((i for i, (a, b) in enumerate(zip(cpu[k], gpu[k])) if a != b), 40) for k in range(4)]
    print(f"greedy texts of a hybrid agree with the CPU's for {same} tokens")
    assert min(same) >= 2
    for flags in ([], ["--batch-size", 1], ["--temperature", 1]):
        recorded = texts(work / "hybrid-recorded/checkpoint", "cuda", *flags)
        plain = texts(work / "hybrid-recorded/checkpoint", "cuda", "--no-cuda-graphs", *flags)
        assert recorded == plain, flags
    print("a hybrid's texts of recorded passes: equal to those of plain ones")

    planned = json.loads(qad("bench", "nemotron-h-0.9b", "--seq-len", 4096, "--batch-sequences", 4, "--steps", 2, "--device",
                             "cuda", "--json"))
    print(f"0.9 B hybrid: {planned['tokens_per_second']:.0f} tokens/s, {planned['peak_bytes'] / 1e9:.1f} GB at the peak, "
          f"{planned['planned_bytes'] / 1e9:.1f} planned")
    assert abs(planned["planned_bytes"] / planned["peak_bytes"] - 1) < 0.12
