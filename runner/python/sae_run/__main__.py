"""`python -m sae_run` is the program `sae-run`."""

import os
import sys

from ._errors import SaeRunError
from ._program import find_program


def main() -> None:
    try:
        program = str(find_program())
        os.execv(program, [program, *sys.argv[1:]])
    except SaeRunError as error:
        sys.exit(f"error: {error}")


main()
