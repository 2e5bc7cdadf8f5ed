"""What a sweep would train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._program import call_json, settings


@dataclass(frozen=True)
class Memory:
    """Predicted memory of a stream, in bytes."""

    model_bytes: int
    sae_bytes: int
    workspace_bytes: int
    evaluation_bytes: int


@dataclass(frozen=True)
class PlannedSae:
    """An SAE that a job trains. `memory`: predicted, in bytes, by what it is for."""

    name: str
    hookpoint: str
    seed: int
    d_in: int
    num_latents: int
    k: int | float
    lr: float
    memory: dict[str, int]


@dataclass(frozen=True)
class PlannedJob:
    """A job. `overrides`: what the recipe changed of `[train]`; `config`: all settings, resolved."""

    job_id: str
    name: str
    note: str | None
    overrides: dict[str, Any]
    config: dict[str, Any]
    saes: list[PlannedSae]


@dataclass(frozen=True)
class Stream:
    """Jobs that share the forward passes of one language model. `key`: what they have in common."""

    stream_id: str
    key: dict[str, Any]
    job_ids: list[str]
    n_layers_run: int
    n_ranks: int
    memory: Memory


@dataclass(frozen=True)
class Plan:
    """A sweep's jobs and streams. `json`: all that `sae-run plan --json` prints."""

    sweep: str
    jobs: list[PlannedJob]
    streams: list[Stream]
    json: dict[str, Any] = field(repr=False)

    @property
    def memory(self) -> dict[str, Memory]:
        """Predicted memory by `stream_id`."""
        return {stream.stream_id: stream.memory for stream in self.streams}


def plan(sweep: str | os.PathLike[str], set: Mapping[str, Any] | None = None) -> Plan:
    """Expands a sweep file; trains nothing. `set`: as for `run`.

    Raises `SaeRunError` with what is wrong with the sweep.
    """
    found = call_json(["plan", "--json", *settings(set), "--", os.fspath(sweep)])
    return Plan(found["sweep"], list(map(_job, found["jobs"])), list(map(_stream, found["streams"])), found)


def _job(job: dict[str, Any]) -> PlannedJob:
    saes = [
        PlannedSae(**{key: sae[key] for key in PlannedSae.__annotations__ if key != "memory"}, memory=memory)
        for sae, memory in zip(job["saes"], job["sae_memory"], strict=True)
    ]
    return PlannedJob(job["job_id"], job["job"], job["note"], job["overrides"], job["config"], saes)


def _stream(stream: dict[str, Any]) -> Stream:
    memory = Memory(**{key: stream["memory"][key] for key in Memory.__annotations__})
    return Stream(**{key: stream[key] for key in Stream.__annotations__ if key != "memory"}, memory=memory)
