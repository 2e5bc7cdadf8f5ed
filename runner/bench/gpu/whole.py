"""Whole runs next to sparsify 1.3.3, from process start to checkpoint: part 4 of the kit.

    python3 whole.py --shape pythia|gemma|llama --bin FOLDER --out FOLDER --device cuda|cpu [--smoke]

The language model has the shape of Pythia-160M, Gemma-2-2B or Llama-3-8B and random weights, made here: speed does
not depend on them. Tokens are drawn, too. Both train on the same, in bfloat16 on a GPU: first one SAE on a layer in the
middle, then a sweep of eight (k in {16, 32, 64, 128}, two sizes) on one pass through the model. sparsify makes a run
for each job, so what it takes for the sweep is computed: four times its runs of both sizes with k = 32. On a GPU it
draws other weights than ours.

Tokens, and the digest of the model that `sae-run plan` keeps, are made before the clock starts.
"""

import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import whole_run
from common import Settings, our_environment
from part import Part, parser_of, with_index
from transformers import AutoConfig, AutoModel
from whole_run import BATCH_SIZE, Run, Work, fvu_differences

N_UPDATES = 6
SWEEP_K = [16, 32, 64, 128]
SHARD = "2GB"
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
# Ids that do not fit into 16 bit.
TINY_GROUPED = TINY | {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 70_000}
HEADER = """\
| SAEs | us a token: ours, sparsify | times | s from start to end: ours, sparsify | times | GB at most: ours, sparsify \
| part of theirs | FVU of the first update differs by |
|---|---|---|---|---|---|---|---|"""


@dataclass
class Shape:
    """A language model's, and what is trained on it."""

    model_type: str
    layer_idx: int
    num_latents: int
    # What is not as `model_type` has it by default.
    config: dict = field(default_factory=dict)
    tiny: dict = field(default_factory=lambda: TINY_GROUPED)
    ctx_len: int = 2048

    def made_small(self) -> "Shape":
        return Shape(self.model_type, 1, 512, self.config | self.tiny, ctx_len=64)


# Pythia-160M, Gemma-2-2B and Llama-3-8B.
SHAPES = {
    "pythia": Shape(
        "gpt_neox",
        6,
        24576,
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 50304,
        },
        TINY,
    ),
    "gemma": Shape("gemma2", 13, 65536),
    "llama": Shape(
        "llama",
        16,
        131072,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
        },
    ),
}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def make_model(shape: Shape, device: str, folder: Path) -> int:
    """Writes it, drawn on `device`; the size of its vocabulary."""
    config = AutoConfig.for_model(shape.model_type, **shape.config)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD)
    del model
    torch.cuda.empty_cache()
    return config.vocab_size


def make_tokens(n_vocab: int, ctx_len: int, path: Path) -> None:
    dtype = np.uint16 if n_vocab <= 1 << 16 else np.uint32
    ids = np.random.default_rng(0).integers(0, n_vocab, (N_UPDATES * BATCH_SIZE, ctx_len))
    path.write_bytes(ids.astype(dtype).tobytes())


def works(shape: Shape) -> dict[str, Work]:
    def work(name: str, k: list[int], sizes: list[int]) -> Work:
        return Work(name, [f"layers.{shape.layer_idx}"], k, sizes, N_UPDATES, shape.ctx_len, "num_latents")

    whole, half = shape.num_latents, shape.num_latents // 2
    return {
        "one": work("one", [32], [whole]),
        "half": work("one of half the size", [32], [half]),
        "sweep": work("eight", SWEEP_K, [half, whole]),
    }


def digest_model(settings: Settings, folder: Path, work: Work) -> None:
    (folder / "bench.toml").write_text(whole_run.sweep_text(work, settings), encoding="utf-8")
    whole_run.timed([settings.binary, "plan", "bench.toml"], our_environment(settings), folder)


