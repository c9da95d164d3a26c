"""`qad serve` as the official `openai` client calls it; texts and log-probabilities against Transformers."""
import contextlib, json, shutil, signal, subprocess, threading, time, urllib.request

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import QAD, ROOT, qad

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
STORY = "Once upon a time, there was"
HELLO = [{"role": "system", "content": "Tell stories."}, {"role": "user", "content": "One day, Lily"}]


class Served:
    """The program, a client of it, and Transformers' view of the same model."""

    def __init__(self, model, *flags):
        self.process = subprocess.Popen([QAD, "serve", str(model), "--port", "0", *map(str, flags)], cwd=ROOT,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        line = self.process.stdout.readline()
        assert " on http://127.0.0.1:" in line, "".join(self.log)
        self.name, self.url = line.split(" on ")[0], line.split(" on ")[1].strip()
        self.client = self.as_user("any")

    def as_user(self, key):
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=120)

    def metric(self, name):
        text = urllib.request.urlopen(self.url.removesuffix("v1") + "metrics").read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))

    def metric_becomes(self, name, value):
        end = time.monotonic() + 30
        while self.metric(name) != value:
            assert time.monotonic() < end, (name, value)
            time.sleep(0.01)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def serving(model, *flags):
    served = Served(model, *flags)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.wait()


@pytest.fixture(scope="session")
def chat_model(tokenizer_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    shutil.copytree(tokenizer_files, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": CHAT}))
    return folder


@pytest.fixture(scope="session")
def endless_model(chat_model, tmp_path_factory):
    """The same with room for long texts, which nothing ends early: a test that needs a text under way must not depend on
    how soon a machine comes to its end."""
    folder = tmp_path_factory.mktemp("endless") / "tiny-chat"
    shutil.copytree(chat_model, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 20}))
    return folder


ENDLESS = ("--max-tokens", 1 << 20)
LONG = 10000


@pytest.fixture(scope="session")
def served(chat_model):
    with serving(chat_model) as s:
        yield s


@pytest.fixture(scope="session")
def theirs(chat_model):
    return AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32), AutoTokenizer.from_pretrained(chat_model)


@torch.no_grad()
def greedy(theirs, ids, tokens):
    """Transformers' text behind `ids` and the log-probabilities of every position [prompt + text, V]."""
    model, tokenizer = theirs
    new = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0, len(ids):].tolist()
    logits = model(torch.tensor([ids + new])).logits[0].double()
    whole = tokenizer.decode(ids + new, skip_special_tokens=True)
    return whole[len(tokenizer.decode(ids, skip_special_tokens=True)):], new, logits.log_softmax(-1)


def chat_ids(theirs):
    return theirs[1](theirs[1].apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True),
                     add_special_tokens=False).input_ids


def test_models_are_listed(served):
    assert served.name == "tiny-chat"
    assert [m.id for m in served.client.models.list()] == ["tiny-chat"]
    assert served.client.models.retrieve("tiny-chat").owned_by == "qad"
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("gpt-5")


