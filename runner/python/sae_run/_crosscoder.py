"""Crosscoders: `cfg.json` next to crosscoder_learning's layout, `config.json` and `model.safetensors`.

What its `BatchTopKCrossCoder` computes: `f = relu(sum over hookpoints of x W_enc + b)`, and a latent is active where
`f n` is above a threshold, or among the `k` largest. `n` are norms of the decoder's rows. With `DECOUPLED`, each
hookpoint has its own norms and its own threshold, and a latent is written only to those where it is active.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ._errors import SaeRunError
from ._sae import SaeConfig
from ._weights import Weights

CROSSCODER_WEIGHTS_FILE = "model.safetensors"
# Weight of the sum of norms where both kinds of norms are added.
_ALPHA_CROSSCODER = 0.1
# The `code_normalization_id` with which each hookpoint has its own norms.
_DECOUPLED = 5


def read_crosscoder(path: Path, cfg: SaeConfig) -> tuple[SaeConfig, dict[str, Tensor]]:
    """A crosscoder's settings and its weights under our names; `cfg`: what `cfg.json` says."""
    # BatchTopK has a threshold once it is trained.
    activation = "jumprelu" if str(cfg.activation) == "batchtopk" else cfg.activation
    if activation not in ("topk", "jumprelu", "relu"):
        raise SaeRunError(f"`{path}`: `activation` is {activation!r}, which is no kind of crosscoder")
    if cfg.transcode or not cfg.hookpoints:
        raise SaeRunError(f"`{path}` is no configuration of a crosscoder: it needs `hookpoints` and no `transcode`")
    # `b_dec` is in the encoder's bias already.
    cfg = replace(cfg, activation=activation, apply_b_dec_to_input=False, skip_connection=False, d_out=0)
    n_hookpoints, num_latents = len(cfg.hookpoints), cfg.num_latents
    d = cfg.d_in // n_hookpoints
    with Weights(path.parent / CROSSCODER_WEIGHTS_FILE) as file:
        decoder = file.take("decoder.weight", [n_hookpoints, num_latents, d])
        weights = {
            "encoder.weight": file.take("encoder.weight", [n_hookpoints, d, num_latents]).flatten(0, 1).mT,
            "encoder.bias": file.take("encoder.bias", [num_latents]),
            "W_dec": decoder.transpose(0, 1).flatten(1),
            "b_dec": file.take("decoder.bias", [n_hookpoints, d]).flatten(),
        }
        norm_id = int(file.take("code_normalization_id", []))
        if norm_id == _DECOUPLED and activation == "topk":
            raise SaeRunError(f"`{path}`: with the `code_normalization_id` 5 a crosscoder has thresholds, and no `k`")
        if activation == "jumprelu" and norm_id == _DECOUPLED:
            weights["threshold"] = file.take("threshold", [n_hookpoints])
        elif activation == "jumprelu":
            weights["threshold"] = file.take("threshold", [num_latents], []).expand(num_latents)
        norms = _norms(decoder, norm_id, path)
    # Without a threshold, a latent is active whatever its norm is.
    if norms is not None and activation != "relu":
        weights["norms"] = norms
    return cfg, {name: weight.contiguous() for name, weight in weights.items()}


def _norms(decoder: Tensor, code_normalization_id: int, path: Path) -> Tensor | None:
    """What activations are multiplied by before latents are chosen: `[num_latents]`, or `[n_hookpoints, num_latents]`
    where each hookpoint chooses; `None`: 1."""
    rows = decoder.to(torch.promote_types(decoder.dtype, torch.float32))
    of_each, of_all = rows.norm(dim=2), rows.norm(dim=(0, 2))
    of_sum = of_each.sum(0)
    of_both = of_all + _ALPHA_CROSSCODER * of_sum
    by_id: dict[int, Tensor | None] = {1: of_sum, 2: of_all, 3: of_both, 4: None, _DECOUPLED: of_each}
    if code_normalization_id not in by_id:
        problem = f"`code_normalization_id` is {code_normalization_id}, and it can be 1, 2, 3, 4 or 5"
        raise SaeRunError(f"`{path.parent / CROSSCODER_WEIGHTS_FILE}`: {problem}")
    return by_id[code_normalization_id]
