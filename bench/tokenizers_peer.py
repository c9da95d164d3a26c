"""The `tokenizers` library on the text of bench_text, one thread: tokenizers_peer.py TOKENIZER_FOLDER TEXT_FILE"""
import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


def fastest(run):
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return best, result


def main():
    from tokenizers import Tokenizer

    folder, file = map(Path, sys.argv[1:])
    path = folder / "tokenizer.json"
    if path.exists():
        load, tokenizer = fastest(lambda: Tokenizer.from_file(str(path)))
    else:
        from transformers import AutoTokenizer

        load, tokenizer = fastest(lambda: AutoTokenizer.from_pretrained(folder).backend_tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text = file.read_bytes().decode()
    megabytes = len(text.encode()) / 1e6
    encode, encoding = fastest(lambda: tokenizer.encode(text, add_special_tokens=False))
    decode, _ = fastest(lambda: tokenizer.decode(encoding.ids, skip_special_tokens=False))
    print(f"tokenizers: load {load:.3f} s, encode {megabytes / encode:.2f} MB/s, "
          f"decode {megabytes / decode:.2f} MB/s, {len(encoding.ids)} ids")


main()
