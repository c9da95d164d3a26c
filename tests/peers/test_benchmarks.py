"""Benchmarks and a teacher's data as a user meets them: scores that can be had again, runs that go on after a kill."""
import http.server, json, os, signal, subprocess, threading, time

import pytest

from conftest import QAD, ROOT, qad

STORIES = (ROOT / "data/tinystories/validation.txt").read_text().split("<|endoftext|>")
MODEL = ROOT / "data/stories260k/stories260K.bin"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Twelve questions: does the model go on with one of these words?"""
    folder = tmp_path_factory.mktemp("task")
    with open(folder / "words.jsonl", "w") as out:
        for i, story in enumerate(STORIES[:12]):
            words = story.split()
            out.write(json.dumps({"name": f"s{i}", "start": " ".join(words[:20]), "word": words[20]}) + "\n")
    (folder / "words.yaml").write_text(
        "title: Words\ndata: words.jsonl\nid: name\nprompt: '{{ start }}'\nanswer: '{{ word }}'\n"
        "extract: regex\npattern: '^\\s*(\\S+)'\nmax_tokens: 12\nsamples: 3\ntemperature: 0.7\n")
    return folder / "words.yaml"


def results(file):
    return json.loads(file.read_text())


def test_scores_are_those_of_the_responses(task, tmp_path):
    table = qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "a.json", "--label", "A")
    run = results(tmp_path / "a.json")["tasks"][0]
    assert len(run["responses"]) == 36 and not (tmp_path / "a.json.partial").exists()
    right = 0
    for r in run["responses"]:
        word = run["problems"][r["problem"]]["reference"]
        said = r["response"].split()[0] if r["response"].split() else ""
        same = said.lower().rstrip(".!") == word.lower().rstrip(".!")
        assert r["metrics"] == {"accuracy": [float(same), 1.0]}, r
        right += same
    assert run["scores"]["accuracy"]["mean"] == pytest.approx(right / 36)
    assert f"{100 * right / 36:.1f} ±" in table
    assert 0 < right < 36  # else this shows nothing
    # A second run finds its results; another seed's are refused.
    again = qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "a.json", "--label", "A")
    assert again == table
    assert "another" in qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "a.json", "--seed", 1, ok=False)
    # Scores come back without the model.
    broken = results(tmp_path / "a.json")
    for r in broken["tasks"][0]["responses"]:
        r.update(answer="", verdict="", metrics={"accuracy": [0, 1]})
    (tmp_path / "b.json").write_text(json.dumps(broken))
    qad("compare", tmp_path / "b.json", "--rescore")
    assert results(tmp_path / "b.json") == results(tmp_path / "a.json")


def test_a_killed_run_goes_on_and_a_batch_changes_nothing(task, tmp_path):
    qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "whole.json", "--batch-size", 36)
    out = tmp_path / "killed.json"
    command = [str(QAD), "evaluate", str(MODEL), "--tasks", str(task), "-o", str(out), "--batch-size", "2"]
    partial = tmp_path / "killed.json.partial"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (partial.exists() and partial.read_text().count("\n") > 4):
        time.sleep(0.01)
    process.kill()
    process.wait()
    if not out.exists():  # it may have been quicker than the kill
        text = partial.read_bytes()
        partial.write_bytes(text[:-7])  # and cut in the middle of a line
    qad(*command[1:])
    ours, theirs = results(out), results(tmp_path / "whole.json")
    assert ours["tasks"] == theirs["tasks"]


def test_differences_are_paired_and_runs_must_have_been_asked_alike(task, tmp_path):
    qad("quantize", MODEL, "-o", tmp_path / "ptq", "--recipe", "nvfp4-weight-only")
    for name, model in ("BF16", MODEL), ("PTQ", tmp_path / "ptq"):
        qad("evaluate", model, "--tasks", task, "-o", tmp_path / f"{name}.json", "--label", name)
    qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "same.json", "--label", "again")
    table = qad("compare", tmp_path / "BF16.json", tmp_path / "PTQ.json", tmp_path / "same.json",
                "-o", tmp_path / "page.html")
    assert "less BF16" in table and "+0.0 [+0.0, +0.0]" in table  # against itself
    page = (tmp_path / "page.html").read_text()
    assert "Words" in page and "<script" not in page and STORIES[0].split()[0] in page
    qad("evaluate", MODEL, "--tasks", task, "-o", tmp_path / "hot.json", "--set", "words.temperature=1")
    error = qad("compare", tmp_path / "BF16.json", tmp_path / "hot.json", ok=False)
    assert "not asked alike" in error and "temperature" in error


def test_what_is_missing_is_said_before_a_model_writes(task, tmp_path):
    out = tmp_path / "x.json"
    said = qad("evaluate", MODEL, "--tasks", "gpqa_diamond", "-o", out, ok=False)
    assert "gpqa_diamond.csv" in said and "--set gpqa_diamond.data=FILE" in said
    assert "did you mean \"gsm8k\"" in qad("evaluate", MODEL, "--tasks", "gsmk8", "-o", out, ok=False)
    assert "--tasks and -o" in qad("evaluate", MODEL, "--tasks", "gsm8k", ok=False)
    said = qad("evaluate", MODEL, "--tasks", task, "-o", out, "--set", "words.sample=2", ok=False)
    assert "did you mean \"samples\"" in said
    assert not out.exists() and not (tmp_path / "x.json.partial").exists()


def test_a_judge_is_asked_over_http(tmp_path):
    asked = []

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def answer(self, body):
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            self.answer({"data": [{"id": "the-judge"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((body, self.headers["Authorization"]))
            verdict = "CORRECT" if "Official: yes" in body["messages"][0]["content"] else "INCORRECT"
            self.answer({"choices": [{"message": {"content": verdict}}]})

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "q.jsonl").write_text('{"q": "Once", "a": "yes"}\n{"q": "Once", "a": "no"}\n')
    (tmp_path / "judged.yaml").write_text(
        "data: q.jsonl\nprompt: '{{ q }}'\nanswer: '{{ a }}'\nscore: judge\nmax_tokens: 4\n"
        "judge_prompt: 'Official: {{ reference }} Candidate: {{ response }}'\n")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    os.environ["QAD_JUDGE_KEY"] = "secret"
    try:
        qad("evaluate", MODEL, "--tasks", tmp_path / "judged.yaml", "-o", tmp_path / "r.json",
            "--set", f"judged.judge_url={url}")
    finally:
        del os.environ["QAD_JUDGE_KEY"]
    task = results(tmp_path / "r.json")["tasks"][0]
    assert [r["metrics"]["accuracy"][0] for r in task["responses"]] == [1, 0]
    assert all(body["model"] == "the-judge" and key == "Bearer secret" for body, key in asked)
    assert task["responses"][0]["answer"] in asked[0][0]["messages"][0]["content"]
    server.shutdown()
    said = qad("evaluate", MODEL, "--tasks", tmp_path / "judged.yaml", "-o", tmp_path / "s.json",
               "--set", "judged.judge_url=http://127.0.0.1:9/v1", ok=False)
    assert "judge" in said and "127.0.0.1:9" in said


SYNTHESIS = """
teacher: {model}
tokens: 6000
shard_records: 20
sources:
  - {{kind: bos, weight: 2}}
  - {{kind: prompts, file: {prompts}, passes: 9}}
  - {{kind: task, task: {task}, keep: correct, passes: 40}}
  - random
