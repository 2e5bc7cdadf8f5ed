"""The tiny language model in transformers, and what SAEs are given in it."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import KINDS, MODEL

import sae_run
from sae_run._program import call


def tiny_llama(kind: str = "topk") -> Any:
    """In the dtype that the job of this kind has."""
    transformers = pytest.importorskip("transformers")
    dtype = getattr(torch, KINDS[kind].get("dtype", "float32"))
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype, attn_implementation="eager")


def activations(model: Any, sae: "sae_run.Sae", input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What an SAE reads, and what it reconstructs, each `[batch, ctx_len, d]`."""
    taken = []

    def take(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        y = output[0] if isinstance(output, tuple) else output
        taken.append((x if sae.cfg.transcode else y, y))

    handle = model.base_model.get_submodule(sae.hookpoint).register_forward_hook(take, with_kwargs=True)
    with torch.no_grad():
        model(input_ids)
    handle.remove()
    (pair,) = taken
    return pair


def tokens_of(model: Path, dataset: Path, folder: Path) -> torch.Tensor:
    """The held-out sequences of the trained kinds, `[n, 64]`."""
    out = folder / "held_out.bin"
    settings = ["--ctx-len=64", "--max-examples=64", "--eval-fraction=0.05", f"--out-eval={out}", "--quiet"]
    call(["data", f"--model={model}", *settings, "--", str(dataset)])
    return torch.from_numpy(numpy.fromfile(out, dtype=numpy.uint16).astype(numpy.int64)).view(-1, 64)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over norm."""
    return ((a - b).norm() / b.norm()).item()
