"""The program on a GPU, end to end on stories260K, held to itself on the CPU: logits, PTQ, evaluation, generation,
distillation with its options, an interrupt that saves, and errors. Needs torch, numpy and safetensors.

    python3 tests/cuda/program.py path/to/qad
"""

import json, os, pathlib, signal, subprocess, sys, tempfile, time

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
QAD = pathlib.Path(sys.argv[1]).resolve()
DATA = ROOT / "data/tinystories"


def qad(*args, ok=True):
    p = subprocess.run([str(QAD), *map(str, args)], capture_output=True, text=True, cwd=ROOT)
    assert (p.returncode == 0) == ok, f"{args}: {p.returncode}\n{p.stdout}\n{p.stderr}"
    return p.stdout if ok else p.stderr


def logits(model, device, work):
    qad("logits", model, "--tokens", work / "ids.json", "-o", work / "l.safetensors", "--device", device)
    return load_file(work / "l.safetensors")["logits"].double().numpy()


def close(a, b, most, what):
    error = np.abs(a - b).max() / np.abs(b).max()
    print(f"{what}: {error:.2e} of the largest (at most {most:.0e})")
    assert error <= most, what


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        model = work / "bf16"
        qad("convert", ROOT / "data/stories260k/stories260K.bin", model, "--dtype", "bf16")
        rng = np.random.default_rng(0)
        (work / "ids.json").write_text(json.dumps(rng.integers(3, 512, (3, 70)).tolist()))
        # BF16 roundings of the residual stream, one a layer and operator: about sqrt(60) * 2^-9 of its size.
        close(logits(model, "cuda", work), logits(model, "cpu", work), 3e-2, "logits, BF16 model")

        # The same codes and scales whichever device calibrated and rounded: only input scales may differ, by the BF16
        # inputs that calibration saw, and powers of two seldom do.
        for device in ("cpu", "cuda"):
            qad("quantize", model, "-o", work / device, "--calib", DATA / "validation.txt", "--device", device)
        cpu, cuda = (load_file(work / d / "model.safetensors") for d in ("cpu", "cuda"))
        assert cpu.keys() == cuda.keys()
        for name in cpu:
            if not name.endswith("input_scale"):
                assert torch.equal(cpu[name], cuda[name]), name
        print("PTQ: weights and scales equal byte for byte")

        recipe = ["--model", model, "--data.train", DATA / "train.txt", "--data.validation", DATA / "validation.txt",
                  "--data.test", DATA / "test.txt", "--data.max_test_documents", 60, "--train.learning_rate", 5e-4,
                  "--train.steps", 40, "--train.batch_sequences", 16, "--train.seq_len", 256, "--device", "cuda"]
        for extra in ([], ["--train.optimizer_states", "bf16"], ["--train.optimizer_states", "int8"],
                      ["--train.masters", "split"], ["--train.masters", "split", "--train.optimizer_states", "int8"],
                      ["--train.gradients", "bf16"], ["--train.logits", "bf16"], ["--train.micro_sequences", 4], ["--train.cache_teacher", "true"]):
            qad("distill", *recipe, *extra, "-o", work / "run")
            result = json.loads((work / "run/result.json").read_text())
            kl = [result[k]["kl"] for k in ("ptq", "student")]
            print(f"distill {' '.join(map(str, extra)) or 'as it is'}: KL {kl[0]:.4f} -> {kl[1]:.4f}")
            assert kl[1] < 0.7 * kl[0]
        found = json.loads(qad("evaluate", work / "run/checkpoint", "--teacher", model, "--data", DATA / "test.txt",
                               "--documents", 60, "--seq-len", 256, "--json", "--device", "cpu"))
        print(f"the checkpoint on the CPU: KL {found['kl']:.4f}")
        assert abs(found["kl"] - kl[1]) < 3 * found["kl_se"]
        assert len(qad("generate", work / "run/checkpoint", "--prompt", "Once", "--max-tokens", 20, "--device", "cuda")) > 20

        p = subprocess.Popen([str(QAD), "distill", *map(str, recipe), "--train.steps", "4000", "--train.validate_every", "50",
                              "-o", str(work / "stop")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not (work / "stop/state/resume").exists():
            assert p.poll() is None, p.stderr.read()
            time.sleep(0.1)
        p.send_signal(signal.SIGINT)
        assert p.wait() == 130
        print("interrupted: saved")
        out = qad("bench", "smollm2-135m", "--batch-sequences", 4, "--steps", 2, "--device", "cuda")
        assert "qad::attention" in out
        error = subprocess.run([str(QAD), "bench", "--device", "cuda"], capture_output=True, text=True, cwd=ROOT,
                               env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert error.returncode == 1 and "no usable GPU" in error.stderr, error.stderr
        print("without a GPU:", error.stderr.strip())
        error = qad("bench", "llama3-8b", "--seq-len", 4096, "--batch-sequences", 64, "--micro-sequences", 64, "--device",
                    "cuda", ok=False)
        assert "memory" in error and "micro_sequences" in error, error
        print("too large:", error.strip())
    print("program on the GPU: all as expected")


main()
