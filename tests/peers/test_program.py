"""The program as a user meets it: one clear error for bad input and nothing half-written, runs that resume."""
import json, signal, struct, subprocess, sys, time

import pytest

from conftest import QAD, ROOT, qad

STORIES = ROOT / "data/stories260k/stories260K.bin"
TEXT = ROOT / "data/tinystories/validation.txt"


def distill(out, *more, ok=True):
    return qad("distill", STORIES, "-o", out, "--data.train", TEXT, "--data.test", TEXT, "--data.max_test_documents", 4,
               "--train.steps", 4, "--train.seq_len", 64, "--train.batch_sequences", 2, "--train.warmup_steps", 1, *more,
               ok=ok)


def test_distill_leaves_a_sound_checkpoint_and_its_papers(tmp_path):
    table = distill(tmp_path / "run")
    assert all(word in table for word in ("BF16", "PTQ", "QAD"))
    qad("verify", tmp_path / "run/checkpoint")
    result = json.loads((tmp_path / "run/result.json").read_text())
    for who in ("teacher", "ptq", "student"):
        for key in ("ce", "ppl", "kl", "top1"):
            assert isinstance(result[who][key], (int, float)) and f"{key}_se" in result[who], (who, key)
    assert result["teacher"]["kl"] == 0 and result["teacher"]["top1"] == 1
    assert result["tokens"] == 4 * 2 * 64
    assert result["bytes"]["after"] < result["bytes"]["before"]
    html = (tmp_path / "run/report.html").read_text()
    assert "<svg" in html and "http://" not in html.replace("http://www.w3.org", "")
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "loss" in s and "validation" not in json.dumps(s)][-1] == 4
    # what was measured as the student is what is on disk
    ours = json.loads(qad("evaluate", tmp_path / "run/checkpoint", "--teacher", STORIES, "--data", TEXT, "--documents", 4,
                          "--seq-len", 64, "--json"))
    for key in ("ce", "kl", "top1"):
        assert ours[key] == pytest.approx(result["student"][key], rel=1e-6)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    distill(tmp_path / "whole", "--train.steps", 40, "--train.save_every", 5)
    command = [str(QAD), "distill", str(STORIES), "-o", str(tmp_path / "cut"), "--data.train", str(TEXT), "--data.test",
               str(TEXT), "--data.max_test_documents", "4", "--train.steps", "40", "--train.seq_len", "64",
               "--train.batch_sequences", "2", "--train.warmup_steps", "1", "--train.save_every", "5"]
    for sign in (signal.SIGINT, signal.SIGKILL):
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.time() + 60
        while time.time() < deadline and run.poll() is None and not (tmp_path / "cut/state").exists():
            time.sleep(0.01)
        run.send_signal(sign)
        run.wait()
    assert subprocess.run(command, capture_output=True).returncode == 0
    a = (tmp_path / "whole/checkpoint/model.safetensors").read_bytes()
    assert a == (tmp_path / "cut/checkpoint/model.safetensors").read_bytes()


def test_a_second_run_over_the_first_replaces_it(tmp_path):
    distill(tmp_path / "run")
    distill(tmp_path / "run")
    assert not [p for p in (tmp_path / "run").iterdir() if "partial" in p.name]


def test_generate_streams_a_story():
    one = qad("generate", STORIES, "--prompt", "Once upon a time", "--max-tokens", 30, "--temperature", 0.8, "--seed", 3)
    assert one == qad("generate", STORIES, "--prompt", "Once upon a time", "--max-tokens", 30, "--temperature", 0.8, "--seed", 3)
    assert len(one.split()) > 10


@pytest.mark.parametrize("command", ["inspect", "quantize", "distill", "evaluate", "generate", "logits", "tokenize", "convert", "verify", "diff", "bench"])
def test_every_command_has_help(command):
    assert "--help" in qad(command, "-h")


def test_layers_run_again_to_the_same_bits(tmp_path):
    for layers in (0, 5):
        distill(tmp_path / str(layers), "--train.recompute_layers", layers)
    first, second = ((tmp_path / d / "checkpoint/model.safetensors").read_bytes() for d in "05")
    assert first == second
    assert "the model has 5 layers, found 6" in distill(tmp_path / "6", "--train.recompute_layers", 6, ok=False)


