"""Finding `sae-run`, and calling it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ._errors import SaeRunError, error_of

NAME = "sae-run"
VARIABLE = "SAE_RUN_PROGRAM"


def find_program() -> Path:
    """The program: `SAE_RUN_PROGRAM`, or the one that was installed with this package, or that on PATH."""
    if given := os.environ.get(VARIABLE):
        if not os.access(given, os.X_OK) or Path(given).is_dir():
            raise SaeRunError(f"`{VARIABLE}` is `{given}`, which is not a program", f"set it to the path of `{NAME}`")
        return Path(given).absolute()
    for folder in _scripts_folders():
        if found := shutil.which(NAME, path=folder):
            return Path(found)
    if found := shutil.which(NAME):
        return Path(found).absolute()
    hint = f"install the package `{NAME}` with pip in this Python, put the program on PATH, or set `{VARIABLE}` to it"
    raise SaeRunError(f"there is no program `{NAME}`", hint)


def _scripts_folders() -> Iterator[str]:
    """Where pip puts programs: that of this Python, and that of the user."""
    yield sysconfig.get_path("scripts")
    yield sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))


def call(args: Iterable[str], *, stdin: str | None = None) -> str:
    """What the program prints on standard output; an exit code other than 0 is an error."""
    command = [str(find_program()), *args]
    try:
        ended = subprocess.run(command, input=stdin or "", capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SaeRunError(f"cannot start `{command[0]}`: {error}") from error
    if ended.returncode != 0:
        raise error_of(ended.returncode, ended.stderr)
    return ended.stdout


def call_json(args: Iterable[str]) -> Any:
    """The JSON that the program prints on standard output."""
    return json.loads(call(args))


def option(name: str, value: object) -> list[str]:
    """An option of the program; nothing for None. A list is its values, a mapping `key=value,...`."""
    flag = "-k" if name == "k" else f"--{name}"
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [flag, ",".join(f"{key}={_text(item)}" for key, item in value.items())]
    if isinstance(value, (list, tuple, set, range)):
        return [flag, *map(_text, value)]
    text = _text(value)
    # So that a value that begins with `-` is not taken for an option.
    return [f"{flag}={text}"] if flag.startswith("--") else [flag, text]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def settings(values: Mapping[str, Any] | None) -> list[str]:
    """The `--set` options for settings such as `{"train.k": 64}` or `{"train": {"k": 64}}`."""
    return [arg for key, value in _flat(values or {}) for arg in ("--set", f"{key}={_toml(value)}")]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and not _is_table(above + key):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _is_table(key: str) -> bool:
    """Whether the setting is a table of any keys, so that it is set as a whole."""
    return key.endswith("data_args") or (key.startswith("vary.") and key.count(".") == 1)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple, set, range)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, (str, os.PathLike)):
        # JSON's text is TOML's, except for one character.
        return json.dumps(os.fspath(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    return _text(value)
