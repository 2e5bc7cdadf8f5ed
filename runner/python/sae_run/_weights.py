"""Files of weights."""

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

    def take(self, name: str, shape: list[int]) -> Tensor:
        if name not in self.names:
            raise SaeRunError(f"`{self.path}` has no tensor `{name}`")
        tensor: Tensor = self._file.get_tensor(name)
        if list(tensor.shape) != shape:
            found = list(tensor.shape)
            raise SaeRunError(f"tensor `{name}` of `{self.path}` has shape {found}, expected {shape}")
        return tensor
