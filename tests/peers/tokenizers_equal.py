"""Compares a tokenizer of qad with the `tokenizers` library on every text under a folder: ids and decoded text.

    tokenizers_equal.py BENCH_TEXT TOKENIZER_FOLDER TEXTS...

BENCH_TEXT is the program bench_text; TEXTS are files or folders (files that are no UTF-8 are left out). Each text is
encoded whole, and cut into its lines (JSON strings included), with no special tokens added.
"""
import json
import struct
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer


def peer(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def documents(paths):
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            data = file.read_bytes()
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                continue
            yield file, [text] + text.split("\n")


def main():
    program, folder, *texts = sys.argv[1:]
    tokenizer = peer(Path(folder))
    total = {"files": 0, "documents": 0, "bytes": 0, "ids": 0, "different": 0, "decode_different": 0}
    for file, docs in documents([Path(t) for t in texts]):
        packed = b"".join(struct.pack("<q", len(d)) + d for d in (doc.encode() for doc in docs))
        answer = subprocess.run([program, "--serve", folder], input=packed, stdout=subprocess.PIPE, check=True).stdout
        at = 0

        def take(n):
            nonlocal at
            at += n
            return answer[at - n : at]

        expected = tokenizer.encode_batch(docs, add_special_tokens=False)
        for doc, want in zip(docs, expected):
            ids = list(struct.unpack(f"<{(n := struct.unpack('<q', take(8))[0])}i", take(4 * n)))
            text = take(struct.unpack("<q", take(8))[0]).decode()
            if ids != want.ids:
                total["different"] += 1
                first = next((i for i, (a, b) in enumerate(zip(ids, want.ids)) if a != b), min(len(ids), len(want.ids)))
                print(f"{file}: ids differ at {first}: {ids[first:first + 5]} want {want.ids[first:first + 5]}")
            if text != tokenizer.decode(want.ids, skip_special_tokens=False):
                total["decode_different"] += 1
                print(f"{file}: decoded text differs: {doc[:80]!r}")
            total["documents"] += 1
            total["ids"] += len(ids)
        total["files"] += 1
        total["bytes"] += len(docs[0].encode())
    print(json.dumps(total))
    sys.exit(total["different"] + total["decode_different"] > 0)


main()