def test_chat_is_transformers_greedy(served, theirs):
    expected, new, _ = greedy(theirs, chat_ids(theirs), 40)
    answer = served.client.chat.completions.create(model="tiny-chat", messages=HELLO, max_completion_tokens=40, temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", expected, "length")
    assert answer.usage.prompt_tokens == len(chat_ids(theirs))
    assert answer.usage.completion_tokens == len(new) == 40
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 40
    streamed = list(served.client.chat.completions.create(model="tiny-chat", messages=HELLO, max_tokens=40, temperature=0,
                                                          stream=True, stream_options={"include_usage": True}))
    assert streamed[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices) == expected
    assert [c.choices[0].finish_reason for c in streamed if c.choices][-1] == "length"
    assert not streamed[-1].choices and streamed[-1].usage.completion_tokens == 40
    parts = [HELLO[0], {"role": "user", "content": [{"type": "text", "text": HELLO[1]["content"]}]}]
    again = served.client.chat.completions.create(model="tiny-chat", messages=parts, max_tokens=40, temperature=0)
    assert again.choices[0].message.content == expected
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_completions_are_what_generate_writes(served, chat_model):
    alone = qad("generate", chat_model, "--prompt", STORY, "--max-tokens", 50)[len(STORY):-1]
    answer = served.client.completions.create(model="tiny-chat", prompt=STORY, max_tokens=50, temperature=0)
    assert answer.choices[0].text == alone
    streamed = list(served.client.completions.create(model="tiny-chat", prompt=STORY, max_tokens=50, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in streamed) == alone and streamed[-1].choices[0].finish_reason == "length"
    stop = alone[len(alone) // 2:][:5]
    stopped = served.client.completions.create(model="tiny-chat", prompt=STORY, max_tokens=50, temperature=0, stop=[stop, "zzz"])
    assert stopped.choices[0].text == alone[:alone.index(stop)] and stopped.choices[0].finish_reason == "stop"


def test_seeds_are_those_of_a_file_of_prompts(served, chat_model, tmp_path):
    prompts = [STORY, "The big dog"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    flags = ("--max-tokens", 20, "--temperature", 0.9, "--top-p", 0.95, "--samples", 3, "--seed", 5)
    qad("generate", chat_model, "--prompts", tmp_path / "p.jsonl", "-o", tmp_path / "o.jsonl", *flags)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    expected = {line["index"] * 3 + line["sample"]: line["completion"] for line in lines}
    answer = served.client.completions.create(model="tiny-chat", prompt=prompts, n=3, max_tokens=20, temperature=0.9, top_p=0.95,
                                              seed=5)
    assert {c.index: c.text for c in answer.choices} == expected
    assert len(set(expected.values())) == 6


def test_logprobs_are_transformers(served, theirs):
    ids = theirs[1](STORY).input_ids
    _, new, expected = greedy(theirs, ids, 12)
    answer = served.client.completions.create(model="tiny-chat", prompt=ids, max_tokens=12, temperature=0, logprobs=3, echo=True)
    got = answer.choices[0].logprobs
    assert got.token_logprobs[0] is None and got.top_logprobs[0] is None
    whole = ids + new
    assert got.token_logprobs[1:] == pytest.approx([expected[i, t].item() for i, t in enumerate(whole[1:])], abs=1e-3)
    for i, top in enumerate(got.top_logprobs[1:]):
        assert sorted(top.values())[-3:] == pytest.approx(sorted(expected[i].topk(3).values.tolist()), abs=1e-3)
    assert answer.choices[0].text.startswith(STORY)
    assert [answer.choices[0].text[o:].startswith(t) for o, t in list(zip(got.text_offset, got.tokens))[2:]] == [True] * (len(whole) - 2)
    # a text that is only measured, as evaluation harnesses do
    measured = served.client.completions.create(model="tiny-chat", prompt=[ids, ids[:4]], max_tokens=0, logprobs=1, echo=True)
    assert measured.choices[0].logprobs.token_logprobs == got.token_logprobs[:len(ids)]
    assert len(measured.choices[1].logprobs.tokens) == 4

    _, new, expected = greedy(theirs, chat_ids(theirs), 12)
    ask = dict(model="tiny-chat", messages=HELLO, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2)
    content = served.client.chat.completions.create(**ask).choices[0].logprobs.content
    first = len(chat_ids(theirs)) - 1
    assert [t.logprob for t in content] == pytest.approx([expected[first + i, t].item() for i, t in enumerate(new)], abs=1e-3)
    assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].logprob == t.logprob for t in content)
    chunks = served.client.chat.completions.create(**ask, stream=True)
    assert [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content] == content
    text = b"".join(bytes(t.bytes) for t in content).decode()
    assert text == served.client.chat.completions.create(**ask).choices[0].message.content


@pytest.mark.parametrize("wrong, status, param, code", [
    (dict(model="gpt-5"), openai.NotFoundError, "model", "model_not_found"),
    (dict(temperature=3), openai.BadRequestError, "temperature", None),
    (dict(max_tokens=100000), openai.BadRequestError, "max_tokens", None),
    (dict(max_tokens=500), openai.BadRequestError, "messages", "context_length_exceeded"),
    (dict(presence_penalty=1), openai.BadRequestError, "presence_penalty", None),
    (dict(response_format={"type": "json_object"}), openai.BadRequestError, "response_format", None),
    (dict(tools=[{"type": "function", "function": {"name": "f"}}]), openai.BadRequestError, "tools", None),
    (dict(extra_body={"temprature": 1}), openai.BadRequestError, "temprature", "unknown_parameter"),
    (dict(stop=["a"] * 5), openai.BadRequestError, "stop", None),
])
def test_errors_are_the_clients_own(served, wrong, status, param, code):
    with pytest.raises(status) as e:
        served.client.chat.completions.create(**(dict(model="tiny-chat", messages=HELLO) | wrong))
    assert (e.value.param, e.value.code, e.value.type) == (param, code, "invalid_request_error")
    assert param in e.value.message


def test_a_key_is_asked_for(chat_model, tmp_path):
    (tmp_path / "key").write_text("sk-secret\n")
    with serving(chat_model, "--api-key-file", tmp_path / "key") as s:
        for client in (s.as_user("wrong"), s.as_user("sk-secre")):
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        assert s.as_user("sk-secret").models.list().data[0].id == "tiny-chat"
    error = qad("serve", chat_model, "--host", "0.0.0.0", "--port", 0, ok=False)
    assert "--host 0.0.0.0" in error and "key" in error


def test_limits_are_429_and_413(endless_model):
    with serving(endless_model, "--batch-size", 4, "--max-queue", 2, "--max-body", 500, *ENDLESS) as s:
        ask = dict(model="tiny-chat", prompt=STORY, max_tokens=LONG)
        with s.client.completions.create(**ask, n=6, stream=True) as busy:
            next(iter(busy))
            with pytest.raises(openai.RateLimitError) as e:
                s.client.completions.create(**ask, n=6)
            assert e.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.APIStatusError) as e:
            s.client.completions.create(**ask | dict(prompt="x" * 500))
        assert e.value.status_code == 413
        with pytest.raises(openai.BadRequestError):
            s.client.completions.create(**ask, n=7)


def test_a_stream_that_is_left_frees_its_place(endless_model):
    cancelled = "qad_cancelled_total{reason=\"disconnected\"}"
    with serving(endless_model, *ENDLESS) as s:
        with s.client.completions.create(model="tiny-chat", prompt=STORY, max_tokens=LONG, n=128, stream=True) as stream:
            next(iter(stream))
            assert s.metric("qad_texts_running") > 0 == s.metric(cancelled)
        s.metric_becomes("qad_texts_running", 0)
        assert s.metric("qad_texts_waiting") == 0
        s.metric_becomes(cancelled, 1)


def test_a_signal_lets_texts_end(chat_model):
    with serving(chat_model) as s:
        stream = s.client.completions.create(model="tiny-chat", prompt=STORY, max_tokens=400, n=8, stream=True)
        first = next(iter(stream))
        ended = []
        reader = threading.Thread(target=lambda: ended.extend(c.choices[0].finish_reason for c in stream))
        reader.start()
        assert s.stop() == 0
        reader.join()
        assert first.choices[0].text is not None and [e for e in ended if e] and ended.count("length") + ended.count("stop") == 8
        with pytest.raises(openai.APIConnectionError):
            s.client.models.list()
        assert any("POST /v1/completions 200" in line and "stream" in line for line in s.log)
