"""What holds the two slowest kernels back, by NVIDIA's Nsight Compute (`ncu`): part 5 of the kit.

    python3 ncu.py --bin FOLDER --out FOLDER --device cuda|cpu [--smoke]

Which two is in what part 1 left in FOLDER. Without that or without `ncu`, or where `ncu` may not look at the GPU, it
says so in a line and ends with 0: a measurement is missing then, and nothing is wrong. (A file `profile.py` here would
take the place of Python's own.)
"""

import csv
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from part import Part, read_args

SHAPE, SMALL_SHAPE = "16384,131072,4096,32", "64,256,32,8"
PLACES = ("/usr/local/cuda*/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")
METRICS = {
    "ms": "gpu__time_duration.sum",
    "dram_pct": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_pct": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "occupancy_pct": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
MS = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3, "ms": 1, "msecond": 1, "s": 1e3, "second": 1e3}
NUMBER = re.compile(r"[0-9.]+")
# A bound: checks and measurements start each about ten times.
MOST_LAUNCHES = 60
HEADER = """\
| kernel | ms | memory bandwidth, % | multiprocessors, % | occupancy, % | registers |
|---|---|---|---|---|---|"""


def slowest(path: Path) -> list[str] | str:
    """The names of two kernels, or the reason why no kernel was measured."""
    if not path.exists():
        return f"part 1 left no `{path.name}`"
    report = json.loads(path.read_text(encoding="utf-8"))
    if "no_gpu" in report:
        return f"there is no GPU: {report['no_gpu']['reason']}"
    kernels = report["found"]["kernels"]
    if "unusable" in kernels:
        return f"there are no kernels: {kernels['unusable']['reason']}"
    measured = [kernel for kernel in kernels["checked"]["kernels"] if kernel["seconds"]]
    if not measured:
        return "no kernel was measured"
    measured.sort(key=lambda kernel: -kernel["seconds"][0])
    return [kernel["name"] for kernel in measured[:2]]


def find_ncu() -> str | None:
    return shutil.which("ncu") or next((path for place in PLACES for path in sorted(glob.glob(place))), None)


def run_ncu(part: Part, ncu: str, kernels: list[str], shape: str) -> str:
    command = [ncu, "--clock-control", "none", "--target-processes", "all", "--csv"]
    command += ["--kernel-name", f"regex:^({'|'.join(kernels)})", "--launch-count", str(MOST_LAUNCHES)]
    command += ["--metrics", ",".join(METRICS.values())]
    command += [str(part.programs / "sae-run"), "doctor", "--gpu", "--device", part.device, "--shape", shape]
    # Nothing is known there yet: what is known is not measured again.
    environment = os.environ | {"SAE_RUN_CACHE": str(part.scratch / "cache")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def launches(output: str) -> list[dict]:
    """Each launch with what was measured of it."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    of_launch: dict[str, dict] = {}
    for row in csv.DictReader(lines):
        found = of_launch.setdefault(row["ID"], {"kernel": row["Kernel Name"].partition("(")[0]})
        for key, metric in METRICS.items():
            text = row["Metric Value"].replace(",", "")
            # What it could not measure is `n/a`.
            if row["Metric Name"] == metric and NUMBER.fullmatch(text):
                found[key] = float(text) * (MS[row["Metric Unit"]] if key == "ms" else 1)
    return [found for found in of_launch.values() if "ms" in found]


def longest(found: list[dict], kernel: str) -> dict | None:
    """Of the launches of a kernel: the others are checks on small inputs."""
    of_kernel = [launch for launch in found if launch["kernel"].startswith(kernel)]
    return max(of_kernel, key=lambda launch: launch["ms"], default=None)


def why_nothing(output: str) -> str:
    error = re.search(r"^==ERROR==.*$", output, re.MULTILINE)
    lines = output.strip().splitlines()
    return error[0] if error else lines[-1] if lines else "it says nothing"


def row(launch: dict) -> str:
    cells = [launch["kernel"], f"{launch['ms']:.3f}"]
    cells += [f"{launch[key]:.0f}" if key in launch else "-" for key in list(METRICS)[1:]]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    args = read_args(__doc__)
    part = Part("ncu", args)
    shape = SMALL_SHAPE if part.is_cpu or args.smoke else SHAPE
    with part.cases() as cases:
        kernels = slowest(part.out / f"doctor-{shape}.json")
        ncu = find_ncu()
        if isinstance(kernels, str) or ncu is None:
            print(f"not done: {kernels if isinstance(kernels, str) else 'there is no `ncu`'}")
            return
        print(f"{', '.join(kernels)} under {ncu} ...", file=sys.stderr, flush=True)
        output = run_ncu(part, ncu, kernels, shape)
        found = launches(output)
        cases += [launch for kernel in kernels if (launch := longest(found, kernel))]
        part.record["launches"] = found
        part.save()
        if not cases:
            print(f"not done: {why_nothing(output)}")
            return
    print("\n".join([HEADER, *map(row, part.record["cases"])]))


if __name__ == "__main__":
    main()
