"""Measures this project compared with sparsify 1.3.3, dictionary_learning 0.1.0 and SAELens 6.54: updates, sweeps.

    make bench-peer [BENCH="--smoke"]
    python bench_peer.py BINARY BENCH_STEP [MODEL_DIR] [--smoke] [--parts step one all sweep dictionary kinds]
        [--rounds N] [--updates N] [--threads N] [--json FILE]

Fairness: both arms run in turn on the libtorch of this Python, in float32 on the CPU with the same number of
threads, on the same tokens or activations, and with sparsify from the same initial weights. Nothing
is printed about a case before sparsify was found to compute the same, or dictionary_learning and SAELens,
whose first weights are others, to learn. Times of whole runs begin with the process.

Needs what requirements.txt next to it names.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
# What sparsify prints when it is imported is not part of the results.
stdout, sys.stdout = sys.stdout, sys.stderr
import dictionary
import kinds
import step
import whole_run

sys.stdout = stdout

import torch
from common import Settings, demo_model, spread
from whole_run import Work

PARTS = ["step", "one", "all", "sweep", "dictionary", "kinds"]
STEP_CASES = [(n, latents, k) for n in (1024, 8192) for latents in (4608, 18432) for k in (32, 128)]
WORKS = {
    "one": Work("layers.15 at 32x", ["layers.15"], [32], [32], 4, 256),
    "all": Work("30 layers at 8x", ["layers.*[0-9]"], [32], [8], 3, 256),
    "sweep": Work("8 jobs on layers.15", ["layers.15"], [16, 32, 64, 128], [8, 32], 3, 256),
    "dictionary": Work("8 jobs on layers.15", ["layers.15"], [16, 32, 64, 128], [8, 32], 3, 256),
    "kinds": kinds.Kinds("4 kinds on layers.15", ["layers.15"], [32, 64], [8], 8, 256, jumprelu_init_threshold=2.0),
}
MEASURES = {"dictionary": dictionary.measure, "kinds": kinds.measure}
SMOKE_CASES = [(512, 2304, 16)]
SMOKE_WORKS = {
    "one": Work("smoke: layers.1 at 2x", ["layers.1"], [16], [2], 2, 32),
    "dictionary": Work("smoke: 2 jobs on layers.1", ["layers.1"], [16, 32], [2], 3, 32),
    "kinds": kinds.Kinds("smoke: 4 kinds on layers.1", ["layers.1"], [16], [2], 3, 32, jumprelu_init_threshold=1.0),
}


def read_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary")
    parser.add_argument("bench_step")
    parser.add_argument("model_dir", nargs="?", type=Path, default=demo_model())
    parser.add_argument("--smoke", action="store_true", help="small sizes, some minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--step-cases", type=int, nargs="+", help="numbers of cases, from 0")
    parser.add_argument("--rounds", type=int, help="default: 5 of updates, 3 of whole runs")
    parser.add_argument("--updates", type=int, help="of whole runs, at least 2; default: 3, 4 or 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="default: target/bench/peer-TIME.json")
    return parser.parse_args()


def describe_machine(args: argparse.Namespace) -> dict:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "torch": torch.__version__,
        "binary": args.binary,
        "load_average": os.getloadavg(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": sys.argv,
    }


def show_step(result: dict) -> None:
    ours, theirs = ([products for _, products in result[arm]] for arm in ("ours", "sparsify"))
    ratios = [b / a for (a, _), (b, _) in zip(result["ours"], result["sparsify"])]
    sizes = f"N={result['n_tokens']} F={result['num_latents']} k={result['k']}"
    probe = " and ".join(f"{gflops:.0f}" for gflops in result["probe_gflops"])
    print(f"update {sizes}: ours {spread(ours)} encoder products, sparsify {spread(theirs)}")
    print(f"    {spread(ratios)} times as fast; matrix product {probe} GFLOP/s;", end=" ")
    gate = result["gate"]
    print(f"gradients differ by {gate['gradient']:.1e}, FVU by {gate['fvu']:.1e}", flush=True)


def show_whole(result: dict) -> None:
    for peer in result["arms"][1:]:
        rounds = list(zip(result["ours"], result[peer]))
        ratios = lambda key: spread([b[key] / a[key] for a, b in rounds])
        print(f"{result['work']['name']}: {ratios('s_per_token')} times as fast as {peer} between")
        print(f"    updates, {ratios('wall_s')} from process start to end, of {len(rounds)} rounds;", end=" ")
        print(f"its peak memory is {ratios('peak_bytes')} times ours")
    for arm in result["arms"]:
        tokens = " ".join(f"{1 / run['s_per_token']:.0f}" for run in result[arm])
        wall = " ".join(f"{run['wall_s']:.1f}" for run in result[arm])
        memory = " ".join(f"{run['peak_bytes'] / 1e9:.2f}" for run in result[arm])
        print(f"    {arm:19} {tokens} tokens/s; {wall} s; at most {memory} GB in a process")
    show_fvu(result)


def show_fvu(result: dict) -> None:
    if "fvu_differences" in result:
        differences = ", ".join(f"{difference:.1e}" for difference in result["fvu_differences"])
        print(f"    FVU differs by at most {differences} in updates 1, 2, ...", flush=True)
        return
    for arm in result["arms"]:
        jobs = [(job[0][0], job[-1][0]) for job in result[arm][0]["fvu"]]
        fvu = ", ".join(f"{first:.3f} to {last:.3f}" for first, last in jobs)
        print(f"    {arm:19} FVU of the first and the last update, by job: {fvu}", flush=True)
        if l0 := ", ".join(f"{job[0][0]:.1f} to {job[-1][0]:.1f}" for job in result[arm][0]["l0"]):
            print(f"    {arm:19} L0 of the same: {l0}", flush=True)


def main() -> None:
    args = read_args()
    torch.set_num_threads(args.threads)
    path = args.json or Path("target/bench") / f"peer-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(args), "step": [], "whole": []}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()), flush=True)

    def keep(kind: str, result: dict) -> None:
        record[kind].append(result)
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")

    binaries = [str(Path(binary).resolve()) for binary in (args.binary, args.bench_step)]
    settings = Settings(*binaries, str(args.model_dir.resolve()), args.threads, 0)
    if "step" in args.parts:
        ours = step.Ours(settings)
        cases = SMOKE_CASES if args.smoke else STEP_CASES
        for idx in args.step_cases or range(len(cases)):
            result = step.measure(ours, *cases[idx], args.rounds or (2 if args.smoke else 5))
            keep("step", result), show_step(result)
        ours.close()
    settings.rounds = args.rounds or (1 if args.smoke else 3)
    for name, work in (SMOKE_WORKS if args.smoke else WORKS).items():
        if name in args.parts:
            work.n_updates = args.updates or work.n_updates
            result = MEASURES.get(name, whole_run.measure)(work, settings)
            keep("whole", result), show_whole(result)
    print(f"load average at the end {os.getloadavg()}; raw numbers in `{path}`")


if __name__ == "__main__":
    main()
