"""Rows of the database as data frames with the right types."""

from __future__ import annotations

import importlib
import json
from enum import Enum
from typing import Any, Literal

from ._errors import SaeRunError

Library = Literal["pandas", "polars"]
Columns = dict[str, list[Any]]

# Texts of the schema that are JSON (`json_valid` checks them there).
_JSON = {"config", "key", "overrides", "request", "response"}


class Kind(Enum):
    """What a column holds, by the name of its pandas type."""

    INTEGER = "Int64"
    REAL = "float64"
    TEXT = "string"
    BOOLEAN = "boolean"
    TIME = "datetime64[ms, UTC]"
    OBJECT = "object"


_DECLARED = {"INTEGER": Kind.INTEGER, "TEXT": Kind.TEXT}


def kind_of(name: str, values: list[Any], declared: str = "") -> Kind:
    """What a column holds: by the conventions of the schema, by its values, or, if all are NULL, as it is declared.

    A column without a declared type is computed in a view, and that is a ratio.
    """
    types = {type(value) for value in values if value is not None}
    if types <= {int} and name.startswith("is_"):
        return Kind.BOOLEAN
    # All times end in `_ms`; this is a duration.
    if types <= {int} and name.endswith("_ms") and name != "elapsed_ms":
        return Kind.TIME
    if types <= {str} and name in _JSON:
        return Kind.OBJECT
    if not types:
        return _DECLARED.get(declared, Kind.REAL)
    if types == {int}:
        return Kind.INTEGER
    if types <= {int, float}:
        return Kind.REAL
    return Kind.TEXT if types == {str} else Kind.OBJECT


def frame(columns: Columns, kinds: dict[str, Kind], library: Library) -> Any:
    """A data frame of the library's, with the columns as they are."""
    columns = {name: _read(name, values, kinds[name]) for name, values in columns.items()}
    if library == "pandas":
        return _pandas(columns, kinds)
    if library == "polars":
        return _polars(columns, kinds)
    raise ValueError(f"as_ is {library!r}, and it can be 'pandas' or 'polars'")


def _read(name: str, values: list[Any], kind: Kind) -> list[Any]:
    if kind is Kind.BOOLEAN:
        return [None if value is None else bool(value) for value in values]
    if kind is Kind.OBJECT and name in _JSON:
        return [_json(value) for value in values]
    return values


def _json(text: str | None) -> Any:
    """The value; a text that is not JSON, such as one that a query calls so, stays one."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _pandas(columns: Columns, kinds: dict[str, Kind]) -> Any:
    pandas = needed("pandas")

    def series(values: list[Any], kind: Kind) -> Any:
        if kind is Kind.TIME:
            integers = pandas.Series(values, dtype="Int64")
            return pandas.to_datetime(integers, unit="ms", utc=True).astype(kind.value)
        return pandas.Series(values, dtype=kind.value)

    return pandas.DataFrame({name: series(values, kinds[name]) for name, values in columns.items()})


def _polars(columns: Columns, kinds: dict[str, Kind]) -> Any:
    polars = needed("polars")
    types = {
        Kind.INTEGER: polars.Int64,
        Kind.REAL: polars.Float64,
        Kind.TEXT: polars.String,
        Kind.BOOLEAN: polars.Boolean,
        Kind.TIME: polars.Datetime("ms", "UTC"),
        Kind.OBJECT: polars.Object,
    }
    # Integers among floats: polars takes no mixture.
    columns = {
        name: [None if value is None else float(value) for value in values] if kinds[name] is Kind.REAL else values
        for name, values in columns.items()
    }
    return polars.DataFrame([polars.Series(name, values, types[kinds[name]]) for name, values in columns.items()])


def needed(module: str, package: str | None = None) -> Any:
    """A module of an optional package, or an error with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        package = package or module
        raise SaeRunError(
            f"this needs the package `{package}`, which is not installed", f"pip install {package}"
        ) from None
