"""Measures an SAE's update on a GPU, after its agreement with the CPU, compared with what an H100 allows.

    make bench-gpu [BENCH="--device cuda:1"]
    python3 bench_gpu.py BENCH_STEP [--device cuda] [--smoke] [--d-in D] [--n N ...] [--latents F ...] [--k K ...]
        [--encoder-dtype auto|float32|bfloat16] [--rounds N] [--threads N] [--json FILE]
    python3 bench_gpu.py --look [--device cuda]

Of each case, the CPU writes its first updates into a file, and the GPU makes the same: latents must
agree except for near ties, gradients within 1e-4 (relative, in norm), and the FVU of three updates within
1 %. Then updates are timed in encoder products. `--device cpu` does everything without a GPU: the CPU with
libtorch's operations, as CUDA has them, against the CPU with Rust's.

Needs nothing but Python.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import h100
from h100 import Case

HEADER = """\
| N | F | k | update | product | encoder products | gradients, FVU | near ties | H100 at least | H100 as \
on CUDA now |
|---|---|---|---|---|---|---|---|---|---|"""


def read_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bench_step", nargs="?", help="the example of the crate train")
    parser.add_argument("--look", action="store_true", help="only look for the GPU")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; default: cuda")
    parser.add_argument("--smoke", action="store_true", help="one small case")
    parser.add_argument("--d-in", type=int, default=h100.D_IN, help=f"default: {h100.D_IN}")
    parser.add_argument("--n", type=int, nargs="+", help="tokens; default: 1024 8192")
    parser.add_argument("--latents", type=int, nargs="+", help="default: 4608 18432")
    parser.add_argument("--k", type=int, nargs="+", help="default: 32 128 192")
    parser.add_argument("--encoder-dtype", default="auto", help="auto, float32 or bfloat16; default: auto")
    parser.add_argument("--rounds", type=int, help="default: 20, of --smoke 3")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    parser.add_argument("--json", type=Path, help="default: target/bench/gpu-TIME.json")
    args = parser.parse_args()
    if args.bench_step is None and not args.look:
        parser.error("BENCH_STEP is missing")
    args.n = args.n or ([1024] if args.smoke else [1024, 8192])
    args.latents = args.latents or ([4608] if args.smoke else [4608, 18432])
    args.k = args.k or ([32] if args.smoke else [32, 128, 192])
    args.rounds = args.rounds or (3 if args.smoke else 20)
    args.json = args.json or Path("target/bench") / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}.json"
    return args


def fail(error: str, *hints: str) -> None:
    print(f"error: {error}", *(f"hint: {hint}" for hint in hints), sep="\n", file=sys.stderr)
    sys.exit(2)


def describe_gpu(device: str) -> str:
    """Name, driver and memory; ends the program if there is no GPU."""
    number = device.removeprefix("cuda").removeprefix(":") or "0"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if number.isdigit() and int(number) < len(visible):
        number = visible[int(number)] or number
    asked = "--query-gpu=name,driver_version,memory.total"
    command = ["nvidia-smi", asked, "--format=csv,noheader", f"--id={number}"]
    hints = (
        "run it on a machine with an NVIDIA GPU and its driver",
        'BENCH="--device cpu --smoke" tries everything without a GPU, but measures the CPU',
    )
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        fail(f"there is no GPU `{device}`: cannot run nvidia-smi ({error.strerror})", *hints)
    if found.returncode != 0:
        fail(f"there is no GPU `{device}`: {(found.stderr + found.stdout).strip()}", *hints)
    name, driver, memory = found.stdout.splitlines()[0].split(", ")
    return f"{name} ({memory}), driver {driver}"


def bench_step(args: argparse.Namespace, *options: str, kernels: str = "") -> None:
    """Runs the example, and ends with its exit code if it fails: it says why."""
    environment = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "SAE_RUN_KERNELS": kernels}
    command = [args.bench_step, "--threads", str(args.threads), *options]
    returncode = subprocess.run(command, stdout=sys.stderr, env=environment).returncode
    if returncode != 0:
        print("hint: libtorch with CUDA comes by `SAE_RUN_TORCH=full make setup`", file=sys.stderr)
        sys.exit(returncode)


def measure(args: argparse.Namespace) -> dict:
    """What `bench_step` records, with the agreement of every case."""
    lists = {"--n": args.n, "--latents": args.latents, "--k": args.k}
    sizes = [text for name, values in lists.items() for text in (name, ",".join(map(str, values)))]
    sizes += ["--d-in", str(args.d_in)]
    # Without a GPU, what CUDA takes instead of Rust's kernels.
    kernels = "aten" if args.device == "cpu" else ""
    with tempfile.TemporaryDirectory() as folder:
        bench_step(args, "--reference", folder, *sizes)
        options = ["--agree-with", folder, "--device", args.device, "--rounds", str(args.rounds)]
        options += ["--encoder-dtype", args.encoder_dtype]
        bench_step(args, *options, *sizes, "--json", str(args.json), kernels=kernels)
    return json.loads(args.json.read_text(encoding="utf-8"))


def case_of(result: dict) -> Case:
    return Case(*(result[key] for key in ("n_tokens", "num_latents", "k", "d_in")))


def row(measured: dict) -> str:
    result, gate, agreement = (measured[key] for key in ("result", "gate", "agreement"))
    case = case_of(result)
    bounds, ratio = h100.bounds(case), result["ratio"]
    in_products = lambda ms: f"{ms:.2f} ms, {ms / bounds.product:.2f} products"
    worst = [max(gate[key], agreement[key]) for key in ("gradient", "fvu")]
    cells = [
        case.n_tokens,
        case.num_latents,
        case.k,
        *(f"{1e3 * median(result[key]):.2f} ms" for key in ("step_s", "product_s")),
        f"{median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
        f"{worst[0]:.1e}, {worst[1]:.1e}",
        f"{agreement['n_near_ties']} of {case.n_tokens}",
        in_products(bounds.least()),
        in_products(bounds.as_now()),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def show(record: dict) -> None:
    first = record["cases"][0]["result"]
    print(f"{record['device']}; libtorch {record['machine']['libtorch']}; encoder_dtype"
          f" {first['encoder_dtype']}; d_in {first['d_in']}; {record['began']};")
    print(f"`{record['command']}`\n\n{HEADER}")
    for measured in record["cases"]:
        print(row(measured))
    print(f"\nComputed for an H100:\n\n{h100.HEADER}")
    for measured in record["computed"]:
        print(h100.row(Case(**measured["case"])))


def computed(cases: list[dict]) -> list[dict]:
    sizes = [case_of(case["result"]) for case in cases]
    return [{"case": vars(case), "ms": vars(h100.bounds(case))} for case in sizes]


def main() -> None:
    args = read_args()
    h100.check_docs()
    gpu = None if args.device == "cpu" else describe_gpu(args.device)
    if args.look:
        return
    bench_step(args, "--look", "--device", args.device)
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    record = measure(args)
    record |= {
        "device": gpu or f"no GPU: {record['machine']['text']}, libtorch's operations",
        "began": began,
        "command": shlex.join(sys.argv),
        "computed": computed(record["cases"]),
    }
    args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    show(record)


if __name__ == "__main__":
    main()
