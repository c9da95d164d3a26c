#!/usr/bin/env python3
"""What each way of post-training quantisation is worth, and what is left of it after QAD: one `qad distill` a method.

    bench/ptq_methods.py MODEL --calib DATA --test TEST [--methods max,mse] [--inputs] [--weights-only] [--steps N]
        [--device cpu] [--qad build/qad] [-o FOLDER] -- FLAGS

FLAGS go to every `qad distill`. Without --steps nothing is trained; with them QAD runs from each (FLAGS must then name
data.train and data.validation). --inputs measures W4A4, --weights-only W4A16; default both. A run that is there already
is not made again. Prints a table: KL to the BF16 model, perplexity and top-1 agreement on TEST with standard errors, and
the CPU seconds that the run takes more than that of the first method."""
import argparse, json, pathlib, resource, subprocess, sys

# A method is what it sets in a recipe.
METHODS = {
    "max": {},
    "mse": {"quantize.weight_scales": "mse"},
    "four_over_six": {"quantize.weight_scales": "four_over_six"},
    "hessian": {"quantize.weight_scales": "hessian"},
    "gptq, max": {"quantize.rounding": "gptq"},
    "gptq, mse": {"quantize.rounding": "gptq", "quantize.weight_scales": "mse"},
    "gptq, four_over_six": {"quantize.rounding": "gptq", "quantize.weight_scales": "four_over_six"},
    "gptq, hessian": {"quantize.rounding": "gptq", "quantize.weight_scales": "hessian"},
}
# Before them, or beside: by name alone.
CHANGED = {
    "awq": {"quantize.transform": "[awq]"},
    "smoothquant": {"quantize.transform": "[smoothquant]"},
    "hadamard": {"quantize.transform": "[hadamard]"},
    "awq, hessian": {"quantize.transform": "[awq]", "quantize.weight_scales": "hessian"},
    "low rank": {"quantize.low_rank": "32"},
    "awq, low rank": {"quantize.transform": "[awq]", "quantize.low_rank": "32"},
    "bits 5": {"quantize.bits": "5"},
    "bits 6": {"quantize.bits": "6"},
}
# Needs training: meant for --steps.
LEARNED = {
    "mse, learned scales": {"quantize.weight_scales": "mse", "train.learn_scales": "true"},
    "gptq, mse, learned scales": METHODS["gptq, mse"] | {"train.learn_scales": "true"},
}
EVERY = METHODS | CHANGED | LEARNED


def cpu_seconds():
    """Of what ran: other load on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(args, flags, method, policy, folder):
    seconds = folder / "seconds"
    if not seconds.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [args.qad, "distill", args.model, "--calibration.data", args.calib, "--data.test", args.test,
                   "--device", args.device, "--quantize.policy", policy, "-o", folder / "run"]
        command += ["--train.steps", args.steps] if args.steps else ["--method", "ptq"]
        for key, value in EVERY[method].items():
            command += ["--" + key, value]
        command = [str(c) for c in command + flags]
        print("+", *command, file=sys.stderr, flush=True)
        start = cpu_seconds()
        subprocess.run(command, check=True)
        seconds.write_text(str(cpu_seconds() - start))
    return json.loads((folder / "run/result.json").read_text()), float(seconds.read_text())


def figures(m):
    return f"{m['kl']:.4f} ± {m['kl_se']:.4f} | {m['ppl']:.3f} ± {m['ppl_se']:.3f} | {100 * m['top1']:.1f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--methods", help="of: " + "; ".join(EVERY) + " (separated by ';'); default: the first "
                        f"{len(METHODS)}, with --steps also those that learn")
    parser.add_argument("--inputs", action="store_true", help="W4A4")
    parser.add_argument("--weights-only", action="store_true", help="W4A16")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--qad", default="build/qad")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("out/ptq-methods"))
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, flags = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1:]
    every = METHODS | (LEARNED if args.steps else {})
    methods = [m.strip() for m in args.methods.split(";")] if args.methods else list(every)
    for m in methods:
        if m not in EVERY:
            parser.error(f"{m}: expected one of {', '.join(EVERY)}")

    for policy, title, wanted in (("nvfp4", "W4A4", args.inputs), ("nvfp4-weight-only", "W4A16", args.weights_only)):
        if not wanted and (args.inputs or args.weights_only):
            continue
        print(f"| {title} | KL | perplexity | top-1 | CPU s |" + (" KL after QAD | top-1 |" if args.steps else ""))
        print("| --- | --- | --- | --- | --- |" + (" --- | --- |" if args.steps else ""))
        base = None
        for m in methods:
            result, seconds = run(args, flags, m, policy, args.output / title / m.replace(", ", "-").replace(" ", "_"))
            if base is None:
                base = seconds
                print(f"| BF16 | {figures(result['teacher'])} | |" + (" | |" if args.steps else ""))
            line = f"| {m} | {figures(result['ptq'])} | {seconds - base:.0f} |"
            if args.steps:
                s = result["student"]
                line += f" {s['kl']:.4f} ± {s['kl_se']:.4f} | {100 * s['top1']:.1f} % |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
