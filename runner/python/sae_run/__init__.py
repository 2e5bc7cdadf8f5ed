"""Sweeps of k-sparse autoencoders from Python.

`run`, `train` and `plan` start the program `sae-run`; `results`, `curves`, `evaluations` and `sql` read what it
recorded; `load` gives its SAEs as modules of PyTorch, and `splice` puts them into a language model; `encode` gathers
the active latents of texts.

Importing this package imports neither PyTorch nor pandas: what needs them says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._database import Job, curves, evaluations, results, show, sql
from ._encode import encode
from ._errors import SaeRunError
from ._load import load
from ._plan import Memory, Plan, PlannedJob, PlannedSae, Stream, plan
from ._program import find_program
from ._progress import StreamProgress
from ._run import Run, run, train

if TYPE_CHECKING:
    from ._sae import Encoded, Reconstruction, Sae, SaeConfig
    from ._splice import Splice, splice

__all__ = [
    "Encoded",
    "Job",
    "Memory",
    "Plan",
    "PlannedJob",
    "PlannedSae",
    "Reconstruction",
    "Run",
    "Sae",
    "SaeConfig",
    "SaeRunError",
    "Splice",
    "Stream",
    "StreamProgress",
    "curves",
    "encode",
    "evaluations",
    "find_program",
    "load",
    "plan",
    "results",
    "run",
    "show",
    "splice",
    "sql",
    "train",
]

# What is in modules that import PyTorch.
_OF_TORCH = {
    **dict.fromkeys(["Encoded", "Reconstruction", "Sae", "SaeConfig"], "_sae"),
    **dict.fromkeys(["Splice", "splice"], "_splice"),
}


def __getattr__(name: str) -> Any:
    if name not in _OF_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from ._frames import needed

    needed("torch")
    return getattr(import_module(f".{_OF_TORCH[name]}", __name__), name)
