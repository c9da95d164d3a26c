"""QAD steps on the CPU beside PyTorch on the same cores, in one run: prints tokens/s of both and the ratios.

    $(scripts/peers) bench/train_speed.py stories260k     # 16 x 256 tokens a step
    $(scripts/peers) bench/train_speed.py 135m            # SmolLM2's shape, random weights, 2 x 256 tokens a step

Ours: build/qad distill, quantised, then with every linear left alone (the floor). The peer: Transformers in FP32,
forward KL on whole logits, torch.optim.AdamW(fused), with NVFP4 fake quantisation by a torch.compile'd function on
every linear's weight and input (ModelOpt's own asserts CUDA), and without. Rounds alternate, medians are compared:
this is a measurement of ratios, not of machines.
"""
import json, pathlib, statistics, subprocess, sys, tempfile, time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from shapes import smollm2_135m

ROOT = pathlib.Path(__file__).resolve().parents[1]
QAD = ROOT / "build/qad"
SHAPES = {"stories260k": dict(batch=16, seq=256, steps=16, rounds=3),
          "135m": dict(batch=2, seq=256, steps=6, rounds=3)}
E2M1 = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@torch.compile(dynamic=True)
def fake_quantize(x, amax):
    g = amax / 2688
    b = x.reshape(-1, 16)
    s = (b.abs().amax(1, keepdim=True) / (6 * g)).clamp(2**-9, 448).to(torch.float8_e4m3fn).float() * g
    v = b / s
    a = v.abs()
    q = torch.where(a < 2, (a * 2).round() / 2, torch.where(a < 4, a.round(), (a / 2).round() * 2)).clamp(max=6)
    return (q * v.sign() * s).reshape(x.shape)


class Ste(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, amax):
        return fake_quantize(x, amax)

    @staticmethod
    def backward(ctx, g):
        return g, None


def quantise(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head:
            def forward(x, m=module):
                return F.linear(Ste.apply(x, torch.tensor(20.0)), Ste.apply(m.weight, m.weight.detach().abs().amax()), m.bias)
            module.forward = forward


def peer(folder, shape, quantised):
    """Yields tokens/s of one step after another."""
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    if quantised:
        quantise(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    while True:
        ids = torch.randint(3, 512, (shape["batch"], shape["seq"]))
        start = time.perf_counter()
        with torch.no_grad():
            t = teacher(ids, use_cache=False).logits.flatten(0, 1)
        s = student(ids, use_cache=False).logits.flatten(0, 1)
        loss = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="batchmean", log_target=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield ids.numel() / (time.perf_counter() - start)


def ours(folder, shape, *more):
    """Median tokens/s over the steps of one run of the program behind its first epoch of two steps."""
    with tempfile.TemporaryDirectory() as out:
        stories = (ROOT / "data/tinystories/train.txt").read_text()
        data = pathlib.Path(out) / "data.txt"
        data.write_text(stories[:round(5.2 * shape["batch"] * shape["seq"])])  # 2.6 characters a token, two steps
        command = [QAD, "distill", folder, "-o", pathlib.Path(out) / "run", "--data.train", data, "--data.test",
                   "data/tinystories/validation.txt", "--data.max_test_documents", "1", "--calibration.sequences", "2",
                   "--train.steps", shape["steps"], "--train.seq_len", shape["seq"], "--train.batch_sequences",
                   shape["batch"], "--train.keep_best", "1", *more]
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
        lines = [json.loads(x) for x in (pathlib.Path(out) / "run/metrics.jsonl").read_text().splitlines()]
        return statistics.median([x["tokens_per_second"] for x in lines if "tokens_per_second" in x][3:])


def main():
    name = sys.argv[1]
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work) / "model"
        subprocess.run([QAD, "convert", ROOT / "data/stories260k/stories260K.bin", folder], check=True, capture_output=True)
        if name == "135m":
            smollm2_135m(folder)
        unquantised = ["--set", "quantize.rules=[{pattern: '*', quantize: false}]"]
        peers = {"peer, NVFP4": peer(folder, shape, True), "peer, unquantised": peer(folder, shape, False)}
        rates = {k: [] for k in ("ours, NVFP4", "ours, unquantised", "ours, NVFP4, cached", *peers)}
        for steps in peers.values():
            next(steps), next(steps)
        for _ in range(shape["rounds"]):
            rates["ours, NVFP4"].append(ours(folder, shape))
            rates["ours, unquantised"].append(ours(folder, shape, *unquantised))
            rates["ours, NVFP4, cached"].append(ours(folder, shape, "--train.cache_teacher", "true"))
            for label, steps in peers.items():
                rates[label].append(statistics.median(next(steps) for _ in range(shape["steps"])))
    median = {k: statistics.median(v) for k, v in rates.items()}
    print(f"{name}: {shape['batch']} x {shape['seq']} tokens a step, {torch.get_num_threads()} threads")
    for label, rate in median.items():
        print(f"  {label:<20} {rate:10.1f} tokens/s   {rate / median['peer, NVFP4']:6.2f} x the peer")
    print(f"  a cached teacher gives ours {100 * (median['ours, NVFP4, cached'] / median['ours, NVFP4'] - 1):.1f} % more")
    print(f"  quantisation costs ours {100 * (median['ours, unquantised'] / median['ours, NVFP4'] - 1):.1f} %, "
          f"the peer {100 * (median['peer, unquantised'] / median['peer, NVFP4'] - 1):.1f} %")


main()