def test_bench_counts_what_a_step_does():
    result = json.loads(qad("bench", "smollm2-135m", "--seq-len", 32, "--batch-sequences", 1, "--steps", 1, "--json"))
    # 8 a weight of a product: 106,168,320 of the body and 49152 x 576 of the head; 8 x 30 x 576 a token of attention
    flops = result["product_flops"] / result["roofline"]
    assert flops == pytest.approx(8 * (106168320 + 49152 * 576) + 8 * 30 * 576 * 32)
    assert result["tokens_per_second"] > 0 and result["seconds_by_operator"]["qad::linear"] > 0


def test_a_gpu_that_is_not_there_is_one_error(tmp_path):
    if not list(QAD.resolve().parent.glob("libqad_cuda.so")):
        error = qad("generate", STORIES, "--device", "cuda", ok=False)
        assert "[device] cuda" in error and "scripts/cuda" in error, error
    error = distill(tmp_path / "run", "--device", "cuda", ok=False)
    assert "[device] cuda" in error and not (tmp_path / "run").exists(), error


def test_wrong_usage_names_the_nearest_word():
    for args, said in ((["distil"], '"distil" is no command; did you mean "distill"?'),
                       (["distill", "x.yaml", "--train.stepz", "3"], 'did you mean "--train.steps"?'),
                       (["generate", "m", "--top-p", "2"], "--top-p")):
        run = subprocess.run([str(QAD), *args], capture_output=True, text=True)
        assert run.returncode == 2 and said in run.stdout + run.stderr, run


def bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_bad_data_names_file_and_line(tmp_path, tokenizer_files):
    for content, said in (("", "empty"), ('{"text": "a"}\n{"text": 3}\n', ":2"), ('{"text": "a"}\n{oops\n', ":2"),
                          ('{"nothing": 1}\n', ":1")):
        error = qad("evaluate", STORIES, "--data", bad(tmp_path, "d.jsonl", content), ok=False)
        assert said in error and error.count("[read_data]") == 1, error


def test_bad_models_give_one_error(tmp_path, tokenizer_files):
    folder = tmp_path / "m"
    folder.mkdir()
    for file in tokenizer_files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    good = (folder / "model.safetensors").read_bytes()
    header = struct.unpack("<Q", good[:8])[0]
    config = json.loads((folder / "config.json").read_text())
    cases = {
        "truncated": (good[:-5], config),
        "header too long": (struct.pack("<Q", 1 << 60) + good[8:], config),
        "nan": (good[: 8 + header] + b"\xff\xff\xff\x7f" * 16 + good[8 + header + 64:], config),
        "architecture": (good, config | {"architectures": ["MysteryForCausalLM"]}),
        "rope": (good, config | {"rope_scaling": {"rope_type": "mystery", "factor": 2.0}}),
        "shapes": (good, config | {"intermediate_size": 192}),
        "missing tensors": (good, config | {"num_hidden_layers": 6}),
        "extra tensors": (good, config | {"num_hidden_layers": 4}),
    }
    for name, (weights, changed) in cases.items():
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text(json.dumps(changed))
        out = tmp_path / "out"
        error = qad("quantize", folder, "-o", out, "--calib", TEXT, ok=False)
        assert error.startswith("qad: [") and error.count("\n") == 1, (name, error)
        assert not out.exists() and not list(tmp_path.glob(".out*")), name


def test_wrong_teachers_and_targets_are_refused(tmp_path, tokenizer_files):
    out = tmp_path / "q"
    qad("quantize", STORIES, "-o", out, "--recipe", "nvfp4-weight-only")
    assert "already quantised" in distill(tmp_path / "x", "--model", out, ok=False)
    assert "teacher_quantized" in distill(tmp_path / "x", "--teacher", out, ok=False)
    assert "did you mean" in distill(tmp_path / "x", "--set", "train.stepz=3", ok=False)
    assert not (tmp_path / "x").exists()
    before = sorted(p.name for p in tokenizer_files.iterdir())
    for command in (("quantize", tokenizer_files, "-o", tokenizer_files, "--recipe", "nvfp4-weight-only"),
                    ("convert", tokenizer_files, tokenizer_files)):
        assert "choose another folder" in qad(*command, ok=False)
    assert before == sorted(p.name for p in tokenizer_files.iterdir())


