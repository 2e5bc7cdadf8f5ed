"""Sweeps of k-sparse autoencoders from Python.

`run`, `train` and `plan` start the program `sae-run`; `results`, `curves`, `evaluations` and `sql` read what it
recorded; `load` gives its SAEs as modules of PyTorch, and `splice` puts them into a language model; `encode` gathers
the active latents of texts.

Importing this package imports neither PyTorch nor pandas: what needs them says so.
"""

from __future__ import annotations

from ._database import Job, curves, evaluations, results, show, sql
from ._errors import SaeRunError
from ._plan import Memory, Plan, PlannedJob, PlannedSae, Stream, plan
from ._progress import StreamProgress
from ._program import find_program
from ._run import Run, run, train

__all__ = [
    "Job",
    "Memory",
    "Plan",
    "PlannedJob",
    "PlannedSae",
    "SaeRunError",
    "Run",
    "Stream",
    "StreamProgress",
    "curves",
    "evaluations",
    "find_program",
    "plan",
    "results",
    "run",
    "show",
    "sql",
    "train",
]
