"""A check: commands of one purpose, run one after the other, with a count of the tests that they ran."""

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = re.compile(r"test result: .* (\d+) passed; (\d+) failed; (\d+) ignored")
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
        """Counts what libtest says. Its lines may follow what a test printed."""
        if result := RESULT.search(line):
            passed, failed, skipped = map(int, result.groups())
            self.n_passed += passed
            self.n_failed += failed
            self.n_skipped += skipped
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
