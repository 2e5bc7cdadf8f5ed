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

FLOORS_HEADING = "## Floors of an update on an H100, computed"
FLOORS_HEADER = """\
| d | F | k | product in bf16 | 4 gathers | signum 20 P | together | for each token |
|---|---|---|---|---|---|---|---|"""
# Widths and latents of SAEs on Llama-3-8B, Gemma-2-2B and Pythia-160M, and tokens of an update.
LARGE = [(4096, 131072), (2304, 65536), (768, 24576)]
N_TOKENS = 16384


@dataclass(frozen=True)
class Case:
    """Sizes of an update."""

    n_tokens: int
    num_latents: int
    k: int
    d_in: int = D_IN


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
    operations = 2 * n_tokens * case.d_in * num_latents
    n_weights = 2 * num_latents * case.d_in
    ms_of_bytes = lambda n_bytes: 1e3 * n_bytes / BYTES_PER_S
    return Bounds(
        product=1e3 * operations / FLOPS,
        product_bf16=1e3 * operations / FLOPS_BF16,
        pre_acts=ms_of_bytes(2 * 2 * n_tokens * num_latents),
        candidates=ms_of_bytes(4 * n_tokens * (k + k // 4 + 4) * case.d_in),
        gathers=ms_of_bytes(4 * 4 * n_tokens * k * case.d_in),
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


def floor_row(case: Case) -> str:
    """What an update takes at least, of an SAE on a large model."""
    part = bounds(case)
    cells = [
        case.d_in,
        case.num_latents,
        case.k,
        *(f"{ms:.1f} ms" for ms in (part.product_bf16, part.gathers, part.signum, part.least())),
        f"{1e3 * part.least() / case.n_tokens:.2f} us",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def section(heading: str) -> list[str]:
    """The lines of the first table below a heading of the docs."""
    text = DOCS.read_text(encoding="utf-8").partition(heading)[2].partition("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("|")]


def check_docs() -> None:
    """Ends the program if the tables of the docs are not those that these formulas give."""
    table = section(HEADING)
    cases = [Case(*(int(cell) for cell in line.split("|")[1:4])) for line in table[2:]]
    floors = [floor_row(Case(N_TOKENS, num_latents, k, d_in)) for d_in, num_latents in LARGE for k in (32, 64, 192)]
    for heading, expected in {
        HEADING: [*HEADER.splitlines(), *map(row, cases)],
        FLOORS_HEADING: [*FLOORS_HEADER.splitlines(), *floors],
    }.items():
        if not cases or section(heading) != expected:
            raise SystemExit(f"error: {DOCS} has another table below `{heading}`:\n" + "\n".join(expected))


if __name__ == "__main__":
    check_docs()
