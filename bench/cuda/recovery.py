"""What training buys on a real post-trained model: SmolLM2-135M-Instruct by PTQ, QAT and QAD on one GPU, on held-out chats
and wiki text, each method with several seeds.

    python3 bench/cuda/recovery.py QAD MODEL DATA OUT [seeds] [NAME=key=value,key=value ...]

DATA holds chat_train, chat_validation, chat_test and wiki_test.jsonl, whose lines are texts of 1,024 tokens
(recovery_data.py makes them). Without NAMEs it runs those of the table in docs/results. OUT gets results.json.
"""

import json, pathlib, statistics, subprocess, sys

QAD, MODEL, DATA, OUT = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
SEEDS = int(sys.argv[5]) if len(sys.argv) > 5 else 3
STEP = "train.seq_len=1024,train.warmup_steps=20,train.batch_sequences=4,train.learning_rate=2e-4,quantize.weight_scales=mse"
VARIANTS = {
    "QAT, 2.5M tokens": "method=qat,train.batch_sequences=16,train.steps=150,train.learning_rate=1e-4",
    "QAD, 1.2M tokens": "train.steps=300",
    "QAD, 2.5M tokens": "train.steps=600",
    "QAD, 9.8M tokens": "train.steps=2400",
}
CURVE = 30  # points of a run's training curve, each the mean of as many steps


def qad(*args):
    p = subprocess.run([QAD, *map(str, args)], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return p.stdout


def run(settings, seed):
    out = OUT / "run"
    data = {"train": "chat_train", "validation": "chat_validation", "test": "chat_test"}
    flags = [f for kind, name in data.items() for f in (f"--data.{kind}", DATA / f"{name}.jsonl")]
    sets = [f for s in (STEP + "," + settings).split(",") for f in ("--set", s)]
    # The loss at the end chooses nothing: one candidate, and no time spent on others.
    qad("distill", "--model", MODEL, *flags, "--device", "cuda", "--seed", seed, "--train.validate_every", 100000,
        "--train.keep_best", 1, "--calibration.sequences", 64, *sets, "-o", out)
    result = json.loads((out / "result.json").read_text())
    wiki = json.loads(qad("evaluate", out / "checkpoint", "--teacher", MODEL, "--data", DATA / "wiki_test.jsonl",
                          "--seq-len", 1024, "--json", "--device", "cuda"))
    steps = [s for s in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in s]
    each = max(1, len(steps) // CURVE)
    parts = [steps[i:i + each] for i in range(0, len(steps) - each + 1, each)]
    mean = lambda part, key: round(statistics.mean(s[key] for s in part), 5)
    curve = [{"tokens": p[-1]["tokens"], **{k: mean(p, k) for k in ("kl", "ce") if k in p[0]}} for p in parts]
    return {"chat": result["student"], "ptq": result["ptq"], "teacher": result["teacher"], "wiki": wiki,
            "seconds": result["seconds"], "tokens": result["tokens"], "curve": curve}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    variants = dict(a.split("=", 1) for a in sys.argv[6:]) or VARIANTS
    results, first = {}, None
    print(f"{'':34} {'chat CE':>8} {'chat KL':>16} {'top-1':>7} {'wiki CE':>8} {'wiki KL':>8} {'s':>6} {'tokens/s':>9}")
    for name, settings in variants.items():
        runs = [run(settings, seed) for seed in range(SEEDS)]
        results[name] = {"settings": settings, "runs": runs}
        if first is None:
            first = runs[0]
            print(f"{'BF16':34} {first['teacher']['ce']:8.4f} {0:16.4f} {1:7.4f}")
        print(f"{'PTQ of the next':34} {runs[0]['ptq']['ce']:8.4f} {runs[0]['ptq']['kl']:16.4f} {runs[0]['ptq']['top1']:7.4f}")
        mean = lambda f: statistics.mean(map(f, runs))
        kls = [r["chat"]["kl"] for r in runs]
        spread = f" ± {statistics.stdev(kls):.4f}" if len(kls) > 1 else ""
        print(f"{name:34} {mean(lambda r: r['chat']['ce']):8.4f} {f'{statistics.mean(kls):.4f}{spread}':>16} "
              f"{mean(lambda r: r['chat']['top1']):7.4f} {mean(lambda r: r['wiki']['ce']):8.4f} "
              f"{mean(lambda r: r['wiki']['kl']):8.4f} {mean(lambda r: r['seconds']):6.1f} "
              f"{mean(lambda r: r['tokens'] / r['seconds']):9.0f}", flush=True)
        (OUT / "results.json").write_text(json.dumps(results, indent=1))


main()
