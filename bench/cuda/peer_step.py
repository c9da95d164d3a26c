"""A QAD step as a user of ModelOpt runs it today: its fake quantisation under a Hugging Face model, eager, forward KL on
whole logits, AdamW, everything in BF16. Random weights. Prints one JSON object; needs nvidia-modelopt and transformers.

    python3 bench/cuda/peer_step.py SHAPE BATCH SEQ [plain]      plain: without quantisation
"""

import copy, json, sys, time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, NemotronHConfig, Qwen2Config

# hidden, feed-forward, layers, heads, kv heads, vocabulary, tied; as src/recipe/bench.cpp has them
SHAPES = {"smollm2-135m": (576, 1536, 30, 9, 3, 49152, True), "qwen2-0.5b": (896, 4864, 24, 14, 2, 151936, True),
          "qwen2-1.5b": (1536, 8960, 28, 12, 2, 151936, True), "qwen2-7b": (3584, 18944, 28, 28, 4, 152064, False)}


def config_of(name):
    if name == "nemotron-h-0.9b":
        return NemotronHConfig(
            hybrid_override_pattern="MEMEM*EMEMEM*E", num_hidden_layers=14, hidden_size=1024, intermediate_size=704,
            num_attention_heads=16, num_key_value_heads=2, head_dim=128, mamba_num_heads=32, mamba_head_dim=64, n_groups=8,
            ssm_state_size=128, conv_kernel=4, chunk_size=128, n_routed_experts=64, num_experts_per_tok=6,
            n_shared_experts=1, moe_intermediate_size=704, moe_shared_expert_intermediate_size=1408, vocab_size=131072,
            tie_word_embeddings=False, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5)
    h, f, layers, heads, kv, v, tied = SHAPES[name]
    return (LlamaConfig if name.startswith("smollm2") else Qwen2Config)(
        hidden_size=h, intermediate_size=f, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        vocab_size=v, tie_word_embeddings=tied, max_position_embeddings=32768)


def main():
    name, batch, seq, plain = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "plain" in sys.argv
    config = config_of(name)
    v = config.vocab_size
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        student = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    student.config.use_cache = teacher.config.use_cache = False
    ids = torch.randint(0, v, (8, batch, seq), device="cuda")
    if not plain:
        import modelopt.torch.quantization as mtq
        mtq.quantize(student, mtq.NVFP4_DEFAULT_CFG, lambda m: m(ids[0, :1]))
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)

    def step(i):
        with torch.no_grad():
            t = teacher(ids[i % 8]).logits
        s = student(ids[i % 8]).logits
        s, t = s.flatten(0, 1), t.flatten(0, 1)
        loss = F.kl_div(F.log_softmax(s.float(), -1), F.log_softmax(t.float(), -1), reduction="batchmean", log_target=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for i in range(3):
        step(i)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for i in range(6):
        start = time.perf_counter()
        step(i)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(json.dumps({"tokens_per_second": batch * seq / sorted(times)[3],
                      "peak_bytes": torch.cuda.max_memory_allocated()}))


main()
