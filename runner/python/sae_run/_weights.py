"""Files of weights, and what every layout's cfg.json has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ._errors import SaeRunError
from ._frames import needed


class Weights:
    """A file of tensors, which are compared with the shapes that they must have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> Weights:
        safe_open: Callable[..., Any] = needed("safetensors").safe_open
        try:
            self._file = self._stack.enter_context(safe_open(self.path, framework="pt"))
        except Exception as error:
            raise SaeRunError(f"cannot read `{self.path}`: {error}") from error
        self.names = set(self._file.keys())
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def take(self, name: str, *shapes: list[int]) -> Tensor:
        """A tensor that has one of these shapes."""
        if name not in self.names:
            raise SaeRunError(f"`{self.path}` has no tensor `{name}`")
        tensor: Tensor = self._file.get_tensor(name)
        found = list(tensor.shape)
        if found not in shapes:
            expected = " or ".join(map(str, shapes))
            raise SaeRunError(f"tensor `{name}` of `{self.path}` has shape {found}, expected {expected}")
        return tensor


def hookpoints_of(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """The several hookpoints of a crosscoder or a cross-layer transcoder; empty: it is of one."""
    hookpoints = config.get("hookpoints", [])
    if not isinstance(hookpoints, list) or not all(isinstance(name, str) for name in hookpoints):
        raise SaeRunError(f"`{path}`: `hookpoints` is {hookpoints!r}, and not a list of names")
    return tuple(hookpoints)
