"""The tests that compute, train, resume and connect ranks, once more on another libtorch than the build's.

The programs are those that `make test` builds. Only libtch and the plug-ins next to it are between them and libtorch,
and here they find those of another one.
"""

import os
import subprocess
import sys
from pathlib import Path

from check import Check, Command, set_up, test_programs

CRATES = {"dist", "eval", "lm", "sae", "train"}
# What NVRTC compiles is the same for any libtorch. Longer trainings that continue shorter ones resume as others do.
LEFT_OUT = ["nvrtc", "extension_tests"]
OF_THE_PROGRAM = [
    "distributed::ranks_",
    "encode::a_jobs_saes",
    "eval::a_sweep",
    "publish::a_job",
    "training::every_kind",
    "verify_resume::a_job",
]


def check_version(program: Path, env: dict[str, str], version: str):
    """Ends the program if another libtorch is found: the tests would pass on it too."""
    doctor = subprocess.run([program, "doctor"], env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    if f"libtorch   {version}" not in doctor.stdout:
        sys.exit(f"error: not libtorch {version}:\n{doctor.stdout}")


def checks(version: str) -> list[Check]:
    # Of libtch and the plug-ins.
    folder = set_up("torch", version)
    programs = test_programs(CRATES, LEFT_OUT, OF_THE_PROGRAM)
    version = Path(folder).name.split("+")[0]
    env = {"LD_LIBRARY_PATH": folder}
    check_version(Path(programs[0].args[0]).parents[1] / "sae-run", env, version)
    return [Check(f"libtorch {version}", programs, env)]
