"""Concurrent streaming clients of `qad serve` beside `transformers serve --continuous-batching`, in one run on the same
cores:

    $(scripts/peers) bench/serve_clients.py               # 1 client, then 200 at once, 64 tokens each
    $(scripts/peers) bench/serve_clients.py --no-peer --clients 400

The peer needs `pip install accelerate fastapi uvicorn` beside tests/peers/requirements.txt.
Both serve data/stories260k greedily from /v1/completions. Of ours every stream is checked: its end, its length and its
text, which must be the one that a client gets alone. The clients, one thread of Python, share the cores with the servers.
"""
import argparse, asyncio, dataclasses, json, pathlib, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[1]
QAD = ROOT / "build/qad"
STORIES = (ROOT / "data/tinystories/validation.txt").read_text().split("<|endoftext|>")
PEER = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]


@dataclasses.dataclass
class Stream:
    text: str = ""
    tokens: int = 0
    first: float = 0  # seconds to the first text
    seconds: float = 0
    finish: str = ""
    done: bool = False
    error: str = ""


async def one(port, model, prompt, tokens):
    s, begin = Stream(), time.perf_counter()
    body = json.dumps(dict(model=model, prompt=prompt, max_tokens=tokens, temperature=0, stream=True,
                           stream_options=dict(include_usage=True))).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status = await reader.readline()
        while (await reader.readline()).strip():
            pass
        if b" 200 " not in status:
            s.error = f"{status.decode().strip()} {(await reader.read(300)).decode()}"
        while not s.error and (line := await reader.readline()):
            if not line.startswith(b"data: "):
                continue  # empty lines and the frames of chunks
            if line.startswith(b"data: [DONE]"):
                s.done = True
                continue
            event = json.loads(line[6:])
            s.error = str(event.get("error", ""))
            s.tokens = (event.get("usage") or {}).get("completion_tokens", s.tokens)
            for choice in event.get("choices", []):
                s.finish = choice.get("finish_reason") or s.finish
                if choice["text"]:
                    s.first = s.first or time.perf_counter() - begin
                    s.text += choice["text"]
        writer.close()
    except (OSError, ValueError, KeyError) as e:
        s.error = f"{type(e).__name__}: {e}"
    s.seconds = time.perf_counter() - begin
    return s


async def at_once(port, model, prompts, tokens):
    begin = time.perf_counter()
    streams = await asyncio.gather(*(one(port, model, p, tokens) for p in prompts))
    return streams, time.perf_counter() - begin


def start(who, folder):
    """(process, port, the model's name)"""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = ([QAD, "serve", folder, "--name", "stories", "--quiet"] if who == "ours" else
               [*PEER, "serve", folder, "--continuous-batching", "--device", "cpu"])
    log = tempfile.TemporaryFile()
    process = subprocess.Popen([*map(str, command), "--host", "127.0.0.1", "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
    for _ in range(1200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port, "stories" if who == "ours" else str(folder)
        except OSError:
            time.sleep(0.1)
    process.kill()
    log.seek(0)
    raise SystemExit(f"{who} does not listen: {log.read().decode()[-2000:]}")


def measure(who, o, folder, prompts):
    """({clients: tokens/s}, how many streams were not as they should be). The peer, which takes minutes, writes few texts
    alone and all of them at once only once."""
    ours = who == "ours"
    process, port, model = start(who, folder)
    try:
        asyncio.run(at_once(port, model, prompts[:1], 4))  # every path taken once
        alone = {p: asyncio.run(one(port, model, p, o.tokens)) for p in sorted(set(prompts))[:None if ours else 3]}
        speed = {1: sum(s.tokens for s in alone.values()) / sum(s.seconds for s in alone.values())}
        print(f"{who}, 1 client: {speed[1]:.0f} tokens/s, first text after "
              f"{statistics.median(s.first for s in alone.values()) * 1e3:.1f} ms")
        rates, streams = [], []
        for _ in range(o.rounds if ours else 1):
            some, seconds = asyncio.run(at_once(port, model, prompts, o.tokens))
            rates.append(sum(s.tokens for s in some) / seconds)
            streams += zip(prompts, some)
        speed[o.clients] = statistics.median(rates)
    finally:
        process.terminate()
        process.wait()
    errors = [s.error for s in list(alone.values()) + [s for _, s in streams] if s.error]
    firsts = sorted(s.first for _, s in streams)
    other = sum(p in alone and s.text != alone[p].text for p, s in streams)
    short = sum(not s.error and (not s.finish or ours and not s.done) for _, s in streams)
    print(f"{who}, {o.clients} clients at once: {speed[o.clients]:.0f} tokens/s ({speed[o.clients] / speed[1]:.1f} x one client), "
          f"first text after {firsts[len(firsts) // 2] * 1e3:.0f} ms, of 99 % within {firsts[len(firsts) * 99 // 100] * 1e3:.0f} ms")
    print(f"    of {len(streams)} streams {len(errors)} errors, {short} cut, {other} of another text than alone")
    for error in sorted(set(errors))[:3]:
        print(f"    {error}")
    return speed, len(errors) + short + other


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--clients", type=int, default=200)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--no-peer", action="store_true")
    o = p.parse_args()
    prompts = [" ".join(STORIES[i % len(STORIES)].split()[:4 + i % 13]) for i in range(o.clients)]
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work) / "stories"
        subprocess.run([QAD, "convert", ROOT / "data/stories260k/stories260K.bin", folder], check=True,
                       stdout=subprocess.DEVNULL)
        ours, wrong = measure("ours", o, folder, prompts)
        if not o.no_peer:
            theirs, _ = measure("peer", o, folder, prompts)
            for n in ours:
                print(f"ours beside the peer, {n} client{'s' * (n > 1)}: {ours[n] / theirs[n]:.1f} x the tokens/s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
