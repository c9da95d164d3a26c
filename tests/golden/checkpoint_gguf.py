"""Makes tests/golden/checkpoint/gguf/: block formats as gguf-py decodes them, and a one-layer Llama whose expected values went
through gguf-py's decoder and Transformers' own reordering of q and k. Needs gguf 0.17+, numpy, transformers 5.x.

    python tests/golden/checkpoint_gguf.py
"""

import json
import math
import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

OUT = pathlib.Path(__file__).parent / "checkpoint" / "gguf"
TYPES = gguf.GGMLQuantizationType
rng = np.random.default_rng(20)

# Where each block format keeps its half-precision scales; random bits there would mostly be huge or NaN.
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F32": [], "BF16": []}


def random_blocks(name):
    values, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
    count = 2 if values > 1 else 16
    if name == "F32":
        return rng.standard_normal(count).astype(np.float32).view(np.uint8)
    if name == "BF16":  # 0x3f80 is 1; 0x0001 a subnormal
        return np.array([0x3F80, 0xC2F7, 0x0001, 0x8000, 0x7F7F] + [0x4049] * 11, np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[name]:
        halves = rng.standard_normal(count).astype(np.float16)
        halves[0] = [6e-8, -3e-5][at % 4 // 2]  # subnormal halves
        if values == 1:
            halves[1:4] = [65504, -0.0, 6.1e-5]
        blocks[:, at:at + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks.reshape(-1)


def write_blocks():
    cases = {}
    for name in HALVES:
        data = random_blocks(name)
        values = dequantize(data.reshape(1, -1), TYPES[name]).ravel()
        cases[name] = {"type": int(TYPES[name]), "bytes": data.tobytes().hex(), "values": [float(v) for v in values]}
    (OUT / "blocks.json").write_text(json.dumps(cases).replace('}, "', '},\n "') + "\n")


HIDDEN, WIDTH, HEADS, KV_HEADS, VOCAB, THETA, CONTEXT = 32, 32, 4, 2, 16, 500000.0, 131072
HEAD_DIM = HIDDEN // HEADS
# Hugging Face name, ggml name, shape, type
TENSORS = [
    ("model.embed_tokens.weight", "token_embd.weight", (VOCAB, HIDDEN), "F16"),
    ("model.norm.weight", "output_norm.weight", (HIDDEN,), "F32"),
    ("lm_head.weight", "output.weight", (VOCAB, HIDDEN), "Q8_0"),
    ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", (HIDDEN,), "F32"),
    ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", (HIDDEN,), "F32"),
    ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", (HIDDEN, HIDDEN), "Q4_1"),
    ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", (HEAD_DIM * KV_HEADS, HIDDEN), "BF16"),
    ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", (HEAD_DIM * KV_HEADS, HIDDEN), "Q8_0"),
    ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", (HIDDEN, HIDDEN), "Q5_0"),
    ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", (WIDTH, HIDDEN), "Q4_0"),
    ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", (WIDTH, HIDDEN), "Q5_1"),
    ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", (HIDDEN, WIDTH), "BF16"),
]


def permute(weights, n_head):  # llama.cpp, conversion of Llama: Hugging Face's rows to ggml's
    shape = (n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def llama3_divisors(factor=32.0, low=1.0, high=4.0, original=8192):  # llama.cpp, generate_extra_tensors
    divisors = []
    for i in range(0, HEAD_DIM, 2):
        wavelength = 2 * math.pi * THETA ** (i / HEAD_DIM)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def write_llama():
    writer = gguf.GGUFWriter(OUT / "llama.gguf", "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    # One token is not UTF-8, as a few real vocabularies have it.
    writer.add_token_list([b"<s>", b"</s>", b"\xff\xfe"] + [f"t{i}".encode() for i in range(3, VOCAB)])
    writer.add_token_scores([-0.5 * i for i in range(VOCAB)])
    writer.add_token_types([3, 3] + [1] * (VOCAB - 2))
    writer.add_token_merges(["t 3", "t 4"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(5)
    writer.add_add_bos_token(True)

    reorder = LlamaTensorProcessor({"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}).process
    expected, index = [], {}
    for hf_name, name, shape, kind in TENSORS:
        values = rng.standard_normal(shape).astype(np.float32)
        if "attn_q" in name or "attn_k" in name:
            values = permute(values, HEADS if "attn_q" in name else KV_HEADS)
        packed = quantize(values, TYPES[kind])
        writer.add_tensor(name, packed, raw_dtype=TYPES[kind])
        decoded = reorder(dequantize(packed, TYPES[kind]).reshape(shape), name).weights
        index[hf_name] = {"shape": shape, "stored": kind, "offset": sum(e.size for e in expected)}
        expected.append(np.ascontiguousarray(decoded, np.float32))
    writer.add_tensor("rope_freqs.weight", llama3_divisors())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (OUT / "llama.f32").write_bytes(b"".join(e.tobytes() for e in expected))
    (OUT / "llama.json").write_text(json.dumps(index, indent=1) + "\n")


OUT.mkdir(parents=True, exist_ok=True)
write_blocks()
write_llama()
