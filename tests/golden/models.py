"""Tiny random checkpoints and the logits that Transformers computes from them in FP32.

Makes tests/golden/models/NAME/{config.json,generation_config.json,model.safetensors,expected.safetensors}.
Run: python tests/golden/models.py [NAME...]   (torch 2.11, transformers 5.23, safetensors)
Norms and biases are random too: with their defaults of ones and zeros, bugs in them would not show.
"""

import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "models"

COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
              pad_token_id=None)
THETA = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}

MODELS = {
    # llama3's three frequency regimes occur: wavelengths 6, 32, 167, ... against 16 and 64.
    "llama": ("Llama", torch.bfloat16, dict(head_dim=16, tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "llama_bias_tied": ("Llama", torch.float32, dict(attention_bias=True, mlp_bias=True, intermediate_size=32,
                                                     tie_word_embeddings=True, rope_parameters={
                                                         "rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})),
    "qwen2": ("Qwen2", torch.bfloat16, dict(num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=THETA)),
    "qwen3_yarn": ("Qwen3", torch.bfloat16, dict(head_dim=16, tie_word_embeddings=False, rope_parameters=YARN)),
    "nemotron_h": ("NemotronH", torch.bfloat16, dict(
        hybrid_override_pattern="M-M*M-", num_hidden_layers=6, head_dim=16, mamba_num_heads=4, mamba_head_dim=8,
        n_groups=2, ssm_state_size=16, conv_kernel=4, chunk_size=8, layer_norm_epsilon=1e-5,
        tie_word_embeddings=False)),
    # Groups of which one is left out, three experts of eight, and a correction that moves choices.
    "nemotron_h_experts": ("NemotronH", torch.bfloat16, dict(
        layers_block_type=["moe", "attention", "mlp", "moe"], num_hidden_layers=4, head_dim=16, n_routed_experts=8,
        num_experts_per_tok=3, moe_intermediate_size=48, n_shared_experts=1, moe_shared_expert_intermediate_size=64,
        n_group=2, topk_group=1, routed_scaling_factor=2.5, layer_norm_epsilon=1e-5, tie_word_embeddings=False)),
    # All four kinds of layer.
    "nemotron_h_all": ("NemotronH", torch.bfloat16, dict(
        hybrid_override_pattern="MEM*E-", num_hidden_layers=6, head_dim=16, mamba_num_heads=4, mamba_head_dim=8,
        n_groups=2, ssm_state_size=16, conv_kernel=4, use_conv_bias=False, chunk_size=8, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1, moe_shared_expert_intermediate_size=32,
        routed_scaling_factor=2.5, layer_norm_epsilon=1e-5, tie_word_embeddings=False)),
    # Experts with a gate behind a softmax router, in every second layer and not in the last; the weights of the chosen
    # do not add up to one.
    "qwen3_moe": ("Qwen3Moe", torch.bfloat16, dict(
        num_hidden_layers=5, head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32,
        norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[3], tie_word_embeddings=False,
        rope_parameters=THETA)),
    "qwen3_moe_normed": ("Qwen3Moe", torch.bfloat16, dict(
        head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=True,
        tie_word_embeddings=True, rope_parameters=THETA)),
    "mistral": ("Mistral", torch.float16, dict(sliding_window=None, tie_word_embeddings=False, rope_parameters=THETA)),
}


def make(name, family, dtype, options):
    config = getattr(transformers, family + "Config")(**{**COMMON, **options})
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm" in key:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif key.endswith("dt_bias"):  # steps from 0.05 to 0.7
                p.copy_(-1 + 1.5 * torch.randn_like(p))
            elif p.dim() == 1 and not key.endswith("bias"):  # A_log and D
                p.copy_(torch.randn_like(p))
            elif key.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            elif "conv1d" in key:
                p.copy_(0.6 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.0 if "embed" in key else 1.5 / p.shape[-1] ** 0.5))
    model = model.to(dtype)
    for key, buffer in model.named_buffers():
        if key.endswith("e_score_correction_bias"):  # F32 in published files
            buffer.data = 0.2 * torch.randn(buffer.shape)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    # Loaded again, because .to(bfloat16) rounds the rotary frequencies as well.
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            # Their scan limits steps by time_step_min from below, decoding and NVIDIA's own kernels do not.
            module.time_step_limit = (0.0, float("inf"))
    # Longer than the original context of llama3 and yarn above, and a short one.
    ids = [torch.randint(0, 96, (70,)), torch.randint(0, 96, (5,))]
    out = {}
    with torch.no_grad():
        for i, sequence in enumerate(ids):
            out[f"ids{i}"] = sequence
            out[f"logits{i}"] = model(sequence[None]).logits[0, -8:].contiguous()  # the last 8 say all
        prompt = ids[1][None]
        greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64,
                                eos_token_id=-1)
        out["greedy"] = greedy[0, prompt.shape[1]:].contiguous()
    assert out["greedy"].numel() == 64
    save_file(out, folder / "expected.safetensors")


if __name__ == "__main__":
    for name, (family, dtype, options) in MODELS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        make(name, family, dtype, options)
        print(name, {p.name: p.stat().st_size for p in (HERE / name).iterdir()})
