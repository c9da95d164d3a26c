"""The rows of bench_ops from PyTorch: the plain formulas of Transformers' Llama, eager, with
scaled_dot_product_attention, and logits that exist whole. Options: [shape] [repeats]."""
import sys
import time

import torch
import torch.nn.functional as F

# name, documents, length, hidden, heads, kv_heads, dim, ffn, vocabulary
SHAPES = [
    ("stories260K", 16, 256, 64, 8, 4, 8, 176, 512),
    ("SmolLM2-135M", 2, 256, 576, 9, 3, 64, 1536, 49152),
]


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def measure(shape, name, repeats, leaves, f):
    forward = backward = 1e9
    for _ in range(repeats):
        with torch.no_grad():
            forward = min(forward, seconds(f))
        y = f()
        for t in leaves:
            t.grad = None
        g = torch.ones_like(y)
        backward = min(backward, seconds(lambda: y.backward(g)))
    print(f"{shape:13} {name:14} {forward * 1e3:9.3f} {backward * 1e3:9.3f}", flush=True)


def leaf(*shape, scale=1.0):
    return (torch.randn(*shape) * scale).requires_grad_()


def rms_norm(x, w, eps=1e-5):
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def run(name, documents, length, hidden, heads, kv_heads, dim, ffn, vocabulary, repeats):
    t = documents * length
    x, norm, table = leaf(t, hidden), leaf(hidden), leaf(vocabulary, hidden, scale=0.05)
    ids = torch.randint(0, vocabulary, (t,))
    measure(name, "embedding", repeats, [table], lambda: F.embedding(ids, table))
    measure(name, "rms_norm", repeats, [x, norm], lambda: rms_norm(x, norm))
    w = leaf((heads + 2 * kv_heads) * dim, hidden)
    measure(name, "linear qkv", repeats, [x, w], lambda: F.linear(x, w))
    wide = leaf(2 * ffn, hidden)
    measure(name, "linear gate_up", repeats, [x, wide], lambda: F.linear(x, wide))

    q = leaf(documents, heads, length, dim)
    k, v = leaf(documents, kv_heads, length, dim), leaf(documents, kv_heads, length, dim)
    angle = torch.rand(length, dim)
    cos, sin = angle.cos(), angle.sin()

    def rotate(a):
        half = a.shape[-1] // 2
        return a * cos + torch.cat((-a[..., half:], a[..., :half]), -1) * sin

    measure(name, "rope", repeats, [q, k], lambda: torch.cat((rotate(q), rotate(k)), 1))
    measure(
        name, "attention", repeats, [q, k, v],
        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    )
    gates = leaf(t, 2 * ffn)
    measure(name, "swiglu", repeats, [gates],
            lambda: F.silu(gates[:, :ffn]) * gates[:, ffn:])

    teacher, teacher_table = torch.randn(t, hidden), torch.randn(vocabulary, hidden) * 0.05

    def head():
        with torch.no_grad():
            p = (teacher @ teacher_table.T).log_softmax(-1)
        q = (x @ table.T).log_softmax(-1)
        return F.kl_div(q, p, log_target=True, reduction="batchmean")

    evaluate = train = 1e9
    for _ in range(repeats):
        with torch.no_grad():
            evaluate = min(evaluate, seconds(head))
        train = min(train, seconds(lambda: head().backward()))
        x.grad = table.grad = None
    print(f"{name:13} {'head_loss':14} {evaluate * 1e3:9.3f} {train * 1e3:9.3f}", flush=True)


def run_mamba(name, repeats):
    """Nemotron 3 Nano's layer as Transformers computes it without mamba_ssm: documents as a batch."""
    from transformers.models.nemotron_h import modeling_nemotron_h as peer
    documents, length, heads, dim, groups, state = 2, 512, 64, 64, 8, 128
    inner = heads * dim
    channels = inner + 2 * groups * state
    x, w, b = leaf(documents, length, channels), leaf(channels, 4), leaf(channels)
    dt, y, z = leaf(documents, length, heads), leaf(documents, length, inner), leaf(documents, length, inner)
    dt_bias, a_log, d = leaf(heads), leaf(heads), leaf(heads)
    measure(name, "causal_conv", repeats, [x, w, b],
            lambda: F.silu(F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), w[:, None], b, groups=channels)).transpose(1, 2))

    def scan():
        parts = x.split([inner, groups * state, groups * state], -1)
        u, b_, c_ = (t.reshape(documents, length, -1, n) for t, n in zip(parts, (dim, state, state)))
        return peer.mamba2_chunk_scan(u, dt, -a_log.exp(), b_, c_, chunk_size=128, D=d, dt_bias=dt_bias, dt_softplus=True)

    measure(name, "mamba_scan", repeats, [x, dt, dt_bias, a_log, d], scan)
    norm = peer.NemotronHRMSNormGated(inner, group_size=inner // groups, eps=1e-5)
    measure(name, "gated_rms_norm", repeats, [y, z, norm.weight], lambda: norm(y, z))
    texts = 16
    states = torch.zeros(texts, heads, dim, state)
    one = [torch.randn(texts, heads, dim), torch.randn(texts, heads, dim), -a_log.detach().exp()[:, None, None].expand(heads, dim, state),
           torch.randn(texts, groups, state), torch.randn(texts, groups, state)]
    with torch.no_grad():
        best = min(seconds(lambda: peer.mamba2_selective_state_update(
            states, *one, D=d[:, None].expand(heads, dim), dt_bias=dt_bias[:, None].expand(heads, dim), dt_softplus=True))
            for _ in range(repeats))
    print(f"{name:13} {'scan, 16 texts':14} {best * 1e3:9.3f}", flush=True)


only = sys.argv[1] if len(sys.argv) > 1 else ""
count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
print(f"{'shape':13} {'operator':14} {'fwd ms':>9} {'bwd ms':>9}")
for row in SHAPES:
    if row[0].startswith(only):
        run(*row, repeats=count)
if "Nemotron3Nano".startswith(only):
    run_mamba("Nemotron3Nano", count)
