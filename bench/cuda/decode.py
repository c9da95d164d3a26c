"""Tokens/s of greedy decoding on a GPU beside Transformers' generate, in turn: SmolLM2-135M's shape, random BF16 weights,
128 tokens read and 128 written by each text. Both sides' time includes the reading. What each measured, date and driver go
to docs/cuda-decode.json.

    python3 bench/cuda/decode.py path/to/qad [TEXTS ...] [--ours]     --ours: without the peer
    QAD_LOG=FILE: the log goes there
"""

import datetime, json, os, pathlib, statistics, subprocess, sys, time

READ, WRITTEN, ROUNDS = 128, 128, 3


def ours(qad, texts, *flags):
    p = subprocess.run([qad, "bench", "smollm2-135m", "--device", "cuda", "--texts", str(texts), "--prompt-tokens", str(READ),
                        "--new-tokens", str(WRITTEN), "--json", *flags], capture_output=True, text=True)
    return json.loads(p.stdout) if p.returncode == 0 else {"error": p.stderr.strip()[-300:]}


def peer_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True, eos_token_id=None,
                         bos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()


def peer(model, texts):
    import torch
    ids = torch.randint(5, 49000, (texts, READ), device="cuda")

    def write(n):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.no_grad():
        write(8)
        seconds = [write(WRITTEN) for _ in range(ROUNDS)]
    return {"tokens_per_second": texts * WRITTEN / statistics.median(seconds), "seconds": seconds}


def main():
    qad = sys.argv[1]
    alone = "--ours" in sys.argv
    sizes = [int(a) for a in sys.argv[2:] if not a.startswith("--")] or [1, 8, 64]
    model = None if alone else peer_model()
    rows = {}
    print(f"{'texts':>6} {'peer tok/s':>11} {'ours tok/s':>11} {'ratio':>7} {'plainly':>9} {'reading ms':>11}")
    for texts in sizes:
        row = rows[texts] = {"ours": ours(qad, texts), "plain": ours(qad, texts, "--no-cuda-graphs"),
                             "peer": {} if alone else peer(model, texts)}
        rate = [row[k].get("tokens_per_second", float("nan")) for k in ("peer", "ours", "plain")]
        print(f"{texts:6} {rate[0]:11.0f} {rate[1]:11.0f} {rate[1] / rate[0]:7.1f} {rate[2]:9.0f} "
              f"{1e3 * row['ours'].get('read_seconds', float('nan')):11.1f}", row["ours"].get("error", ""), flush=True)
    driver = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                            capture_output=True, text=True).stdout.strip()
    path = os.environ.get("QAD_LOG", pathlib.Path(__file__).parents[2] / "docs/cuda-decode.json")
    found = {"date": datetime.date.today().isoformat(), "gpu": driver, "command": sys.argv[1:], "results": rows}
    pathlib.Path(path).write_text(json.dumps(found, indent=1) + "\n")


main()
