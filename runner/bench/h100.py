"""What an update takes at least on an H100, computed: the table of docs/performance.md."""

from dataclasses import dataclass
from pathlib import Path

D_IN = 576
BYTES_PER_S = 3.35e12
# In float32, and what a product in bfloat16 reaches.
FLOPS, FLOPS_BF16 = 67e12, 800e12
DOCS = Path(__file__).resolve().parents[2] / "docs/performance.md"
HEADING = "## Computed for an H100, not measured"
HEADER = """\
| N | F | k | product, fp32 / bf16 | bf16 pre-activations, write and read | candidates in fp32 | 4 gathers | signum 20 P | all \
passes over weights as on CUDA now, 105 P |
|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Case:
    """Sizes of an update."""

    n_tokens: int
    num_latents: int
    k: int


@dataclass
class Bounds:
    """Milliseconds of the parts of an update, each by whichever is larger of operations and bytes."""

    product: float
    product_bf16: float
    pre_acts: float
    candidates: float
    gathers: float
    signum: float
    all_passes: float

    def least(self) -> float:
        """With pre-activations in bf16 that never leave the chip, and 20 bytes for each weight."""
        return self.product_bf16 + self.gathers + self.signum

    def as_now(self) -> float:
        """One part after the other, as this project does it on CUDA."""
        products = self.product_bf16 + self.pre_acts + self.candidates
        return products + self.gathers + self.all_passes


def bounds(case: Case) -> Bounds:
    n_tokens, num_latents, k = case.n_tokens, case.num_latents, case.k
    operations = 2 * n_tokens * D_IN * num_latents
    n_weights = 2 * num_latents * D_IN
    ms_of_bytes = lambda n_bytes: 1e3 * n_bytes / BYTES_PER_S
    return Bounds(
        product=1e3 * operations / FLOPS,
        product_bf16=1e3 * operations / FLOPS_BF16,
        pre_acts=ms_of_bytes(2 * 2 * n_tokens * num_latents),
        candidates=ms_of_bytes(4 * n_tokens * (k + k // 4 + 4) * D_IN),
        gathers=ms_of_bytes(4 * 4 * n_tokens * k * D_IN),
        signum=ms_of_bytes(20 * n_weights),
        # 102 of gradients and optimizer, and 6 for each weight of the encoder, which is half of them.
        all_passes=ms_of_bytes(105 * n_weights),
    )


def row(case: Case) -> str:
    part = bounds(case)
    cells = [
        case.n_tokens,
        case.num_latents,
        case.k,
        f"{part.product:.3f} / {part.product_bf16:.3f} ms",
        *(f"{ms:.3f} ms" for ms in (part.pre_acts, part.candidates, part.gathers, part.signum)),
        f"{part.all_passes:.2f} ms",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def check_docs() -> None:
    """Ends the program if the table of the docs is not the one that these formulas give."""
    section = DOCS.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    rows = table[2:]
    cases = [Case(*(int(cell) for cell in line.split("|")[1:4])) for line in rows]
    expected = [*HEADER.splitlines(), *map(row, cases)]
    if not cases or table != expected:
        raise SystemExit("error: docs/performance.md has another table:\n" + "\n".join(expected))


if __name__ == "__main__":
    check_docs()
