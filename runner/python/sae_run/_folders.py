"""SAEs on disk, in sparsify's layout and in SAELens's, and crosscoders in crosscoder_learning's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._crosscoder import CROSSCODER_WEIGHTS_FILE, read_crosscoder
from ._errors import SaeRunError
from ._sae import Sae, SaeConfig
from ._saelens import SAELENS_WEIGHTS_FILE, read_saelens
from ._weights import Weights, hookpoints_of

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
# What a folder has besides cfg.json; the first that is there is read.
LAYOUTS = (WEIGHTS_FILE, CROSSCODER_WEIGHTS_FILE, SAELENS_WEIGHTS_FILE)


class Found(NamedTuple):
    """An SAE on disk."""

    name: str
    folder: Path


def find_saes(folder: Path) -> list[Found]:
    """The SAEs of a folder: itself, or one in it for each hookpoint, or for each hookpoint one for each seed."""
    folder = folder.resolve()
    if _is_sae(folder):
        return [Found(_name(folder), folder)]
    found: list[Found] = []
    for below in filter(Path.is_dir, folder.iterdir()):
        seeds = [below] if _is_sae(below) else [seed for seed in below.glob("seed*") if _is_sae(seed)]
        found.extend(Found(_name(sae), sae) for sae in seeds)
    if not found:
        raise SaeRunError(
            f"there is no SAE in `{folder}`",
            f"an SAE is a folder with {CONFIG_FILE} and its weights, such as {WEIGHTS_FILE}",
        )
    return sorted(found, key=lambda sae: natural(sae.name))


def natural(name: str) -> list[Any]:
    """A key that sorts `layers.2` before `layers.10`."""
    parts = re.split(r"(\d+)", name)
    # Between texts there are numbers, so like is compared with like.
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def chosen(names: Iterable[str], patterns: Iterable[str] | None, location: str) -> list[str]:
    """The names that match any of the shell patterns; all of them without patterns."""
    names = list(names)
    if patterns is None:
        return names
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            there = ", ".join(f"`{name}`" for name in names[:20])
            raise SaeRunError(f"no SAE in `{location}` matches `{pattern}`", f"it has {there}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _is_sae(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if _is_seed(folder.name) else folder.name


def _is_seed(name: str) -> bool:
    return re.fullmatch(r"seed-?\d+", name) is not None


def hookpoint_of(name: str) -> str:
    """The hookpoint that an SAE's name says: the last part that is not a seed."""
    return next((part for part in reversed(name.split("/")) if not _is_seed(part)), "")


def read_sae(found: Found, device: torch.device | str, dtype: torch.dtype | None) -> Sae:
    """Reads an SAE; without `dtype`, its weights stay what they are on disk."""
    path = found.folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    if (found.folder / WEIGHTS_FILE).is_file():
        cfg, weights = _read_sparsify(path, config)
        hookpoint = hookpoint_of(found.name)
    elif (found.folder / CROSSCODER_WEIGHTS_FILE).is_file():
        cfg, weights = read_crosscoder(path, _settings(path, config))
        hookpoint = "+".join(cfg.hookpoints)
    else:
        cfg, weights, hookpoint = read_saelens(path, config)
        hookpoint = hookpoint or hookpoint_of(found.name)
    n_hookpoints = len(cfg.hookpoints) or 1
    if (cfg.d_out or cfg.d_in) % n_hookpoints != 0:
        raise SaeRunError(f"`{path}`: {n_hookpoints} hookpoints cannot share {cfg.d_out or cfg.d_in} outputs")
    placed = {name: weight.to(device, dtype) for name, weight in weights.items()}
    return Sae(cfg, placed, hookpoint)


def _settings(path: Path, config: dict[str, Any]) -> SaeConfig:
    """Those of sparsify's keys and ours."""
    keys = SaeConfig.__annotations__
    known = {"num_latents": 0, **{key: value for key, value in config.items() if key in keys}}
    if "d_in" not in known:
        raise SaeRunError(f"`{path}` is not an SAE configuration: it has no `d_in`")
    cfg = SaeConfig(**{**known, "hookpoints": hookpoints_of(path, config)})
    return cfg if cfg.num_latents else replace(cfg, num_latents=cfg.expansion_factor * cfg.d_in)


def _read_sparsify(path: Path, config: dict[str, Any]) -> tuple[SaeConfig, dict[str, Tensor]]:
    cfg = _settings(path, config)
    d_out = cfg.d_out or cfg.d_in
    shapes = {
        "encoder.weight": [cfg.num_latents, cfg.d_in],
        "encoder.bias": [cfg.num_latents],
        "W_dec": [cfg.num_latents, d_out],
        "b_dec": [d_out],
    }
    if cfg.skip_connection:
        shapes["W_skip"] = [d_out, cfg.d_in]
    with Weights(path.parent / WEIGHTS_FILE) as weights:
        return cfg, {name: weights.take(name, shape) for name, shape in shapes.items()}
