"""The active latents of texts, as a data frame."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ._database import Folder, Job, named, store
from ._errors import SaeRunError
from ._frames import Library, needed
from ._program import call, option

if TYPE_CHECKING:
    import pandas
    import polars

# Bytes that the texts of one command line may have.
_MAX_ARGUMENT_BYTES = 100_000


@overload
def encode(
    texts: str | Iterable[str] | None,
    job: str | os.PathLike[str] | Job,
    *,
    hookpoints: str | Sequence[str] | None = None,
    runs_dir: Folder | None = None,
    as_: Literal["pandas"] = "pandas",
    **options: Any,
) -> pandas.DataFrame: ...
@overload
def encode(
    texts: str | Iterable[str] | None,
    job: str | os.PathLike[str] | Job,
    *,
    hookpoints: str | Sequence[str] | None = None,
    runs_dir: Folder | None = None,
    as_: Literal["polars"],
    **options: Any,
) -> polars.DataFrame: ...
def encode(
    texts: str | Iterable[str] | None,
    job: str | os.PathLike[str] | Job,
    *,
    hookpoints: str | Sequence[str] | None = None,
    runs_dir: Folder | None = None,
    as_: Library = "pandas",
    **options: Any,
) -> Any:
    """A row for each latent that is active at a token, the strongest first, in the order of the texts.

    Columns: `sequence` (index of the text), `position`, `token_id`, `sae`, `hookpoint`, `latent`, `activation`.

    `job`: what `load` takes, of which `hookpoints` (shell patterns) chooses SAEs. `options`: those of `sae-run encode`,
    such as `top=3`, `device="cpu"`, `model=...`; with `dataset=...` there are no `texts`.

    The program writes a Parquet file, or a safetensors file if the frame is of pandas and pyarrow is not installed; the
    rows and types are the same.
    """
    library = needed(as_)
    is_parquet = as_ == "polars" or importlib.util.find_spec("pyarrow") is not None
    if isinstance(job, Job):
        job, runs_dir = named(job, runs_dir)
    chosen = [hookpoints] if isinstance(hookpoints, str) else hookpoints
    args = ["encode", "--quiet", *store(runs_dir), *option("hookpoint", chosen and ",".join(chosen))]
    for name, value in options.items():
        args += _option(name.replace("_", "-"), value)
    source, stdin = _input(texts)
    with tempfile.TemporaryDirectory(prefix="sae-run-") as folder:
        out = Path(folder) / ("latents.parquet" if is_parquet else "latents.safetensors")
        call([*args, *source, f"--out={out}", "--", os.fspath(job)], stdin=stdin)
        if is_parquet:
            return library.read_parquet(out)
        return _of_tensors(out, library)


def _option(name: str, value: object) -> list[str]:
    """A switch has no value."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return option(name, value)


def _input(texts: str | Iterable[str] | None) -> tuple[list[str], str | None]:
    """The options for the texts, and what is written to standard input: a line for each, if each is one line."""
    if texts is None:
        return [], None
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("there are no texts")
    if not any("\n" in text or text.endswith("\r") for text in texts):
        return ["--text-file=-"], "".join(f"{text}\n" for text in texts)
    if sum(len(text.encode()) for text in texts) > _MAX_ARGUMENT_BYTES:
        hint = "write them into a data set, such as a JSON Lines file, and give its path as `dataset`"
        raise SaeRunError("these texts, with line ends in them, are too long for a command line", hint)
    return [f"--text={text}" for text in texts], None


def _of_tensors(path: Path, pandas: Any) -> Any:
    """The table that the tensors of a file are, as the same in Parquet is read."""
    with needed("safetensors").safe_open(path, framework="numpy") as file:
        saes = json.loads(file.metadata()["saes"])
        columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    index = columns.pop("sae")
    for column, key in (("sae", "name"), ("hookpoint", "hookpoint")):
        names = [sae[key] for sae in saes]
        columns[column] = pandas.Categorical(names, categories=[*dict.fromkeys(names)]).take(index)
    order = ["sequence", "position", "token_id", "sae", "hookpoint", "latent", "activation"]
    return pandas.DataFrame({name: columns[name] for name in order})
