"""Prints the line of runner/dist/shim/sizes.hpp for a libtorch: what its own code allocates for c10d's classes.

    python3 runner/setup/sizes.py LIBTORCH    # PyTorch's package, which has lib/libtorch_python.so

Needs objdump.
"""

import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path

CONSTRUCTOR = re.compile(r"call .*<_ZN4c10d16ProcessGroup(Gloo|NCCL)C1E")
# The first argument of the call of `operator new` that follows.
SIZE = re.compile(r"mov +\$0x([0-9a-f]+),%edi")
NEW = "<_Znwm@plt>"
# Instructions between `operator new` and a constructor, and before it.
MOST_BEFORE = 40


def allocated(before: Iterable[str]) -> int:
    """The argument of the last `operator new` in these instructions."""
    argument = size = 0
    for line in before:
        if found := SIZE.search(line):
            argument = int(found[1], 16)
        elif NEW in line:
            size = argument
    return size


def sizes(library: Path) -> dict[str, set[int]]:
    """By class, over all calls of its constructor."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", library]
    found = {"Gloo": set(), "NCCL": set()}
    before = deque(maxlen=MOST_BEFORE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as objdump:
        for line in objdump.stdout:
            if constructor := CONSTRUCTOR.search(line):
                found[constructor[1]].add(allocated(before))
            before.append(line)
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch = Path(sys.argv[1])
    found = sizes(torch / "lib/libtorch_python.so")
    if any(len(of_class) != 1 for of_class in found.values()):
        sys.exit(f"error: not one size for each class: {found}")
    minor = re.search(r"__version__ = '2\.(\d+)\.", (torch / "version.py").read_text())[1]
    print(f"    {{{minor}, {found['Gloo'].pop()}, {found['NCCL'].pop()}}},")


if __name__ == "__main__":
    main()
