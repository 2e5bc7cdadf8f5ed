"""Whole runs, from process start to checkpoint: time, updates, peak memory, FVU."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common import Settings, our_environment

BATCH_SIZE = 8
# In worker.log, of a GPU.
PEAK = re.compile(r"memory: at most ([0-9.]+) GB in tensors")
# At equal weights. Later updates by signum amplify rounding in the residual stream and are only shown.
MOST_OF_FIRST_FVU = 0.01


@dataclass
class Work:
    """What both arms train; every combination of `k` and of how large the SAE is makes a job."""

    name: str
    hookpoints: list[str]
    k: list[int]
    sizes: list[int]
    n_updates: int
    ctx_len: int
    # The setting that `sizes` are values of.
    sized_by: str = "expansion_factor"

    def jobs(self) -> list[tuple[int, int]]:
        return [(k, size) for k in self.k for size in self.sizes]

    def n_tokens(self) -> int:
        return self.n_updates * BATCH_SIZE * self.ctx_len

    def s_per_token(self, update_ends_s: list[float]) -> float:
        """From the end of the first update to the end of the last."""
        n_tokens = self.n_tokens() * (1 - 1 / self.n_updates)
        return (update_ends_s[-1] - update_ends_s[0]) / n_tokens


@dataclass
class Run:
    """One arm's way through the work, in one process or several."""

    wall_s: float
    peak_bytes: int
    # From the end of the first update to the end of the last, per token of all jobs.
    s_per_token: float
    # By job, update and SAE.
    fvu: list[list[list[float]]]
    # Of tensors; only on a GPU.
    gpu_peak_bytes: int | None = None
    # Active latents per token, as `fvu`, where an arm gives it.
    l0: list[list[list[float]]] = field(default_factory=list)


# Runs a command and notes its end. In a separate process: the kernel counts what a process was before it
# became another program as the memory of that, and ours may have grown.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "peak_bytes": peak_bytes}, file)
"""


def timed(command: list[str], env: dict, folder: Path) -> tuple[float, int, str]:
    """Seconds, the most memory that the process or one it waited for had, and its output."""
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        tempfile.NamedTemporaryFile("r") as end,
    ):
        measured = [sys.executable, "-c", MEASURED, end.name, *command]
        begun = time.perf_counter()
        subprocess.run(measured, cwd=folder, env=env, stdout=output, stderr=errors, check=True)
        wall_s = time.perf_counter() - begun
        end = json.load(end)
        output.seek(0), errors.seek(0)
        if end["code"] != 0:
            sys.exit(f"error: {command[:2]} ended with {end['code']}: {errors.read()[-2000:]}")
        return wall_s, end["peak_bytes"], output.read()


def train_settings(work: Work, settings: Settings) -> dict:
    return {
        "model": settings.model_dir,
        "dataset": settings.dataset,
        "dtype": settings.dtype,
        "ctx_len": work.ctx_len,
        "batch_size": BATCH_SIZE,
        "max_examples": BATCH_SIZE * work.n_updates,
        "hookpoints": work.hookpoints,
    }


def sweep_text(work: Work, settings: Settings) -> str:
    vary = {"k": work.k, work.sized_by: work.sizes}
    return sweep_of("grid", {"train": train_settings(work, settings), "vary": vary}, settings)


def sweep_of(recipe: str, sections: dict[str, dict], settings: Settings) -> str:
    launch = {"device": settings.device, "threads": settings.threads}
    # JSON's text, numbers and lists are TOML's.
    sections = {**sections, "launch": launch}
    lines = ['name = "bench"', f"recipe = {json.dumps(recipe)}"]
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines)


def write_tokens(work: Work, settings: Settings, folder: Path) -> None:
    """Tokens in training order for sparsify; ours finds them in its cache from now on."""
    command = [settings.binary, "data", settings.dataset, "--model", settings.model_dir]
    command += ["--ctx-len", str(work.ctx_len), "--max-examples", str(BATCH_SIZE * work.n_updates)]
    timed([*command, "--out", "tokens.bin", "--quiet"], our_environment(settings), folder)


def ours(work: Work, settings: Settings, folder: Path) -> Run:
    return run_sweep(sweep_text(work, settings), work, settings, folder)


def run_sweep(text: str, work: Work, settings: Settings, folder: Path) -> Run:
    (folder / "bench.toml").write_text(text, encoding="utf-8")
    command = [settings.binary, "bench.toml", "--quiet", "--fresh", "--yes"]
    wall_s, peak_bytes, _ = timed(command, our_environment(settings), folder)
    run = Run(wall_s, peak_bytes, 0.0, [])
    # More than one if the jobs do not fit into memory side by side.
    for path in sorted(folder.glob("runs/bench/.streams/*/events.jsonl")):
        metrics = metrics_of(path)
        ends = {event["step"]: event["time_ms"] / 1e3 for event in metrics}
        run.s_per_token += work.s_per_token([ends[step] for step in sorted(ends)])
        run.fvu += by_job(metrics, lambda stats: stats["squared_error"] / stats["total_variance"])
        run.l0 += by_job(metrics, lambda stats: stats["l0"] / stats["n_tokens"])
        if peaks := PEAK.findall(path.with_name("worker.log").read_text(errors="replace")):
            run.gpu_peak_bytes = max(run.gpu_peak_bytes or 0, int(float(peaks[-1]) * 1e9))
    return run


def metrics_of(path: Path) -> list[dict]:
    """Those of the last round: a file of events continues from round to round."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    begun = max(idx for idx, event in enumerate(events) if event["event"] == "started")
    return [event for event in events[begun:] if event["event"] == "metric"]


