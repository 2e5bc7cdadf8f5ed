"""What the measurements share."""

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

D_IN = 576
LIBTORCH = Path(torch.__file__).parent / "lib"
NOVEL = Path(__file__).resolve().parents[2] / "sweeps/data/moby_dick.jsonl"


@dataclass
class Settings:
    """What was asked for."""

    binary: str
    bench_step: str
    model_dir: str
    threads: int
    rounds: int
    device: str = "cpu"
    dataset: str = str(NOVEL)

    @property
    def dtype(self) -> str:
        """What the language model computes in: on a GPU as sparsify's command line has it."""
        return "float32" if self.device == "cpu" else "bfloat16"


def our_environment(settings: Settings) -> dict[str, str]:
    """That of our programs: this Python's libtorch, and the number of threads that sparsify has."""
    libraries = [str(LIBTORCH), os.environ.get("LD_LIBRARY_PATH")]
    libraries = ":".join(folder for folder in libraries if folder)
    return os.environ | {"OMP_NUM_THREADS": str(settings.threads), "LD_LIBRARY_PATH": libraries}


def demo_model() -> Path:
    """Where `setup.sh` puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sae-run"
    return Path(os.environ.get("SAE_RUN_CACHE") or cache) / "models/SmolLM2-135M-Instruct"


def spread(values: list[float], unit: str = "") -> str:
    """The median, and from the lowest to the highest."""
    return f"{median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"
