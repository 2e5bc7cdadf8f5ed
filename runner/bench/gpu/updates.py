"""An SAE's update next to libtorch's operations and sparsify: part 3 of the kit.

    python3 updates.py --bin FOLDER --out FOLDER --device cuda|cpu [--smoke]

Of each case: ours with the kernels that are faster on this GPU, ours with libtorch's operations alone
(`SAE_RUN_KERNELS=aten`), and sparsify 1.3.3, in bfloat16 (autocast) and through its Triton kernels. All start from the
same weights and take the same activations. Each update is timed between two waits for the GPU, but for the first few:
ours in turn, then sparsify's. If sparsify runs out of memory, it is tried again with the GPU to itself, and
then with its `micro_acc_steps`. `floor`: computed for an H100, see ../h100.py.
"""

import gc
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

import h100
import torch
from common import Settings, spread
from h100 import Case
from part import Part, read_args, with_index
from safetensors.torch import save_file

CASES = [
    Case(n_tokens, num_latents, k, d_in)
    for d_in, num_latents in ((4096, 131072), (768, 24576), (2304, 65536))
    for n_tokens in (16384, 4096)
    for k in (32, 192, 64)
]
SMALL_CASES = [Case(512, 1024, k, 96) for k in (8, 16)]
N_FIRST, N_TIMED = 3, 10
# Of an arm's updates in a case: after that, no more than a few are made.
MOST_S, FEW = 10, 3
# sparsify's parts of an update, and whether ours keep what they have of the GPU's memory.
ATTEMPTS = [(1, True), (1, False), (2, False), (4, False), (8, False)]
HEADER = """\
| d | F | N | k | ours, ms | aten, ms | sparsify, ms | sparsify / ours | floor, ms | ours / floor | GB at most: ours, \
aten, sparsify | FVU: aten, sparsify |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


class Arms:
    """Ours, each a process that is started when it is needed."""

    def __init__(self, settings: Settings):
        # sparsify looks at its environment when it is imported, and says what it found.
        if settings.device == "cpu":
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
        else:
            # Triton takes the GPU that is chosen, whatever its tensors are on.
            torch.cuda.set_device(settings.device)
        with redirect_stdout(sys.stderr):
            import step
        self.module = step
        self.settings = settings
        self.running: dict = {}

    def ours(self, name: str):
        if name not in self.running:
            kernels = "aten" if name == "aten" else None
            self.running[name] = self.module.Ours(self.settings, kernels)
        return self.running[name]

    def end(self, name: str) -> None:
        if arm := self.running.pop(name, None):
            arm.close()

    def end_all(self) -> None:
        for name in list(self.running):
            self.end(name)


class Activations:
    """The same for all arms; numbers that bfloat16 has, as a language model gives them."""

    def __init__(self, folder: Path):
        self.path = folder / "x.safetensors"
        self.x = torch.empty(0, 0)

    def of(self, case: Case) -> torch.Tensor:
        if self.x.shape != (case.n_tokens, case.d_in):
            torch.manual_seed(1)
            mean = torch.randn(case.d_in)
            self.x = (torch.randn(case.n_tokens, case.d_in) + mean).bfloat16().float()
            save_file({"x": self.x}, self.path)
        return self.x


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(arms: dict) -> dict[str, dict]:
    """Milliseconds of updates that the arms make in turn, and the FVU of the first."""
    first = {name: [arm.step()[1] for _ in range(N_FIRST)] for name, arm in arms.items()}
    ms: dict[str, list[float]] = {name: [] for name in arms}
    begun = time.monotonic()
    for idx in range(N_TIMED):
        if idx >= FEW and time.monotonic() - begun > MOST_S:
            break
        # Who goes first changes from round to round.
        for name, arm in list(arms.items())[:: 1 if idx % 2 == 0 else -1]:
            ms[name].append(1e3 * arm.step()[0])
    return {name: {"ms": ms[name], "fvu": first[name], "peak_bytes": arm.peak_bytes} for name, arm in arms.items()}


def of_ours(arms: Arms, case: Case, path: Path) -> dict[str, dict]:
    """Both in turn, or what kept them from it."""
    opened, found = {}, {}
    for name in ("ours", "aten"):
        try:
            arm = arms.ours(name)
            found[name] = arm.ask("open", x=str(path), num_latents=case.num_latents, k=case.k)
            opened[name] = arm
        except (SystemExit, OSError) as error:
            arms.end(name)
            found[name] = {"error": str(error)}
    try:
        for name, result in timed(opened).items():
            found[name] |= result
        for arm in opened.values():
            arm.ask("close")
    except (SystemExit, OSError) as error:
        arms.end_all()
        found |= {name: {"error": str(error)} for name in opened}
    return found


def of_sparsify(arms: Arms, case: Case, x: torch.Tensor) -> dict:
    for micro_acc_steps, beside_ours in ATTEMPTS:
        if not beside_ours:
            arms.end_all()
        try:
            theirs = arms.module.Theirs(x, case.num_latents, case.k, micro_acc_steps)
            return timed({"sparsify": theirs})["sparsify"] | {"micro_acc_steps": micro_acc_steps}
        except torch.OutOfMemoryError:
            say(f"    sparsify ran out of memory with micro_acc_steps = {micro_acc_steps}")
        except Exception as error:  # Ours count without it, too.
            return {"error": str(error)[-500:]}
        finally:
            theirs = None
            gc.collect()
            torch.cuda.empty_cache()
    return {"error": "out of memory"}


def measure(arms: Arms, activations: Activations, case: Case) -> dict:
    x = activations.of(case)
    found = of_ours(arms, case, activations.path)
    if arms.settings.device != "cpu":
        # As its command line has the language model.
        x = x.to(arms.settings.device, torch.bfloat16)
    found["sparsify"] = of_sparsify(arms, case, x)
    return vars(case) | {"floor_ms": h100.bounds(case).least(), "arms": found}


def table(cases: list[dict]) -> str:
    return "\n".join([HEADER, *map(row, cases)])


def row(found: dict) -> str:
    ours, aten, sparsify = (found["arms"][name] for name in ("ours", "aten", "sparsify"))
    cells = [found[key] for key in ("d_in", "num_latents", "n_tokens", "k")]
    cells += [cell(arm) for arm in (ours, aten, sparsify)]
    cells.append(ratio(sparsify, ours))
    cells += [f"{found['floor_ms']:.2f}", f"{median(ours['ms']) / found['floor_ms']:.2f}" if "ms" in ours else "-"]
    cells.append(", ".join(gigabytes(arm) for arm in (ours, aten, sparsify)))
    cells.append(", ".join(difference(arm, ours) for arm in (aten, sparsify)))
    return f"| {' | '.join(map(str, cells))} |"


def cell(arm: dict) -> str:
    if "ms" not in arm:
        return "failed"
    parts = arm.get("micro_acc_steps", 1)
    return spread(arm["ms"]) + (f" in {parts} parts" if parts > 1 else "")


def ratio(arm: dict, to: dict) -> str:
    return f"{median(arm['ms']) / median(to['ms']):.2f}" if "ms" in arm and "ms" in to else "-"


def gigabytes(arm: dict) -> str:
    n_bytes = arm.get("peak_bytes")
    return "-" if n_bytes is None else f"{n_bytes / 1e9:.1f}"


def difference(arm: dict, ours: dict) -> str:
    """Of the first update's FVU, relative to ours."""
    return f"{arm['fvu'][0] / ours['fvu'][0] - 1:+.1e}" if "fvu" in arm and "fvu" in ours else "-"


def main() -> None:
    args = read_args(__doc__)
    part = Part("updates", args)
    programs = [str(part.programs / name) for name in ("sae-run", "bench_step")]
    settings = Settings(*programs, "", os.cpu_count() or 1, 0, device=with_index(args.device))
    small = part.is_cpu or args.smoke
    with part.cases() as cases:
        arms, activations = Arms(settings), Activations(part.scratch)
        for case in SMALL_CASES if small else CASES:
            say(f"{case} ...")
            cases.append(measure(arms, activations, case))
            part.save()
            say(row(cases[-1]))
        arms.end_all()
    print(table(part.record["cases"]))


if __name__ == "__main__":
    main()
