"""Kills sae-run at random moments, again and again, and compares what is left with an undisturbed run.

    python3 tests/checks/soak.py [--kills 300] [--minutes 28] [--seed 0] [--parts grid,pareto,ranks,publish]

Each part runs its sweep once undisturbed. Then, all parts side by side, it runs it with SIGKILLs to the coordinator,
the worker or another rank, until the sweep is done, in one folder after the other. Compared are the bytes of all SAEs and
all rows of the database except ids, times and attempts. Exits with 1 if anything differs, or if a command does not
end.
"""

import argparse
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from check import ROOT

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
FIXTURES = ROOT / "tests/fixtures"
CACHE = Path(os.environ.get("SAE_RUN_CACHE", Path.home() / ".cache/sae-run"))
SWEEP = f"""\
name = 'tiny'
recipe = 'RECIPE'
[train]
model = '{FIXTURES}/tiny-llama'
dataset = '{FIXTURES}/tiny.jsonl'
ctx_len = 64
batch_size = 2
max_examples = 160
save_every = 10
log_every = 3
eval_fraction = 0.1
hookpoints = ['layers.1.mlp', 'layers.2']
[vary]
VARY
[launch]
device = 'cpu'
threads = 1
retries = 0
"""
SWEEPS = {
    "grid": ("grid", "k = [4, 8]\nexpansion_factor = [2, 4]"),
    "pareto": ("pareto", "k = [2, 8]\nexpansion_factor = [2, 4]\nrounds = 2"),
    "ranks": ("grid", "k = [4, 8]"),
    "publish": ("grid", "k = [4, 8]"),
}
# A command ends by itself within this many seconds, also after a kill: a rank that was asked to end waits up to 60
# for another.
LONGEST_WAIT = 120
# Rows without what differs between any two runs. A checkpoint at a stop is one that an undisturbed run has not.
ROWS = {
    "job": "SELECT job_id, dir, status, config FROM job",
    "sae": "SELECT job_id, name, hookpoint, seed, d_in, num_latents, k, lr FROM sae",
    "sweep_job": "SELECT ordinal, job_id, name, note, overrides FROM sweep_job",
    "round": "SELECT number, request, response, first_ordinal FROM round",
    "checkpoint": "SELECT job_id, step, is_final FROM checkpoint WHERE is_final OR step % 10 = 0",
    "metric": """SELECT job_id, name, step, n_tokens, squared_error, total_variance, l0_sum, n_dead, n_tokens_so_far
        FROM metric JOIN sae USING (sae_id)""",
    "metric_term": """SELECT job_id, name, step, auxk_sum, multi_topk_sum, output_loss_sum, n_output
        FROM metric_term JOIN sae USING (sae_id)""",
    "evaluation": """SELECT job_id, name, step, n_tokens, squared_error, total_variance, l0_sum, n_dead,
        n_predicted, ce_clean_sum, ce_spliced_sum, ce_ablated_sum, kl_sum
        FROM evaluation JOIN sae USING (sae_id)""",
    "verdict": "SELECT job_id, name, step, reason, is_fatal FROM verdict JOIN sae USING (sae_id)",
    "publication_file": "SELECT DISTINCT path, layout, n_bytes, sha256 FROM publication_file",
}


class Failure(Exception):
    """A command failed, or did not end."""


