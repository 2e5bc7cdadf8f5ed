"""A sweep compared with dictionary_learning, which trains it on one pass over the activations, too.

Its SAEs start from other weights and learn by another rule (Adam; by its own defaults), so that FVU
cannot be equal. What is checked is that each of its jobs learns: its FVU is finite and falls.
"""

import math
import sys
from pathlib import Path

import whole_run
from common import D_IN, Settings
from whole_run import Run, Work, run_peer


def dictionary_learning(work: Work, settings: Settings, folder: Path) -> Run:
    (hookpoint,) = work.hookpoints
    order = {
        "n_updates": work.n_updates,
        "layer": int(hookpoint.removeprefix("layers.")),
        "d_in": D_IN,
        "jobs": [(k, factor * D_IN) for k, factor in work.jobs()],
        "save_dir": str(folder / "dictionary_learning"),
    }
    wall_s, peak_bytes, answer = run_peer("dictionary_run.py", order, work, settings, folder)
    ends = answer["update_ends_s"]
    if len(ends) != work.n_updates:
        sys.exit(f"error: dictionary_learning made {len(ends)} updates, not {work.n_updates}")
    fvu = [[[of_update] for of_update in job] for job in answer["fvu"]]
    return Run(wall_s, peak_bytes, work.s_per_token(ends), fvu)


def check_learning(run: Run, work: Work) -> None:
    for (k, factor), updates in zip(work.jobs(), run.fvu, strict=True):
        fvu = [of_update for (of_update,) in updates]
        if not (all(math.isfinite(value) for value in fvu) and 0 < fvu[-1] < fvu[0]):
            sys.exit(f"error: dictionary_learning's FVU at k={k}, {factor}x does not fall: {fvu}")


def measure(work: Work, settings: Settings) -> dict:
    runs = whole_run.in_turn([whole_run.ours, dictionary_learning], work, settings)
    for run in runs["dictionary_learning"]:
        check_learning(run, work)
    return whole_run.record_of(work, runs)
