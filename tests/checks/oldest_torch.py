"""The tests that compute, train, resume and connect ranks, once more on the oldest libtorch that is supported.

The programs are those that `make test` builds. Only libtch is between them and libtorch, and here they find the
libtch of another one.
"""

import os
import subprocess
import sys
from pathlib import Path

from check import ROOT, Check, Command, test_programs

CRATES = {"dist", "eval", "lm", "sae", "train"}
# What NVRTC compiles is the same for any libtorch.
LEFT_OUT = ["nvrtc"]
OF_THE_PROGRAM = [
    "distributed::ranks_",
    "encode::a_jobs_saes",
    "eval::a_sweep",
    "publish::a_job",
    "training::every_kind",
    "verify_resume::a_job",
]


def libraries() -> str:
    """The folder of libtch and the plug-ins."""
    setup = [ROOT / "runner/setup/setup.sh", "oldest-torch"]
    return subprocess.run(setup, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def check_version(program: Path, env: dict[str, str], version: str):
    """Ends the program if another libtorch is found: the tests would pass on it too."""
    doctor = subprocess.run([program, "doctor"], env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    if f"libtorch   {version}" not in doctor.stdout:
        sys.exit(f"error: not libtorch {version}:\n{doctor.stdout}")


def checks() -> list[Check]:
    programs = test_programs(CRATES, LEFT_OUT, OF_THE_PROGRAM)
    folder = libraries()
    version = Path(folder).name.split("+")[0]
    env = {"LD_LIBRARY_PATH": folder, "SAE_RUN_DIST_DIR": folder}
    check_version(Path(programs[0].args[0]).parents[1] / "sae-run", env, version)
    return [Check(f"libtorch {version}", programs, env)]