@dataclass
class Folder:
    """Where one sweep runs, and how often it was disturbed."""

    path: Path
    part: str
    random: random.Random
    endpoint: str = ""
    n_kills: int = 0
    running: list = field(default_factory=list)

    def prepare(self):
        recipe, vary = SWEEPS[self.part]
        text = SWEEP.replace("RECIPE", recipe).replace("VARY", vary)
        (self.path / "tiny.toml").write_text(text)
        compiled = CACHE / "wasm"
        compiled.mkdir(parents=True, exist_ok=True)
        (self.path / "cache").mkdir()
        (self.path / "cache/wasm").symlink_to(compiled)

    def environment(self, **variables) -> dict[str, str]:
        # Its own tokens, so that making them is killed, too; the recipe engine is compiled once.
        own = {"SAE_RUN_CACHE": str(self.path / "cache"), "SAE_RUN_ENGINE": str(engine())}
        return {**os.environ, **own, **variables}

    def start(self, args: list[str]):
        """Starts the command, on two ranks if the part is about ranks."""
        port = str(free_port())
        ranks = 2 if self.part == "ranks" and args[0] == "tiny.toml" else 1
        for rank in range(ranks):
            variables = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": "hf_local"} if self.endpoint else {}
            if ranks > 1:
                variables |= {"RANK": str(rank), "WORLD_SIZE": "2"}
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            with (self.path / f"log.{rank}").open("ab") as log:
                process = subprocess.Popen(
                    [TARGET / "sae-run", *args],
                    cwd=self.path,
                    env=self.environment(**variables),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.running.append(process)

    def wait(self) -> list[int]:
        """How the commands of this run ended; ends those that hang, as an error."""
        deadline = time.monotonic() + LONGEST_WAIT
        try:
            codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in self.running]
        except subprocess.TimeoutExpired:
            for process in self.running:
                process.kill()
            raise Failure(f"{self.part}: a command did not end in {LONGEST_WAIT} s; see {self.path}/log.0") from None
        self.running = []
        return codes

    def end_other_ranks(self):
        """What a launcher does when a rank has died: it waits a little, then asks the others to end."""
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and any(process.poll() is None for process in self.running):
            time.sleep(0.05)
        for process in self.running:
            process.terminate()

    def kill_one(self, delay: float) -> bool:
        """Kills a process of the run after a while; false: all had ended before."""
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:
            if all(process.poll() is not None for process in self.running):
                return False
            time.sleep(0.002)
        targets = self.processes()
        if not targets:
            return False
        try:
            os.kill(self.random.choice(targets), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.n_kills += 1
        return True

    def processes(self) -> list[int]:
        """Ids of the commands that run, and of their workers: those whose working folder is this one."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                is_ours = (entry / "cwd").resolve() == self.path.resolve()
                state = (entry / "stat").read_text().rsplit(") ", 1)[1][0]
            except OSError:
                continue
            if is_ours and state not in "ZX":
                found.append(int(entry.name))
        return found

    def saes(self) -> dict[str, bytes]:
        root = self.path / "runs/tiny"
        files = (path for path in root.glob("[!.]*/**/*") if path.is_file())
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    def rows(self) -> dict[str, list]:
        with closing(sqlite3.connect(self.path / "runs/runs.db")) as database:
            rows = {table: database.execute(sql).fetchall() for table, sql in ROWS.items()}
        return {table: sorted(map(repr, of_table)) for table, of_table in rows.items()}


def engine() -> Path:
    """The recipe engine that `make setup` has built; the newest."""
    found = sorted((CACHE / "engine").glob("python-engine-*.wasm"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else sys.exit("there is no recipe engine: `make setup` builds it")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commands(part: str) -> list[list[str]]:
    train = ["tiny.toml", "--take-over"]
    publish = ["publish", "tiny", "--repo", "me/tiny", "--force"]
    return [train, publish] if part == "publish" else [train]


def undisturbed(folder: Folder):
    """Runs all commands."""
    for args in commands(folder.part):
        folder.start(args)
        codes = folder.wait()
        if any(codes):
            raise Failure(f"{folder.part}: undisturbed, it ended with {codes}; see {folder.path}/log.0")


def disturbed(folder: Folder, seconds: float, most_kills: int):
    """Runs all commands to their end, with kills until then."""
    for args in commands(folder.part):
        while True:
            folder.start(args)
            if folder.n_kills < most_kills and folder.kill_one(folder.random.uniform(0, seconds)):
                if folder.part == "ranks":
                    folder.end_other_ranks()
                folder.wait()
                continue
            codes = folder.wait()
            if any(codes):
                raise Failure(f"{folder.part}: not killed, it ended with {codes}; see {folder.path}/log.0")
            break


def differences(expected: Folder, got: Folder) -> list[str]:
    ours, theirs = expected.saes(), got.saes()
    names = sorted(ours.keys() | theirs.keys())
    found = [f"{got.part}: file {name}" for name in names if ours.get(name) != theirs.get(name)]
    ours, theirs = expected.rows(), got.rows()
    for table in ROWS:
        if ours[table] != theirs[table]:
            found.append(f"{got.part}: rows of {table}: {len(ours[table])} and {len(theirs[table])}")
    return found


class Hub:
    """The Hub of the tests, as a process."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [TARGET / "examples/serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        self.endpoint = re.search(r"HF_ENDPOINT=(\S+)", line)[1]
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@dataclass
class Part:
    """A sweep that is killed again and again, and the result."""

    name: str
    home: Path
    random: random.Random
    expected: Folder = None
    seconds: float = 0
    n_kills: int = 0
    n_runs: int = 0
    found: list[str] = field(default_factory=list)

    def run(self, name: str, work) -> Folder:
        path = self.home / self.name / name
        path.mkdir(parents=True)
        with Hub() if self.name == "publish" else nullcontext() as hub:
            folder = Folder(path, self.name, self.random, hub.endpoint if hub else "")
            folder.prepare()
            work(folder)
        return folder

    def run_undisturbed(self):
        begun = time.monotonic()
        self.expected = self.run("undisturbed", undisturbed)
        self.seconds = time.monotonic() - begun

    def soak(self, n_kills: int, deadline: float):
        """Kills until there were enough kills, or it is time to end."""
        while self.n_kills < n_kills and time.monotonic() < deadline:
            most = min(n_kills - self.n_kills, self.random.randint(3, 12))
            try:
                got = self.run(f"disturbed-{self.n_runs}", lambda folder: disturbed(folder, self.seconds, most))
            except Failure as error:
                self.found.append(str(error))
                break
            self.n_kills += got.n_kills
            self.n_runs += 1
            differing = differences(self.expected, got)
            self.found += differing
            if not differing:
                shutil.rmtree(got.path)
        counts = f"{self.n_kills} kills in {self.n_runs} runs of {self.seconds:.1f} s"
        print(f"{self.name}: {counts}, {len(self.found)} differences", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(SWEEPS))
    args = parser.parse_args()
    begun = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="sae-run-soak-"))
    parts = [Part(name, home, random.Random(f"{args.seed} {name}")) for name in args.parts.split(",")]
    for part in parts:
        part.run_undisturbed()
    with ThreadPoolExecutor(len(parts)) as pool:
        deadline = begun + args.minutes * 60
        list(pool.map(lambda part: part.soak(args.kills // len(parts), deadline), parts))
    total = sum(part.n_kills for part in parts)
    found = [line for part in parts for line in part.found]
    print(f"{total} kills in {(time.monotonic() - begun) / 60:.1f} minutes, seed {args.seed}")
    print("\n".join(found) or "no difference")
    if found:
        print(f"what differs is in {home}")
        return 1
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
