"""SAEs of jobs, folders and repositories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ._database import Folder, Job, show
from ._errors import SaeRunError
from ._frames import needed

if TYPE_CHECKING:
    import torch

    from ._folders import Found
    from ._sae import Sae


def load(
    source: str | os.PathLike[str] | Job,
    *,
    hookpoints: str | Iterable[str] | None = None,
    runs_dir: Folder | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> dict[str, Sae]:
    """The SAEs of a job, a folder or a repository on the Hub, by name, in natural order (`layers.2`, `layers.10`).

    `source` is a folder of an SAE or with one for each hookpoint, as sparsify or SAELens writes them, or of a
    crosscoder, as `sae-run` writes it; the id of a repository, `owner/name`; or the name or id of a job, or the
    beginning of its id. With several seeds, names are such as `layers.2/seed1`. `hookpoints`: only the SAEs whose names
    match one of these shell patterns. `revision`: branch, tag or commit of a repository. Without `dtype`, weights stay
    what they are on disk, and without `device` they are on the CPU.
    """
    torch = needed("torch")
    from ._folders import chosen, read_sae

    found = _find(source, hookpoints, runs_dir, revision)
    names = chosen([sae.name for sae in found], hookpoints, str(source))
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return {sae.name: read_sae(sae, device or "cpu", dtype) for sae in found if sae.name in names}


def _find(
    source: str | os.PathLike[str] | Job,
    hookpoints: str | Iterable[str] | None,
    runs_dir: Folder | None,
    revision: str | None,
) -> list[Found]:
    from ._folders import find_saes

    if isinstance(source, Job):
        return _of_job(source, runs_dir)
    text = os.fspath(source)
    if isinstance(source, os.PathLike) or os.path.isdir(text):
        return find_saes(Path(text))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return _of_repo(text, hookpoints, revision)
    return _of_job(text, runs_dir)


def _of_job(job: str | Job, runs_dir: Folder | None) -> list[Found]:
    from ._folders import Found, natural

    shown = show(job, runs_dir=runs_dir)
    # Where the program finds them: as it names them, from the folder that it was started in.
    folders = [Path(file["path"]) for file in shown["files"]]
    found = [
        Found(sae["name"], folder)
        for sae in shown["saes"]
        for folder in folders
        if sae.get("checkpoint") and folder.as_posix().endswith("/" + sae["checkpoint"])
    ]
    if not found:
        raise SaeRunError(f"job {shown['job_id']} has no checkpoint yet", "run its sweep, and load it then")
    return sorted(found, key=lambda sae: natural(sae.name))


def _of_repo(repo: str, hookpoints: str | Iterable[str] | None, revision: str | None) -> list[Found]:
    """Downloads what is needed of a repository: every folder in it with `cfg.json` and weights is an SAE."""
    from ._folders import CONFIG_FILE, LAYOUTS, Found, chosen, natural

    hub = needed("huggingface_hub")
    listed = set(map(PurePosixPath, hub.list_repo_files(repo, revision=revision)))
    saes = {}
    for config in (path for path in listed if path.name == CONFIG_FILE):
        layouts = (config.parent / name for name in LAYOUTS)
        if weights := next((path for path in layouts if path in listed), None):
            name = str(config.parent) if config.parent.name else repo.split("/")[1]
            saes[name] = (config, weights)
    # What is within the folder of an SAE is the same SAE in another layout.
    folders = {config.parent for config, _ in saes.values()} - {PurePosixPath()}
    saes = {name: files for name, files in saes.items() if not folders & {*files[0].parent.parents}}
    names = chosen(sorted(saes, key=natural), hookpoints, repo)
    if not names:
        raise SaeRunError(f"there is no SAE in `{repo}`", "an SAE is a folder with cfg.json and its weights")
    patterns = [str(path) for name in names for path in saes[name]]
    folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    return [Found(name, folder / saes[name][0].parent) for name in names]
