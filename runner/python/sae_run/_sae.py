"""SAEs as modules of PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._errors import SaeRunError
from ._frames import needed

# Bytes of pre-activations that are in memory at the same time.
_PRE_ACTS_BYTES = 1 << 30

Activation = Literal["topk", "groupmax", "relu", "jumprelu", "gated"]
# SAELens's architectures, by activation, whether it is a transcoder, and whether there is a skip connection.
_ARCHITECTURES = {
    ("topk", False, False): "topk",
    ("relu", False, False): "standard",
    ("jumprelu", False, False): "jumprelu",
    ("gated", False, False): "gated",
    ("relu", True, False): "transcoder",
    ("relu", True, True): "skip_transcoder",
    ("jumprelu", True, False): "jumprelu_transcoder",
    ("jumprelu", True, True): "jumprelu_skip_transcoder",
}


@dataclass(frozen=True)
class SaeConfig:
    """What `cfg.json` holds: sparsify's keys, `d_in`, and what only some SAEs have."""

    d_in: int
    num_latents: int
    k: int = 32
    activation: Activation = "topk"
    normalize_decoder: bool = True
    multi_topk: bool = False
    skip_connection: bool = False
    transcode: bool = False
    d_out: int = 0
    """Width of a transcoder's output; 0: `d_in`."""

    expansion_factor: int = 32
    apply_b_dec_to_input: bool = True
    """Whether `b_dec` is subtracted before encoding; a transcoder never does it, and sparsify always."""

    hookpoints: tuple[str, ...] = ()
    """Of a crosscoder, those that it reads and writes; of a cross-layer transcoder, those that it writes to, from its
    own on. All have the same width, and `d_in` and `d_out` are sums of it. Empty: it has one hookpoint."""


class Encoded(NamedTuple):
    """The active latents of each token, in no particular order. Without a limit `k`, `k` is the most of any token."""

    latent_acts: Tensor
    """`[..., k]`, not negative; 0 if fewer than `k` latents are active."""

    latent_indices: Tensor
    """`[..., k]`, int64, distinct within a token."""


class Reconstruction(NamedTuple):
    """What `Sae.forward` gives."""

    sae_out: Tensor
    """`[..., d_out]`, or `[..., n_hookpoints, d]` with several, with the skip connection."""

    latent_acts: Tensor
    """`[..., k]`."""

    latent_indices: Tensor
    """`[..., k]`."""

    fvu: Tensor
    """Scalar, float32: squared error over the total variance of all tokens of this call."""


