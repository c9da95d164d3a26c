"""Opening and loading a checkpoint of SmolLM2-135M's shape (random BF16 weights, one safetensors file) beside
Transformers, in turn:

    $(scripts/peers) bench/load_speed.py

Ours are whole commands, start of the program included: `qad inspect`, and `qad logits` of one token, which reads every
weight into FP32. The peer is from_pretrained in FP32 and one forward pass, its imports not counted.
"""
import json, pathlib, statistics, subprocess, tempfile, time

import torch
from transformers import AutoModelForCausalLM

from shapes import smollm2_135m

QAD = pathlib.Path(__file__).resolve().parents[1] / "build/qad"


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main():
    with tempfile.TemporaryDirectory() as work:
        folder, tokens = pathlib.Path(work) / "model", pathlib.Path(work) / "tokens.json"
        smollm2_135m(folder)
        tokens.write_text(json.dumps([[1]]))

        def qad(*args):
            subprocess.run([str(QAD), *map(str, args)], check=True, capture_output=True)

        def peer():
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([[1]]))

        runs = {"qad inspect": lambda: qad("inspect", folder),
                "qad logits, one token": lambda: qad("logits", folder, "--tokens", tokens, "-o", f"{work}/l.safetensors"),
                "peer, from_pretrained": peer}
        times = {k: [] for k in runs}
        for _ in range(7):
            for label, run in runs.items():
                times[label].append(seconds(run))
    for label, t in times.items():
        print(f"  {label:<24} {statistics.median(t):6.2f} s")


main()
