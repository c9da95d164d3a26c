#!/usr/bin/env python3
"""The report's data ablation (arXiv 2601.20088, Table 5): QAD on data of every kind, as many tokens of each.

    bench/data_ablation.py MODEL --sft TRAIN --test TEST [--task RL.yaml] [--tokens N] [--qad build/qad] [-o FOLDER] -- FLAGS

FLAGS go to every `qad distill` (--train.steps 300 ...). Each kind is one `qad synthesize` and one `qad distill`; what is
there already is not made again. Prints a table: KL to the teacher, perplexity and top-1 agreement on TEST with standard
errors, and the benchmarks of --evaluate.tasks, if FLAGS name some."""
import argparse, json, pathlib, subprocess, sys


def run(*command):
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run([str(c) for c in command], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sft", required=True, help="SFT data, .txt or .jsonl; of .jsonl and .txt its prompts are completed")
    parser.add_argument("--prompts", help="prompts to complete; else those of --sft")
    parser.add_argument("--task", help="RL prompts with answers (a task)")
    parser.add_argument("--test", required=True)
    parser.add_argument("--only", nargs="+", help="kinds by their names in the table; else all")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--qad", default="build/qad")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("out/data-ablation"))
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, flags = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1:]

    prompts = {"kind": "prompts", "file": args.prompts or args.sft, "passes": 1000}
    kinds = {"SFT data": None, "completions of SFT prompts": [prompts]}
    if args.task:
        task = {"kind": "task", "task": args.task, "passes": 1000}
        kinds["completions of RL prompts"] = [task]
        kinds["completions of RL prompts, correct only"] = [task | {"keep": "correct"}]
        kinds["SFT and RL prompts, half of each"] = [prompts, task]
    kinds |= {"generated from BOS": [{"kind": "bos"}], "random tokens": [{"kind": "random"}]}

    if unknown := set(args.only or []) - set(kinds):
        parser.error(f"--only: expected some of {list(kinds)}, found {sorted(unknown)}")
    rows = []
    for number, (name, sources) in enumerate(kinds.items()):
        if args.only and name not in args.only:
            continue
        folder = args.output / f"{number}"
        train = args.sft
        if sources:
            train = folder / "data"
            recipe = folder / "synthesize.yaml"
            folder.mkdir(parents=True, exist_ok=True)
            recipe.write_text(json.dumps({"teacher": args.model, "tokens": args.tokens, "sources": sources, "device": args.device,
                                          "sampling": {"temperature": 1, "max_tokens": args.max_tokens}}))  # JSON is YAML
            run(args.qad, "synthesize", recipe, "-o", train)
        if not (folder / "run/result.json").exists():
            run(args.qad, "distill", args.model, "--data.train", train, "--data.test", args.test, "--device", args.device,
                "-o", folder / "run", *flags)
        result = json.loads((folder / "run/result.json").read_text())
        if not rows:
            rows += [("BF16", result["teacher"], scores(folder, "BF16")), ("PTQ", result["ptq"], scores(folder, "PTQ"))]
        rows.append((name, result["student"], scores(folder, "QAD")))
    tasks = list(rows[0][2])
    print("| | KL | perplexity | top-1 |" + "".join(f" {t} |" for t in tasks))
    print("| --- | --- | --- | --- |" + " --- |" * len(tasks))
    for name, m, of_tasks in rows:
        print(f"| {name} | {m['kl']:.4f} ± {m['kl_se']:.4f} | {m['ppl']:.3f} ± {m['ppl_se']:.3f} | {100 * m['top1']:.1f} % |"
              + "".join(f" {of_tasks[t]} |" for t in tasks))


def scores(folder, label):
    file = folder / f"run/results-{label}.json"
    if not file.exists():
        return {}
    out = {}
    for task in json.loads(file.read_text())["tasks"]:
        first = next(iter(task["scores"].values()))
        out[task["task"]["title"]] = f"{100 * first['mean']:.1f} ± {100 * first['se']:.1f}"
    return out


if __name__ == "__main__":
    main()
