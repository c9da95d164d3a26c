"""Tokens/s of greedy decoding beside llama.cpp on the same cores and weights, in turn:

    PYTHONPATH=build/llama-cpp $(scripts/peers) bench/decode.py [rounds]     # bench/run says how it gets there

SmolLM2-135M's shape with random weights. Ours: `qad generate --prompts` of the BF16 checkpoint and of NVFP4 ones made of
it. The peer: GGUF files of the same weights in Q8_0 and F16 (a Llama graph, no vocabulary), all sequences in one batch,
greedy by numpy. Both read a prompt of ten tokens and write 128, all counted. Medians over rounds; the ratio is the median
of each round's, to the peer's better one.
"""
import ctypes, json, pathlib, re, statistics, subprocess, sys, tempfile, time

import gguf, llama_cpp, numpy
from safetensors.torch import load_file
from transformers import AutoTokenizer

from shapes import smollm2_135m

ROOT = pathlib.Path(__file__).resolve().parents[1]
QAD = ROOT / "build/qad"
NEW, PROMPT = 128, "Once upon a time there was a little"
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def qad(*args):
    return subprocess.run([str(QAD), *map(str, args)], cwd=ROOT, check=True, capture_output=True, text=True).stderr


def write_gguf(folder, out, kind):
    c = json.loads((folder / "config.json").read_text())
    w = gguf.GGUFWriter(out, "llama")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    w.add_vocab_size(c["vocab_size"])
    w.add_tokenizer_model("no_vocab")
    for name, tensor in load_file(folder / "model.safetensors").items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name)
        to = f"blk.{layer[1]}.{NAMES[layer[2]]}" if layer else NAMES[name.removesuffix(".weight")]
        x = tensor.float().numpy()
        heads = {"attn_q": c["num_attention_heads"], "attn_k": c["num_key_value_heads"]}.get(to.split(".")[-1])
        if heads:  # rotary pairs lie beside each other
            x = x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)
        x = numpy.ascontiguousarray(x)
        if x.ndim == 1:
            w.add_tensor(f"{to}.weight", x)
        else:
            w.add_tensor(f"{to}.weight", gguf.quants.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def peer(model, prompt, batch, threads=2):
    """Tokens/s of a batch."""
    c = llama_cpp.llama_context_default_params()
    c.n_ctx, c.n_seq_max = batch * (len(prompt) + NEW + 8), batch
    c.n_batch = max(512, batch * len(prompt))
    c.n_threads = c.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, c)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    b = llama_cpp.llama_batch_init(c.n_batch, 0, 1)

    def run(rows):  # (token, position, sequence, whether its logits are wanted)
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = token, position, 1, sequence, wanted
        assert llama_cpp.llama_decode(context, b) == 0
        return [int(numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (vocabulary,)).argmax())
                for i, row in enumerate(rows) if row[3]]

    start = time.perf_counter()
    n = len(prompt)
    ids = run([(t, i, s, i == n - 1) for s in range(batch) for i, t in enumerate(prompt)])
    for k in range(NEW - 1):
        ids = run([(ids[s], n + k, s, True) for s in range(batch)])
    rate = batch * NEW / (time.perf_counter() - start)
    llama_cpp.llama_batch_free(b)
    llama_cpp.llama_free(context)
    return rate


def ours(folder, work, batch):
    prompts, out = work / "prompts.txt", work / "out.jsonl"
    prompts.write_text(f"{PROMPT}\n" * batch)
    out.unlink(missing_ok=True)
    said = qad("generate", folder, "--prompts", prompts, "-o", out, "--max-tokens", NEW, "--threads", 2)
    rate, unit = re.search(r"([\d.]+) ?([kM]?) tokens/s\s*$", said).groups()
    return float(rate) * {"": 1, "k": 1e3, "M": 1e6}[unit]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        bf16 = work / "bf16"
        qad("convert", ROOT / "data/stories260k/stories260K.bin", bf16)  # for its tokenizer
        prompt = AutoTokenizer.from_pretrained(bf16)(PROMPT).input_ids
        smollm2_135m(bf16)
        tokenizer = json.loads((bf16 / "tokenizer.json").read_text())  # of 512 tokens: random weights write others
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary |= {f"<{i}>": i for i in range(len(vocabulary), 49152)}
        (bf16 / "tokenizer.json").write_text(json.dumps(tokenizer))
        for name in ("config.json", "generation_config.json"):  # texts end at NEW tokens only
            config = json.loads((bf16 / name).read_text())
            config.pop("eos_token_id", None)
            (bf16 / name).write_text(json.dumps(config))
        qad("quantize", bf16, "-o", work / "w4a16", "--recipe", "nvfp4-weight-only")
        qad("quantize", bf16, "-o", work / "w4a4", "--calib", ROOT / "data/tinystories/validation.txt",
            "--calib-sequences", 2)
        runs = {f"ours, {label}": lambda batch, folder=work / name: ours(folder, work, batch)
                for label, name in (("NVFP4 weights", "w4a16"), ("NVFP4", "w4a4"), ("BF16", "bf16"))}
        p = llama_cpp.llama_model_default_params()
        p.n_gpu_layers = 0
        for kind in ("Q8_0", "F16"):
            file = work / f"{kind}.gguf"
            write_gguf(bf16, file, gguf.GGMLQuantizationType[kind])
            model = llama_cpp.llama_model_load_from_file(str(file).encode(), p)
            runs[f"llama.cpp, {kind}"] = lambda batch, model=model: peer(model, prompt, batch)
        print(f"135M, {len(prompt)} tokens read and {NEW} written, 2 threads, {rounds} rounds; "
              f"llama-cpp-python {llama_cpp.__version__}")
        for batch in (1, 8, 64):
            rates = {label: [] for label in runs}
            for _ in range(rounds):
                for label, run in runs.items():
                    rates[label].append(run(batch))
            best = [max(pair) for pair in zip(rates["llama.cpp, Q8_0"], rates["llama.cpp, F16"])]
            for label, r in rates.items():
                ratio = statistics.median(a / b for a, b in zip(r, best))
                print(f"  batch {batch:<3} {label:<20} {statistics.median(r):8.1f} tokens/s   {ratio:5.2f} x", flush=True)


main()