class Sae(nn.Module):
    """A k-sparse autoencoder, or a transcoder, which predicts a module's output from its input.

    `latents = topk(relu(W_enc (x - b_dec) + b_enc))`, `sae_out = latents W_dec + b_dec`; a transcoder does not subtract
    `b_dec`, and a skip connection adds `W_skip x`. With a gate, `encoder.bias` decides which latents are active, and
    those are `exp(r_mag) W_enc (x - b_dec) + b_mag`. Where `norms` are, latents are chosen by activation times these.
    Where each hookpoint of a crosscoder has its own, a latent is active if it is so at any hookpoint, and `decode`
    writes it only to those.

    With several hookpoints (`cfg.hookpoints`), a crosscoder reads `[..., n_hookpoints, d]` or `[..., d_in]`. It and a
    cross-layer transcoder give `[..., n_hookpoints, d]`.

    Weights, as in `sae.safetensors`: `encoder.weight` `[num_latents, d_in]`, `encoder.bias` `[num_latents]`, `W_dec`
    `[num_latents, d_out]`, `b_dec` `[d_out]`, and, if there are any, `W_skip` `[d_out, d_in]`, and `threshold`,
    `b_mag`, `r_mag` and `norms` `[num_latents]`. Where each hookpoint chooses, `threshold` is `[n_hookpoints]`, and
    `norms` `[n_hookpoints, num_latents]`.
    """

    norms: Tensor | None

    def __init__(self, cfg: SaeConfig, weights: dict[str, Tensor], hookpoint: str = "") -> None:
        super().__init__()
        self.cfg = cfg
        self.hookpoint = hookpoint
        # Without weights, which are there already.
        self.encoder = nn.Linear(cfg.d_in, cfg.num_latents, device="meta")
        self.encoder.weight = nn.Parameter(weights["encoder.weight"])
        self.encoder.bias = nn.Parameter(weights["encoder.bias"])
        self.W_dec = nn.Parameter(weights["W_dec"])
        self.b_dec = nn.Parameter(weights["b_dec"])
        more = (weights.get(name) for name in ("W_skip", "threshold", "b_mag", "r_mag"))
        self.W_skip, self.threshold, self.b_mag, self.r_mag = (
            None if weight is None else nn.Parameter(weight) for weight in more
        )
        self.register_buffer("norms", weights.get("norms"))

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.cfg.d_in

    @property
    def d_out(self) -> int:
        """Width of its output."""
        return self.cfg.d_out or self.cfg.d_in

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of what it reads of a token: `(d_in,)`, or `(n_hookpoints, d)` for a crosscoder."""
        n_hookpoints = 0 if self.cfg.transcode else len(self.cfg.hookpoints)
        return (n_hookpoints, self.d_in // n_hookpoints) if n_hookpoints else (self.d_in,)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of its output for a token: `(d_out,)`, or `(n_hookpoints, d)` with several hookpoints."""
        n_hookpoints = len(self.cfg.hookpoints)
        return (n_hookpoints, self.d_out // n_hookpoints) if n_hookpoints else (self.d_out,)

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return self.cfg.num_latents

    @property
    def subtracts_b_dec(self) -> bool:
        """Whether the encoder is applied to the input less `b_dec`."""
        return self.cfg.apply_b_dec_to_input and not self.cfg.transcode

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.W_dec.dtype

    @overload
    def encode(self, x: Tensor, dense: Literal[False] = False) -> Encoded: ...
    @overload
    def encode(self, x: Tensor, dense: Literal[True]) -> Tensor: ...
    def encode(self, x: Tensor, dense: bool = False) -> Encoded | Tensor:
        """The active latents of `x`, `[..., d_in]`; with `dense`, the activations of all, `[..., num_latents]`.

        A crosscoder also takes `[..., n_hookpoints, d]`. `x` is converted to the weights' dtype.
        """
        x = _joined(x, self.in_shape)
        tokens = x.reshape(-1, self.d_in).to(self.dtype)
        if self.subtracts_b_dec:
            tokens = tokens - self.b_dec
        encoded = Encoded(*(part.reshape(*x.shape[:-1], part.shape[-1]) for part in self._encode(tokens)))
        return self.densified(encoded) if dense else encoded

    def densified(self, encoded: Encoded) -> Tensor:
        """The activations of all latents, `[..., num_latents]`."""
        acts, indices = encoded
        zeros = acts.new_zeros(*acts.shape[:-1], self.num_latents)
        return zeros.scatter(-1, indices, acts)

    def decode(self, latents: Tensor | Encoded, latent_indices: Tensor | None = None) -> Tensor:
        """The reconstruction from latents without the skip connection, `[..., d_out]`, or `[..., n_hookpoints, d]`.

        Takes what `encode` gives: one value, or `latent_acts` and `latent_indices`; or the activations of all latents,
        `[..., num_latents]`.
        """
        if isinstance(latents, Encoded):
            latents, latent_indices = latents
        latents = latents.to(self.dtype)
        least = self._least_acts()
        if least is None:
            decoded = self._written(latents, latent_indices, self.W_dec)
        else:
            # Each hookpoint has its own active latents.
            parts = []
            for least_here, rows in zip(least, self.W_dec.chunk(len(least), dim=1), strict=True):
                least_here = least_here if latent_indices is None else least_here[latent_indices]
                acts = latents.masked_fill(latents <= least_here, 0.0)
                parts.append(self._written(acts, latent_indices, rows.contiguous()))
            decoded = torch.cat(parts, dim=-1)
        return (decoded + self.b_dec).reshape(*latents.shape[:-1], *self.out_shape)

    def _written(self, acts: Tensor, indices: Tensor | None, rows: Tensor) -> Tensor:
        """The sum of the decoder's `rows`, of the latents with these indices or of all."""
        if indices is None:
            return acts @ rows
        n_active = acts.shape[-1]
        acts, indices = acts.reshape(-1, n_active), indices.reshape(-1, n_active)
        return functional.embedding_bag(indices, rows, per_sample_weights=acts, mode="sum")

    def _least_acts(self) -> Tensor | None:
        """Above which activations latents are active at each hookpoint, `[n_hookpoints, num_latents]`; `None`: at all
        hookpoints the same latents are."""
        if self.norms is None or self.norms.dim() == 1 or self.threshold is None:
            return None
        least = self.threshold.clamp_min(0.0).unsqueeze(1) / self.norms
        return least.masked_fill(self.norms <= 0, float("inf"))

    def reconstruct(self, x: Tensor, encoded: Encoded) -> Tensor:
        """The reconstruction with the skip connection from the latents of `x`, in the shape that `decode` gives."""
        sae_out = self.decode(encoded)
        if self.W_skip is None:
            return sae_out
        return sae_out + (x.to(self.dtype) @ self.W_skip.mT).reshape(sae_out.shape)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes `x`, as `encode` takes it. `y`, in the shape of the output: what `fvu` compares with, by
        default `x`."""
        encoded = self.encode(x)
        sae_out = self.reconstruct(x, encoded)
        target = _joined(x if y is None else y, self.out_shape).reshape(-1, self.d_out).float()
        error = target - sae_out.reshape(target.shape).float()
        variance = (target - target.mean(0)).square().sum()
        return Reconstruction(sae_out, *encoded, error.square().sum() / variance)

    def _encode(self, centred: Tensor) -> Encoded:
        """The active latents of what the encoder's weights are applied to, `[n_tokens, d_in]`."""
        block = max(1, _PRE_ACTS_BYTES // (self.num_latents * self.dtype.itemsize))
        if self.cfg.activation == "gated":
            return self._all_above(self._gated(centred))
        if self.cfg.activation in ("relu", "jumprelu"):
            return self._all_above(self.encoder(centred))
        parts = [self._select(self.encoder(tokens)) for tokens in torch.split(centred, block)]
        return parts[0] if len(parts) == 1 else Encoded(*map(torch.cat, zip(*parts, strict=True)))

    def _select(self, pre_acts: Tensor) -> Encoded:
        # Before the choice, as in sparsify: of equal ones, which 16 bit has often, the same are chosen.
        acts = pre_acts.relu_()
        if self.cfg.activation == "topk":
            indices = self._scores(acts).topk(self.cfg.k, dim=-1, sorted=False).indices
            return Encoded(acts.gather(-1, indices), indices)
        n_in_group = self.num_latents // self.cfg.k
        acts, indices = acts.reshape(-1, self.cfg.k, n_in_group).max(dim=-1)
        return Encoded(acts, indices + torch.arange(0, self.num_latents, n_in_group, device=indices.device))

    def _gated(self, centred: Tensor) -> Tensor:
        """What gates let through; and what is NaN."""
        assert self.b_mag is not None and self.r_mag is not None
        products = centred @ self.encoder.weight.mT
        magnitudes = products * self.r_mag.exp() + self.b_mag
        return magnitudes.masked_fill(products + self.encoder.bias <= 0, 0.0)

    def _all_above(self, pre_acts: Tensor) -> Encoded:
        """All above zero and, if there is one, above the threshold; and those that are NaN, so that they show."""
        of_hookpoints = self._least_acts()
        if of_hookpoints is not None:
            is_idle = pre_acts <= of_hookpoints.amin(0)
        else:
            least = 0.0 if self.threshold is None else self.threshold.clamp_min(0.0)
            is_idle = self._scores(pre_acts) <= least
        acts = pre_acts.masked_fill(is_idle, 0.0)
        n_active = (acts != 0).sum(-1)
        most = int(n_active.max()) if len(n_active) else 1
        return Encoded(*acts.topk(max(most, 1), dim=-1, sorted=False))

    def _scores(self, acts: Tensor) -> Tensor:
        """What latents are chosen by."""
        return acts if self.norms is None else acts * self.norms

    def to_sparsify(self) -> Any:
        """The same as `sparsify.SparseCoder`, with a copy of the weights; sparsify must be installed."""
        sparsify = needed("sparsify", "eai-sparsify")
        self._check_hookpoints("sparsify")
        if self.cfg.activation not in ("topk", "groupmax"):
            raise _inexpressible("sparsify", f"the activation {self.cfg.activation}")
        if self.d_out != self.d_in:
            raise _inexpressible("sparsify", "a transcoder of two widths")
        others = ("d_in", "d_out", "apply_b_dec_to_input", "hookpoints")
        settings = {key: value for key, value in asdict(self.cfg).items() if key not in others}
        cfg = sparsify.SparseCoderConfig.from_dict(settings)
        sae = sparsify.SparseCoder(self.d_in, cfg, device=self.device, dtype=self.dtype)
        weights = self.state_dict()
        if not (self.cfg.transcode or self.subtracts_b_dec):
            # There, `b_dec` is always subtracted.
            of_b_dec = self.encoder.weight.float() @ self.b_dec.float()
            weights["encoder.bias"] = (weights["encoder.bias"] + of_b_dec).to(self.dtype)
        sae.load_state_dict(weights)
        return sae

    def to_saelens(self) -> Any:
        """The same as SAELens's `SAE`, with a copy of the weights; sae-lens must be installed."""
        registry = needed("sae_lens.registry", "sae-lens")
        self._check_hookpoints("SAELens")
        cfg = self.cfg
        architecture = _ARCHITECTURES.get((cfg.activation, cfg.transcode, cfg.skip_connection))
        if architecture is None:
            kind = "a transcoder" if cfg.transcode else "an SAE"
            skip = " and a skip connection" if cfg.skip_connection else ""
            raise _inexpressible("SAELens", f"{kind} with the activation {cfg.activation}{skip}")
        sae_class, config_class = registry.get_sae_class(architecture)
        settings: dict[str, Any] = {"apply_b_dec_to_input": self.subtracts_b_dec}
        if cfg.activation == "topk":
            settings.update(k=cfg.k, rescale_acts_by_decoder_norm=False)
        if cfg.transcode:
            settings.update(d_out=self.d_out)
        dtype = str(self.dtype).removeprefix("torch.")
        config = config_class(d_in=cfg.d_in, d_sae=cfg.num_latents, dtype=dtype, device=str(self.device), **settings)
        config.metadata.hf_hook_name = self.hookpoint or None
        sae = sae_class(config)
        weights = self.state_dict()
        weights["W_enc"] = weights.pop("encoder.weight").mT
        weights["b_gate" if cfg.activation == "gated" else "b_enc"] = weights.pop("encoder.bias")
        sae.load_state_dict(weights)
        return sae

    def _check_hookpoints(self, library: str) -> None:
        if self.cfg.hookpoints:
            kind = "cross-layer transcoder" if self.cfg.transcode else "crosscoder"
            raise _inexpressible(library, f"a {kind}")


def _joined(acts: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Activations, `[..., *shape]` or `[..., width]`, as `[..., width]`."""
    width = prod(shape)
    if acts.shape[-len(shape) :] == shape:
        return acts.reshape(*acts.shape[: -len(shape)], width)
    if acts.shape[-1] == width:
        return acts
    expected = ", ".join(map(str, ("...", *shape)))
    raise ValueError(f"activations have shape {list(acts.shape)}, expected [{expected}]")


def _inexpressible(library: str, what: str) -> SaeRunError:
    return SaeRunError(f"{library} does not support {what}")
