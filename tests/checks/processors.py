"""The numeric crates' tests, publishing's proof and `verify-resume`, computed as other processors compute,
with other numbers of threads, other memory and other settings of the system. What this processor lacks is
left out, and said so.
"""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from check import Check, Command, test_programs

# Crates whose tests compute, by their folders. Those that start several processes take minutes, and compute
# nothing that the others do not.
CRATES = {"kernels", "sae", "lm", "train"}
# What NVRTC compiles is the same on any processor. Longer trainings that continue shorter ones resume as others do.
LEFT_OUT = ["ranks_tests", "spread_tests", "nvrtc", "extension_tests"]
# Where our own kernels alone differ from those of another line.
OF_KERNELS = {"kernels", "sae"}
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
# MKL's code for all processors, while the variable above is for Intel's.
COMPATIBLE = {"MKL_CBWR": "COMPATIBLE"}
ELSEWHERE = {"TZ": "Pacific/Chatham", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}


def threads(n: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(n)}


@dataclass
class Line:
    """What to compute like, the flags that a processor must have for it, tests that make no sense then, and the crates
    whose tests are enough, if not all are needed."""

    name: str
    env: dict[str, str]
    needs: set[str] = field(default_factory=set)
    skips: list[str] = field(default_factory=list)
    crates: set[str] = field(default_factory=set)

    def commands(self, programs: list[Command]) -> list[Command]:
        skips = [arg for test in self.skips for arg in ("--skip", test)]
        chosen = [program for program in programs if not self.crates or program.folder.name in self.crates]
        return [Command([*program.args, *skips], program.folder) for program in chosen]


def lines(odd_alignment: dict[str, str]) -> list[Line]:
    no_avx512 = {"SAE_RUN_CPU_CAPABILITY": "avx2", "SAE_RUN_KERNELS": "float32"}
    no_avx2 = {"SAE_RUN_CPU_CAPABILITY": "default", "SAE_RUN_KERNELS": "float32"}
    aten = {"SAE_RUN_KERNELS": "aten"}
    return [
        Line("baseline, 1 thread", {**BASELINE, **COMPATIBLE, **threads(1)}),
        Line("AVX2, 3 threads", {**AVX2, **threads(3)}, {"avx2"}),
        Line("AVX-512, 2 threads", {**AVX512, **threads(2)}, {"avx512f"}),
        Line("tiles, 3 threads", threads(3), {"amx_bf16"}),
        Line("kernels without AVX2", {**no_avx2, **threads(2)}, {"avx2"}),
        Line("kernels without AVX-512", {**no_avx512, **threads(1)}, {"avx512f"}, crates=OF_KERNELS),
        # Those of the kernels compare them with libtorch.
        # libtorch's sums by latent on the CPU change their order with the number of entries: that of dead latents.
        Line(
            "libtorch's operations",
            {**aten, **threads(2)},
            skips=["kernels::", "sparse::", "latents_that_might_be_dead"],
        ),
        Line("odd alignment, elsewhere", {**odd_alignment, **ELSEWHERE, **threads(2)}),
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
    compiler = ["c++", "-xc", "-O2", "-shared", "-fPIC", source, "-o", library, "-ldl"]
    subprocess.run(compiler, check=True)
    return {"LD_PRELOAD": str(library)}


def checks() -> list[Check]:
    programs = test_programs(CRATES, LEFT_OUT, OF_THE_PROGRAM)
    library = Path(programs[0].args[0]).parent
    here = flags()
    chosen = []
    for line in lines(preloaded(library)):
        if lacking := line.needs - here:
            print(f"left out, this processor has no {' '.join(lacking)}: {line.name}")
        else:
            chosen.append(Check(line.name, line.commands(programs), line.env))
    return chosen
