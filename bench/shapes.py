"""Models of known shapes with random weights, for the benchmarks."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def smollm2_135m(folder):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                                         num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                                         tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(folder)