def measure(part: Part, shape: Shape, settings: Settings, cases: list[dict]) -> None:
    folder = part.scratch
    n_vocab = make_model(shape, settings.device, Path(settings.model_dir))
    say("the model is written")
    make_tokens(n_vocab, shape.ctx_len, Path(settings.dataset))
    todo = works(shape)
    whole_run.write_tokens(todo["one"], settings, folder)
    digest_model(settings, folder, todo["one"])
    say("tokens and digest are made")
    for name, arm in [("one", "ours"), ("one", "sparsify"), ("sweep", "ours"), ("half", "sparsify")]:
        work = todo[name]
        result = {"name": name, "arm": arm, "work": asdict(work)}
        try:
            run = getattr(whole_run, arm)(work, settings, folder)
            result |= asdict(run)
            say(f"{arm}, {work.name}: {run.wall_s:.1f} s, {1e6 * run.s_per_token:.2f} us a token")
        except SystemExit as error:
            result["error"] = str(error)
            say(f"{arm}, {work.name}: {error}")
        cases.append(result)
        part.save()
        # Checkpoints take gigabytes.
        for written in ("runs", "sparsify"):
            shutil.rmtree(folder / written, ignore_errors=True)


def found(cases: list[dict], name: str, arm: str) -> Run | None:
    """`None`: it was not run, or failed."""
    keys = Run.__dataclass_fields__
    for case in cases:
        if (case["name"], case["arm"]) == (name, arm) and "error" not in case:
            return Run(**{key: case[key] for key in keys})
    return None


def of_eight(whole: Run | None, half: Run | None) -> Run | None:
    """What sparsify takes for eight runs, computed."""
    if whole is None or half is None:
        return None
    return Run(
        wall_s=4 * (whole.wall_s + half.wall_s),
        peak_bytes=max(whole.peak_bytes, half.peak_bytes),
        s_per_token=4 * (whole.s_per_token + half.s_per_token),
        fvu=[],
        gpu_peak_bytes=whole.gpu_peak_bytes,
    )


def table(cases: list[dict]) -> str:
    one, theirs = (found(cases, "one", arm) for arm in ("ours", "sparsify"))
    sweep = found(cases, "sweep", "ours")
    eight = of_eight(theirs, found(cases, "half", "sparsify"))
    fvu = None
    if one and theirs:
        work = Work(**next(case["work"] for case in cases))
        fvu = fvu_differences(one, theirs, work)[0]
    rows = [row("one", one, theirs), row("eight; sparsify's computed: four times both sizes", sweep, eight)]
    return "\n".join([HEADER, f"{rows[0]} {number(fvu, '.1e')} |", f"{rows[1]} - |"])


def row(name: str, ours: Run | None, theirs: Run | None) -> str:
    """Without the last cell."""
    runs = (ours, theirs)
    memory = "gpu_peak_bytes" if any(run and run.gpu_peak_bytes for run in runs) else "peak_bytes"
    cells = [name]
    for key, factor, digits in (("s_per_token", 1e6, ".2f"), ("wall_s", 1, ".1f"), (memory, 1e-9, ".1f")):
        values = [(getattr(run, key) if run else None) for run in runs]
        cells.append(", ".join(number(value and factor * value, digits) for value in values))
        # How much less ours takes; of memory, how much of theirs.
        above, below = values if key == memory else values[::-1]
        cells.append(number(above / below if above and below else None, ".2f"))
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: str) -> str:
    return "-" if value is None else format(value, digits)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    args = parser.parse_args()
    part = Part(f"whole-{args.shape}", args)
    shape = SHAPES[args.shape]
    if part.is_cpu or args.smoke:
        shape = shape.made_small()
    model_dir, dataset = (str(part.scratch / name) for name in ("model", "drawn.bin"))
    binary = str(part.programs / "sae-run")
    settings = Settings(binary, "", model_dir, torch.get_num_threads(), 1, with_index(args.device), dataset)
    with part.cases() as cases:
        measure(part, shape, settings, cases)
    print(table(part.record["cases"]))


if __name__ == "__main__":
    main()