sampling: {{max_tokens: 48}}
"""


@pytest.fixture(scope="module")
def synthesis(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesis")
    (folder / "prompts.txt").write_text("".join(" ".join(s.split()[:8]) + "\n" for s in STORIES[:10]))
    (folder / "s.yaml").write_text(SYNTHESIS.format(model=MODEL, prompts=folder / "prompts.txt", task=task))
    return folder / "s.yaml"


def records(folder):
    return [json.loads(line) for shard in sorted(folder.glob("data-*.jsonl")) for line in open(shard)]


def test_a_teachers_data_is_what_was_asked_for(synthesis, tmp_path):
    from transformers import AutoTokenizer
    qad("synthesize", synthesis, "-o", tmp_path / "data")
    lines = records(tmp_path / "data")
    hf = tmp_path / "hf"
    qad("convert", MODEL, hf)
    tokenizer = AutoTokenizer.from_pretrained(hf)
    shares = {0: 2400, 1: 1200, 2: 1200, 3: 1200}
    for source, share in shares.items():
        of = [line for line in lines if line["source"] == source]
        tokens = [len(line["input_ids"]) for line in of]
        assert share <= sum(tokens) < share + max(tokens)  # no more than the last record beyond
        assert [line["index"] for line in of] == sorted({line["index"] for line in of})
    for line in lines:
        prompt, rest = line["input_ids"][:line["prompt_tokens"]], line["input_ids"][line["prompt_tokens"]:]
        if line["source"] in (1, 2):
            assert prompt == tokenizer(line["prompt"]).input_ids
            assert tokenizer.decode(prompt + rest, skip_special_tokens=True).endswith(line["completion"])
        if line["source"] == 2:
            assert line["correct"] and line["completion"].split()[0].lower().startswith(line["reference"].lower()[:1])
        assert (line["finish_reason"] == "stop") == (rest[-1:] == [2]) or line["source"] == 3
        assert line["sampling"]["max_tokens"] == 48 and len(line["teacher"]) == 16
    random = [i for line in lines if line["source"] == 3 for i in line["input_ids"][1:]]
    assert len(set(random)) > 400  # of 512
    about = json.loads((tmp_path / "data/about.json").read_text())
    assert about["complete"] and about["summary"]["sources"][2]["candidates"] > about["summary"]["sources"][2]["records"]
    # Trained on as it is.
    qad("distill", MODEL, "-o", tmp_path / "run", "--data.train", tmp_path / "data", "--data.test",
        ROOT / "data/tinystories/test.txt", "--data.max_test_documents", 4, "--train.steps", 2, "--train.seq_len", 64)


def test_a_killed_synthesis_loses_and_doubles_nothing(synthesis, tmp_path):
    qad("synthesize", synthesis, "-o", tmp_path / "whole")
    whole = b"".join(p.read_bytes() for p in sorted((tmp_path / "whole").glob("data-*")))
    out = tmp_path / "killed"
    command = [str(QAD), "synthesize", str(synthesis), "-o", str(out), "--batch-size", "5"]
    for size in (1, len(whole) // 3, 2 * len(whole) // 3):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(p.stat().st_size for p in out.glob("data-*")) < size:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    shards = sorted(out.glob("data-*"))
    if not json.loads((out / "about.json").read_text())["complete"] and shards[-1].stat().st_size > 9:
        shards[-1].write_bytes(shards[-1].read_bytes()[:-9])
    qad(*command[1:])
    assert b"".join(p.read_bytes() for p in sorted(out.glob("data-*"))) == whole
    said = qad("synthesize", synthesis, "-o", out, "--set", "seed=1", ok=False)
    assert "another recipe" in said


def test_without_data_the_teacher_writes_it(tmp_path):
    command = ("distill", MODEL, "-o", tmp_path / "run", "--train.steps", 4, "--train.seq_len", 64,
               "--train.batch_sequences", 4, "--train.learning_rate", "1e-4")
    qad(*command)
    train = records(tmp_path / "run/teacher-data/train")
    tokens = sum(len(line["input_ids"]) for line in train)
    assert 4 * 4 * 64 <= tokens < 4 * 4 * 64 + 65
    page = (tmp_path / "run/report.html").read_text()
    assert "Learned from what the teacher wrote from BOS on" in page and train[0]["completion"][:40] in page
    assert (tmp_path / "run/checkpoint/config.json").exists()
