"""SAELens's layout, `cfg.json` and `sae_weights.safetensors`, of version 6 and those before it.

Read are the kinds that `sae-run` reads; what SAELens does to pre-activations beyond them is folded into the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._errors import SaeRunError
from ._sae import Activation, SaeConfig
from ._weights import Weights, hookpoints_of

SAELENS_WEIGHTS_FILE = "sae_weights.safetensors"
# Smallest norm of a decoder's row that is divided by, as SAELens has it.
_MIN_NORM = 1e-8


class _Kind(NamedTuple):
    """What an architecture consists of."""

    activation: Activation
    transcode: bool = False
    skip_connection: bool = False
    threshold: str | None = None


_KINDS = {
    "standard": _Kind("relu"),
    "topk": _Kind("topk"),
    "jumprelu": _Kind("jumprelu", threshold="threshold"),
    "gated": _Kind("gated"),
    # One threshold for all latents, as its training leaves it.
    "batchtopk": _Kind("jumprelu", threshold="topk_threshold"),
    "matryoshka_batchtopk": _Kind("jumprelu", threshold="topk_threshold"),
    "transcoder": _Kind("relu", transcode=True),
    "skip_transcoder": _Kind("relu", transcode=True, skip_connection=True),
    "jumprelu_transcoder": _Kind("jumprelu", transcode=True, threshold="threshold"),
    "jumprelu_skip_transcoder": _Kind("jumprelu", transcode=True, skip_connection=True, threshold="threshold"),
    # Of `sae-run` alone: SAELens has none like them.
    "gated_transcoder": _Kind("gated", transcode=True),
    "gated_skip_transcoder": _Kind("gated", transcode=True, skip_connection=True),
}


def read_saelens(path: Path, config: dict[str, Any]) -> tuple[SaeConfig, dict[str, Tensor], str]:
    """An SAE's settings, its weights under our names, and the hookpoint that it names (empty: none)."""
    kind = _kind(path, config)
    _check(path, config, kind)
    cfg = _settings(path, config, kind)
    with Weights(path.parent / SAELENS_WEIGHTS_FILE) as file:
        weights = _read(file, cfg, kind)
        if "scaling_factor" in file.names and not (file.take("scaling_factor", [cfg.num_latents]) == 1).all():
            raise _unsupported(path, "finetuning_scaling_factor", True)
    _fold(weights, config, kind)
    dtype = getattr(torch, str(config.get("dtype", "float32")).removeprefix("torch."))
    weights = {name: weight.to(dtype).contiguous() for name, weight in weights.items()}
    names = {**config, **config.get("metadata", {})}
    hookpoint = next((names[key] for key in ("hf_hook_name", "hook_name", "hook_point") if names.get(key)), "")
    return cfg, weights, hookpoint


def _kind(path: Path, config: dict[str, Any]) -> _Kind:
    activation_fn = config.get("activation_fn") or config.get("activation_fn_str")
    if activation_fn not in (None, "relu", "topk"):
        raise _unsupported(path, "activation_fn", activation_fn)
    architecture = config.get("architecture") or "standard"
    # Before version 6, TopK was a "standard" SAE of another activation function.
    if architecture == "standard" and activation_fn == "topk":
        architecture = "topk"
    if architecture not in _KINDS:
        raise _unsupported(path, "architecture", architecture)
    return _KINDS[architecture]


def _check(path: Path, config: dict[str, Any], kind: _Kind) -> None:
    """Refuses what would be computed in another way than here."""
    if config.get("normalize_activations") not in (None, "none", False):
        raise _unsupported(path, "normalize_activations", config["normalize_activations"])
    if kind.transcode and config.get("apply_b_dec_to_input"):
        raise _unsupported(path, "apply_b_dec_to_input", True)


def _settings(path: Path, config: dict[str, Any], kind: _Kind) -> SaeConfig:
    k = config["d_sae"]
    if kind.activation == "topk":
        k = config.get("k") or config.get("activation_fn_kwargs", {}).get("k", 0)
        if k < 1 or k != int(k):
            raise _unsupported(path, "k", k)
    return SaeConfig(
        d_in=config["d_in"],
        num_latents=config["d_sae"],
        k=int(k),
        activation=kind.activation,
        normalize_decoder=False,
        skip_connection=kind.skip_connection,
        transcode=kind.transcode,
        d_out=(config.get("d_out") or 0) if kind.transcode else 0,
        apply_b_dec_to_input=not kind.transcode and config.get("apply_b_dec_to_input") is not False,
        hookpoints=hookpoints_of(path, {**config.get("metadata", {}), **config}) if kind.transcode else (),
    )


def _read(file: Weights, cfg: SaeConfig, kind: _Kind) -> dict[str, Tensor]:
    d_out = cfg.d_out or cfg.d_in
    weights = {
        "encoder.weight": file.take("W_enc", [cfg.d_in, cfg.num_latents]).mT,
        "encoder.bias": file.take("b_gate" if kind.activation == "gated" else "b_enc", [cfg.num_latents]),
        "W_dec": file.take("W_dec", [cfg.num_latents, d_out]),
        "b_dec": file.take("b_dec", [d_out]),
    }
    if kind.skip_connection:
        weights["W_skip"] = file.take("W_skip", [d_out, cfg.d_in])
    if kind.activation == "gated":
        weights |= {name: file.take(name, [cfg.num_latents]) for name in ("b_mag", "r_mag")}
    if kind.threshold is not None:
        shape = [cfg.num_latents] if kind.threshold == "threshold" else []
        weights["threshold"] = file.take(kind.threshold, shape).expand(cfg.num_latents)
    return weights


def _fold(weights: dict[str, Tensor], config: dict[str, Any], kind: _Kind) -> None:
    """Norms of the decoder's rows go into the encoder."""
    # SAELens's defaults are those of training where the thresholds are, and those of inference elsewhere.
    is_of_training = kind.threshold == "topk_threshold"
    rescales = config.get("rescale_acts_by_decoder_norm")
    if (is_of_training or kind.activation == "topk") and (is_of_training if rescales is None else rescales):
        decoder = weights["W_dec"].float()
        norms = decoder.norm(dim=1, keepdim=True).clamp_min(_MIN_NORM)
        weights["W_dec"] = decoder / norms
        weights["encoder.weight"] = weights["encoder.weight"] * norms
        weights["encoder.bias"] = weights["encoder.bias"] * norms.squeeze(1)


def _unsupported(path: Path, key: str, value: object) -> SaeRunError:
    return SaeRunError(f"`{path}`: `{key}` is {value!r}, which is another kind of SAE than those here")
