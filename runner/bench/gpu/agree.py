"""What a GPU computes, compared with the CPU of the same machine: part 2 of the kit.

    python3 agree.py --bin FOLDER --out FOLDER --device cuda|cpu [--smoke]

Trains every kind of job of tests/fixtures/kinds.json on a tiny model on both, with all of the project's kernels
on the GPU, and compares the FVU. Then: a job is killed and resumed and must end in the same bits, and so must one
whose forward passes overlap its updates; every collective with one rank; a GPU without free memory. `--device cpu`
compares libtorch's operations with the project's own, and leaves out what only a GPU has. Exits with 1 if something
differs.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from part import ROOT, Part, read_args

FIXTURES = ROOT / "tests/fixtures"
CLOSE = 1e-4
SHORT = """batch_size = 8
max_examples = 64
eval_fraction = 0.02
expansion_factor = 2
hookpoints = ['layers.1.mlp']
lr_warmup_steps = 4
save_every = 4
log_every = 2"""
LONG = """batch_size = 2
max_examples = 400
expansion_factor = 2
hookpoints = ['layers.1.mlp']
log_every = 3
save_every = 20
k_decay_steps = 100"""
LONG_JOBS = [
    ("adam", "optimizer='adam', save_best=True"),
    ("auxk", "auxk_alpha=0.03125, dead_feature_threshold=4000"),
    ("signum", ""),
]
ROWS = "SELECT job, sae, fvu, fvu_eval FROM result ORDER BY job, sae"
# Takes the GPU's memory but for this much, and says so; goes when its standard input ends.
HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - 700 * 2**20, dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass
class Workspace:
    """A folder with a sweep of jobs, and the programs that run in it."""

    folder: Path
    programs: Path

    def write(self, settings: str, jobs: list[tuple[str, str]]) -> "Workspace":
        self.folder.mkdir(parents=True)
        recipe = [f"    yield job(dict({arguments}), name='{name}')\n" for name, arguments in jobs]
        (self.folder / "jobs.py").write_text("def plan(request):\n" + "".join(recipe))
        lines = ["name = 'tiny'", "recipe = 'jobs.py'", "[train]"]
        lines += [f"model = '{FIXTURES / 'tiny-llama'}'", f"dataset = '{FIXTURES / 'tiny.jsonl'}'"]
        lines += ["ctx_len = 64", "k = 4", settings, "[launch]", "threads = 1", "retries = 0"]
        (self.folder / "tiny.toml").write_text("\n".join(lines) + "\n")
        return self

    def run(self, *args: str, kernels: str = "") -> subprocess.CompletedProcess:
        command = [self.programs / "sae-run", *args]
        environment = os.environ | {"SAE_RUN_KERNELS": kernels}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def train(self, device: str, *options: str, kernels: str = "") -> None:
        on_device = ["--set", f"launch.device='{device}'"]
        found = self.run("tiny.toml", "--quiet", *on_device, *options, kernels=kernels)
        if found.returncode != 0:
            raise RuntimeError(f"the run on {device} failed: {found.stderr[-1500:]}")

    def rows(self) -> list[dict]:
        return json.loads(self.run("sql", ROWS, "--json").stdout)["rows"]

    def weights(self) -> dict[str, bytes]:
        paths = self.folder.glob("runs/tiny/**/sae.safetensors")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def worker_logs(self) -> str:
        paths = self.folder.glob("runs/tiny/.streams/*/worker.log")
        return "\n".join(path.read_text(errors="replace") for path in paths)


def kinds(part: Part) -> None:
    """The FVU of every kind of job, also on held-out sequences."""
    kinds = json.loads((FIXTURES / "kinds.json").read_text())
    jobs = [(kind["name"], kind["settings"]) for kind in kinds]
    on_cpu = Workspace(part.scratch / "cpu", part.programs).write(SHORT, jobs)
    on_device = Workspace(part.scratch / "device", part.programs).write(SHORT, jobs)
    on_cpu.train("cpu")
    on_device.train(part.device, kernels="aten" if part.is_cpu else "own")
    pairs = list(zip(on_device.rows(), on_cpu.rows(), strict=True))
    for kind in kinds:
        of_kind = [pair for pair in pairs if pair[1]["job"] == kind["name"]]
        worst = max(abs(a[column] / b[column] - 1) for a, b in of_kind for column in ("fvu", "fvu_eval"))
        most = kind.get("tolerance", CLOSE)
        part.note(kind["name"], worst < most, f"FVU differs by {worst:.1e}, at most {most:.0e}")
    notes = re.findall(r"^.*kernels? .*$", on_device.worker_logs(), re.MULTILINE)
    part.record["kernels"] = sorted(set(notes))


def resume(part: Part) -> None:
    """Killed twice and resumed, each job ends in the same bits."""
    workspace = Workspace(part.scratch / "resume", part.programs).write(LONG, LONG_JOBS)
    workspace.train(part.device)
    for row in json.loads(workspace.run("sql", "SELECT job, job_id FROM result", "--json").stdout)["rows"]:
        found = workspace.run("verify-resume", row["job_id"], "--steps", "5", "--kills", "2")
        is_exact = found.returncode == 0 and "resume is exact" in found.stdout + found.stderr
        part.note(f"resume of {row['job']}", is_exact, last_line(found))


def overlap(part: Part) -> None:
    """Forward passes next to updates change no bit."""
    saes = []
    for name, options in {"together": ["--set", "launch.overlap_forward=true"], "in turn": []}.items():
        workspace = Workspace(part.scratch / name, part.programs).write(LONG, LONG_JOBS)
        workspace.train(part.device, *options)
        saes.append(workspace.weights())
        notes = re.findall(r"^(?:forward passes do not|memory:).*$", workspace.worker_logs(), re.MULTILINE)
        part.record[name] = notes
    is_same = len(saes[0]) >= len(LONG_JOBS) and saes[0] == saes[1]
    bits = "the same" if is_same else "other"
    part.note("overlap", is_same, f"{len(saes[0])} SAEs, {bits} bits; {part.record['together']}")


def one_rank(part: Part) -> None:
    command = [part.programs / "one_rank", part.device]
    found = subprocess.run(command, capture_output=True, text=True)
    part.note("collectives", found.returncode == 0, last_line(found))


def full_memory(part: Part) -> None:
    """A run on a GPU whose memory another process holds ends with a clear error, or within what is left."""
    if part.is_cpu:
        part.note("a full GPU", None, "needs a GPU")
        return
    settings = SHORT.replace("expansion_factor = 2", "expansion_factor = 32768")
    workspace = Workspace(part.scratch / "full", part.programs).write(settings, [("adam", "optimizer='adam'")])
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True) as holder:
        holder.stdout.readline()
        found = workspace.run("tiny.toml", "--quiet", "--set", f"launch.device='{part.device}'")
        holder.stdin.close()
    is_clear = found.returncode == 0 or ("out of memory" in found.stderr and "frame #" not in found.stderr)
    part.note("a full GPU", is_clear, last_line(found))


def last_line(found: subprocess.CompletedProcess) -> str:
    lines = (found.stderr + found.stdout).strip().splitlines()
    return lines[-1].strip()[:100] if lines else f"exit code {found.returncode}"


def main() -> int:
    part = Part("agree", read_args(__doc__))
    for step in (kinds, resume, overlap, one_rank, full_memory):
        try:
            step(part)
        except Exception as error:  # One that fails must not hide the others.
            part.note(step.__name__, False, str(error))
        part.save()
    return part.summarise()


if __name__ == "__main__":
    sys.exit(main())
