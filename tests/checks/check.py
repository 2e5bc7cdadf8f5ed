"""A check: commands of one purpose, run one after the other, with a count of the tests that they ran."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = re.compile(r"test result: .* (\d+) passed; (\d+) failed; (\d+) ignored")
PYTEST_RESULT = re.compile(r"^=*\s*(\d+ \w+.*) in [\d.]+s")
PYTEST_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")
FAILED_TEST = re.compile(r"test (\S+)(?: - should panic)? \.\.\. FAILED")


@dataclass
class Command:
    """A program with its arguments, and where it runs."""

    args: list[str]
    folder: Path = ROOT

    @classmethod
    def of(cls, line: str) -> "Command":
        return cls(line.split())


@dataclass
class Check:
    """Commands of one purpose, and their results."""

    name: str
    commands: list[Command]
    env: dict[str, str] = field(default_factory=dict)
    # Why it cannot be run on this machine.
    not_run: str = ""
    is_good: bool = True
    seconds: float = 0.0
    n_passed: int = 0
    n_failed: int = 0
    n_skipped: int = 0
    failed_tests: list[str] = field(default_factory=list)

    def run(self) -> "Check":
        start = time.monotonic()
        for command in self.commands:
            print(f"\n=== {self.name}: {' '.join(command.args)}", flush=True)
            if self.run_one(command) != 0:
                self.is_good = False
        self.seconds = time.monotonic() - start
        return self

    def run_one(self, command: Command) -> int:
        with subprocess.Popen(
            command.args,
            cwd=command.folder,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                self.read(line)
        return process.returncode

    def read(self, line: str):
        """Counts what libtest and pytest say. Its lines may follow what a test printed."""
        if result := RESULT.search(line):
            passed, failed, skipped = map(int, result.groups())
            self.n_passed += passed
            self.n_failed += failed
            self.n_skipped += skipped
        elif result := PYTEST_RESULT.search(line):
            for count, outcome in PYTEST_COUNT.findall(result[1]):
                self.n_passed += int(count) * (outcome == "passed")
                self.n_failed += int(count) * outcome.startswith(("failed", "error"))
                self.n_skipped += int(count) * (outcome == "skipped")
        elif test := FAILED_TEST.search(line):
            self.failed_tests.append(test[1])

    def describe(self) -> str:
        if self.not_run:
            return f"{self.name:<26} not run: {self.not_run}"
        verdict = "ok" if self.is_good else "FAILED"
        text = f"{self.name:<26} {verdict:<6} {self.seconds:5.0f} s"
        n_run = self.n_passed + self.n_failed
        if n_run or self.n_skipped:
            text += f"  {self.n_passed} of {n_run} tests passed, {self.n_skipped} skipped"
        return "\n    ".join([text, *self.failed_tests])


def set_up(*args: str) -> str:
    """What setup.sh prints. Downloads take minutes; what takes longer hangs, and would hide all other checks."""
    setup = [ROOT / "runner/setup/setup.sh", *args]
    return subprocess.run(setup, stdout=subprocess.PIPE, text=True, check=True, timeout=1800).stdout.strip()


def test_programs(crates: set[str], left_out: list[str], of_the_program: list[str]) -> list[Command]:
    """Builds the tests, as `make test` does. Those of the crates, by their folders, without the tests that
    `left_out` skips; and of the whole program the tests whose names have one of these parts.
    """
    build = "cargo test --workspace --locked --no-run --message-format=json-render-diagnostics"
    messages = subprocess.run(build.split(), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    commands = []
    for message in map(json.loads, messages.stdout.splitlines()):
        if message["reason"] != "compiler-artifact" or not message["executable"]:
            continue
        folder = Path(message["manifest_path"]).parent
        if message["target"]["name"] == "integration":
            commands.append(Command([message["executable"], *of_the_program], folder))
        elif folder.name in crates and message["profile"]["test"]:
            skips = [arg for test in left_out for arg in ("--skip", test)]
            commands.append(Command([message["executable"], *skips], folder))
    return commands


def summarise(checks: list[Check]) -> int:
    """Prints the summary; the exit code."""
    print("\n=== summary")
    for check in checks:
        print(check.describe())
    passed = sum(check.n_passed for check in checks)
    skipped = sum(check.n_skipped for check in checks)
    # One that failed without a test that did has not even come so far.
    failed = sum(max(check.n_failed, int(not check.is_good)) for check in checks)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 0 if failed == 0 else 1
