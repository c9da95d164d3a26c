"""Loading an 8B checkpoint (Llama 3's shape, BF16, four shards of safetensors) onto a GPU, beside what the way there
allows: reading the same files into memory, with one thread and with all, and copying pinned memory to the GPU.

    python3 bench/cuda/load_speed.py path/to/qad FOLDER [--layers=N] [--cold] [--device=cpu]

FOLDER gets the checkpoint (16 GB; in /dev/shm it is in memory) and keeps it for the next run. --cold drops the files
from the page cache before each measurement (FOLDER on a disk). Ours is the time that the program itself says, from open
files to values on the GPU that are known to be finite; the whole command, `qad logits` of one token, stands beside it.
Needs torch.
"""

import json, mmap, os, pathlib, re, statistics, subprocess, sys, tempfile, threading, time

import torch

HIDDEN, FFN, HEADS, KV_HEADS, VOCABULARY, SHARDS = 4096, 14336, 32, 8, 128256, 4
PIECE = 4 << 20  # bytes a read, as the program's
ROUNDS = 5
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
          "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
          "rope_theta": 500000.0, "max_position_embeddings": 8192, "hidden_act": "silu", "tie_word_embeddings": False,
          "torch_dtype": "bfloat16", "bos_token_id": 128000, "eos_token_id": 128001}


def shapes(layers):
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN]
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", [HIDDEN]
        yield p + "mlp.down_proj.weight", [HIDDEN, FFN]
        yield p + "mlp.gate_proj.weight", [FFN, HIDDEN]
        yield p + "mlp.up_proj.weight", [FFN, HIDDEN]
        yield p + "post_attention_layernorm.weight", [HIDDEN]
        for name, rows in (("k", kv), ("o", HIDDEN), ("q", HIDDEN), ("v", kv)):
            yield p + f"self_attn.{name}_proj.weight", [rows, HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [VOCABULARY, HIDDEN]


def write_shard(path, tensors, values):
    header, at = {}, 0
    for name, shape in tensors:
        end = at + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        while at > 0:
            at -= f.write(values[:at])
        os.fsync(f.fileno())


def write_checkpoint(folder, layers):
    """One 64 MB of values over and over: what they are is no matter to the time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    if (folder / "config.json").exists() and json.loads((folder / "config.json").read_text()) == config:
        return
    for old in folder.glob("*.safetensors"):
        old.unlink()
    torch.manual_seed(0)
    values = memoryview((torch.randn(32 << 20) * 0.02).bfloat16().view(torch.uint8).numpy())
    tensors = list(shapes(layers))
    total = sum(2 * torch.Size(s).numel() for _, s in tensors)
    shards, size = [[] for _ in range(SHARDS)], 0
    for name, shape in tensors:
        shards[min(SHARDS - 1, size * SHARDS // total)].append((name, shape))
        size += 2 * torch.Size(shape).numel()
    names = [f"model-{i + 1:05}-of-{SHARDS:05}.safetensors" for i in range(SHARDS)]
    threads = [threading.Thread(target=write_shard, args=(folder / n, s, values)) for n, s in zip(names, shards)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    weight_map = {t: n for n, shard in zip(names, shards) for t, _ in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))


def drop(files):
    for path in files:
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(files, threads):
    pieces = iter([(path, at) for path in files for at in range(0, path.stat().st_size, PIECE)])
    lock, handles = threading.Lock(), {path: os.open(path, os.O_RDONLY) for path in files}

    def work():
        buffer = mmap.mmap(-1, PIECE)
        buffer.write(bytes(PIECE))  # so that its pages are there
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            os.preadv(handles[piece[0]], [buffer], piece[1])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    [w.start() for w in workers]
    [w.join() for w in workers]
    took = time.perf_counter() - start
    [os.close(h) for h in handles.values()]
    return took


def copy_speed():
    """Bytes a second from pinned memory to the GPU."""
    a, b = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True), torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        b.copy_(a, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return a.nbytes / statistics.median(times)


def main():
    option = {a.split("=")[0]: a.split("=")[-1] for a in sys.argv[1:] if a.startswith("--")}
    qad, folder = [pathlib.Path(a).resolve() for a in sys.argv[1:] if not a.startswith("--")]
    device, cold, layers = option.get("--device", "cuda"), "--cold" in option, int(option.get("--layers", 32))
    start = time.perf_counter()
    write_checkpoint(folder, layers)
    files = sorted(folder.glob("*.safetensors"))
    total = sum(f.stat().st_size for f in files)
    print(f"{total / 1e9:.2f} GB in {len(files)} files, written in {time.perf_counter() - start:.1f} s; "
          f"{'from the disk' if cold else 'from memory'}, median of {ROUNDS}", flush=True)
    threads = len(os.sched_getaffinity(0))
    times = {k: [] for k in ("read, 1 thread", f"read, {threads} threads", "ours", "ours, whole command")}
    with tempfile.TemporaryDirectory() as work:
        tokens = pathlib.Path(work) / "tokens.json"
        tokens.write_text("[[1]]")

        def ours():
            begin = time.perf_counter()
            p = subprocess.run([str(qad), "logits", str(folder), "--tokens", str(tokens), "-o", f"{work}/l.safetensors",
                                "--device", device], capture_output=True, text=True)
            assert p.returncode == 0, p.stderr
            times["ours, whole command"].append(time.perf_counter() - begin)
            times["ours"].append(float(re.search(r"^loaded .* in ([\d.]+) s", p.stderr, re.M)[1]))

        for _ in range(ROUNDS):
            for count, label in ((1, "read, 1 thread"), (threads, f"read, {threads} threads")):
                if cold:
                    drop(files)
                times[label].append(read_seconds(files, count))
            if cold:
                drop(files)
            ours()
    speeds = {label: total / statistics.median(t) for label, t in times.items()}
    if device == "cuda":
        speeds["copy, pinned memory to GPU"] = copy_speed()
    print(f"{'':28}{'GB/s':>7} {'seconds (least to most)':>26} {'ours to it':>11}")
    for label, speed in speeds.items():
        t = sorted(times.get(label, [total / speed]))
        print(f"{label:28}{speed / 1e9:7.1f} {statistics.median(t):9.2f} ({t[0]:6.2f} to {t[-1]:6.2f}) "
              f"{speeds['ours'] / speed:11.2f}")


main()
