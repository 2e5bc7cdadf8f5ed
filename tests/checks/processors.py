"""The numeric crates' tests, publishing's proof and `verify-resume`, computed as other processors compute,
with other numbers of threads, other memory and other settings of the system. What this processor lacks is
left out, and said so.
"""

import json
import subprocess
from pathlib import Path

from run import ROOT, Check, Command

# Crates whose tests compute, by their folders. Those that start several processes take minutes, and compute
# nothing that the others do not.
CRATES = {"kernels", "sae", "lm", "train"}
LEFT_OUT = ["--skip", "ranks_tests", "--skip", "spread_tests"]
# Tests of the whole program that compute.
OF_THE_PROGRAM = ["publish::a_job", "publish::both", "verify_resume::a_job"]


def computing(aten: str, onednn: str, mkl: str, own: str) -> dict[str, str]:
    """The instruction sets of libtorch, its libraries and our own kernels."""
    return {
        "ATEN_CPU_CAPABILITY": aten,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "SAE_RUN_CPU_CAPABILITY": own,
    }


BASELINE = computing("default", "SSE41", "SSE4_2", "default")
AVX2 = computing("avx2", "AVX2", "AVX2", "avx2")
AVX512 = computing("avx512", "AVX512_CORE", "AVX512", "avx512")
# MKL's code for all processors, where the variable above is for Intel's.
COMPATIBLE = {"MKL_CBWR": "COMPATIBLE"}
ELSEWHERE = {"TZ": "Pacific/Chatham", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}


def threads(n: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(n)}


def lines(odd_alignment: dict[str, str]) -> list[tuple[str, list[str], dict[str, str]]]:
    """Each line's name, the flags that a processor must have for it, and its variables."""
    return [
        ("baseline, 1 thread", [], {**BASELINE, **COMPATIBLE, **threads(1)}),
        ("AVX2, 3 threads", ["avx2"], {**AVX2, **threads(3)}),
        ("AVX-512, 2 threads", ["avx512f"], {**AVX512, **threads(2)}),
        ("tiles, 3 threads", ["amx_bf16"], threads(3)),
        ("kernels without AVX2", ["avx2"], {"SAE_RUN_CPU_CAPABILITY": "default", **threads(2)}),
        (
            "kernels without AVX-512",
            ["avx512f"],
            {"SAE_RUN_CPU_CAPABILITY": "avx2", "SAE_RUN_KERNELS": "float32", **threads(1)},
        ),
        ("libtorch's operations", [], {"SAE_RUN_KERNELS": "aten", **threads(2)}),
        ("odd alignment, elsewhere", [], {**odd_alignment, **ELSEWHERE, **threads(2)}),
    ]


def flags() -> set[str]:
    """What the processor has, as Linux tells."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def preloaded(folder: Path) -> dict[str, str]:
    """Has programs get memory from odd_alignment.c."""
    source = Path(__file__).with_name("odd_alignment.c")
    library = folder / "odd_alignment.so"
    compiler = ["cc", "-O2", "-shared", "-fPIC", source, "-o", library, "-ldl"]
    subprocess.run(compiler, check=True)
    return {"LD_PRELOAD": str(library)}


def test_programs() -> list[Command]:
    """Builds the tests, as `make test` does, and finds those that compute."""
    build = "cargo test --workspace --locked --no-run --message-format=json-render-diagnostics"
    messages = subprocess.run(build.split(), cwd=ROOT, stdout=subprocess.PIPE, check=True)
    commands = []
    for message in map(json.loads, messages.stdout.splitlines()):
        if message["reason"] != "compiler-artifact" or not message["executable"]:
            continue
        folder = Path(message["manifest_path"]).parent
        if message["target"]["name"] == "integration":
            commands.append(Command([message["executable"], *OF_THE_PROGRAM], folder))
        elif folder.name in CRATES and message["profile"]["test"]:
            commands.append(Command([message["executable"], *LEFT_OUT], folder))
    return commands


def checks() -> list[Check]:
    commands = test_programs()
    library = Path(commands[0].args[0]).parent
    here = flags()
    chosen = []
    for name, needed, env in lines(preloaded(library)):
        if here.issuperset(needed):
            chosen.append(Check(name, commands, env))
        else:
            print(f"left out, this processor has no {' '.join(needed)}: {name}")
    return chosen