@pytest.mark.parametrize("layers", [0, 3, 5])
def test_the_plan_matches_the_peak(tmp_path, layers):
    """--dry-run's prediction against the peak of the run itself, within 10 %."""
    settings = ["--train.steps", 3, "--train.seq_len", 256, "--train.batch_sequences", 32, "--train.warmup_steps", 1,
                "--train.recompute_layers", layers]
    plan = subprocess.run([str(QAD), "distill", str(STORIES), "--data.train", str(TEXT), "--data.test", str(TEXT),
                           *map(str, settings), "--dry-run"], capture_output=True, text=True, cwd=ROOT).stderr
    amount, unit = plan.split("expected at the peak")[1].split()[:2]
    predicted = float(amount) * {"MB": 1e6, "GB": 1e9}[unit]
    script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    run = subprocess.run([sys.executable, "-c", script, str(QAD), "distill", str(STORIES), "-o", str(tmp_path / "run"),
                          "--data.train", str(TEXT), "--data.test", str(TEXT), "--data.max_test_documents", "4",
                          *map(str, settings)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert predicted == pytest.approx(int(run.stdout) * 1024, rel=0.1)


def test_the_plan_of_a_model_that_is_not_there(tmp_path):
    """From config.json alone: Nemotron 3 Nano 30B-A3B does not fit a card, and what each of several would hold."""
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "vocab_size": 131072, "hidden_size": 2688,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4,
        "ssm_state_size": 128, "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 3712, "moe_intermediate_size": 1856, "intermediate_size": 1856,
        "mlp_hidden_act": "relu2", "max_position_embeddings": 262144, "tie_word_embeddings": False}))
    done = subprocess.run([str(QAD), "distill", str(tmp_path), "--quantize.policy", "nvfp4-nano-30b-a3b", "--device", "cuda",
                           "--train.seq_len", "4096", "--train.batch_sequences", "64", "--dry-run"],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = {line.strip()[:28].strip(): line.strip()[28:].split() for line in done.stderr.splitlines()}
    assert rows["cards of 141 GB"] == ["1", "4", "8"]
    gb = lambda kind: [float(x) * {"GB": 1, "MB": 1e-3, "TB": 1e3}[unit] for x, unit in zip(rows[kind][::2], rows[kind][1::2])]
    parameters = 31.578
    for kind, bytes in (("student", 2), ("teacher", 2), ("master weights", 4), ("AdamW moments", 8)):
        assert gb(kind) == pytest.approx([bytes * parameters / cards for cards in (1, 4, 8)], rel=0.01)
    assert rows["fits"] == ["no", "no", "yes"]
    assert "keys and values in FP8" in done.stderr and "trains on one card today" in done.stderr
    assert "is computed on a CPU alone" not in done.stderr


def test_a_full_disk_leaves_nothing(tmp_path):
    """A file size limit stands for the full disk: the write fails in the middle."""
    out = tmp_path / "out"
    script = f"ulimit -f 100; trap '' XFSZ; exec {QAD} convert {STORIES} {out}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "write" in done.stderr, done.stderr
    assert not out.exists() and not list(tmp_path.iterdir())


def test_diff_and_inspect_say_where_a_model_was_changed(tmp_path, tokenizer_files):
    out = tmp_path / "nvfp4"
    qad("quantize", tokenizer_files, "-o", out, "--recipe", "nvfp4-weight-only", "--set",
        "quantize.rules=[{pattern: '*', quantize: false}, {pattern: '*.layers.3.*', quantize: true}]")
    told = json.loads(subprocess.run([str(QAD), "diff", str(tokenizer_files), str(out), "--data", str(TEXT), "--tokens", "200",
                                      "--json"], capture_output=True, text=True).stdout)
    kl = {p["part"]: p["kl"] for p in told["kl"]}  # elsewhere FP32 has become BF16
    assert kl["layer 3"] > 1e-3 and kl["all of B"] == pytest.approx(kl["layer 3"], rel=0.02)
    assert all(abs(v) < 1e-4 for part, v in kl.items() if part not in ("layer 3", "all of B"))
    table = qad("inspect", out, "--against", tokenizer_files, "--html", tmp_path / "map.html")
    assert [line.split()[0] for line in table.splitlines()[3:]] == ["layer", "3"]
    assert "q_proj" in table and "<svg" in (tmp_path / "map.html").read_text()
