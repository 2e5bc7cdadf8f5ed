"""SAEs in a language model of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ._errors import SaeRunError
from ._folders import hookpoint_of
from ._sae import Encoded, Sae


class Splice:
    """A language model that computes with SAEs while this is entered: `splice` makes it."""

    def __init__(self, model: nn.Module, saes: Mapping[str, Sae], *, error: bool, record: bool) -> None:
        self._error, self._record = error, record
        self._handles: list[RemovableHandle] = []
        self._modules = {name: (_module(model, name, sae), sae) for name, sae in saes.items()}
        self.latents: dict[str, list[Encoded]] = {}
        """By name of the SAE, the latents of each forward pass, `[batch, ctx_len, k]`, if they are recorded."""
        taken: dict[nn.Module, str] = {}
        for name, (module, _) in self._modules.items():
            if module in taken:
                raise SaeRunError(
                    f"`{taken[module]}` and `{name}` are of the same hookpoint",
                    f"splice one of them: `splice(model, {{{name!r}: saes[{name!r}]}})`",
                )
            taken[module] = name

    def __enter__(self) -> Splice:
        self.latents = {name: [] for name in self._modules}
        for name, (module, sae) in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name, sae), with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, name: str, sae: Sae) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            y = output[0] if isinstance(output, tuple) else output
            x = _first_tensor(args, kwargs) if sae.cfg.transcode else y
            x = x.to(sae.device, sae.dtype)
            encoded = sae.encode(x)
            if self._record:
                self.latents[name].append(Encoded(*(part.detach() for part in encoded)))
            spliced = sae.reconstruct(x, encoded).to(y.device, y.dtype)
            if self._error:
                spliced = spliced + (y - spliced).detach()
            return (spliced, *output[1:]) if isinstance(output, tuple) else spliced

        return hook


def splice(model: nn.Module, saes: Mapping[str, Sae] | Sae, *, error: bool = False, record: bool = False) -> Splice:
    """Computes with the reconstruction instead of the output of each SAE's hookpoint, within a `with` block.

        with sae_run.splice(model, sae_run.load(job), record=True) as spliced:
            logits = model(input_ids).logits
        acts, indices = spliced.latents["layers.3"][0]

    `model`: of transformers. `saes`: by name, as `load` gives them; a name may be that of the module, as in `sae-run
    hookpoints`. A transcoder is given the module's input. Everything is computed in the SAE's dtype.

    `error`: adds what the reconstruction lacks, without a gradient: outputs stay the model's own, and gradients are
    those of the reconstruction. `record`: keeps the latents.
    """
    if isinstance(saes, Sae):
        saes = {saes.hookpoint: saes}
    return Splice(model, saes, error=error, record=record)


def _module(model: nn.Module, name: str, sae: Sae) -> nn.Module:
    """The module that an SAE is for: by its name in the mapping, or else by the hookpoint that its files say."""
    if sae.cfg.hookpoints:
        hint = "it is for several hookpoints; its `encode` and `decode` take and give activations of all of them"
        raise SaeRunError(f"`{name}` cannot be spliced", hint)
    base = getattr(model, "base_model", model)
    # Of a model with images, the hookpoints are those of its text part.
    bases = [base, getattr(base, "language_model", base)]
    for wanted in (hookpoint_of(name), sae.hookpoint):
        # Also with the name that the whole model has for its base in front, such as `model.layers.3`.
        parts = wanted.split(".")
        for path in (".".join(parts[start:]) for start in range(len(parts))):
            for module in bases:
                try:
                    if path:
                        return module.get_submodule(path)
                except AttributeError:
                    continue
    raise SaeRunError(
        f"the model has no module `{name}`",
        "name the SAE after its module, such as `splice(model, {'layers.3': sae})`; `sae-run hookpoints` lists them",
    )


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input of a module, which may be given by keyword."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
