"""Concurrent streaming clients of `qad serve` beside `transformers serve --continuous-batching`, in one run on the same
cores:

    $(scripts/peers) bench/serve_clients.py               # 1 client, then 200 at once, 64 tokens each
    $(scripts/peers) bench/serve_clients.py --no-peer --clients 400

The peer needs `pip install accelerate fastapi uvicorn` beside tests/peers/requirements.txt.
Both serve data/stories260k greedily from /v1/completions, in turn. Every stream is checked: its end and its text, which
must be the one that a client gets alone. The clients, one thread of Python, share the cores with the servers.
"""
import argparse, asyncio, dataclasses, importlib.util, json, pathlib, socket, statistics, subprocess, sys, tempfile, time

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
    for _ in range(3000):
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


class Side:
    """A server and what was measured of it."""

    def __init__(self, who, folder):
        self.who, self.rates, self.firsts, self.streams, self.texts = who, {}, {}, [], {}
        self.process, self.port, self.model = start(who, folder)

    def round(self, prompts, tokens):
        some, seconds = asyncio.run(at_once(self.port, self.model, prompts, tokens))
        n = len(prompts)
        self.rates.setdefault(n, []).append(sum(s.tokens for s in some) / seconds)
        self.firsts.setdefault(n, []).extend(s.first for s in some)
        self.streams += zip(prompts, some)
        if n == 1:
            self.texts[prompts[0]] = some[0].text

    def speed(self, n):
        return statistics.median(self.rates[n])

    def report(self):
        """Prints it; how many streams were not as they should be."""
        for n, rates in self.rates.items():
            first = sorted(self.firsts[n])
            print(f"{self.who}, {n} client{'s' * (n > 1)}: {self.speed(n):.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f}), "
                  f"first text after {first[len(first) // 2] * 1e3:.0f} ms, of 99 % within {first[len(first) * 99 // 100] * 1e3:.0f} ms")
        errors = [s.error for _, s in self.streams if s.error]
        other = sum(p in self.texts and s.text != self.texts[p] for p, s in self.streams)
        short = sum(not s.error and (not s.finish or self.who == "ours" and not s.done) for _, s in self.streams)
        print(f"    of {len(self.streams)} streams {len(errors)} errors, {short} cut, {other} of another text than alone")
        for error in sorted(set(errors))[:3]:
            print(f"    {error}")
        return len(errors) + short + other


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--clients", type=int, default=200)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--no-peer", action="store_true")
    o = p.parse_args()
    missing = [name for name in ("accelerate", "fastapi", "uvicorn") if not importlib.util.find_spec(name)]
    if missing and not o.no_peer:
        print(f"without the peer, which needs: pip install {' '.join(missing)}")
        o.no_peer = True
    prompts = [" ".join(STORIES[i % len(STORIES)].split()[:4 + i % 13]) for i in range(o.clients)]
    sides = []
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work) / "stories"
        subprocess.run([QAD, "convert", ROOT / "data/stories260k/stories260K.bin", folder], check=True,
                       stdout=subprocess.DEVNULL)
        try:
            for who in ["ours"] + ["peer"] * (not o.no_peer):
                sides.append(Side(who, folder))
                asyncio.run(at_once(sides[-1].port, sides[-1].model, prompts[:1], 4))  # every path taken once
            for prompt in sorted(set(prompts)):  # what each client is to get
                sides[0].round([prompt], o.tokens)
            for i in range(o.rounds):  # in turn
                for side in sides:
                    if side.who == "peer":
                        side.round(prompts[i:i + 1], o.tokens)
                    side.round(prompts, o.tokens)
        finally:
            for side in sides:
                side.process.terminate()
                side.process.wait()
    wrong = [side.report() for side in sides]
    ours = sides[0]
    print(f"ours, {o.clients} clients beside 1: {ours.speed(o.clients) / ours.speed(1):.1f} x the tokens/s")
    for peer in sides[1:]:
        for n in ours.rates:
            print(f"ours beside the peer, {n} client{'s' * (n > 1)}: {ours.speed(n) / peer.speed(n):.1f} x the tokens/s")
    sys.exit(1 if wrong[0] else 0)


if __name__ == "__main__":
    main()