def by_job(metrics: list[dict], value: Callable[[dict], float]) -> list[list[list[float]]]:
    """A value of the statistics by job, update and SAE."""
    values: dict[str, dict[int, list[float]]] = {}
    for event in metrics:
        of_update = values.setdefault(event["job_id"], {}).setdefault(event["step"], [])
        of_update.append(value(event["stats"]))
    return [list(job.values()) for job in values.values()]


def run_peer(script: str, order: dict, work: Work, settings: Settings, folder: Path):
    """Runs a script next to this one on the tokens of the work; seconds, peak memory and its answer."""
    tokens = folder / "tokens.bin"
    order |= {
        "model": settings.model_dir,
        "tokens": str(tokens),
        "id_bytes": tokens.stat().st_size // work.n_tokens(),
        "ctx_len": work.ctx_len,
        "batch_size": BATCH_SIZE,
        "threads": settings.threads,
        "device": settings.device,
        "dtype": settings.dtype,
    }
    command = [sys.executable, str(Path(__file__).with_name(script)), json.dumps(order)]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    if settings.device == "cpu":
        environment["SPARSIFY_DISABLE_TRITON"] = "1"
    wall_s, peak_bytes, output = timed(command, environment, folder)
    return wall_s, peak_bytes, json.loads(output.splitlines()[-1])


def sparsify(work: Work, settings: Settings, folder: Path) -> Run:
    total = Run(0.0, 0, 0.0, [])
    for k, size in work.jobs():
        order = {
            "hookpoints": work.hookpoints,
            "sae": {"k": k, work.sized_by: size},
            "save_dir": str(folder / "sparsify"),
        }
        wall_s, peak_bytes, answer = run_peer("sparsify_run.py", order, work, settings, folder)
        total.wall_s += wall_s
        total.peak_bytes = max(total.peak_bytes, peak_bytes)
        total.s_per_token += work.s_per_token(answer["update_ends_s"])
        total.fvu.append(answer["fvu"])
        if answer["gpu_peak_bytes"] is not None:
            total.gpu_peak_bytes = max(total.gpu_peak_bytes or 0, answer["gpu_peak_bytes"])
    return total


def fvu_differences(mine: Run, other: Run, work: Work) -> list[float]:
    """The largest over jobs and SAEs, by update. Jobs are compared by their FVU, in order."""
    differences = []
    for update in range(work.n_updates):
        pairs = zip(
            sorted(fvu for job in mine.fvu for fvu in job[update]),
            sorted(fvu for job in other.fvu for fvu in job[update]),
            strict=True,
        )
        differences.append(max(abs(a / b - 1) for a, b in pairs))
    return differences


def in_turn(arms: list, work: Work, settings: Settings) -> dict[str, list[Run]]:
    """Runs of each arm by its name; `arms` are functions that make one."""
    runs: dict[str, list[Run]] = {arm.__name__: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(work, settings, Path(folder))
        for round_idx in range(settings.rounds):
            # Who goes first changes from round to round.
            for arm in arms if round_idx % 2 == 0 else arms[::-1]:
                runs[arm.__name__].append(arm(work, settings, Path(folder)))
    return runs


def record_of(work: Work, runs: dict[str, list[Run]]) -> dict:
    by_arm = {name: [asdict(run) for run in of_arm] for name, of_arm in runs.items()}
    return {"work": asdict(work), "arms": list(runs), **by_arm}


def measure(work: Work, settings: Settings) -> dict:
    runs = in_turn([ours, sparsify], work, settings)
    differences = fvu_differences(runs["ours"][0], runs["sparsify"][0], work)
    if not differences[0] <= MOST_OF_FIRST_FVU:
        sys.exit(f"error: the FVU of the first update differs by {differences[0]:.2%}")
    return record_of(work, runs) | {"fvu_differences": differences}
