"""What goes wrong, as the program says it."""

from __future__ import annotations

import re


class SaeRunError(Exception):
    """An error of `sae-run`, or of this package in its manner.

    `message` and `hint` are the texts that the program prints after `error:` and `hint:`, the first of each if there
    are several; `hint` may be None. `exit_code` is that of the program, and None if it did not run.
    `output` is all that it printed on standard error.
    """

    # As it is shown.
    __module__ = "sae_run"

    def __init__(
        self, message: str, hint: str | None = None, *, exit_code: int | None = None, output: str = ""
    ) -> None:
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.output = output
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


def error_of(exit_code: int, output: str) -> SaeRunError:
    """The error of a program that ended with `exit_code` and printed `output` on standard error."""
    message = _paragraph(output, r"error: ")
    hint = _paragraph(output, r"(?:hint| *tip): ")
    if message is None:
        # Ended by a signal, or by something other than an error that it knows.
        how = f"with exit code {exit_code}" if exit_code >= 0 else f"by signal {-exit_code}"
        message = output.strip() or f"`sae-run` was ended {how}"
    return SaeRunError(message, hint, exit_code=exit_code, output=output)


def _paragraph(text: str, start: str) -> str | None:
    """The first line that begins with `start`, without it, and the indented lines that belong to it."""
    found = re.search(rf"^{start}(.*(?:\n +(?!log: |tip: )\S.*)*)", text, re.MULTILINE)
    return found[1] if found else None
