"""Runs the checks one after the other, continues after one that fails, and ends with a summary.

    python3 tests/checks/run.py all            # what `make test` does
    python3 tests/checks/run.py processors     # what `make test-processors` does: processors.py
    python3 tests/checks/run.py wheel PROFILE  # what `make test-wheel` does: wheel.py
    python3 tests/checks/run.py torch VERSION  # what `make test-torch VERSION=...` does: other_torch.py

Prints what the programs print, then a line a check with its time, each test that failed, and their number.
Exits with 1 if a check failed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import other_torch
import processors
import wheel
from check import ROOT, Check, Command, set_up, summarise


def tools() -> dict[str, str]:
    """What tests start besides the project's own programs: a torchrun, CUDA's compiler, a Python with trackers."""
    return {
        "SAE_RUN_TORCHRUN": set_up("torchrun"),
        "SAE_RUN_NVRTC": set_up("nvrtc"),
        "SAE_RUN_TRACKERS_PYTHON": set_up("trackers"),
        "SAE_RUN_SLURM": set_up("slurm"),
    }


def of_tests() -> list[Check]:
    """All tests in Rust. Those of trackers and of Slurm are left out where these cannot be installed."""
    env = tools()
    checks = [Check("tests", [Command.of("cargo test --workspace --locked --no-fail-fast")], env)]
    if not env["SAE_RUN_TRACKERS_PYTHON"]:
        checks.append(Check("trackers", [], not_run="their packages cannot be installed here"))
    if not env["SAE_RUN_SLURM"]:
        checks.append(Check("Slurm", [], not_run="this is not root, or Slurm cannot be installed here"))
    return checks


def of_python() -> Check:
    """The package `sae_run`, with the programs that the tests have built."""
    python = set_up("python")
    if not python:
        return Check("Python", [], not_run="there is no whole PyTorch")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
    program = {"SAE_RUN_PROGRAM": str(target / "debug/sae-run")}
    # Each process imports PyTorch.
    n_processes = min(4, os.cpu_count() or 1)
    return Check("Python", [Command([python, "-m", "pytest", "-q", "-n", str(n_processes)])], program)


def of_dependencies() -> list[Check]:
    """What `deny.toml` asks of them, if cargo-deny and its database of advisories are there."""
    if not shutil.which("cargo-deny"):
        return [Check("dependencies", [], not_run="cargo-deny is not installed")]
    deny = ["cargo", "deny", "--offline", "check"]
    checks = [Check("dependencies", [Command([*deny, "bans", "licenses", "sources"])])]
    if subprocess.run(["cargo", "deny", "fetch", "db"], cwd=ROOT).returncode == 0:
        return [*checks, Check("advisories", [Command([*deny, "advisories"])])]
    return [*checks, Check("advisories", [], not_run="their database cannot be had here")]


def all_checks() -> list[Check]:
    clippy = "cargo clippy --workspace --all-targets --locked -- -D warnings"
    return [
        Check("formatting", [Command.of("cargo fmt --all --check")]),
        Check("clippy", [Command.of(clippy)]),
        *of_tests(),
        of_python(),
        Check("documentation", [Command.of("make docs")]),
        *of_dependencies(),
    ]


def main() -> int:
    match sys.argv[1:]:
        case ["all"]:
            checks = all_checks()
        case ["processors"]:
            checks = processors.checks()
        case ["wheel", profile]:
            checks = wheel.checks(profile)
        case ["torch", version]:
            checks = other_torch.checks(version)
        case _:
            sys.exit(__doc__)
    return summarise([check.run() for check in checks])


if __name__ == "__main__":
    sys.exit(main())
