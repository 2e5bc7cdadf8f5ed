"""A sweep over kinds of SAEs compared with SAELens: with one of its runs for each job, and with all jobs in one run.

Jobs have SAELens's own settings, ours by its presets. Its SAEs begin from other weights, so that FVU cannot be
equal. What is checked in each arm is that each job learns, that its L0 is what it is trained for, and that both arms
reach about the same FVU.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import whole_run
from common import D_IN, Settings
from whole_run import Run, Work, run_peer

# Architectures of SAELens and the presets that train them.
PRESETS = {
    "topk": "saelens-topk",
    "batchtopk": "saelens-batchtopk",
    "matryoshka_batchtopk": "saelens-matryoshka",
    "jumprelu": "saelens-jumprelu",
}
# SAELens's default is 3e-4, with which TopK hardly learns in a run as short as these.
LR = 1e-3
# Relative. Latents of BatchTopK that are not positive do not count as active.
MOST_OF_L0 = 0.01
# Relative, of the last update.
MOST_OF_FVU = 0.1


@dataclass
class Kinds(Work):
    """Every kind with every `k`, in one size."""

    # From which pre-activation on JumpReLU begins to let latents be active: about where its L0 is `k`. From SAELens's
    # own 0.01 on, half of all latents are active for the first thousands of updates.
    jumprelu_init_threshold: float = 0.0

    def num_latents(self) -> int:
        (factor,) = self.sizes
        return factor * D_IN

    def saes(self) -> list[dict]:
        """The jobs by SAELens's names."""
        return [{"architecture": kind, **self.of_kind(kind, k)} for kind in PRESETS for k in self.k]

    def of_kind(self, kind: str, k: int) -> dict:
        """The settings that have the same name in both arms."""
        if kind == "jumprelu":
            return {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": float(k),
                "l0_coefficient": 1.0,
                "l0_warm_up_steps": self.n_updates // 2,
                "jumprelu_init_threshold": self.jumprelu_init_threshold,
            }
        if kind == "matryoshka_batchtopk":
            return {"k": k, "matryoshka_widths": [self.num_latents() // part for part in (8, 4, 2, 1)]}
        return {"k": k}


def ours(work: Kinds, settings: Settings, folder: Path) -> Run:
    jobs = [{"preset": PRESETS[sae.pop("architecture")], **sae} for sae in work.saes()]
    # What Python writes, it reads.
    (folder / "kinds.py").write_text(f"def plan(request):\n    return {jobs!r}\n", encoding="utf-8")
    train = whole_run.train_settings(work, settings) | {"num_latents": work.num_latents(), "lr": LR}
    text = whole_run.sweep_of("kinds", {"train": train}, settings)
    return whole_run.run_sweep(text, work, settings, folder)


def saelens(work: Kinds, settings: Settings, folder: Path) -> Run:
    total = Run(0.0, 0, 0.0, [])
    for sae in work.saes():
        add(total, saelens_run([sae], work, settings, folder))
    return total


def saelens_in_one_run(work: Kinds, settings: Settings, folder: Path) -> Run:
    return saelens_run(work.saes(), work, settings, folder)


def saelens_run(saes: list[dict], work: Kinds, settings: Settings, folder: Path) -> Run:
    (hookpoint,) = work.hookpoints
    order = {
        "n_updates": work.n_updates,
        "lr": LR,
        "layer": int(hookpoint.removeprefix("layers.")),
        "saes": [{"d_in": D_IN, "d_sae": work.num_latents(), **sae} for sae in saes],
        "save_dir": str(folder / "saelens"),
    }
    wall_s, peak_bytes, answer = run_peer("saelens_run.py", order, work, settings, folder)
    ends = answer["update_ends_s"]
    if len(ends) != work.n_updates:
        sys.exit(f"error: SAELens made {len(ends)} updates, not {work.n_updates}")
    fvu, l0 = ([[[value] for value in job] for job in answer[name]] for name in ("fvu", "l0"))
    return Run(wall_s, peak_bytes, work.s_per_token(ends), fvu, l0=l0)


def add(total: Run, run: Run) -> None:
    total.wall_s += run.wall_s
    total.peak_bytes = max(total.peak_bytes, run.peak_bytes)
    total.s_per_token += run.s_per_token
    total.fvu += run.fvu
    total.l0 += run.l0


def check_learning(arm: str, run: Run, work: Kinds) -> None:
    for sae, fvu, l0 in zip(work.saes(), run.fvu, run.l0, strict=True):
        fvu, l0 = ([of_update for (of_update,) in updates] for updates in (fvu, l0))
        if not (all(math.isfinite(value) for value in fvu) and 0 < fvu[-1] < fvu[0]):
            sys.exit(f"error: the FVU of {sae} does not fall in {arm}: {fvu}")
        k = sae.get("k")
        if not all(abs(value / k - 1) <= MOST_OF_L0 if k else value > 0 for value in l0):
            sys.exit(f"error: the L0 of {sae} is another one in {arm}: {l0}")


def check_same_fvu(mine: Run, other: Run, work: Kinds) -> None:
    for sae, ours_fvu, other_fvu in zip(work.saes(), mine.fvu, other.fvu, strict=True):
        (a,), (b,) = ours_fvu[-1], other_fvu[-1]
        if not abs(a / b - 1) <= MOST_OF_FVU:
            sys.exit(f"error: the last FVU of {sae} is {a:.4f} in ours, {b:.4f} in SAELens")


def measure(work: Kinds, settings: Settings) -> dict:
    runs = whole_run.in_turn([ours, saelens, saelens_in_one_run], work, settings)
    for arm, of_arm in runs.items():
        for run in of_arm:
            check_learning(arm, run, work)
            check_same_fvu(runs["ours"][0], run, work)
    return whole_run.record_of(work, runs)
