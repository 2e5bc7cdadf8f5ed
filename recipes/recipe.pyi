"""What a recipe gets and may call, for editors and type checkers; see recipes/wit/recipe.wit."""

from dataclasses import dataclass
from typing import Any

Overrides = dict[str, Any]

@dataclass
class HookpointFacts:
    """A submodule of the language model that can be tapped."""

    name: str
    d_in: int | None
    d_out: int
    n_layers_needed: int

@dataclass
class ModelFacts:
    """The language model, by its config.json alone."""

    model_type: str
    n_layers: int
    hidden_size: int
    vocab_size: int
    max_ctx_len: int
    embedding_params: int
    layer_params: int
    layers_name: str
    hookpoints: list[HookpointFacts]

@dataclass
class JobResult:
    """What came out of one SAE of an earlier round."""

    job: str
    overrides: Overrides
    hookpoint: str
    seed: int
    k: int | float
    num_latents: int
    fvu: float
    l0: float
    dead_pct: float
    ce_recovered: float | None

@dataclass
class PlanRequest:
    """The argument of `plan`."""

    sweep: str
    train: dict[str, Any]
    vary: dict[str, Any]
    model: ModelFacts
    seed: int
    round: int
    results: list[JobResult]

class Job: ...

def job(overrides: Overrides, name: str | None = None, note: str | None = None) -> Job:
    """One job: settings that differ from [train], a name that is unique in the sweep, a note."""

def more() -> None:
    """Ask to be called again, with results, when the jobs of this round have ended."""
