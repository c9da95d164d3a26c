"""QAD steps beside the peer, one after the other on one GPU: tokens a second, ratio, peak memory. Ours keeps FP32 masters;
the peer has BF16 parameters and moments. What each side printed, date and driver go to docs/cuda-steps.json.

    python3 bench/cuda/steps.py path/to/qad [SHAPE ...] [--ours] [--logits=bf16]     --ours: without the peer
    python3 bench/cuda/steps.py path/to/qad --sweep                   ours against sequence length and micro-batch
    QAD_LOG=FILE: the log goes there (a sweep's only so)
"""

import datetime, json, os, pathlib, subprocess, sys

PEER = pathlib.Path(__file__).with_name("peer_step.py")
# (shape, sequences a step, tokens a sequence, flags of ours)
STEPS = [("smollm2-135m", 16, 1024, []), ("qwen2-0.5b", 4, 4096, []), ("qwen2-1.5b", 2, 4096, []),
         ("qwen2-7b", 1, 4096, ["--optimizer-states", "bf16", "--gradients", "bf16"]),
         ("nemotron-h-0.9b", 4, 4096, []),
         ("llama3-8b", 2, 4096, ["--optimizer-states", "int8", "--gradients", "bf16", "--micro-sequences", "2"])]


def measure(command):
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if p.returncode != 0:
        return {"error": (p.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(p.stdout[p.stdout.index("{"):])


def bench(qad, shape, batch, seq, flags):
    return measure([qad, "bench", shape, "--batch-sequences", batch, "--seq-len", seq, "--steps", 8, "--device", "cuda",
                    "--json", *flags])


def log(path, rows):
    """rows: {what: a side's result}"""
    if path is None:
        return
    driver = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                            capture_output=True, text=True).stdout.strip()
    found = {"date": datetime.date.today().isoformat(), "gpu": driver, "command": sys.argv[1:], "results": rows}
    pathlib.Path(path).write_text(json.dumps(found, indent=1) + "\n")


def sweep(qad):
    rows = {}
    shape, tokens = "qwen2-0.5b", 32768
    print(f"{shape}, {tokens} tokens a step\nsequence  micro-batch   ms a step    tok/s   of roofline   peak GB")
    pairs = [(s, tokens // s) for s in (1024, 2048, 4096, 8192, 16384, 32768)] + [(1024, m) for m in (16, 8, 4, 2, 1)]
    for seq, micro in pairs:
        r = rows[f"{seq} x {micro}"] = bench(qad, shape, tokens // seq, seq, ["--micro-sequences", micro])
        if "error" in r:
            print(f"{seq:8} {micro:12}  {r['error'][:200]}")
            continue
        print(f"{seq:8} {micro:12} {1e3 * r['seconds_per_step']:11.1f} {r['tokens_per_second']:8.0f} "
              f"{100 * r['tokens_per_second'] / r['roofline']:11.0f} % {r['peak_bytes'] / 1e9:9.1f}", flush=True)
    log(os.environ.get("QAD_LOG"), rows)


def main():
    qad = sys.argv[1]
    if "--sweep" in sys.argv:
        return sweep(qad)
    names = [a for a in sys.argv[2:] if not a.startswith("--")]
    extra = [a for a in sys.argv[2:] if a.startswith("--") and a != "--ours"]
    unknown = set(names) - {step[0] for step in STEPS}
    assert not unknown, f"unknown shapes: {unknown}"
    print(f"{'':14}{'tokens a step':>14} {'peer tok/s':>11} {'ours tok/s':>11} {'ratio':>6} {'of roofline':>11} "
          f"{'peer GB':>8} {'ours GB':>8}")
    rows = {}
    for shape, batch, seq, flags in STEPS:
        if names and shape not in names:
            continue
        ours = bench(qad, shape, batch, seq, flags + extra)
        peer = {"error": "not run"}
        if "--ours" not in sys.argv and shape != "llama3-8b":
            peer = measure([sys.executable, PEER, shape, batch, seq])
        rows[shape] = {"ours": ours, "peer": peer}
        speed = lambda r: f"{r['tokens_per_second']:11.0f}" if "error" not in r else f"{'-':>11}"
        gb = lambda r: f"{r['peak_bytes'] / 1e9:8.1f}" if "error" not in r else f"{'-':>8}"
        both = "error" not in ours and "error" not in peer
        ratio = f"{ours['tokens_per_second'] / peer['tokens_per_second']:6.2f}" if both else f"{'-':>6}"
        share = f"{100 * ours['tokens_per_second'] / ours['roofline']:9.0f} %" if "error" not in ours else f"{'-':>11}"
        print(f"{shape:14}{batch * seq:14} {speed(peer)} {speed(ours)} {ratio} {share} {gb(peer)} {gb(ours)}", flush=True)
        for who, r in (("ours", ours), ("peer", peer)):
            if "error" in r and r["error"] != "not run":
                print(f"  {who}: {r['error'][:300]}")
    log(os.environ.get("QAD_LOG", pathlib.Path(__file__).parents[2] / "docs/cuda-steps.json"), rows)


main()
